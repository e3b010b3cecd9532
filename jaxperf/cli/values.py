"""Words of a command line → numbers and names, with errors that say what would be right."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import InputError, nearest

MOST_DEVICES = 10_000_000
MOST_TOKENS = 100_000_000


def parse_whole(text: str, low: int = 1, high: int = MOST_TOKENS) -> int:
    """A whole number from `low` to `high`; `1e3` and `8.0` are whole. **Raises** `ValueError` that says why not."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"'{text}' is no number; expected a whole number from {low} to {high}") from None
    if math.isnan(value) or (math.isinf(value) and "inf" in text.lower()):
        raise ValueError(f"'{text}' is no finite number; expected a whole number from {low} to {high}")
    if value < low or value > high:
        raise ValueError(f"{text} is out of range; expected a whole number from {low} to {high}")
    if value != int(value):
        raise ValueError(f"{text} is no whole number; expected one from {low} to {high}")
    return int(value)


def parse_positive(text: str) -> float:
    """A finite number above 0. **Raises** `ValueError` that says why not."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"'{text}' is no number; expected one above 0") from None
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{text} is out of range; expected a finite number above 0")
    return value


def parse_between(text: str, low: float, high: float) -> float:
    """A number from `low` to `high`. **Raises** `ValueError` that says why not."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"'{text}' is no number; expected one from {low:g} to {high:g}") from None
    if not low <= value <= high:
        raise ValueError(f"{text} is out of range; expected a number from {low:g} to {high:g}")
    return value


def parse_share(text: str) -> float:
    """A share from 0 to 1, as in `0.8`. **Raises** `ValueError` that says why not."""
    return parse_between(text, 0, 1)


def parse_prefix_hit(text: str) -> int | float:
    """Tokens (`512`) as a whole number, or a share of the prompt (`0.5`, `50%`) as a fraction.

    **Raises** `ValueError` that says why not.
    """
    if text.endswith("%"):
        try:
            return parse_share(str(float(text[:-1]) / 100))
        except ValueError:
            raise ValueError(f"'{text}' is no share of a prompt; expected one from 0% to 100%") from None
    return parse_share(text) if "." in text else parse_whole(text, low=0)


def prefix_tokens(hit: int | float | None, isl: int) -> int:
    """Tokens of a prompt of `isl` tokens that are found in the cache, from tokens or a share of the prompt.

    **Raises** `InputError` where they are more than the prompt has.
    """
    tokens = int(hit * isl) if isinstance(hit, float) else hit or 0
    if tokens > isl:
        raise InputError(
            f"--prefix-hit: {tokens:,} tokens are more than the {isl:,} of the prompt (--isl); choose 0 to {isl}, "
            "or a share of the prompt such as 0.5"
        )
    return tokens


def option_type(parse: Callable[..., Any], **limits: Any) -> Callable[[str], Any]:
    """An argparse `type` from a function that raises `ValueError` with a sentence, which then reaches the user."""

    def convert(text: str) -> Any:
        try:
            return parse(text, **limits)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def whole(low: int = 1, high: int = MOST_TOKENS) -> Callable[[str], int]:
    """An argparse `type`: a whole number from `low` to `high`."""
    return option_type(parse_whole, low=low, high=high)


def between(low: float, high: float) -> Callable[[str], float]:
    """An argparse `type`: a number from `low` to `high`."""
    return option_type(parse_between, low=low, high=high)


positive = option_type(parse_positive)
"""An argparse `type`: a finite number above 0."""


def one_of(known: Iterable[str], kind: str) -> Callable[[str], str]:
    """An argparse `type`: one of some names, with the nearest when it is none of them."""
    table = list(known)

    def convert(text: str) -> str:
        found = text if text in table else text.lower()
        if found not in table:
            raise argparse.ArgumentTypeError(f"no {kind} is called '{text}'; {nearest(text, table)}")
        return found

    return convert
