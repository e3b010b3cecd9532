"""A list of configurations that share nothing: every operation is done for each, from numbers of its own and from
tables in which it names an entry."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .code import Target
from .graph import ROW, Graph
from .jit import library, target
from .kernel import Unfolded
from .levels import ATTRIBUTES, Function, computed, flops, levels

ARGUMENTS = ("count", "stride", "columns", "tables", "given", "results")
INDEX = 0
"""In place of an axis's mask: a column of indices into a table."""


@dataclass(frozen=True)
class Table:
    """Inputs of the rows that are read from a table: their `places`, and the number of `entries` to choose from."""

    places: tuple[int, ...]
    entries: int


@dataclass(frozen=True)
class _Inputs:
    """Where inputs come from: the column of each, or the column of its indices; of those in tables the table, the
    line there and the first number in the memory of all that are read; how many numbers that memory holds."""

    column: dict[tuple[int, int], int]
    line: dict[int, tuple[int, int, int]]
    length: int


def _inputs(graph: Graph, nodes: list[int], tables: Sequence[Table], lanes: int) -> _Inputs:
    """Where the inputs among some nodes come from; each line of a table fills whole registers."""
    of_table = {place: (number, line) for number, table in enumerate(tables) for line, place in enumerate(table.places)}
    column, line, length = {}, {}, 0
    for node in nodes:
        if graph.names[node] != "input":
            continue
        key = graph.masks[node], graph.operands[node][0]
        if key[0] == ROW and key[1] in of_table:
            number, at = of_table[key[1]]
            line[key[1]] = number, at, length
            length += -(-tables[number].entries // lanes) * lanes
            key = INDEX, number
        column.setdefault(key, len(column))
    return _Inputs(column, line, length)


class Listing:
    """Results as machine code over a list. `columns` are the numbers of a configuration that it reads: (mask of the
    axis, place) each, or (`INDEX`, number of the table). `flops` are those of a configuration. `effort` is LLVM's (see
    `jit.library`)."""

    def __init__(self, program: Unfolded, results: list[int], tables: Sequence[Table] = (), effort: int = 0) -> None:
        graph = program.graph
        self.real, self.tables = graph.real, tuple(tables)
        self._target = dataclasses.replace(target(self.real), lanes=target(self.real).called)
        chosen = [program.results[index] for index in results]
        nodes = graph.needed(chosen)
        self.results, self.flops = len(chosen), flops(graph, nodes)
        self._inputs = _inputs(graph, nodes, self.tables, self._target.lanes)
        self.columns = list(self._inputs.column)
        known = [node for node in nodes if graph.masks[node] == 0 and not graph.literal[node]]
        self._given = np.asarray([graph.values[node] for node in known] or [0], self.real)
        text = _module(graph, chosen, known, self._inputs, self.tables, self._target)
        self._library = library(text, ("list",), effort)

    def packed(self, tables: Sequence[np.ndarray]) -> np.ndarray:
        """What the code reads of tables, [place, entry] each."""
        memory = np.zeros(max(self._inputs.length, 1), self.real)
        for number, line, first in self._inputs.line.values():
            entries = tables[number][line]
            if len(entries) != self.tables[number].entries:
                raise ValueError(f"table {number} has {len(entries)} entries in place of {self.tables[number].entries}")
            memory[first : first + len(entries)] = entries
        return memory

    def __call__(self, columns: np.ndarray, tables: np.ndarray | None = None) -> np.ndarray:
        """The results of a list, [result, configuration], from its columns, [column, configuration], of reals, each
        with its numbers one after another, and what is `packed` of the tables."""
        lanes, count = self._target.lanes, columns.shape[1]
        length, size = -(-count // lanes) * lanes, self.real.itemsize
        if length != count or columns.dtype != self.real or columns.strides[1] != size:
            full = np.empty((columns.shape[0], length), self.real)
            full[:, :count] = columns
            full[:, count:] = columns[:, -1:]
            columns = full
        results = np.empty((self.results, length), self.real)
        tables = self.packed(()) if tables is None else tables
        addresses = {"columns": columns, "tables": tables, "given": self._given, "results": results}
        given = {"count": length, "stride": columns.strides[0] // size}
        given |= {name: array.ctypes.data for name, array in addresses.items()}
        arguments = np.asarray([given[name] for name in ARGUMENTS], np.int64)
        self._library.functions["list"](arguments.ctypes.data)
        return results[:, :count]


def _by_level(graph: Graph, results: list[int]) -> list[tuple[list[int], set[int]]]:
    """The nodes of each loop that a product has, and which of them others need: what is fused within them, and so every
    bit, is as it is there."""
    found = levels(graph, results)
    shared = {*found.inner_live, *found.chunk_needs}
    each = [(found.row, shared), (found.chunk, {*found.chunk_live}), (found.batch, {*found.batch_live})]
    return [(computed(graph, nodes), needed) for nodes, needed in [*each, (found.each, {*results})]]


def _module(
    graph: Graph,
    results: list[int],
    known: list[int],
    inputs: _Inputs,
    tables: tuple[Table, ...],
    target: Target,
) -> str:
    """`list`: a register's lanes are neighbours in the list."""
    declared: set[str] = set()
    f = Function(graph, target, declared, ARGUMENTS)
    code, place = f.code, {node: str(index) for index, node in enumerate(known)}
    count, stride = f.number("count"), f.number("stride")
    columns, memory, given, out = (f.address(name) for name in ("columns", "tables", "given", "results"))
    code.do("br label %next")
    code.label("next")
    code.do("%n = phi i64 [ 0, %entry ], [ %n_after, %each ]")
    code.do(f"%more = icmp slt i64 %n, {count}")
    code.do("br i1 %more, label %each, label %end")
    code.label("each")
    indices: dict[int, str] = {}

    def column(key: tuple[int, int], kind: str) -> str:
        at = code.put(f"add i64 {code.put(f'mul i64 {stride}, {inputs.column[key]}')}, %n")
        return code.from_real(code.vector_at(columns, at), kind)

    def load(node: int) -> str | None:
        if node in place:
            return code.spread_at(given, place[node])
        if graph.names[node] != "input":
            return None
        mask, number = graph.masks[node], graph.operands[node][0]
        if mask != ROW or number not in inputs.line:
            return column((mask, number), graph.kinds[node])
        table, _, first = inputs.line[number]
        if table not in indices:
            indices[table] = column((INDEX, table), "i")
        line = code.at(memory, str(first), target.scalar)
        return code.from_real(code.picked(line, indices[table], tables[table].entries), graph.kinds[node])

    names: dict[int, str] = {}

    def known_or_loaded(node: int) -> str | None:
        return names.get(node) or load(node)

    for level, needed in _by_level(graph, results):
        names |= code.compute(level, known_or_loaded, needed)
    for index, node in enumerate(results):
        literal = graph.literal[node]
        value = target.splat(graph.values[node], graph.kinds[node]) if literal else known_or_loaded(node)
        at = code.put(f"add i64 {code.put(f'mul i64 {count}, {index}')}, %n")
        code.keep(code.as_real(str(value), graph.kinds[node]), out, at)
    code.do(f"%n_after = add i64 %n, {target.lanes}")
    code.do("br label %next")
    code.label("end")
    code.do("ret void")
    text = "\n".join(["define void @list(ptr noalias %a) #0 {", "entry:", *code.lines, "}", *sorted(declared)])
    return f"{text}\n{ATTRIBUTES}\n"
