"""The nodes of a graph by the loop that they belong to, and functions with arguments by name."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import NoKernelError
from .code import CALLED, Code
from .graph import BATCH, CHUNK, FORMATS, ROWS, SYSTEM, Graph
from .target import Target

ATTRIBUTES = 'attributes #0 = { nounwind "prefer-vector-width"="512" }'
"""Of all functions."""


@dataclass(frozen=True)
class Levels:
    """The nodes of a graph by the loop that they belong to, and what one loop leaves for another: `inner_live` of the
    rows for the loops over batches, `chunk_needs` of the rows for chunks alone, `chunk_live` of the chunks,
    `batch_live` of the batches for every configuration; the `given` values that are read from a table."""

    row: list[int]
    chunk: list[int]
    batch: list[int]
    each: list[int]
    inner_live: list[int]
    chunk_needs: list[int]
    chunk_live: list[int]
    batch_live: list[int]
    given: list[int]


def levels(graph: Graph, results: list[int]) -> Levels:
    """The nodes that some results need, by level.

    **Raises** `NoKernelError` where whole numbers would pass between loops, which keep reals.
    """
    found: dict[str, list[int]] = {"row": [], "chunk": [], "batch": [], "each": []}
    level_of: dict[int, str] = {}
    given = []
    for node in graph.needed(results):
        mask = graph.masks[node]
        if mask == 0:
            if not graph.literal[node]:
                given.append(node)
            continue
        inner = {BATCH: "batch", CHUNK: "chunk", BATCH | CHUNK: "each"}
        level = inner.get(mask & ~ROWS, "row")
        level_of[node] = level
        found[level].append(node)
    live: dict[tuple[str, str], set[int]] = {}
    for node, level in level_of.items():
        if graph.names[node] == "input":
            continue
        for operand in graph.operands[node]:
            if operand in level_of and level_of[operand] != level:
                live.setdefault((level_of[operand], level), set()).add(operand)
    for node in results:
        if node in level_of and level_of[node] != "each":
            live.setdefault((level_of[node], "each"), set()).add(node)
    if any(graph.kinds[node] == "i" and graph.names[node] != "input" for nodes in live.values() for node in nodes):
        raise NoKernelError("no code for whole numbers that one loop leaves for another")
    inner = live.get(("row", "batch"), set()) | live.get(("row", "each"), set())
    return Levels(
        **found,
        inner_live=sorted(inner),
        chunk_needs=sorted(live.get(("row", "chunk"), set()) - inner),
        chunk_live=sorted(live.get(("chunk", "each"), set())),
        batch_live=sorted(live.get(("batch", "each"), set())),
        given=given,
    )


@dataclass(frozen=True)
class Wanted:
    """What code is to compute: of a graph, whose nodes were found by level, the nodes of scores and of a reason."""

    graph: Graph
    found: Levels
    scores: list[int]
    reason: int


def shared(found: Levels) -> set[int]:
    """What rows leave for any other loop."""
    return {*found.inner_live, *found.chunk_needs}


Part = tuple[list[int], set[int]]
"""Nodes that are computed together, and which of them others need."""


def steps(graph: Graph, found: Levels, results: list[int]) -> dict[str, list[Part]]:
    """The nodes of each loop, in the parts in which they are computed. Products and sums fuse within a part alone, so
    that a number has the same bits whichever code computes it: of rows, what depends on a system alone, or on formats
    alone, is a part of its own; of batches, what depends on neither, and what depends on no system."""
    apart: dict[int, list[int]] = {SYSTEM: [], FORMATS: [], 0: []}
    for node in computed(graph, found.row):
        apart[graph.masks[node] if graph.masks[node] in apart else 0].append(node)
    kept = shared(found)
    used = {o for node in apart[0] for o in graph.operands[node]} | kept
    row = [(nodes, kept if mask == 0 else {node for node in nodes if node in used}) for mask, nodes in apart.items()]
    inner = {"chunk": found.chunk_live, "each": results}
    loops = {name: [(computed(graph, getattr(found, name)), set(needed))] for name, needed in inner.items()}
    return {"row": row, "chunk": loops["chunk"], "batch": _of_batches(graph, found), "each": loops["each"]}


def _of_batches(graph: Graph, found: Levels) -> list[Part]:
    """The parts of what depends on batches: first what all rows of a layout share, then what those of its formats do,
    then the rest. Whole numbers, which no part leaves for another, are among the rest."""
    nodes = computed(graph, found.batch)
    place: dict[int, int] = {}
    for node in nodes:
        mask = graph.masks[node]
        own = 2 if mask & SYSTEM or graph.kinds[node] == "i" else int(bool(mask & FORMATS))
        place[node] = max([own, *(place[operand] for operand in graph.operands[node] if operand in place)])
    needed: list[set[int]] = [{node for node in found.batch_live if place.get(node) == part} for part in range(3)]
    for node in nodes:
        for operand in graph.operands[node]:
            if place.get(operand, place[node]) < place[node]:
                needed[place[operand]].add(operand)
    return [([node for node in nodes if place[node] == part], needed[part]) for part in range(3)]


ARITHMETIC = {"add", "add_any", "sub", "mul", "div", "max", "min", "floor", "ceil", "sqrt", "square", "integer_pow"}
ARITHMETIC |= CALLED
"""Operations that count as one FLOP; selections, comparisons and conversions are none."""


def flops(graph: Graph, nodes: list[int]) -> int:
    """FLOPs of some nodes, of one configuration."""
    return sum(graph.names[node].partition(" ")[0] in ARITHMETIC and graph.kinds[node] == "f" for node in nodes)


class Function:
    """One function as it is written: its code, and its arguments by name."""

    def __init__(self, graph: Graph, target: Target, declared: set[str], names: tuple[str, ...]) -> None:
        self.code, self.names = Code(graph, target, declared), names

    def number(self, name: str) -> str:
        """An argument that is a number."""
        return self.code.load("%a", str(self.names.index(name)), "i64", 8)

    def address(self, name: str) -> str:
        """An argument that is an address."""
        return self.code.put(f"inttoptr i64 {self.number(name)} to ptr")


def computed(graph: Graph, nodes: list[int]) -> list[int]:
    """The nodes that are no inputs."""
    return [node for node in nodes if graph.names[node] != "input"]
