"""A small strict validator for JSON documents: every error names file, key, value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, nearest

REQUIRED = object()

_LONGEST = 10**60
"""A whole number beyond this is told by its digits: written out it would fill the line, or not fit a float."""


@dataclass(frozen=True)
class Number:
    """A finite number in [low, high]; `integer` refuses fractions, `optional` admits null."""

    low: float = 0.0
    high: float = math.inf
    default: Any = REQUIRED
    integer: bool = False
    optional: bool = False
    above: bool = False  # low itself is refused
    unit: str = ""

    def check(self, value: Any, where: str) -> None:
        if value is None and self.optional:
            return
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{where}: {value!r} is no number; expected {self.describe()}")
        if isinstance(value, int) and abs(value) > _LONGEST:
            digits = int(math.log10(abs(value))) + 1
            raise InputError(f"{where}: a number of {digits} digits is out of range; expected {self.describe()}")
        if not math.isfinite(value):
            raise InputError(f"{where}: {value!r} is not finite; expected {self.describe()}")
        if self.integer and value != int(value):
            raise InputError(f"{where}: {value!r} is no whole number; expected {self.describe()}")
        if value < self.low or value > self.high or (self.above and value == self.low):
            raise InputError(f"{where}: {value!r} is out of range; expected {self.describe()}")

    def describe(self) -> str:
        kind = "a whole number" if self.integer else "a number"
        left = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        right = f" to {self.high:g}" if math.isfinite(self.high) else ""
        unit = f" [{self.unit}]" if self.unit else ""
        return f"{kind} {left}{right}{unit}" + (" or null" if self.optional else "")


@dataclass(frozen=True)
class Flag:
    """true or false."""

    default: Any = REQUIRED

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, bool):
            raise InputError(f"{where}: {value!r} is neither true nor false")


@dataclass(frozen=True)
class Text:
    """A non-empty string, one of `choices` where they are given."""

    choices: tuple[str, ...] = ()
    default: Any = REQUIRED
    optional: bool = False

    def check(self, value: Any, where: str) -> None:
        if value is None and self.optional:
            return
        if not isinstance(value, str) or not value:
            raise InputError(f"{where}: {value!r} is no text")
        if self.choices and value not in self.choices:
            raise InputError(
                f"{where}: {value!r} is not one of {', '.join(self.choices)}; {nearest(value, self.choices)}"
            )


@dataclass(frozen=True)
class Section:
    """An object with exactly the fields given."""

    fields: Mapping[str, Any]
    default: Any = REQUIRED
    rules: tuple[Callable[[dict, str], None], ...] = ()

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise InputError(
                f"{where}: expected an object with the keys {', '.join(self.fields)}, got {type(value).__name__}"
            )
        for key in value:
            if key not in self.fields:
                raise InputError(f"{where}: unknown key '{key}'; {nearest(key, self.fields)}")
        for key, kind in self.fields.items():
            if key in value:
                kind.check(value[key], f"{where}: {key}" if where.endswith(".json") else f"{where}.{key}")
            elif kind.default is REQUIRED:
                raise InputError(f"{where}: the key '{key}' is missing; expected {describe(kind)}")
        for rule in self.rules:
            rule(value, where)


@dataclass(frozen=True)
class Table:
    """An object whose keys are names (or one of `keys`) and whose values all have one kind."""

    value: Any
    keys: tuple[str, ...] = ()
    least: int = 0
    most: int = 10**9
    default: Any = REQUIRED

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected an object, got {type(value).__name__}")
        if not self.least <= len(value) <= self.most:
            raise InputError(f"{where}: {len(value)} entries; expected {self.least} to {self.most}")
        for key, item in value.items():
            if self.keys and key not in self.keys:
                raise InputError(f"{where}: unknown key '{key}'; {nearest(key, self.keys)}")
            self.value.check(item, f"{where}.{key}")


@dataclass(frozen=True)
class Listing:
    """A list of `least` to `most` values of one kind."""

    value: Any
    least: int = 0
    most: int = 10**9
    default: Any = REQUIRED
    optional: bool = False

    def check(self, value: Any, where: str) -> None:
        if value is None and self.optional:
            return
        if not isinstance(value, list):
            raise InputError(f"{where}: expected a list, got {type(value).__name__}")
        if not self.least <= len(value) <= self.most:
            raise InputError(f"{where}: {len(value)} entries; expected {self.least} to {self.most}")
        for index, item in enumerate(value):
            self.value.check(item, f"{where}[{index}]")


Kind = Number | Flag | Text | Section | Table | Listing


def describe(kind: Kind) -> str:
    """What a field expects, in words."""
    if isinstance(kind, Number):
        return kind.describe()
    if isinstance(kind, Flag):
        return "true or false"
    if isinstance(kind, Text):
        return "one of " + ", ".join(kind.choices) if kind.choices else "a text"
    if isinstance(kind, Listing):
        return "a list"
    return "an object"


def with_defaults(kind: Kind, value: Any) -> Any:
    """The document with every absent optional field filled in, nested sections included."""
    if isinstance(kind, Section) and isinstance(value, dict):
        filled = {key: value.get(key, inner.default) for key, inner in kind.fields.items()}
        return {key: with_defaults(kind.fields[key], item) for key, item in filled.items()}
    if isinstance(kind, Table) and isinstance(value, dict):
        return {key: with_defaults(kind.value, item) for key, item in value.items()}
    if isinstance(kind, Listing) and isinstance(value, list):
        return [with_defaults(kind.value, item) for item in value]
    return value


__all__ = ["Flag", "Kind", "Listing", "Number", "Section", "Table", "Text", "describe", "with_defaults"]
