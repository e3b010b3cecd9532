"""Cells of memory, in place of the arrays of a tape: an array is an array of addresses, so that moving entries about
costs nothing; and what is done with them: steps on numbers, moves, loops and choices."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..tape import NoKernelError

SIZES = {"float64": 8, "float32": 4, "int64": 8, "int32": 4, "uint32": 4, "bool": 1}
"""Bytes of a number by its type."""

MOST_BYTES = 1 << 22
"""Memory of one call beyond which NumPy is as good: its time goes by instructions where arrays are small."""

MOST_BYTES_A_STEP = 1 << 11
"""Memory for each step beyond which NumPy is as good."""

MOST_STEPS = 50_000
"""Steps that are worth the time of writing and compiling them."""

MOST_OPERANDS = 256
"""Entries that a sum may have."""

_CONSTANT, _GIVEN = -1, -2  # makers of cells that no step writes


class Cells(NamedTuple):
    """Numbers of one type: their addresses [bytes], in the shape of the array."""

    kind: str
    at: np.ndarray


class Read(NamedTuple):
    """What a step reads in each round of its loop: a number of one type at `base`, and `stride` bytes further on in
    every round; where `table` is given, at its entries."""

    kind: str
    base: int
    stride: int
    table: np.ndarray | None


@dataclass
class Step:
    """An operation on numbers, done in every round of the loop `block`: its name and parameters, the type that it
    computes with, what it reads, and what it writes (type and first address). It is `kept` in memory where another
    block reads it, too; `copies` are further addresses that what it writes goes to, with the bytes that they move on in
    each round of the loop around the block."""

    name: str
    parameters: dict[str, Any]
    kind: str
    reads: list[Read]
    writes: list[tuple[str, int]]
    block: int
    kept: bool = False
    copies: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass
class Loop:
    """Steps that are done for `length` numbers each."""

    number: int
    length: int
    steps: list[Step] = field(default_factory=list)


@dataclass
class Move:
    """Copies `length` numbers to `target` and what follows; in round i of a loop from i·`from_step` bytes further on,
    to i·`to_step` bytes further on."""

    source: Read
    length: int
    target: int
    from_step: int = 0
    to_step: int = 0


@dataclass
class Body:
    """Blocks of code in order, between moves at the beginning and at the end."""

    begin: list[Move] = field(default_factory=list)
    blocks: list[Any] = field(default_factory=list)
    end: list[Move] = field(default_factory=list)


@dataclass
class Repeat:
    """A body done `length` times, backwards where `reverse`."""

    before: list[Move]
    body: Body
    length: int
    reverse: bool


@dataclass
class Until:
    """A body done as long as a flag, which `test` computes, is set."""

    before: list[Move]
    test: Body
    flag: Read
    body: Body


@dataclass
class Choice:
    """One body of several, by a number that is held between the first and the last."""

    which: Read
    bodies: list[Body]


class Memory:
    """The memory of a program: constants and what the steps write, side by side. `start` is its content before a call,
    `makers` the number of the step that writes each byte."""

    def __init__(self) -> None:
        self.start = np.zeros(1 << 16, np.uint8)
        self.makers = np.full(1 << 16, _GIVEN, np.int32)
        self.size = self.blocks = self.count = 0
        self.steps: list[Step] = []
        self.known: dict[Any, Cells] = {}

    def allocate(self, kind: str, shape: tuple[int, ...], maker: int = _GIVEN) -> Cells:
        """Cells for an array, one after another."""
        size, count = SIZES[kind], math.prod(shape)
        base = -(-self.size // 8) * 8
        self.size = base + size * count
        if self.size > MOST_BYTES:
            raise NoKernelError(f"more than {MOST_BYTES} bytes of numbers: NumPy is as good")
        while self.size > self.start.size:
            self.start = np.concatenate([self.start, np.zeros_like(self.start)])
            self.makers = np.concatenate([self.makers, np.full_like(self.makers, _GIVEN)])
        self.makers[base : self.size] = maker
        if not shape:
            return Cells(kind, np.asarray(base))
        return Cells(kind, np.arange(base, self.size, size).reshape(shape))

    def constant(self, value: Any) -> Cells:
        """Cells of known numbers."""
        value = np.asarray(value)
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self.known:
            cells = self.allocate(str(value.dtype), value.shape, _CONSTANT)
            first = self.size - value.nbytes
            self.start[first : self.size] = np.frombuffer(value.tobytes(), np.uint8)
            self.known[key] = cells
        return self.known[key]

    def values(self, cells: Cells) -> np.ndarray | None:
        """The numbers of cells, None where they are not constants."""
        if cells.at.size and self.makers[cells.at.item(0)] != _CONSTANT:
            return None
        if (self.makers[cells.at] != _CONSTANT).any():
            return None
        found = self.start[cells.at[..., None] + np.arange(SIZES[cells.kind])]
        return found.view(cells.kind)[..., 0]

    def literal(self, read: Read) -> Any:
        """The one number that a step reads in every round, None where it is no constant."""
        if read.stride or read.table is not None or self.makers[read.base] != _CONSTANT:
            return None
        return self.start[read.base : read.base + SIZES[read.kind]].view(read.kind)[0]

    def made(self, name: str, parameters: dict[str, Any], kind: str, reads: list[Read], block: int) -> Step:
        """A new step that writes nothing yet."""
        if len(self.steps) >= MOST_STEPS:
            raise NoKernelError(f"more than {MOST_STEPS} steps")
        self.steps.append(Step(name, parameters, kind, reads, [], block))
        return self.steps[-1]


def read_of(cells: Cells) -> Read:
    """How a step reads cells, one in each round."""
    at = cells.at
    if at.size == 1:
        return Read(cells.kind, at.item(), 0, None)
    at = at.ravel()
    steps = at[1:] - at[:-1]
    stride = int(steps[0])
    if (steps == stride).all():
        return Read(cells.kind, int(at[0]), stride, None)
    return Read(cells.kind, int(at[0]), 0, at)
