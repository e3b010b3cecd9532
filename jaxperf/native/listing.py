"""A list of configurations that share nothing: every operation is done for each, from numbers of its own and from
tables in which it names an entry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from .code import Target
from .graph import Graph
from .jit import library, target
from .kernel import Unfolded
from .levels import ATTRIBUTES, Function, computed, flops, levels

ARGUMENTS = ("count", "columns", "tables", "given", "results", "stride")


@dataclass(frozen=True)
class Column:
    """A number that each configuration has: by a name, as a real or `whole` as int32."""

    name: Hashable
    whole: bool = False


@dataclass(frozen=True)
class Entry:
    """A number that each configuration takes from a `line` of a table (by its number) of so many `entries`, by an
    index in a column."""

    index: Column
    table: int
    line: int
    entries: int


Origin = Column | Entry | float
"""Where an input comes from; a number is the same for all."""


def own_columns(mask: int, place: int) -> Origin:
    """Every input is a column of reals, named by the axis and the place there."""
    return Column((mask, place))


@dataclass(frozen=True)
class _Inputs:
    """Where the input nodes come from; the columns' numbers; where entries stand in the memory of all tables, and its
    length; where numbers stand among those that are given."""

    origins: dict[int, Origin]
    column: dict[Column, int]
    line: dict[tuple[int, int], int]
    length: int
    given: dict[int, str]


def _inputs(graph: Graph, nodes: list[int], origin: Callable[[int, int], Origin], lanes: int) -> _Inputs:
    """Where the inputs among some nodes come from; each line of a table fills whole registers."""
    given = [node for node in nodes if graph.masks[node] == 0 and not graph.literal[node]]
    found = _Inputs({}, {}, {}, 0, {node: str(index) for index, node in enumerate(given)})
    length = 0
    for node in nodes:
        if graph.names[node] != "input":
            continue
        its = found.origins[node] = origin(graph.masks[node], graph.operands[node][0])
        if isinstance(its, Entry):
            found.line[its.table, its.line] = length
            length += -(-its.entries // lanes) * lanes
        if isinstance(its, float):
            found.given[node] = str(len(found.given))
        else:
            column = its.index if isinstance(its, Entry) else its
            found.column.setdefault(column, len(found.column))
    return dataclasses.replace(found, length=length)


class Listing:
    """Results as machine code over a list. `origin` says of an input, by the mask of its axis and its place there,
    where it comes from; `columns` are those that are read. `flops` are those of a configuration. `effort` is LLVM's
    (see `jit.library`)."""

    def __init__(
        self,
        program: Unfolded,
        results: list[int],
        origin: Callable[[int, int], Origin] = own_columns,
        effort: int = 0,
    ) -> None:
        graph = program.graph
        self.real = graph.real
        self._target = dataclasses.replace(target(self.real), lanes=target(self.real).called)
        chosen = [program.results[index] for index in results]
        nodes = graph.needed(chosen)
        self.results, self.flops = len(chosen), flops(graph, nodes)
        self._inputs = inputs = _inputs(graph, nodes, origin, self._target.lanes)
        self.columns = list(inputs.column)
        given = [inputs.origins.get(node, graph.values[node]) for node in inputs.given]
        self._given = np.asarray(given or [0], self.real)
        self._library = library(_module(graph, chosen, inputs, self._target), ("list",), effort)

    def packed(self, tables: Sequence[np.ndarray]) -> np.ndarray:
        """What the code reads of tables, [line, entry] each."""
        memory = np.zeros(max(self._inputs.length, 1), self.real)
        for origin in self._inputs.origins.values():
            if isinstance(origin, Entry):
                entries, first = tables[origin.table][origin.line], self._inputs.line[origin.table, origin.line]
                if len(entries) != origin.entries:
                    raise ValueError(f"table {origin.table} has {len(entries)} entries in place of {origin.entries}")
                memory[first : first + len(entries)] = entries
        return memory

    def __call__(self, columns: Sequence[np.ndarray], tables: np.ndarray | None = None) -> np.ndarray:
        """The results of a list, [result, configuration], from its columns and what is `packed` of the tables."""
        kinds = [np.dtype(np.int32) if column.whole else self.real for column in self.columns]
        columns = [np.ascontiguousarray(column, kind) for column, kind in zip(columns, kinds, strict=True)]
        lanes, count = self._target.lanes, len(columns[0])
        whole = count // lanes * lanes
        results = np.empty((self.results, whole + lanes), self.real)
        tables = self.packed(()) if tables is None else tables
        if whole:
            self._run(whole, columns, tables, results)
        if count > whole:
            filled = np.minimum(np.arange(whole, whole + lanes), count - 1)
            self._run(lanes, [column[filled] for column in columns], tables, results[:, whole:])
        return results[:, :count]

    def _run(self, count: int, columns: list[np.ndarray], tables: np.ndarray, results: np.ndarray) -> None:
        """Whole registers of configurations."""
        places = np.asarray([column.ctypes.data for column in columns], np.int64)
        addresses = {"columns": places, "tables": tables, "given": self._given, "results": results}
        given = {"count": count, "stride": results.strides[0] // self.real.itemsize}
        given |= {name: array.ctypes.data for name, array in addresses.items()}
        arguments = np.asarray([given[name] for name in ARGUMENTS], np.int64)
        self._library.functions["list"](arguments.ctypes.data)


def _by_level(graph: Graph, results: list[int]) -> list[tuple[list[int], set[int]]]:
    """The nodes of each loop that a product has, and which of them others need: what is fused within them, and so every
    bit, is as it is there."""
    found = levels(graph, results)
    shared = {*found.inner_live, *found.chunk_needs}
    each = [(found.row, shared), (found.chunk, {*found.chunk_live}), (found.batch, {*found.batch_live})]
    return [(computed(graph, nodes), needed) for nodes, needed in [*each, (found.each, {*results})]]


def _module(graph: Graph, results: list[int], inputs: _Inputs, target: Target) -> str:
    """`list`: a register's lanes are neighbours in the list."""
    declared: set[str] = set()
    f = Function(graph, target, declared, ARGUMENTS)
    code = f.code
    count, stride = f.number("count"), f.number("stride")
    places, memory, given, out = (f.address(name) for name in ("columns", "tables", "given", "results"))
    at_column = [
        code.put(f"inttoptr i64 {code.load(places, str(index), 'i64', 8)} to ptr")
        for index in range(len(inputs.column))
    ]
    code.do("br label %next")
    code.label("next")
    code.do("%n = phi i64 [ 0, %entry ], [ %n_after, %each ]")
    code.do(f"%more = icmp slt i64 %n, {count}")
    code.do("br i1 %more, label %each, label %end")
    code.label("each")
    read: dict[Column, str] = {}

    def number(column: Column, kind: str) -> str:
        """A column's numbers as those of a kind."""
        base = at_column[inputs.column[column]]
        if not column.whole:
            return code.from_real(code.vector_at(base, "%n"), kind)
        if column not in read:
            read[column] = code.load(base, "%n", target.vector("i"), 4)
        return read[column] if kind == "i" else code.from_real(code.as_real(read[column], "i"), kind)

    def load(node: int) -> str | None:
        if node in inputs.given:
            return code.from_real(code.spread_at(given, inputs.given[node]), graph.kinds[node])
        origin = inputs.origins.get(node)
        if origin is None:
            return None
        if isinstance(origin, Column):
            return number(origin, graph.kinds[node])
        assert isinstance(origin, Entry)
        line = code.at(memory, str(inputs.line[origin.table, origin.line]), target.scalar)
        return code.from_real(code.picked(line, number(origin.index, "i"), origin.entries), graph.kinds[node])

    names: dict[int, str] = {}

    def known_or_loaded(node: int) -> str | None:
        return names.get(node) or load(node)

    for level, needed in _by_level(graph, results):
        names |= code.compute(level, known_or_loaded, needed)
    for index, node in enumerate(results):
        literal = graph.literal[node]
        value = target.splat(graph.values[node], graph.kinds[node]) if literal else known_or_loaded(node)
        at = code.put(f"add i64 {code.put(f'mul i64 {stride}, {index}')}, %n")
        code.keep(code.as_real(str(value), graph.kinds[node]), out, at)
    code.do(f"%n_after = add i64 %n, {target.lanes}")
    code.do("br label %next")
    code.label("end")
    code.do("ret void")
    text = "\n".join(["define void @list(ptr noalias %a) #0 {", "entry:", *code.lines, "}", *sorted(declared)])
    return f"{text}\n{ATTRIBUTES}\n"
