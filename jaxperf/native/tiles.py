"""The inner loops of a product: a run of neighbouring batches of one row, side by side, for all chunks."""

from __future__ import annotations

from .code import Code
from .graph import Graph
from .levels import Function, Levels, computed
from .target import Target

MOST_VECTORS = 8
"""Vectors of a run, at most."""

REASONS = 16
"""Room for counts by reason: code −1 (padding) first."""

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
    "first_row",
    "rows",
    "first_run",
    "runs",
    "first_chunk",
    "end_chunk",
    "listed_rows",
    "listed_chunks",
    "listed_runs",
)
"""What `tiles` is called with: places in an array of 64-bit numbers and addresses."""


def tile_function(
    graph: Graph, found: Levels, scores: list[int], reason: int, target: Target, declared: set[str], total: bool
) -> str:
    """`tile`: one run of batches of one row, for some chunks. Highest scores, or `total` ones, go to `heights` from
    %height on, every `runs` further a chunk; all scores, where they are asked for, to `scores` from %score on, a run's
    length further."""
    f = Function(graph, target, declared, TILE_ARGUMENTS)
    code, lanes, t = f.code, target.lanes, target
    v, align = t.vector(), t.real.itemsize
    row_place = {node: index for index, node in enumerate(found.inner_live)}
    chunk_place = {node: index for index, node in enumerate(found.chunk_live)}
    batch_place = {node: index for index, node in enumerate(found.batch_live)}
    given_place = {node: index for index, node in enumerate(found.given)}
    room = MOST_VECTORS * lanes
    given, live, chunk_live, batches = (f.address(n) for n in ("given", "live", "chunk_live", "batch_values"))
    chunks, vectors = f.number("chunks"), f.number("vectors")
    heights, counts, all_scores, reasons = (f.address(n) for n in ("heights", "counts", "scores", "reasons"))
    height_metric, score_metric, storing = f.number("height_metric"), f.number("score_metric"), f.number("scores")
    kept_at = code.put(f"alloca {t.scalar}, i64 {max(len(found.batch_live), 1) * room}, align 64")
    reason_at = code.put(f"alloca {t.scalar}, i64 {room}, align 64")
    row = code.put(f"mul i64 %row, {max(len(found.inner_live), 1)}")
    row = code.at(live, row, t.scalar)
    length = code.put(f"mul i64 {vectors}, {lanes}")
    begin = code.put(f"mul i64 %run, {length}")
    stored = code.put(f"icmp ne i64 {storing}, 0")
    inputs = sorted(node for node in found.batch if graph.names[node] == "input")
    # The batches come as arrays one after the other: an input's place says which.
    length_of_all = code.put("load i64, ptr %a_total, align 8")
    code.do("br label %next_batch")

    def constant(node: int) -> str | None:
        if node in given_place:
            return code.spread_at(given, str(given_place[node]))
        if node in row_place:
            return code.from_real(code.spread_at(row, str(row_place[node])), graph.kinds[node])
        return None

    code.label("next_batch")
    code.do("%b = phi i64 [ 0, %entry ], [ %b_after, %batch ]")
    code.do(f"%more_batches = icmp slt i64 %b, {vectors}")
    code.do("br i1 %more_batches, label %batch, label %chunk_loop")
    code.label("batch")
    offset = code.put(f"mul i64 %b, {lanes}")
    place = code.put(f"add i64 {begin}, {offset}")

    def batch_input(node: int) -> str | None:
        if node not in inputs:
            return constant(node)
        at = code.put(f"mul i64 {length_of_all}, {graph.operands[node][0]}")
        at = code.put(f"add i64 {at}, {place}")
        return code.from_real(code.vector_at(batches, at), graph.kinds[node])

    names = code.compute(computed(graph, found.batch), batch_input, set(found.batch_live))
    for node in found.batch_live:
        value = names.get(node) or batch_input(node)
        at = code.put(f"add i64 {offset}, {batch_place[node] * room}")
        code.keep(code.as_real(str(value), graph.kinds[node]), kept_at, at)
    code.do("%b_after = add i64 %b, 1")
    code.do("br label %next_batch")

    code.label("chunk_loop")
    code.do("br label %next_chunk")
    code.label("next_chunk")
    code.do("%c = phi i64 [ %first, %chunk_loop ], [ %c_after, %counted ]")
    code.do("%h = phi i64 [ %height, %chunk_loop ], [ %h_after, %counted ]")
    code.do("%s = phi i64 [ %score, %chunk_loop ], [ %s_after, %counted ]")
    code.do("%more_chunks = icmp slt i64 %c, %end")
    code.do("br i1 %more_chunks, label %chunk, label %out")
    code.label("chunk")
    at = code.put(f"mul i64 %row, {chunks}")
    at = code.put(f"add i64 {at}, %c")
    at = code.put(f"mul i64 {at}, {max(len(found.chunk_live), 1)}")
    chunk = code.at(chunk_live, at, t.scalar)
    worst = t.splat(t.real.type(0 if total else "-inf"), "f")
    code.do("br label %next_each")
    code.label("next_each")
    code.do("%e = phi i64 [ 0, %chunk ], [ %e_after, %each_end ]")
    for index in range(len(scores)):
        code.do(f"%top{index} = phi {v} [ {worst}, %chunk ], [ %top{index}_after, %each_end ]")
    highest, lowest = t.splat(t.real.type("inf"), "f"), t.splat(t.real.type("-inf"), "f")
    code.do(f"%low = phi {v} [ {highest}, %chunk ], [ %low_after, %each_end ]")
    code.do(f"%high = phi {v} [ {lowest}, %chunk ], [ %high_after, %each_end ]")
    code.do(f"%more_each = icmp slt i64 %e, {vectors}")
    code.do("br i1 %more_each, label %each, label %each_done")
    code.label("each")
    here = code.put(f"mul i64 %e, {lanes}")

    def each_input(node: int) -> str | None:
        if node in chunk_place:
            return code.from_real(code.spread_at(chunk, str(chunk_place[node])), graph.kinds[node])
        if node in batch_place:
            at = code.put(f"add i64 {here}, {batch_place[node] * room}")
            return code.from_real(code.vector_at(kept_at, at), graph.kinds[node])
        return constant(node)

    names = code.compute(computed(graph, found.each), each_input, {*scores, reason})

    def result(node: int) -> str:
        if graph.literal[node]:
            return t.splat(graph.values[node], "f")
        return str(names.get(node) or each_input(node))

    values, code_of = [result(node) for node in scores], result(reason)
    for index, value in enumerate(values):
        if total:
            code.do(f"%top{index}_after = fadd {v} %top{index}, {value}")
            continue
        better = code.put(f"fcmp ogt {v} {value}, %top{index}")
        code.do(f"%top{index}_after = select {t.vector('b')} {better}, {v} {value}, {v} %top{index}")
    for name, test in (("low", "olt"), ("high", "ogt")):
        which = code.put(f"fcmp {test} {v} {code_of}, %{name}")
        code.do(f"%{name}_after = select {t.vector('b')} {which}, {v} {code_of}, {v} %{name}")
    code.keep(code_of, reason_at, here)
    code.do(f"br i1 {stored}, label %store, label %each_end")
    code.label("store")
    to = code.put(f"add i64 %s, {here}")
    for index, value in enumerate(values):
        shift = code.put(f"mul i64 {score_metric}, {index}")
        code.keep(value, all_scores, code.put(f"add i64 {to}, {shift}"))
    narrow = code.put(f"fptosi {v} {code_of} to <{lanes} x i8>")
    address = code.at(reasons, to, "i8")
    code.do(f"store <{lanes} x i8> {narrow}, ptr {address}, align 1")
    code.do("br label %each_end")
    code.label("each_end")
    code.do("%e_after = add i64 %e, 1")
    code.do("br label %next_each")

    code.label("each_done")
    for index in range(len(scores)):
        top = across(code, f"%top{index}", "sum" if total else "ogt")
        shift = code.put(f"mul i64 {height_metric}, {index}")
        address = code.at(heights, code.put(f"add i64 %h, {shift}"), t.scalar)
        code.do(f"store {t.scalar} {top}, ptr {address}, align {align}")
    low, high = across(code, "%low", "olt"), across(code, "%high", "ogt")
    same = code.put(f"fcmp oeq {t.scalar} {low}, {high}")
    code.do(f"br i1 {same}, label %alike, label %apart")
    code.label("alike")
    counted(code, counts, low, length)
    code.do("br label %counted")
    code.label("apart")
    code.do("br label %next_one")
    code.label("next_one")
    code.do("%o = phi i64 [ 0, %apart ], [ %o_after, %one ]")
    code.do(f"%more_ones = icmp slt i64 %o, {length}")
    code.do("br i1 %more_ones, label %one, label %counted")
    code.label("one")
    counted(code, counts, code.load(reason_at, "%o", t.scalar, align), "1")
    code.do("%o_after = add i64 %o, 1")
    code.do("br label %next_one")
    code.label("counted")
    code.do("%c_after = add i64 %c, 1")
    code.do("%h_after = add i64 %h, %height_step")
    code.do("%s_after = add i64 %s, %score_step")
    code.do("br label %next_chunk")
    code.label("out")
    code.do("ret void")
    head = "define internal void @tile(ptr noalias %a, ptr noalias %a_total, i64 %row, i64 %run, i64 %first, i64 %end, "
    head += "i64 %height, i64 %height_step, i64 %score, i64 %score_step) #0 {"
    return "\n".join([head, "entry:", *code.lines, "}"])


