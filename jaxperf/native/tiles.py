"""The inner loops of a product: a stretch of neighbouring batches of one row, side by side, for all chunks."""

from __future__ import annotations

from .across import folded, pieces
from .graph import Graph
from .inner import Inner
from .levels import Levels, Wanted, computed, steps
from .target import Target

RUN = 32
"""Batches of a run, which leaves one highest score. A stretch, of one vector or a few, has one run or two."""

TILE_ARGUMENTS = (
    "given",
    "live",
    "chunk_live",
    "chunks",
    "batch_values",
    "vectors",
    "heights",
    "height_metric",
    "counts",
    "scores",
    "score_metric",
    "reasons",
    "rows",
    "stretches",
    "runs",
    "listed_rows",
    "listed_chunks",
    "listed_stretches",
    "changes",
)
"""What `tiles` is called with: places in an array of 64-bit numbers and addresses."""


def most_vectors(target: Target) -> int:
    """Vectors of a stretch, at most."""
    return max(RUN // target.lanes, 1)


def tile_function(wanted: Wanted, target: Target, declared: set[str], total: bool) -> str:
    """`tile`: one stretch of batches of one row, for some chunks. What is at %kept from the row before is computed anew
    as far as it changes: all with %change 0, what depends on formats or a system with 1, on a system with 2. Highest
    scores of runs, or `total` ones, go to `heights` from %height on, every %height_step further a chunk; all scores,
    where they are asked for, to `scores` from %score on, every %score_step further."""
    tile = _Tile(wanted, target, declared, total)
    tile.batches()
    tile.chunks()
    head = "define internal void @tile(ptr noalias %a, ptr noalias %a_total, ptr noalias %kept, i64 %change, i64 %row, "
    head += "i64 %stretch, i64 %first, i64 %end, i64 %height, i64 %height_step, i64 %score, i64 %score_step) #0 {"
    return "\n".join([head, "entry:", *tile.code.lines, "}"])


def kept(graph: Graph, found: Levels) -> list[int]:
    """What of the batches of a stretch is kept, in order."""
    return sorted({node for _, needed in steps(graph, found, [])["batch"] for node in needed} | set(found.batch_live))


class _Tile(Inner):
    """`tile` as it is written."""

    def __init__(self, wanted: Wanted, target: Target, declared: set[str], total: bool) -> None:
        super().__init__(wanted, target, declared, TILE_ARGUMENTS)
        self.total, self.most = total, most_vectors(target)
        self.parts = steps(self.graph, self.found, [])["batch"]
        self.batch_place = {node: index for index, node in enumerate(kept(self.graph, self.found))}
        self.room = self.most * target.lanes
        self.vectors = self.arguments.number("vectors")
        self.row = self.of_row("%row")

    def batches(self) -> None:
        """What depends on batches but not on chunks, kept for all chunks and for the rows that follow."""
        f, code, lanes = self.arguments, self.code, self.target.lanes
        self.values = f.address("batch_values")
        self.begin = code.put(f"mul i64 %stretch, {code.put(f'mul i64 {self.vectors}, {lanes}')}")
        # The batches come as arrays one after the other: an input's place says which.
        self.length_of_all = code.put("load i64, ptr %a_total, align 8")
        inputs = {node for node in self.found.batch_live if self.graph.names[node] == "input"}
        code.do("br label %part0")
        for number, (nodes, needed) in enumerate(self.parts):
            after = f"part{number + 1}" if number + 1 < len(self.parts) else "chunk_loop"
            wanted = needed | inputs if number == 0 else needed
            code.label(f"part{number}")
            if not wanted:
                code.do(f"br label %{after}")
                continue
            code.do(f"%new{number} = icmp sle i64 %change, {number}")
            code.do(f"br i1 %new{number}, label %next_batch{number}, label %{after}")
            code.label(f"next_batch{number}")
            code.do(f"%b{number} = phi i64 [ 0, %part{number} ], [ %b_after{number}, %batch{number} ]")
            code.do(f"%more_batches{number} = icmp slt i64 %b{number}, {self.vectors}")
            code.do(f"br i1 %more_batches{number}, label %batch{number}, label %{after}")
            code.label(f"batch{number}")
            self.part(nodes, wanted, "0" if self.most == 1 else code.put(f"mul i64 %b{number}, {lanes}"))
            code.do(f"%b_after{number} = add i64 %b{number}, 1")
            code.do(f"br label %next_batch{number}")

    def part(self, nodes: list[int], wanted: set[int], offset: str) -> None:
        """One part of what depends on batches, of the vector at `offset` in the stretch: keeps what is `wanted`."""
        code, graph, found = self.code, self.graph, self.found
        place = code.put(f"add i64 {self.begin}, {offset}")
        inputs = {node for node in found.batch if graph.names[node] == "input"}

        def load(node: int) -> str | None:
            if node in inputs:
                at = code.put(f"mul i64 {self.length_of_all}, {graph.operands[node][0]}")
                at = code.put(f"add i64 {at}, {place}")
                return code.from_real(code.vector_at(self.values, at), graph.kinds[node])
            return self.held(node, offset) or self.constant(node)

        names = code.compute(nodes, load, wanted)
        for node in sorted(wanted):
            at = code.put(f"add i64 {offset}, {self.batch_place[node] * self.room}")
            code.keep(code.as_real(str(names.get(node) or load(node)), graph.kinds[node]), "%kept", at)

    def held(self, node: int, offset: str) -> str | None:
        """What is kept of the vector at `offset` in the stretch."""
        if node not in self.batch_place:
            return None
        at = self.code.put(f"add i64 {offset}, {self.batch_place[node] * self.room}")
        return self.code.from_real(self.code.vector_at("%kept", at), self.graph.kinds[node])

    def chunks(self) -> None:
        """For each chunk the vectors of the stretch, and what its runs leave."""
        f, code, t = self.arguments, self.code, self.target
        code.label("chunk_loop")
        heights, height_metric = f.address("heights"), f.number("height_metric")
        code.do("br label %next_chunk")
        code.label("next_chunk")
        code.do("%c = phi i64 [ %first, %chunk_loop ], [ %c_after, %stretch_done ]")
        code.do("%h = phi i64 [ %height, %chunk_loop ], [ %h_after, %stretch_done ]")
        code.do("%s = phi i64 [ %score, %chunk_loop ], [ %s_after, %stretch_done ]")
        code.do("%more_chunks = icmp slt i64 %c, %end")
        code.do("br i1 %more_chunks, label %chunk, label %out")
        code.label("chunk")
        tops = self.stretch(self.of_chunk("%row", "%c"))
        lanes = min(t.lanes, RUN)
        tops = [piece for top in tops for piece in pieces(code, top, lanes)]
        for number, top in enumerate(folded(code, tops, lanes, self.total)):
            index, run = divmod(number, t.lanes // lanes)
            shift = code.put(f"mul i64 {height_metric}, {index}")
            place = code.put(f"add i64 %h, {run}")
            address = code.at(heights, code.put(f"add i64 {place}, {shift}"), t.scalar)
            code.do(f"store {t.scalar} {top}, ptr {address}, align {t.real.itemsize}")
        code.do("%c_after = add i64 %c, 1")
        code.do("%h_after = add i64 %h, %height_step")
        code.do("%s_after = add i64 %s, %score_step")
        code.do("br label %next_chunk")
        code.label("out")
        code.do("ret void")

    def stretch(self, chunk: str) -> list[str]:
        """All vectors of a stretch for one chunk, whose values are at `chunk`: of each score the highest in every lane.
        Leaves the block `stretch_done` open."""
        code, t = self.code, self.target
        if self.most == 1:
            tops = self.each(chunk, "0")
            code.label("each_end")
            code.do("br label %stretch_done")
            code.label("stretch_done")
            return tops
        code.do("br label %next_each")
        code.label("next_each")
        code.do("%e = phi i64 [ 0, %chunk ], [ %e_after, %each_end ]")
        tops = self.tops("chunk", "each_end", self.total)
        code.do(f"%more_each = icmp slt i64 %e, {self.vectors}")
        code.do("br i1 %more_each, label %each, label %stretch_done")
        code.label("each")
        values = self.each(chunk, code.put(f"mul i64 %e, {t.lanes}"))
        code.label("each_end")
        self.raised(tops, values, self.total)
        code.do("%e_after = add i64 %e, 1")
        code.do("br label %next_each")
        code.label("stretch_done")
        return tops

    def each(self, chunk: str, here: str) -> list[str]:
        """One vector of configurations, `here` in the stretch: its scores. Counts its codes, goes on at `each_end`."""
        code, graph = self.code, self.graph

        def load(node: int) -> str | None:
            if node in self.chunk_place:
                return code.from_real(code.spread_at(chunk, str(self.chunk_place[node])), graph.kinds[node])
            return self.held(node, here) or self.constant(node)

        names = code.compute(computed(graph, self.found.each), load, {*self.scores, self.reason})
        values = [self.result(node, names, load) for node in self.scores]
        self.leave(values, self.result(self.reason, names, load), code.put(f"add i64 %s, {here}"), "each_end")
        return values
