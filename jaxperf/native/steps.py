"""The instructions of a tape as steps over cells of memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numpy_kernels import KERNELS
from ..tape import NoKernelError, Tape
from .blocks import Blocks, Chosen, hand_over, moves
from .cells import MOST_OPERANDS, Cells, Choice, Move, Repeat, Until, read_of
from .graph import COMPARISONS
from .lines import OPERATIONS
from .unfold import ALONG, REDUCED

_MOVES = {"broadcast_in_dim", "concatenate", "pad", "reshape", "rev", "slice", "squeeze", "stack", "transpose"}
_PARTS = {"split", "unstack"}


def steps_of(blocks: Blocks, tape: Tape, arguments: list[Cells]) -> list[Cells]:
    """Writes the steps of a tape; where its results are, for arguments that are there.

    **Raises** `NoKernelError` for an instruction that has none, or where they are too many.
    """
    places: list[Any] = [None if value is None else blocks.memory.constant(value) for value in tape.start]
    for place, cells in zip(tape.arguments, arguments, strict=True):
        places[place] = cells
    for name, parameters, read, written in tape.instructions:
        found = _instruction(blocks, name, parameters, [places[place] for place in read])
        for place, cells in zip(written, found, strict=True):
            places[place] = cells
    return [places[place] for place in tape.results]


def _instruction(blocks: Blocks, name: str, parameters: dict[str, Any], read: list[Cells]) -> list[Cells]:
    """What one instruction writes."""
    if name in _MOVES or name in _PARTS:
        found = KERNELS[name](*(cells.at for cells in read), **parameters)
        return [Cells(read[0].kind, np.asarray(at)) for at in (found if name in _PARTS else [found])]
    if name == "cond":
        return _cond(blocks, read, **parameters)
    if name == "scan":
        return _scan(blocks, read, **parameters)
    if name == "while":
        return _while(blocks, read, **parameters)
    if name in ("iota", "empty2"):
        return [blocks.memory.constant(KERNELS[name](**parameters))]
    known = [blocks.memory.values(cells) for cells in read]
    values = [value[()] for value in known if value is not None]
    if len(values) == len(read):
        with np.errstate(all="ignore"):
            return [blocks.memory.constant(KERNELS[name](*values, **parameters))]
    if name == "dynamic_slice":
        return [_dynamic_slice(blocks, *read, **parameters)]
    if name == "gather" and known[1] is not None:
        return [Cells(read[0].kind, np.asarray(KERNELS[name](read[0].at, known[1], **parameters)))]
    if name in REDUCED:
        axes = tuple(int(axis) for axis in parameters["axes"])
        return [_reduced(blocks, "all_" + REDUCED[name], read[0], axes, read[0].kind)]
    if name in ("argmax", "argmin"):
        axes = (int(parameters["axes"][0]),)
        return [_reduced(blocks, name, read[0], axes, str(np.dtype(parameters["index_dtype"])))]
    if name in ALONG:
        return [_accumulated(blocks, ALONG[name], read[0], **parameters)]
    if name in OPERATIONS:
        return [_elementwise(blocks, name, parameters, read)]
    raise NoKernelError(f"no code for {name}")


def _elementwise(blocks: Blocks, name: str, parameters: dict[str, Any], read: list[Cells]) -> Cells:
    """An operation on numbers that stand at the same place of arrays of one shape, or scalars."""
    kind = "bool" if name in COMPARISONS or name == "is_finite" else read[-1].kind
    if "new_dtype" in parameters:
        kind = str(np.dtype(parameters["new_dtype"]))
        if kind == read[0].kind:
            return read[0]
    if name == "select_n":
        parameters = {"which": read[0].kind}
    if all(not cells.at.ndim for cells in read):
        return blocks.step(name, parameters, read[-1].kind, read, [kind], 1)[0]
    shape = np.broadcast_shapes(*(cells.at.shape for cells in read))
    which = blocks.memory.values(read[0]) if name == "select_n" and not read[0].at.ndim else None
    if which is not None:
        return read[1 + int(which)]
    flat = [Cells(k, at.ravel() if at.shape == shape else np.broadcast_to(at, shape).ravel()) for k, at in read]
    length = flat[0].at.size
    if not length:
        return Cells(kind, np.zeros(shape, np.int64))
    (out,) = blocks.step(name, parameters, read[-1].kind, flat, [kind], length)
    return Cells(kind, out.at.reshape(shape))


def _reduced(blocks: Blocks, name: str, cells: Cells, axes: tuple[int, ...], kind: str) -> Cells:
    """An operation between all entries along some axes."""
    kept = [axis for axis in range(cells.at.ndim) if axis not in axes]
    rest = tuple(cells.at.shape[axis] for axis in kept)
    rows = np.transpose(cells.at, (*axes, *kept)).reshape(-1, int(np.prod(rest, dtype=int)))
    if not rows.size:
        return blocks.memory.constant(np.zeros(rest, kind))
    if len(rows) > MOST_OPERANDS:
        raise NoKernelError(f"a sum of more than {MOST_OPERANDS}")
    given = [Cells(cells.kind, row) for row in rows]
    if len(given) == 1 and name.startswith("all_"):
        return Cells(kind, rows[0].reshape(rest))
    (out,) = blocks.step(name, {"to": kind}, cells.kind, given, [kind], rows.shape[1])
    return Cells(kind, out.at.reshape(rest))


def _dynamic_slice(blocks: Blocks, value: Cells, *starts: Cells, slice_sizes: tuple[int, ...]) -> Cells:
    """The part of an array from some places on: along each axis one of all parts."""
    for axis, (start, size) in enumerate(zip(starts, slice_sizes, strict=True)):
        last = value.at.shape[axis] - size
        parts = [Cells(value.kind, value.at.take(range(first, first + size), axis)) for first in range(last + 1)]
        if len(parts) > MOST_OPERANDS:
            raise NoKernelError(f"a choice of more than {MOST_OPERANDS}")
        ends = [blocks.memory.constant(np.asarray(end, start.kind)) for end in (0, last)]
        held = _instruction(blocks, "clamp", {}, [ends[0], start, ends[1]])[0]
        value = _elementwise(blocks, "select_n", {}, [held, *parts]) if last else value
    return value


def _accumulated(blocks: Blocks, name: str, cells: Cells, axis: int, reverse: bool) -> Cells:
    """The results of an operation between the entries up to each along an axis."""
    if not cells.at.size:
        return cells
    along = np.moveaxis(cells.at, axis, 0)
    rows = (along[::-1] if reverse else along).reshape(len(along), -1)
    if len(rows) > MOST_OPERANDS:
        raise NoKernelError(f"sums up to more than {MOST_OPERANDS}")
    given = [Cells(cells.kind, row) for row in rows]
    out = blocks.step("each_" + name, {}, cells.kind, given, [cells.kind] * len(rows), rows.shape[1])
    at = np.stack([each.at for each in (out[::-1] if reverse else out)]).reshape(along.shape)
    return Cells(cells.kind, np.moveaxis(at, 0, axis))


def _types(results: list[Cells]) -> list[tuple[str, tuple[int, ...]]]:
    return [(cells.kind, cells.at.shape) for cells in results]


def _cond(blocks: Blocks, read: list[Cells], branches: tuple[Tape, ...]) -> list[Cells]:
    """The branch that is known to be taken, or a choice."""
    which, *operands = read
    value = blocks.memory.values(which)
    if value is not None:
        return steps_of(blocks, branches[min(max(int(value), 0), len(branches) - 1)], operands)
    for cells in read:
        blocks.keep(cells)
    inner = [blocks.within() for _ in branches]
    results = [steps_of(each, branch, operands) for each, branch in zip(inner, branches, strict=True)]
    found = blocks.add(Choice(read_of(which), [each.body for each in inner]), _types(results[0]))
    for target, *each in zip(found, *results, strict=True):
        if target.at.size:
            blocks.choices[target.at.item(0)] = Chosen(target, inner, each)
    return found


def _carried(blocks: Blocks, start: list[Cells]) -> tuple[list[Cells], list[Move]]:
    """Cells for what a loop carries, and what puts its first values there."""
    carry = [blocks.memory.allocate(cells.kind, cells.at.shape) for cells in start]
    return carry, [move for each in zip(start, carry, strict=True) for move in moves(*each)]


def _round(blocks: Blocks, tape: Tape, arguments: list[Cells], carry: list[Cells]) -> tuple[Blocks, list[Cells]]:
    """The body of a loop, which ends by moving what it carries to `carry`; and its other results."""
    inner = blocks.within()
    results = steps_of(inner, tape, arguments)
    taken = np.concatenate([np.zeros(0, np.int64), *(cells.at.ravel() for cells in carry)])

    def apart(cells: Cells, target: Cells | None) -> Cells:
        """Where a result is that the moves do not overwrite before they read it."""
        same = target is not None and np.array_equal(cells.at, target.at)
        if same or not cells.at.size or not np.isin(cells.at, taken).any():
            return cells
        (copied,) = inner.step(
            "copy", {}, cells.kind, [Cells(cells.kind, cells.at.ravel())], [cells.kind], cells.at.size
        )
        return Cells(cells.kind, copied.at.reshape(cells.at.shape))

    targets = [*carry, *[None] * (len(results) - len(carry))]
    results = [apart(*each) for each in zip(results, targets, strict=True)]
    for cells, target in zip(results, carry, strict=False):
        inner.keep(cells)
        inner.body.end += moves(cells, target)
    return inner, results[len(carry) :]


def _scan(
    blocks: Blocks, read: list[Cells], body: Tape, length: int, reverse: bool, constants: int, carried: int
) -> list[Cells]:
    """A loop of known length."""
    for cells in read:
        blocks.keep(cells)
    fixed, start, over = read[:constants], read[constants : constants + carried], read[constants + carried :]
    carry, before = _carried(blocks, start)
    rows, begin = [], []
    for cells in over:
        row = blocks.memory.allocate(cells.kind, cells.at.shape[1:])
        rows.append(row)
        if row.at.size:
            whole, fetch = _in_a_row(blocks, cells)
            before += fetch
            begin.append(Move(read_of(Cells(cells.kind, whole.at[0])), row.at.size, row.at.item(0), _step(whole)))
    inner, out = _round(blocks, body, [*fixed, *carry, *rows], carry)
    inner.body.begin += begin
    block = Repeat(before, inner.body, length, reverse)
    found = blocks.add(block, [(cells.kind, (length, *cells.at.shape)) for cells in out])
    for cells, whole in zip(out, found, strict=True):
        hand_over(inner, cells, whole, _step(whole))
    return [*_written(blocks, carry), *found]


def _written(blocks: Blocks, carry: list[Cells]) -> list[Cells]:
    """The cells that a loop has carried, marked as written by the block that was added last."""
    number = len(blocks.memory.steps)
    blocks.memory.made("block", {}, "", [], blocks.number())
    for cells in carry:
        blocks.memory.makers[cells.at] = number
    return carry


def _step(cells: Cells) -> int:
    """Bytes from one row of cells that follow each other to the next."""
    return cells.at[1].item(0) - cells.at[0].item(0) if len(cells.at) > 1 and cells.at.size else 0


def _in_a_row(blocks: Blocks, cells: Cells) -> tuple[Cells, list[Move]]:
    """Cells whose rows are equally far from each other: these, or a copy."""
    rows = cells.at.reshape(len(cells.at), -1)
    if (rows - rows[0] == (rows[:, :1] - rows[0, 0])).all() and len(set(np.diff(rows[:, 0]).tolist())) <= 1:
        return cells, []
    copy = blocks.memory.allocate(cells.kind, cells.at.shape)
    return copy, moves(cells, copy)


def _while(
    blocks: Blocks, read: list[Cells], test: Tape, body: Tape, test_constants: int, body_constants: int
) -> list[Cells]:
    """A loop that ends when its test says so."""
    for cells in read:
        blocks.keep(cells)
    tested, rest = read[:test_constants], read[test_constants:]
    fixed, start = rest[:body_constants], rest[body_constants:]
    carry, before = _carried(blocks, start)
    asked = blocks.within()
    (flag,) = steps_of(asked, test, [*tested, *carry])
    if flag.at.ndim:
        raise NoKernelError("no code for a loop that ends at different times")
    asked.keep(flag)
    inner, _ = _round(blocks, body, [*fixed, *carry], carry)
    blocks.add(Until(before, asked.body, read_of(flag), inner.body), [])
    return _written(blocks, carry)
