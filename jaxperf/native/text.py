"""LLVM's assembly as lines of text."""

from __future__ import annotations

import struct
from typing import Any


def real_literal(value: Any) -> str:
    """A real number as LLVM reads it: by the bits of a double."""
    return f"0x{struct.unpack('>Q', struct.pack('>d', float(value)))[0]:016X}"


class Text:
    """Lines of one function; `declared` are the functions of others that they call."""

    def __init__(self, declared: set[str]) -> None:
        self.lines: list[str] = []
        self.declared = declared
        self.count = 0

    def put(self, text: str) -> str:
        """A line that gives a value; its name."""
        self.count += 1
        self.lines.append(f"  %v{self.count} = {text}")
        return f"%v{self.count}"

    def do(self, text: str) -> None:
        """A line that gives nothing."""
        self.lines.append("  " + text)

    def call(self, symbol: str, of: str, given: list[str], result: str | None = None) -> str:
        """A call of a function of values of one type."""
        result = result or of
        self.declared.add(f"declare {result} @{symbol}({', '.join([of] * len(given))})")
        return self.put(f"call {result} @{symbol}({', '.join(f'{of} {each}' for each in given)})")
