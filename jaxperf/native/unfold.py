"""Plays a tape on nodes in place of numbers: arrays become arrays of nodes, loops and branches are unfolded, and what
is left is scalar arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..numpy_kernels import KERNELS
from ..tape import NoKernelError, Tape
from .graph import KINDS, Graph

Nodes = np.ndarray
"""Node numbers, of any shape."""

_MOVES = {
    "broadcast_in_dim",
    "concatenate",
    "pad",
    "reshape",
    "rev",
    "slice",
    "split",
    "squeeze",
    "stack",
    "transpose",
    "unstack",
}
REDUCED = {"reduce_sum": "add", "reduce_prod": "mul", "reduce_max": "max", "reduce_min": "min"}
REDUCED |= {"reduce_and": "and", "reduce_or": "or"}
ALONG = {"cumsum": "add", "cumprod": "mul", "cummax": "max", "cummin": "min"}
"""What reductions, and those that keep every step, do between two entries."""

_ELEMENTWISE = {
    "abs",
    "add",
    "add_any",
    "and",
    "ceil",
    "div",
    "eq",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "ge",
    "gt",
    "integer_pow",
    "is_finite",
    "le",
    "log",
    "log1p",
    "log2",
    "lt",
    "max",
    "min",
    "mul",
    "ne",
    "neg",
    "not",
    "or",
    "population_count",
    "pow",
    "select_n",
    "shift_left",
    "sqrt",
    "square",
    "sub",
}


def unfold(graph: Graph, tape: Tape, arguments: list[Nodes]) -> list[Nodes]:
    """The nodes of a tape's results, for the nodes of its arguments.

    **Raises** `NoKernelError` for an instruction that has no scalar form: a loop of unknown length, an index that is
    not known.
    """
    places: list[Any] = [None if value is None else _constants(graph, value) for value in tape.start]
    for place, nodes in zip(tape.arguments, arguments, strict=True):
        places[place] = nodes
    for name, parameters, read, written in tape.instructions:
        found = _instruction(graph, name, parameters, [places[place] for place in read])
        for place, nodes in zip(written, found, strict=True):
            places[place] = nodes
    return [places[place] for place in tape.results]


def _constants(graph: Graph, value: Any) -> Nodes:
    value = np.asarray(value)
    if value.dtype.kind == "f":
        value = value.astype(graph.real)
    return np.asarray([graph.constant(each) for each in value.ravel()], np.int64).reshape(value.shape)


def _instruction(graph: Graph, name: str, parameters: dict[str, Any], read: list[Nodes]) -> list[Nodes]:
    """What one instruction writes."""
    if name == "cond":
        return _cond(graph, read, parameters["branches"])
    if name == "scan":
        return _scan(graph, read, **parameters)
    if name in _MOVES:
        found = KERNELS[name](*read, **parameters)
        return [np.asarray(each) for each in found] if name in ("split", "unstack") else [np.asarray(found)]
    if name == "iota":
        return [_constants(graph, KERNELS[name](**parameters))]
    if name in ("dynamic_slice", "gather"):
        value, *starts = read
        return [np.asarray(KERNELS[name](value, *(_known(graph, each) for each in starts), **parameters))]
    if name in REDUCED:
        axes = tuple(int(axis) for axis in parameters["axes"])
        return [_folded_along(graph, REDUCED[name], read[0], axes)]
    if name in ALONG:
        return [_accumulated(graph, ALONG[name], read[0], **parameters)]
    if name == "convert_element_type":
        kind = KINDS[np.dtype(parameters["new_dtype"]).kind]
        return [_each(lambda node: _converted(graph, node, kind), *read)]
    if name == "polynomial":
        return [_each(lambda *nodes: _polynomial(graph, *nodes), *read)]
    if name == "clamp":
        return [_each(lambda low, value, high: _clamped(graph, low, value, high), *read)]
    if name in _ELEMENTWISE:
        return [_each(lambda *nodes: graph.apply(name, nodes, graph.kind_of(name, nodes), **parameters), *read)]
    raise NoKernelError(f"no scalar form of {name}")


def _each(function: Callable[..., int], *arrays: Nodes) -> Nodes:
    """A function of nodes applied along arrays of one shape, or scalars."""
    if all(array.ndim == 0 for array in arrays):
        return np.asarray(function(*(int(array) for array in arrays)), np.int64)
    spread = np.broadcast_arrays(*arrays)
    found = [function(*nodes) for nodes in zip(*(array.ravel().tolist() for array in spread), strict=True)]
    return np.asarray(found, np.int64).reshape(spread[0].shape)


def _known(graph: Graph, nodes: Nodes) -> np.ndarray:
    values = [graph.values[node] for node in nodes.ravel()]
    if any(value is None for value in values):
        raise NoKernelError("no scalar form of an index that is not known")
    return np.asarray(values).reshape(nodes.shape)


def _converted(graph: Graph, node: int, kind: str) -> int:
    """A node as another kind of number; the widths of a kind are one."""
    if graph.kinds[node] == kind:
        return node
    value = graph.values[node]
    if value is not None:
        types = {"f": graph.real, "i": np.dtype(np.int32), "b": np.dtype(bool)}
        return graph.constant(KERNELS["convert_element_type"](value, new_dtype=types[kind]))
    return graph.apply(f"to_{kind}", (node,), kind)


def _polynomial(graph: Graph, value: int, *coefficients: int) -> int:
    result = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        result = graph.apply("add", (graph.apply("mul", (result, value), "f"), coefficient), "f")
    return result


def _clamped(graph: Graph, low: int, value: int, high: int) -> int:
    kind = graph.kinds[value]
    return graph.apply("min", (graph.apply("max", (value, low), kind), high), kind)


def _folded_along(graph: Graph, name: str, nodes: Nodes, axes: tuple[int, ...]) -> Nodes:
    """An operation between all entries along some axes."""
    kept = [axis for axis in range(nodes.ndim) if axis not in axes]
    moved = np.transpose(nodes, (*axes, *kept)).reshape(-1, *(nodes.shape[axis] for axis in kept))
    result = moved[0]
    for row in moved[1:]:
        result = _each(lambda a, b: graph.apply(name, (a, b), graph.kinds[a]), result, row)
    return np.asarray(result)


def _accumulated(graph: Graph, name: str, nodes: Nodes, axis: int, reverse: bool) -> Nodes:
    if not nodes.size:
        return nodes
    along = np.moveaxis(nodes, axis, 0)
    along = along[::-1] if reverse else along
    rows = [along[0]]
    for row in along[1:]:
        rows.append(_each(lambda a, b: graph.apply(name, (a, b), graph.kinds[a]), rows[-1], row))
    return np.moveaxis(np.stack(rows[::-1] if reverse else rows), 0, axis)


def _cond(graph: Graph, read: list[Nodes], branches: tuple[Tape, ...]) -> list[Nodes]:
    """The branch that is known to be taken, or all of them and a choice."""
    which, *operands = read
    value = graph.values[int(which)]
    if value is not None:
        return unfold(graph, branches[min(max(int(value), 0), len(branches) - 1)], operands)
    found = [unfold(graph, branch, operands) for branch in branches]
    if len(branches) != 2:
        raise NoKernelError("no scalar form of a branch in more than two")
    taken = int(which) if graph.kinds[int(which)] == "b" else _converted(graph, int(which), "b")

    def chosen(no: int, yes: int) -> int:
        return graph.apply("select_n", (taken, no, yes), graph.kinds[no])

    return [_each(chosen, no, yes) for no, yes in zip(*found, strict=True)]


def _scan(
    graph: Graph, read: list[Nodes], body: Tape, length: int, reverse: bool, constants: int, carried: int
) -> list[Nodes]:
    """A loop of known length, round by round."""
    fixed, carry, over = read[:constants], read[constants : constants + carried], read[constants + carried :]
    rows: list[list[Nodes]] = [[] for _ in body.results[carried:]]
    for index in reversed(range(length)) if reverse else range(length):
        out = unfold(graph, body, [*fixed, *carry, *(np.asarray(each[index]) for each in over)])
        carry = out[:carried]
        for row, value in zip(rows, out[carried:], strict=True):
            row.append(value)
    return [*carry, *(np.stack(row[::-1] if reverse else row) for row in rows)]
