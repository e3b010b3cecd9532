"""Errors that a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something that the user gave is wrong; the message says what, where, and what would be right."""


class InfeasibleError(RuntimeError):
    """The question is well posed, but no configuration answers it."""


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """A sentence that names the closest known words, or lists a few when none is close.

    **Arguments:** the `word` as typed, the `known` words, how many to name.

    **Returns:** text such as `did you mean 'h100-sxm-8'?`, ready to be appended to an error.
    """
    names = sorted(set(known))
    lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), list(lower), n=count, cutoff=0.55)
    if close:
        return "did you mean " + " or ".join(f"'{lower[name]}'" for name in close) + "?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"known: {shown}"
