"""A sorted list of configurations: neighbours of one row side by side, each with its own batch and chunk.

A configuration is a 64-bit word: what its row is in the upper bits, then the index of its chunk, then its batch."""

from __future__ import annotations

from .across import count, folded
from .code import Code
from .graph import BATCH, Graph
from .levels import Function, Levels, computed, steps
from .target import Target

SEGMENT_ARGUMENTS = (
    *("given", "live", "chunk_live", "chunks", "words", "batch_bits", "chunk_bits"),
    *("segments", "begins", "rows", "highest", "counts", "scores", "score_metric", "reasons"),
)
"""What `segments` is called with: places in an array of 64-bit numbers and addresses."""


def segments_function(
    graph: Graph, found: Levels, scores: list[int], reason: int, target: Target, declared: set[str]
) -> str:
    """`segments`: segment s is of row rows[s] and has the words from begins[s] to begins[s + 1]. It leaves the highest
    scores of each, [score, segment], and counts by code; where `scores` are asked for, all of them and the codes, in
    the order of the words. Up to a vector more is read and written after the last word.
    """
    f = Function(graph, target, declared, SEGMENT_ARGUMENTS)
    code, lanes, t = f.code, target.lanes, target
    v, wide = t.vector(), f"<{lanes} x i64>"
    row_place = {node: index for index, node in enumerate(found.inner_live)}
    chunk_place = {node: index for index, node in enumerate(found.chunk_live)}
    given_place = {node: index for index, node in enumerate(found.given)}
    given, live, chunk_live, words = (f.address(n) for n in ("given", "live", "chunk_live", "words"))
    begins, rows, all_scores, reasons, highest, counts = (
        f.address(n) for n in ("begins", "rows", "scores", "reasons", "highest", "counts")
    )
    chunks, segments, metric = f.number("chunks"), f.number("segments"), f.number("score_metric")
    stored = code.put(f"icmp ne i64 {f.number('scores')}, 0")
    codes_at = code.put(f"alloca {t.scalar}, i64 {lanes}, align 64")
    worst, none = t.splat(t.real.type("-inf"), "f"), t.splat(t.real.type(-1), "f")
    places = "<" + ", ".join(f"i64 {lane}" for lane in range(lanes)) + ">"
    batch_bits, chunk_bits = f.number("batch_bits"), f.number("chunk_bits")
    masks = []
    for bits in (batch_bits, chunk_bits):
        one = code.put(f"shl i64 1, {bits}")
        masks.append(code.spread(code.put(f"sub i64 {one}, 1"), "i64"))
    shift = code.spread(batch_bits, "i64")
    code.do("br label %next")
    code.label("next")
    code.do("%s = phi i64 [ 0, %entry ], [ %s_after, %done ]")
    code.do(f"%more = icmp slt i64 %s, {segments}")
    code.do("br i1 %more, label %segment, label %end")
    code.label("segment")
    begin = code.load(begins, "%s", "i64", 8)
    code.do("%s_after = add i64 %s, 1")
    end = code.load(begins, "%s_after", "i64", 8)
    number = code.load(rows, "%s", "i64", 8)
    row = code.at(live, code.put(f"mul i64 {number}, {max(len(found.inner_live), 1)}"), t.scalar)
    of_row = code.put(f"mul i64 {number}, {chunks}")
    chunk = code.at(chunk_live, code.put(f"mul i64 {of_row}, {max(len(found.chunk_live), 1)}"), t.scalar)
    code.do("br label %next_vector")
    code.label("next_vector")
    code.do(f"%n = phi i64 [ {begin}, %segment ], [ %n_after, %counted ]")
    for place in range(len(scores)):
        code.do(f"%top{place} = phi {v} [ {worst}, %segment ], [ %top{place}_after, %counted ]")
    code.do(f"%more_vectors = icmp slt i64 %n, {end}")
    code.do("br i1 %more_vectors, label %vector, label %done")
    code.label("vector")
    word = code.load(words, "%n", wide, 8)
    whole = code.put(f"and {wide} {word}, {masks[0]}")
    batch = code.put(f"sitofp {wide} {whole} to {v}")
    index = code.put(f"and {wide} {code.put(f'lshr {wide} {word}, {shift}')}, {masks[1]}")
    step = "<" + ", ".join([f"i64 {max(len(found.chunk_live), 1)}"] * lanes) + ">"
    index = code.put(f"mul {wide} {index}, {step}")

    def load(node: int) -> str | None:
        if node in given_place:
            return code.spread_at(given, str(given_place[node]))
        if node in row_place:
            return code.from_real(code.spread_at(row, str(row_place[node])), graph.kinds[node])
        if node in chunk_place:
            return code.from_real(_gathered(code, chunk, index, chunk_place[node], wide), graph.kinds[node])
        if graph.names[node] == "input" and graph.masks[node] == BATCH:
            return batch if graph.operands[node] == (0,) else t.splat(True, "b")
        return None

    # The two loops of a product, one after the other: their products and sums fuse as they do there.
    outer = code.compute_parts(steps(graph, found, [])["batch"], load)
    names = code.compute(computed(graph, found.each), lambda node: outer.get(node) or load(node), {*scores, reason})

    def result(node: int) -> str:
        return t.splat(graph.values[node], "f") if graph.literal[node] else str(names.get(node) or load(node))

    at = code.put(f"add {wide} {code.spread('%n', 'i64')}, {places}")
    mine = code.put(f"icmp slt {wide} {at}, {code.spread(end, 'i64')}")

    def masked(value: str, other: str) -> str:
        return code.put(f"select {t.vector('b')} {mine}, {v} {value}, {v} {other}")

    values, code_of = [masked(result(node), worst) for node in scores], masked(result(reason), none)
    for place, value in enumerate(values):
        better = code.put(f"fcmp ogt {v} {value}, %top{place}")
        code.do(f"%top{place}_after = select {t.vector('b')} {better}, {v} {value}, {v} %top{place}")
    code.do(f"br i1 {stored}, label %store, label %count")
    code.label("store")
    for place, value in enumerate(values):
        code.keep(value, all_scores, code.put(f"add i64 %n, {code.put(f'mul i64 {metric}, {place}')}"))
    narrow = code.put(f"fptosi {v} {code_of} to <{lanes} x i8>")
    code.do(f"store <{lanes} x i8> {narrow}, ptr {code.at(reasons, '%n', 'i8')}, align 1")
    code.do("br label %count")
    code.label("count")
    code.do(f"%n_after = add i64 %n, {lanes}")
    count(code, counts, code_of, codes_at, "counted")
    code.label("counted")
    code.do("br label %next_vector")
    code.label("done")
    for place, top in enumerate(folded(code, [f"%top{place}" for place in range(len(scores))], lanes)):
        shift_by = code.put(f"mul i64 {segments}, {place}")
        address = code.at(highest, code.put(f"add i64 %s, {shift_by}"), t.scalar)
        code.do(f"store {t.scalar} {top}, ptr {address}, align {t.real.itemsize}")
    code.do("br label %next")
    code.label("end")
    code.do("ret void")
    return "\n".join(["define void @segments(ptr noalias %a) #0 {", "entry:", *code.lines, "}"])


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
