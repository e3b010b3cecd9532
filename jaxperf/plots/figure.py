"""What all figures share: colours, and how they are written."""

from __future__ import annotations

import os
from typing import Any

from ..errors import InputError
from ..spec.library import replacing

COLOURS = ("#0b6e99", "#d9730d", "#448361", "#9065b0", "#c14c8a", "#cb912f", "#787774", "#2f4858")


def save_figure(figure: Any, path: str | os.PathLike) -> None:
    """Write a matplotlib figure whole or not at all, in the format that the suffix says.

    **Raises** `InputError` where it cannot be written.
    """
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{os.fspath(path)}: cannot be written: {error}") from None
