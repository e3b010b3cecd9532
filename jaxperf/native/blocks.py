"""Steps on cells of memory, gathered into few loops over equally many numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .cells import SIZES, Body, Cells, Loop, Memory, Move, Step, read_of

_LONGEST = 200
"""Steps of one loop, or of one stretch of code without loops: compiling takes more than proportionally longer for long
ones."""


@dataclass
class Chosen:
    """A result of a choice: where it is to be, and where the branches have it."""

    target: Cells
    branches: list[Blocks]
    results: list[Cells]


class Blocks:
    """The blocks of one body as they grow. A step is put into the earliest loop of its length that comes after all
    that it reads, so that few loops hold many steps, and what passes between steps of one loop stays in registers."""

    def __init__(self, memory: Memory) -> None:
        self.memory, self.first = memory, memory.blocks
        self.body = Body()
        self.open: dict[int, list[Loop]] = {}
        self.lengths: dict[int, int] = {}
        self.choices: dict[int, Chosen] = {}
        self.inner: list[Blocks] = []

    def within(self) -> Blocks:
        """The blocks of a body in this one."""
        self.inner.append(Blocks(self.memory))
        return self.inner[-1]

    def block(self, needed: int, length: int) -> Loop:
        """A loop not before block `needed` that has room for a step."""
        for loop in self.open.setdefault(length, []):
            if loop.number >= needed:
                return loop
        loop = Loop(self.number(), length)
        self.lengths[loop.number] = length
        self.body.blocks.append(loop)
        self.open[length].append(loop)
        return loop

    def number(self) -> int:
        """The number of a new block."""
        self.memory.blocks += 1
        return self.memory.blocks - 1

    def step(
        self, name: str, parameters: dict[str, Any], kind: str, given: list[Cells], kinds: list[str], length: int
    ) -> list[Cells]:
        """Adds a step that reads cells [length] each, and writes new ones, of these types, [length] each; scalars where
        it reads scalars."""
        memory, needed = self.memory, self.first
        reads = [read_of(cells) for cells in given]
        makers: list[tuple[Step, bool]] = []
        for cells, read in zip(given, reads, strict=True):
            for maker in self._makers(cells):
                step = memory.steps[maker]
                near = length == 1 or (read.stride == SIZES[read.kind] and any(read.base == b for _, b in step.writes))
                makers.append((step, near))
                needed = max(needed, step.block if near else step.block + 1)
        loop = self.block(needed, length)
        for step, near in makers:
            step.kept |= not near or step.block != loop.number
        number = len(memory.steps)
        step = memory.made(name, parameters, kind, reads, loop.number)
        loop.steps.append(step)
        if len(loop.steps) >= _LONGEST:
            self.open[length].remove(loop)
        shape = (length,) if given[0].at.ndim else ()
        written = [memory.allocate(each, shape, number) for each in kinds]
        step.writes = [(cells.kind, cells.at.item(0)) for cells in written]
        return written

    def _makers(self, cells: Cells) -> list[int]:
        """The steps that write cells."""
        if cells.at.size == 1:
            found = [int(self.memory.makers[cells.at.item()])]
        else:
            found = set(self.memory.makers[cells.at].ravel().tolist())
        return [maker for maker in found if maker >= 0]

    def keep(self, cells: Cells) -> Cells:
        """Cells that are read from memory."""
        for maker in self._makers(cells):
            self.memory.steps[maker].kept = True
        return cells

    def copied(self, cells: Cells, target: int, moved: int) -> bool:
        """Lets the step that writes cells of this body write them to `target`, too; whether that is possible."""
        read = read_of(cells)
        maker = int(self.memory.makers[read.base])
        step = self.memory.steps[maker] if maker >= 0 else None
        whole = cells.at.size == 1 or read.stride == SIZES[cells.kind]
        if (
            step is None
            or step.block < self.first
            or not step.writes
            or not whole
            or self.length(step) != cells.at.size
        ):
            return False
        for number, (_, base) in enumerate(step.writes):
            if base == read.base:
                step.copies.append((number, target, moved))
                return True
        return False

    def length(self, step: Step) -> int:
        """How many numbers a step of this body writes at a time; 0 for one of another body."""
        return self.lengths.get(step.block, 0)

    def add(self, block: Any, kinds: list[tuple[str, tuple[int, ...]]]) -> list[Cells]:
        """Adds a block that is no loop of steps; cells of these types and shapes that it writes."""
        number, memory = self.number(), self.memory
        self.body.blocks.append(block)
        found = []
        for kind, shape in kinds:
            maker = len(memory.steps)
            memory.made("block", {}, kind, [], number)
            found.append(memory.allocate(kind, shape, maker))
        return found


def moves(source: Cells, target: Cells) -> list[Move]:
    """Copying numbers to cells that follow each other; nothing where they are there."""
    if not source.at.size or np.array_equal(source.at, target.at):
        return []
    return [Move(read_of(source), source.at.size, target.at.item(0))]


def hand_over(inner: Blocks, source: Cells, target: Cells, moved: int) -> None:
    """Lets a body leave a result in cells of the program around it, which move on by so many bytes in each round."""
    if not source.at.size or inner.copied(source, target.at.item(0), moved):
        return
    choice = inner.choices.get(source.at.item(0))
    if choice is not None and np.array_equal(choice.target.at.ravel(), source.at.ravel()):
        for branch, result in zip(choice.branches, choice.results, strict=True):
            hand_over(branch, result, target, moved)
        return
    inner.keep(source)
    inner.body.end.append(Move(read_of(source), source.at.size, target.at.item(0), 0, moved))


def finish(blocks: Blocks) -> None:
    """Lets all branches leave what is read of them, when it is known what that is."""
    for choice in blocks.choices.values():
        if blocks.memory.steps[int(blocks.memory.makers[choice.target.at.item(0)])].kept:
            for branch, result in zip(choice.branches, choice.results, strict=True):
                hand_over(branch, result, choice.target, 0)
    for inner in blocks.inner:
        finish(inner)
