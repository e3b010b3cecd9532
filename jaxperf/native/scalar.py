"""A tape as one function of machine code that is called with its arguments: for a program of small arrays that is run
many times. Where NumPy takes microseconds for an instruction, this takes a nanosecond, and LLVM writes it about as fast
as NumPy runs it a few dozen times."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..tape import NoKernelError, Tape
from . import jit
from .blocks import Blocks, finish
from .cells import MOST_BYTES_A_STEP, SIZES, Cells, Memory
from .lines import CALLED
from .loops import Module
from .steps import steps_of

_NAME = "program"


@functools.cache
def _functions() -> None:
    """Lets LLVM find C's mathematical functions. **Raises** `NoKernelError` where there are none, or no LLVM."""
    for name in sorted(CALLED):
        for symbol in (name, name + "f"):
            if not jit.locate(symbol):
                raise NoKernelError(f"no {symbol} here")


class Compiled:
    """A tape as machine code. Threads may call it side by side: each call has memory of its own."""

    def __init__(self, tape: Tape) -> None:
        jit.llvm()
        _functions()
        memory = Memory()
        self.inputs, self.arguments = _inputs(memory, tape)
        blocks = Blocks(memory)
        results = [blocks.keep(cells) for cells in steps_of(blocks, tape, self.arguments)]
        finish(blocks)
        if memory.size > MOST_BYTES_A_STEP * (len(memory.steps) + 16):
            raise NoKernelError("arrays so long that NumPy is as good")
        text = Module(memory).text(blocks.body, _NAME)
        self.steps, self.start = len(memory.steps), memory.start[: -(-memory.size // 8) * 8].copy()
        kinds = {cells.kind for cells in results}
        self.outputs = {kind: _places([cells for cells in results if cells.kind == kind]) for kind in kinds}
        self.shapes = [(cells.kind, cells.at.size, cells.at.shape) for cells in results]
        self.free: list[np.ndarray] = []
        self.library = jit.Library(text, (_NAME,), 0)

    def __call__(self, leaves: list[Any]) -> list[Any]:
        """The results for the leaves of the tape's arguments, as `tape.play` gives them."""
        memory = self._filled(leaves)
        self.library.functions[_NAME](memory.ctypes.data)
        found = {kind: memory.view(kind)[places] for kind, places in self.outputs.items()}
        self.free.append(memory)
        return self._results(found, ())

    def rows(self, leaves: list[Any], axes: list[int | None]) -> list[Any]:
        """The results for each row of those leaves that have a leading axis (0 in `axes`), with a leading axis."""
        rows = [np.asarray(leaf) if axis == 0 else None for leaf, axis in zip(leaves, axes, strict=True)]
        count = next(len(row) for row in rows if row is not None)
        memory = self._filled([leaf if row is None else row[0] for leaf, row in zip(leaves, rows, strict=True)])
        given = []
        for kind in {cells.kind for cells, row in zip(self.arguments, rows, strict=True) if row is not None}:
            own = [(c, row) for c, row in zip(self.arguments, rows, strict=True) if row is not None and c.kind == kind]
            values = np.concatenate([row.reshape(count, -1).astype(kind) for _, row in own], axis=1)
            given.append((memory.view(kind), _places([cells for cells, _ in own]), values))
        found = {kind: np.empty((count, places.size), kind) for kind, places in self.outputs.items()}
        taken = [(memory.view(kind), places, found[kind]) for kind, places in self.outputs.items()]
        run, address = self.library.functions[_NAME], memory.ctypes.data
        for row in range(count):
            for view, places, values in given:
                view[places] = values[row]
            run(address)
            for view, places, values in taken:
                values[row] = view[places]
        self.free.append(memory)
        return self._results(found, (count,))

    def _filled(self, leaves: list[Any]) -> np.ndarray:
        """Memory that no other call uses, with the leaves of the arguments."""
        memory = self._memory()
        for kind, places, first, last in self.inputs:
            given = [np.asarray(leaves[place]).ravel() for place in places]
            np.concatenate(given, out=memory[first:last].view(kind), casting="unsafe")
        return memory

    def _memory(self) -> np.ndarray:
        """Memory that no other call uses."""
        try:
            return self.free.pop()
        except IndexError:
            return self.start.copy()

    def _results(self, found: dict[str, np.ndarray], rows: tuple[int, ...]) -> list[Any]:
        """The results apart, from those of each type together [*rows, number]."""
        results, used = [], dict.fromkeys(found, 0)
        for kind, count, shape in self.shapes:
            part = found[kind][..., used[kind] : used[kind] + count]
            used[kind] += count
            results.append(part.reshape(rows + shape)[()])
        return results


def _inputs(memory: Memory, tape: Tape) -> tuple[list[tuple[str, list[int], int, int]], list[Cells]]:
    """Where the leaves of a tape's arguments go: for each type the leaves that have it, and the bytes that they fill,
    one after another; and the cells of each leaf."""
    inputs, arguments = [], {}
    for kind in SIZES:
        places = [place for place, each in enumerate(tape.types) if each == kind]
        sizes = [int(np.prod(tape.shapes[place])) for place in places]
        cells = memory.allocate(kind, (sum(sizes),))
        if places:
            inputs.append((kind, places, memory.size - SIZES[kind] * sum(sizes), memory.size))
        ends = np.cumsum(sizes)
        for place, size, end in zip(places, sizes, ends, strict=True):
            arguments[place] = Cells(kind, cells.at[end - size : end].reshape(tape.shapes[place]))
    return inputs, [arguments[place] for place in range(len(tape.types))]


def _places(cells: list[Cells]) -> np.ndarray:
    """The places of all cells of one type, in units of its size."""
    return np.concatenate([each.at.ravel() for each in cells]) // SIZES[cells[0].kind]


def compiled(tape: Tape) -> Callable[[list[Any]], list[Any]]:
    """A function that gives what `play` gives for the leaves of a tape's arguments, but a few units in the last place.

    **Raises** `NoKernelError` where LLVM is not there, where the tape has an instruction that no code is written for,
    and where its arrays are so large that NumPy is as good.
    """
    return Compiled(tape)