def across(code: Code, vector: str, test: str) -> str:
    """The highest (`ogt`) or lowest (`olt`) of a vector's lanes, or their `sum`."""
    t = code.target
    half = t.lanes
    while half > 1:
        half //= 2
        order = [(lane + half) % t.lanes for lane in range(t.lanes)]
        mask = ", ".join(f"i32 {lane}" for lane in order)
        v = t.vector()
        other = code.put(f"shufflevector {v} {vector}, {v} poison, <{t.lanes} x i32> <{mask}>")
        if test == "sum":
            vector = code.put(f"fadd {v} {other}, {vector}")
            continue
        which = code.put(f"fcmp {test} {v} {other}, {vector}")
        vector = code.put(f"select {t.vector('b')} {which}, {v} {other}, {v} {vector}")
    return code.put(f"extractelement {t.vector()} {vector}, i64 0")


def counted(code: Code, counts: str, reason: str, amount: str) -> None:
    """Adds to the count of a reason; that of code r stands at r + 1."""
    place = code.put(f"fptosi {code.target.scalar} {reason} to i64")
    place = code.put(f"and i64 {code.put(f'add i64 {place}, 1')}, {REASONS - 1}")
    address = code.at(counts, place, "i64")
    before = code.put(f"load i64, ptr {address}, align 8")
    code.do(f"store i64 {code.put(f'add i64 {before}, {amount}')}, ptr {address}, align 8")
