"""A Hugging Face config.json → a model document of ours, with what had to be assumed."""

from .importer import import_model

__all__ = ["import_model"]
