"""A Hugging Face config.json as the importer reads it: values by any of their names, checked, and what was assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..library import read_json

MOST_LAYERS = 10_000
"""More layers than any model has: a larger number is a mistake in the file."""

LARGEST = 10**9

EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts")
CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "experts_per_token")
"""Keys for the number of experts, and of those that a token chooses."""


@dataclass(frozen=True)
class Config:
    """The text model's part of a config.json: the file's name, its keys (those of `text_config` before those around
    it), the family, and what collects here: the assumptions of the importer, and the keys that it asked for."""

    file: str
    values: dict
    family: str
    assumptions: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)


def read_object(path: str | Path) -> dict:
    """The object in a JSON file; Hugging Face writes `Infinity` and `NaN`, so these are read, too.

    **Raises** `InputError` as `read_json` does, and for anything but an object.
    """
    if Path(path).is_dir():
        raise InputError(f"{path}: a folder, not a file; give its config.json")
    value = read_json(path, constants=True)
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def shown(value: Any) -> str:
    """A value as an error quotes it: no longer than a word or two."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def given(config: Config, name: str) -> Any:
    """The value under a key as it stands, None where there is none."""
    config.asked.add(name)
    return config.values.get(name)


def present(config: Config, *names: str) -> str | None:
    """The first of these keys that the config has with a value."""
    config.asked.update(names)
    return next((name for name in names if config.values.get(name) is not None), None)


def text(config: Config, name: str, choices: Sequence[str] = ()) -> str | None:
    """A word, None where the config has none. **Raises** `InputError` for anything else, or none of the `choices`."""
    value = given(config, name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputError(f"{config.file}: {name}: {shown(value)} is no text")
    if choices and value not in choices:
        raise InputError(f"{config.file}: {name}: {shown(value)} is not known; expected {', '.join(choices)}")
    return value


def section(config: Config, name: str) -> dict | None:
    """An object, None where the config has none. **Raises** `InputError` for anything else."""
    value = given(config, name)
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{config.file}: {name}: {shown(value)} is no object; expected an object, or null for none")
    return value


def whole(config: Config, names: str | Sequence[str], default: int | None = None, low: int = 0) -> int:
    """A whole number under the first of its names that the config has.

    **Raises** `InputError` for another type, a number below `low`, and where it is missing without a default.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    key = present(config, *names)
    if key is None:
        if default is None:
            also = f" (nor {', '.join(names[1:])})" if names[1:] else ""
            raise InputError(f"{config.file}: the key '{names[0]}' is missing{also}; the model cannot be described")
        return default
    return checked(config, key, config.values[key], low)


def checked(config: Config, key: str, value: Any, low: int) -> int:
    """The value as a whole number from `low`. **Raises** `InputError` that names file, key, value and range."""
    expected = f"expected a whole number from {low} to {LARGEST:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{config.file}: {key}: {shown(value)} is no number; {expected}")
    if not low <= value <= LARGEST or value != int(value):  # neither holds for NaN
        raise InputError(f"{config.file}: {key}: {shown(value)} is out of range; {expected}")
    return int(value)


def flag(config: Config, name: str, default: bool = False) -> bool:
    """A truth value. **Raises** `InputError` for anything else."""
    value = given(config, name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InputError(f"{config.file}: {name}: {shown(value)} is neither true nor false")
    return value


def listing(config: Config, name: str, length: int | None = None) -> list | None:
    """A list of at least `length` entries, or None where the config has none. **Raises** `InputError` else."""
    value = given(config, name)
    if value is None:
        return None
    if not isinstance(value, list):
        raise InputError(f"{config.file}: {name}: expected a list, got {type(value).__name__}")
    if length is not None and len(value) < length:
        raise InputError(f"{config.file}: {name}: {len(value)} entries for {length} layers")
    return value


def layer_count(config: Config) -> int:
    """Number of layers. **Raises** `InputError` where it is missing or cannot be."""
    count = whole(config, "num_hidden_layers", low=1)
    if count > MOST_LAYERS:
        raise InputError(f"{config.file}: num_hidden_layers: {count} is out of range; expected 1 to {MOST_LAYERS}")
    return count


def window_tokens(config: Config, key: str) -> int | None:
    """The sliding window or chunk under a key [tokens], None where there is none.

    **Raises** `InputError` for 0 and negative values, which engines read in more than one way.
    """
    value = given(config, key)
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 1:
        raise InputError(f"{config.file}: {key}: {shown(value)} is no window; expected tokens from 1, or null for none")
    return checked(config, key, value, 1)


def assume(config: Config, text: str) -> None:
    """Note an assumption once."""
    if text not in config.assumptions:
        config.assumptions.append(text)
