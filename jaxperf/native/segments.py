"""A sorted list of configurations: neighbours of one row side by side, each with its own batch and chunk.

A configuration is a 64-bit word: what its row is in the upper bits, then the index of its chunk, then its batch."""

from __future__ import annotations

import math

from .across import folded
from .code import Code
from .graph import BATCH
from .inner import Inner
from .levels import Wanted, computed, steps
from .target import Target

SEGMENT_ARGUMENTS = (
    *("given", "live", "chunk_live", "chunks", "words", "batch_bits", "chunk_bits"),
    *("segments", "begins", "rows", "highest", "counts", "scores", "score_metric", "reasons"),
)
"""What `segments` is called with: places in an array of 64-bit numbers and addresses."""


def segments_function(wanted: Wanted, target: Target, declared: set[str]) -> str:
    """`segments`: segment s is of row rows[s] and has the words from begins[s] to begins[s + 1]. It leaves the highest
    scores of each, [score, segment], and counts by code; where `scores` are asked for, all of them and the codes, in
    the order of the words. Up to a vector more is read and written after the last word.
    """
    segments = _Segments(wanted, target, declared, SEGMENT_ARGUMENTS)
    segments.all()
    return "\n".join(["define void @segments(ptr noalias %a) #0 {", "entry:", *segments.code.lines, "}"])


class _Segments(Inner):
    """`segments` as it is written."""

    def all(self) -> None:
        """Every segment."""
        f, code, t = self.arguments, self.code, self.target
        begins, rows, highest, number = (
            f.address("begins"),
            f.address("rows"),
            f.address("highest"),
            f.number("segments"),
        )
        self.words, self.wide = f.address("words"), f"<{t.lanes} x i64>"
        self.shift, self.masks = code.spread(f.number("batch_bits"), "i64"), []
        for bits in (f.number("batch_bits"), f.number("chunk_bits")):
            beyond = code.put(f"shl i64 1, {bits}")
            self.masks.append(code.spread(code.put(f"sub i64 {beyond}, 1"), "i64"))
        code.do("br label %next")
        code.label("next")
        code.do("%s = phi i64 [ 0, %entry ], [ %s_after, %done ]")
        code.do(f"%more = icmp slt i64 %s, {number}")
        code.do("br i1 %more, label %segment, label %end")
        code.label("segment")
        begin = code.load(begins, "%s", "i64", 8)
        code.do("%s_after = add i64 %s, 1")
        end = code.load(begins, "%s_after", "i64", 8)
        row = code.load(rows, "%s", "i64", 8)
        self.row, chunk = self.of_row(row), self.of_chunk(row)
        code.do("br label %next_vector")
        code.label("next_vector")
        code.do(f"%n = phi i64 [ {begin}, %segment ], [ %n_after, %counted ]")
        tops = self.tops("segment", "counted")
        code.do(f"%more_vectors = icmp slt i64 %n, {end}")
        code.do("br i1 %more_vectors, label %vector, label %done")
        code.label("vector")
        values, codes = self.vector(chunk, end)
        self.raised(tops, values)
        code.do(f"%n_after = add i64 %n, {t.lanes}")
        self.leave(values, codes, "%n", "counted")
        code.label("counted")
        code.do("br label %next_vector")
        code.label("done")
        for place, top in enumerate(folded(code, tops, t.lanes)):
            address = code.at(highest, code.put(f"add i64 %s, {code.put(f'mul i64 {number}, {place}')}"), t.scalar)
            code.do(f"store {t.scalar} {top}, ptr {address}, align {t.real.itemsize}")
        code.do("br label %next")
        code.label("end")
        code.do("ret void")

    def vector(self, chunk: str, end: str) -> tuple[list[str], str]:
        """Scores and codes of the words from %n on, those of a row whose chunks' values are at `chunk`; nothing from
        the word `end` on."""
        code, graph, found, t, wide = self.code, self.graph, self.found, self.target, self.wide
        word = code.load(self.words, "%n", wide, 8)
        batch = code.put(f"sitofp {wide} {code.put(f'and {wide} {word}, {self.masks[0]}')} to {t.vector()}")
        index = code.put(f"and {wide} {code.put(f'lshr {wide} {word}, {self.shift}')}, {self.masks[1]}")
        step = "<" + ", ".join([f"i64 {max(len(found.chunk_live), 1)}"] * t.lanes) + ">"
        index = code.put(f"mul {wide} {index}, {step}")

        def load(node: int) -> str | None:
            if node in self.chunk_place:
                found = _gathered(code, chunk, index, self.chunk_place[node], wide)
                return code.from_real(found, graph.kinds[node])
            if graph.names[node] == "input" and graph.masks[node] == BATCH:
                return batch if graph.operands[node] == (0,) else t.splat(True, "b")
            return self.constant(node)

        # The loops of a product, one after the other: their products and sums fuse as they do there.
        outer = code.compute_parts(steps(graph, found, [])["batch"], load)
        needed = {*self.scores, self.reason}
        names = code.compute(computed(graph, found.each), lambda node: outer.get(node) or load(node), needed)
        places = "<" + ", ".join(f"i64 {lane}" for lane in range(t.lanes)) + ">"
        at = code.put(f"add {wide} {code.spread('%n', 'i64')}, {places}")
        mine = code.put(f"icmp slt {wide} {at}, {code.spread(end, 'i64')}")

        def masked(node: int, other: float) -> str:
            value, beyond = self.result(node, names, load), t.splat(t.real.type(other), "f")
            return code.put(f"select {t.vector('b')} {mine}, {t.vector()} {value}, {t.vector()} {beyond}")

        return [masked(node, -math.inf) for node in self.scores], masked(self.reason, -1)


def _gathered(code: Code, base: str, index: str, place: int, wide: str) -> str:
    """Entries of an array, one for each lane."""
    t = code.target
    at = code.put(f"getelementptr {t.scalar}, ptr {code.at(base, str(place), t.scalar)}, {wide} {index}")
    v, flags, pointers = t.vector(), t.vector("b"), f"<{t.lanes} x ptr>"
    name = f"@llvm.masked.gather.{t.suffix}.v{t.lanes}p0"
    code.declared.add(f"declare {v} {name}({pointers}, i32, {flags}, {v})")
    return code.put(
        f"call {v} {name}({pointers} {at}, i32 {t.real.itemsize}, {flags} {t.splat(True, 'b')}, {v} poison)"
    )
