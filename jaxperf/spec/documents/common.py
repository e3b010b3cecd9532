"""What the forms of several kinds share."""

from __future__ import annotations

from typing import Any

from ..schema import Flag, Number, Section, Table, Text

SOURCES = Table(Section({"source": Text(), "date": Text(default="undated"), "estimate": Flag(default=False)}), least=1)
"""`{path: {source, date, estimate}}`; a path covers every figure below it."""


def count(low: float = 0, default: Any = 0, high: float = 1e9) -> Number:
    """A whole number in [low, high]."""
    return Number(low=low, high=high, default=default, integer=True)
