"""The outer loops of a product: what is computed once a row, and once a chunk of a row, with rows side by side."""

from __future__ import annotations

from .code import Code
from .graph import CHUNK, Graph
from .levels import Function, Levels, computed, steps
from .target import Target

ROW_ARGUMENTS = ("count", "lines", "steps", "given", "live", "chunks", "chunk_values", "chunk_live")
"""What `rows` is called with: places in an array of 64-bit numbers and addresses."""


def rows_function(graph: Graph, found: Levels, places: dict[int, int], target: Target, declared: set[str]) -> str:
    """`rows`: what is computed once a row, and once a chunk of a row."""
    f = Function(graph, target, declared, ROW_ARGUMENTS)
    code, lanes, t = f.code, target.lanes, target
    kept, shared, out = found.inner_live, [*found.inner_live, *found.chunk_needs], found.chunk_live
    place = {node: index for index, node in enumerate(shared)}
    given_place = {node: index for index, node in enumerate(found.given)}
    count, chunks = f.number("count"), f.number("chunks")
    lines, steps_of, given, live = (f.address(name) for name in ("lines", "steps", "given", "live"))
    sizes, chunk_live = f.address("chunk_values"), f.address("chunk_live")
    shared_at = code.put(f"alloca {t.scalar}, i64 {max(len(shared), 1) * lanes}, align 64")
    out_at = code.put(f"alloca {t.scalar}, i64 {max(len(out), 1) * lanes}, align 64")
    code.do("br label %next")
    code.label("next")
    code.do("%r = phi i64 [ 0, %entry ], [ %r_after, %done ]")
    code.do(f"%more = icmp slt i64 %r, {count}")
    code.do("br i1 %more, label %row, label %end")
    code.label("row")

    def row_input(node: int) -> str | None:
        if node in given_place:
            return code.spread_at(given, str(given_place[node]))
        if graph.names[node] != "input":
            return None
        line = str(places[graph.operands[node][0]])
        begin = code.put(f"mul i64 {code.load(steps_of, line, 'i64', 8)}, %r")
        line = code.put(f"inttoptr i64 {code.load(lines, line, 'i64', 8)} to ptr")
        return code.from_real(code.vector_at(line, begin), graph.kinds[node])

    names = code.compute_parts(steps(graph, found, [])["row"], row_input)
    for node in shared:
        value = names.get(node) or row_input(node)
        code.keep(code.as_real(str(value), graph.kinds[node]), shared_at, str(place[node] * lanes))
    here = code.put(f"mul i64 %r, {max(len(kept), 1)}")
    _transposed(code, "live", "row", shared_at, live, len(kept), here, str(max(len(kept), 1)))
    code.do("br label %next_chunk")
    code.label("next_chunk")
    code.do("%c = phi i64 [ 0, %live_done ], [ %c_after, %out_done ]")
    code.do(f"%more_chunks = icmp slt i64 %c, {chunks}")
    code.do("br i1 %more_chunks, label %chunk, label %done")
    code.label("chunk")
    size = code.spread_at(sizes, "%c")

    def chunk_input(node: int) -> str | None:
        if node in given_place:
            return code.spread_at(given, str(given_place[node]))
        if node in place:
            return code.from_real(code.vector_at(shared_at, str(place[node] * lanes)), graph.kinds[node])
        return size if graph.names[node] == "input" and graph.masks[node] == CHUNK else None

    names = code.compute(computed(graph, found.chunk), chunk_input, set(out))
    for index, node in enumerate(out):
        value = names.get(node) or chunk_input(node)
        code.keep(code.as_real(str(value), graph.kinds[node]), out_at, str(index * lanes))
    # Entry of row r, chunk c: (r·chunks + c)·outputs.
    start = code.put(f"mul i64 %r, {chunks}")
    start = code.put(f"add i64 {start}, %c")
    start = code.put(f"mul i64 {start}, {max(len(out), 1)}")
    step = code.put(f"mul i64 {chunks}, {max(len(out), 1)}")
    _transposed(code, "out", "chunk", out_at, chunk_live, len(out), start, step)
    code.do("%c_after = add i64 %c, 1")
    code.do("br label %next_chunk")
    code.label("done")
    code.do(f"%r_after = add i64 %r, {lanes}")
    code.do("br label %next")
    code.label("end")
    code.do("ret void")
    return "\n".join(["define void @rows(ptr noalias %a) #0 {", "entry:", *code.lines, "}"])


def _transposed(
    code: Code, name: str, before: str, source: str, target: str, count: int, start: str, step: str
) -> None:
    """Copies `count` vectors, one after another at `source`, so that each lane's entries are neighbours: lane l's begin
    at `start` + l·`step`."""
    t = code.target
    lanes, align = t.lanes, t.real.itemsize
    code.do(f"br label %{name}_next")
    code.label(f"{name}_next")
    code.do(f"%{name}_i = phi i64 [ 0, %{before} ], [ %{name}_after, %{name}_one ]")
    code.do(f"%{name}_more = icmp slt i64 %{name}_i, {count}")
    code.do(f"br i1 %{name}_more, label %{name}_one, label %{name}_done")
    code.label(f"{name}_one")
    at = code.put(f"mul i64 %{name}_i, {lanes}")
    to = code.put(f"add i64 {start}, %{name}_i")
    for lane in range(lanes):
        value = code.load(source, code.put(f"add i64 {at}, {lane}"), t.scalar, align)
        address = code.at(target, to, t.scalar)
        code.do(f"store {t.scalar} {value}, ptr {address}, align {align}")
        to = code.put(f"add i64 {to}, {step}")
    code.do(f"%{name}_after = add i64 %{name}_i, 1")
    code.do(f"br label %{name}_next")
    code.label(f"{name}_done")
