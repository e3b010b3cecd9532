"""What machine code is written for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .text import real_literal


@dataclass(frozen=True)
class Target:
    """What code is written for: the type of a `real`, how many of them a vector of the code holds (`lanes`; more than a
    register's, so that there is always something to do while a result is waited for), the library's functions of
    `called` lanes, a register's, by name (`functions`; those not there are called lane by lane), whether products and
    sums fuse, and LLVM's name of the instruction that picks lanes of a register by whole numbers of `permuted` bits."""

    real: np.dtype
    lanes: int
    called: int = 1
    functions: dict[str, str] = field(default_factory=dict)
    fused: bool = False
    permute: str = ""
    permuted: int = 32

    @property
    def scalar(self) -> str:
        """LLVM's name of a real."""
        return "float" if self.real.itemsize == 4 else "double"

    @property
    def suffix(self) -> str:
        """What intrinsics on vectors of reals are called by."""
        return f"v{self.lanes}f{8 * self.real.itemsize}"

    def vector(self, kind: str = "f") -> str:
        """LLVM's name of a vector of numbers of one kind."""
        return f"<{self.lanes} x {({'f': self.scalar, 'i': 'i32', 'b': 'i1'})[kind]}>"

    def literal(self, value: Any) -> str:
        """A number as LLVM reads it: reals by their bits."""
        if np.asarray(value).dtype.kind == "f":
            return real_literal(self.real.type(value))
        return str(int(value))

    def splat(self, value: Any, kind: str) -> str:
        """A vector of one number."""
        of = {"f": self.scalar, "i": "i32", "b": "i1"}[kind]
        return "<" + ", ".join([f"{of} {self.literal(value)}"] * self.lanes) + ">"
