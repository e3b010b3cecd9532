"""A list of configurations that share nothing: every operation is done for each, from numbers of its own and from
tables in which it names an entry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .graph import Graph
from .jit import library, target
from .levels import ATTRIBUTES, Function, flops, levels, steps
from .target import Target

ARGUMENTS = ("count", "columns", "tables", "given", "results", "stride")


@dataclass(frozen=True)
class Column:
    """A number that each configuration has: by a name, as a real or `whole` as int32."""

    name: Any
    whole: bool = False


Origin = Column | float
"""Where an input comes from: a column, or a number that is the same for all."""


@dataclass(frozen=True)
class Table:
    """Inputs of one axis of which there are a few alternatives, the entries: the numbers of each input by its place. A
    configuration names one entry in the column `index`."""

    index: Column
    values: dict[int, np.ndarray]

    @property
    def entries(self) -> int:
        """How many entries there are."""
        return len(next(iter(self.values.values())))


def own_columns(mask: int, place: int) -> Origin:
    """Every input is a column of reals, named by the axis and the place there."""
    return Column((mask, place))


@dataclass(frozen=True)
class _Inputs:
    """Where nodes that the code does not compute come from: `line`, of those that depend on a table's axis alone, where
    the table's entries begin in the memory of all tables; `column` of the others; `given`, of those that are the same
    for all, the place there."""

    tables: dict[int, Table]
    line: dict[int, int]
    column: dict[int, Column]
    given: dict[int, str]


class Listing:
    """Nodes of a graph, the `results`, as machine code over a list. What depends on the axis of a table alone (`tables`
    by its mask) is computed when the code is made, once an entry. `origin` says of other inputs, by the mask of their
    axis and their place there, where they come from; `columns` are those that are read. `flops` are those of a
    configuration. `effort` is LLVM's (see `jit.library`)."""

    def __init__(
        self,
        graph: Graph,
        results: list[int],
        tables: dict[int, Table] | None = None,
        origin: Callable[[int, int], Origin] = own_columns,
        effort: int = 0,
    ) -> None:
        self.real, self.results, tables = graph.real, len(results), tables or {}
        self._target = dataclasses.replace(target(self.real), lanes=target(self.real).called)
        nodes = [node for node in graph.needed(results) if graph.masks[node] not in tables]
        self.flops = flops(graph, nodes)
        lines = _lines(graph, nodes, results, tables)
        entries = {mask: _entries(graph, lines[mask], table, self._target.lanes) for mask, table in tables.items()}
        self._memory = np.concatenate([np.zeros(1, self.real), *(each.ravel() for each in entries.values())])
        line, first = {}, 1
        for mask, each in entries.items():
            line |= {node: first + index * each.shape[1] for index, node in enumerate(lines[mask])}
            first += each.size
        given: dict[int, float] = {n: graph.values[n] for n in nodes if not graph.masks[n] and not graph.literal[n]}
        column = {}
        for node in nodes:
            if graph.names[node] == "input":
                found = origin(graph.masks[node], graph.operands[node][0])
                if isinstance(found, Column):
                    column[node] = found
                else:
                    given[node] = found
        used = {mask: table for mask, table in tables.items() if lines[mask]}
        inputs = _Inputs(used, line, column, {node: str(index) for index, node in enumerate(given)})
        self._given = np.asarray([*given.values()] or [0], self.real)
        self.columns = _columns(inputs)
        self._library = library(_module(graph, results, inputs, self._target), ("list",), effort)

    def __call__(self, columns: Sequence[np.ndarray]) -> np.ndarray:
        """The results of a list, [result, configuration], from its columns."""
        kinds = [np.dtype(np.int32) if column.whole else self.real for column in self.columns]
        columns = [np.ascontiguousarray(column, kind) for column, kind in zip(columns, kinds, strict=True)]
        lanes, count = self._target.lanes, len(columns[0])
        whole = count // lanes * lanes
        results = np.empty((self.results, whole + lanes), self.real)
        if whole:
            self._run(whole, columns, results)
        if count > whole:
            filled = np.minimum(np.arange(whole, whole + lanes), count - 1)
            self._run(lanes, [column[filled] for column in columns], results[:, whole:])
        return results[:, :count]

    def _run(self, count: int, columns: list[np.ndarray], results: np.ndarray) -> None:
        """Whole registers of configurations."""
        places = np.asarray([column.ctypes.data for column in columns], np.int64)
        addresses = {"columns": places, "tables": self._memory, "given": self._given, "results": results}
        given = {"count": count, "stride": results.strides[0] // self.real.itemsize}
        given |= {name: array.ctypes.data for name, array in addresses.items()}
        arguments = np.asarray([given[name] for name in ARGUMENTS], np.int64)
        self._library.functions["list"](arguments.ctypes.data)


def _lines(graph: Graph, nodes: list[int], results: list[int], tables: dict[int, Table]) -> dict[int, list[int]]:
    """By a table's axis the nodes that depend on it alone and that others, or the results, need."""
    used = {operand for node in nodes if graph.names[node] != "input" for operand in graph.operands[node]}
    return {mask: sorted(node for node in {*used, *results} if graph.masks[node] == mask) for mask in tables}


def _entries(graph: Graph, lines: list[int], table: Table, lanes: int) -> np.ndarray:
    """The values of nodes for each entry of a table, [node, entry], filled up to whole registers."""
    count = table.entries
    full = np.zeros((len(lines), -(-count // lanes) * lanes), graph.real)
    if lines:
        code = Listing(graph, lines)
        full[:, :count] = code([table.values[place] for _, place in (column.name for column in code.columns)])
    return full


def _columns(inputs: _Inputs) -> list[Column]:
    """The columns that are read, each once."""
    return list(dict.fromkeys([*inputs.column.values(), *(table.index for table in inputs.tables.values())]))


def _module(graph: Graph, results: list[int], inputs: _Inputs, target: Target) -> str:
    """`list`: a register's lanes are neighbours in the list."""
    declared: set[str] = set()
    f = Function(graph, target, declared, ARGUMENTS)
    code = f.code
    count, stride = f.number("count"), f.number("stride")
    places, memory, given, out = (f.address(name) for name in ("columns", "tables", "given", "results"))
    bases = {
        column: code.put(f"inttoptr i64 {code.load(places, str(index), 'i64', 8)} to ptr")
        for index, column in enumerate(_columns(inputs))
    }
    code.do("br label %next")
    code.label("next")
    code.do("%n = phi i64 [ 0, %entry ], [ %n_after, %each ]")
    code.do(f"%more = icmp slt i64 %n, {count}")
    code.do("br i1 %more, label %each, label %end")
    code.label("each")
    read: dict[Column, str] = {}

    def number(column: Column, kind: str) -> str:
        """A column's numbers as those of a kind."""
        base = bases[column]
        if not column.whole:
            return code.from_real(code.vector_at(base, "%n"), kind)
        if column not in read:
            read[column] = code.load(base, "%n", target.vector("i"), 4)
        return read[column] if kind == "i" else code.from_real(code.as_real(read[column], "i"), kind)

    def load(node: int) -> str | None:
        if node in inputs.given:
            return code.from_real(code.spread_at(given, inputs.given[node]), graph.kinds[node])
        if node in inputs.line:
            table = inputs.tables[graph.masks[node]]
            line = code.at(memory, str(inputs.line[node]), target.scalar)
            found = code.picked(line, number(table.index, "i"), table.entries)
            return code.from_real(found, graph.kinds[node])
        return number(inputs.column[node], graph.kinds[node]) if node in inputs.column else None

    parts = [part for loop in steps(graph, levels(graph, results), results).values() for part in loop]
    own = [([node for node in nodes if graph.masks[node] not in inputs.tables], needed) for nodes, needed in parts]
    names = code.compute_parts(own, load)
    for index, node in enumerate(results):
        literal = graph.literal[node]
        value = target.splat(graph.values[node], graph.kinds[node]) if literal else names.get(node) or load(node)
        at = code.put(f"add i64 {code.put(f'mul i64 {stride}, {index}')}, %n")
        code.keep(code.as_real(str(value), graph.kinds[node]), out, at)
    code.do(f"%n_after = add i64 %n, {target.lanes}")
    code.do("br label %next")
    code.label("end")
    code.do("ret void")
    text = "\n".join(["define void @list(ptr noalias %a) #0 {", "entry:", *code.lines, "}", *sorted(declared)])
    return f"{text}\n{ATTRIBUTES}\n"
