"""What a loop leaves of the lanes of its vectors: their highest or their sum, and how often each code occurs."""

from __future__ import annotations

from collections.abc import Sequence

from .code import Code

REASONS = 16
"""Room for counts by reason: code −1 (padding) first."""


def folded(code: Code, vectors: list[str], lanes: int, total: bool = False) -> list[str]:
    """The highest lane of each of some vectors of so many `lanes`, or with `total` the sum of its lanes. Two and two of
    them share a vector, half of which belongs to each, until there is one: each fold is then one of all."""
    t, owners, span = code.target, 1, lanes
    held = list(vectors)
    while len(held) > 1 and span > 1:
        held += held[-1:] * (len(held) % 2)
        held = [_halved(code, pair, owners, span, total) for pair in zip(held[::2], held[1::2], strict=True)]
        owners, span = 2 * owners, span // 2
    found: list[str] = []
    for vector in held:
        width, here = lanes, span
        while here > 1 and width > t.called:
            vector = _halved(code, (vector,), owners, here, total)
            width, here = width // 2, here // 2
        left = here
        while left > 1:
            left //= 2
            other = _shuffled(code, (vector,), width, [lane ^ left for lane in range(width)])
            vector = _better(code, vector, other, width, total)
        found += [_lane(code, vector, width, owner * here) for owner in range(owners)]
    return found[: len(vectors)]


def pieces(code: Code, vector: str, lanes: int) -> list[str]:
    """A vector cut into vectors of so many lanes."""
    width = code.target.lanes
    return [_shuffled(code, (vector,), width, list(range(start, start + lanes))) for start in range(0, width, lanes)]


def _halved(code: Code, vectors: Sequence[str], owners: int, span: int, total: bool) -> str:
    """One vector from one or two, in which each of `owners` has `span` lanes: half as many, folded."""
    width, half = owners * span, span // 2
    starts = [index * width + owner * span for index in range(len(vectors)) for owner in range(owners)]
    lower, upper = (
        _shuffled(code, vectors, width, [start + shift + lane for start in starts for lane in range(half)])
        for shift in (0, half)
    )
    return _better(code, lower, upper, len(starts) * half, total)


def _shuffled(code: Code, vectors: Sequence[str], width: int, lanes: list[int]) -> str:
    """Lanes of one or two vectors, one after the other."""
    of = f"<{width} x {code.target.scalar}>"
    second = vectors[1] if len(vectors) > 1 else "poison"
    mask = ", ".join(f"i32 {lane}" for lane in lanes)
    return code.put(f"shufflevector {of} {vectors[0]}, {of} {second}, <{len(lanes)} x i32> <{mask}>")


def _better(code: Code, one: str, other: str, width: int, total: bool) -> str:
    """The higher of two vectors, or their sum."""
    of = f"<{width} x {code.target.scalar}>"
    if total:
        return code.put(f"fadd {of} {one}, {other}")
    which = code.put(f"fcmp ogt {of} {one}, {other}")
    return code.put(f"select <{width} x i1> {which}, {of} {one}, {of} {other}")


def _lane(code: Code, vector: str, width: int, lane: int) -> str:
    return code.put(f"extractelement <{width} x {code.target.scalar}> {vector}, i64 {lane}")


def count(code: Code, counts: str, codes: str, room: str, after: str) -> None:
    """Adds to the counts how often each code occurs in a vector of whole codes from −1 on, as reals; that of code r
    stands at r + 1. Goes on at the label `after`; `room` holds a vector. To be written once in a function."""
    lanes, scalar, align = code.target.lanes, code.target.scalar, code.target.real.itemsize
    first = code.put(f"extractelement {code.target.vector()} {codes}, i64 0")
    rest = code.put(f"xor i{lanes} {_counted(code, counts, codes, first)}, -1")
    code.do(f"br i1 {code.put(f'icmp eq i{lanes} {rest}, 0')}, label %{after}, label %mixed")
    code.label("mixed")
    code.keep(codes, room, "0")
    code.do("br label %another")
    code.label("another")
    code.do(f"%left = phi i{lanes} [ {rest}, %mixed ], [ %left_after, %another ]")
    code.declared.add(f"declare i{lanes} @llvm.cttz.i{lanes}(i{lanes}, i1)")
    place = code.put(f"call i{lanes} @llvm.cttz.i{lanes}(i{lanes} %left, i1 true)")
    one = code.load(room, _long(code, place), scalar, align)
    others = code.put(f"xor i{lanes} {_counted(code, counts, code.vector_at(room, '0'), one)}, -1")
    further = code.put(f"and i{lanes} %left, {code.put(f'sub i{lanes} %left, 1')}")
    code.do(f"%left_after = and i{lanes} {further}, {others}")
    code.do(f"br i1 {code.put(f'icmp eq i{lanes} %left_after, 0')}, label %{after}, label %another")


def _counted(code: Code, counts: str, codes: str, one: str) -> str:
    """Counts the lanes that have one of the codes; these, as bits."""
    lanes = code.target.lanes
    same = code.put(f"fcmp oeq {code.target.vector()} {codes}, {code.spread(one)}")
    flags = code.put(f"bitcast {code.target.vector('b')} {same} to i{lanes}")
    number = code.call(f"llvm.ctpop.i{lanes}", f"i{lanes}", [flags])
    place = code.put(f"fptosi {code.target.scalar} {one} to i64")
    place = code.put(f"and i64 {code.put(f'add i64 {place}, 1')}, {REASONS - 1}")
    address = code.at(counts, place, "i64")
    before = code.put(f"load i64, ptr {address}, align 8")
    number = _long(code, number)
    code.do(f"store i64 {code.put(f'add i64 {before}, {number}')}, ptr {address}, align 8")
    return flags


def _long(code: Code, whole: str) -> str:
    """A whole number of as many bits as there are lanes as one of 64."""
    return whole if code.target.lanes == 64 else code.put(f"zext i{code.target.lanes} {whole} to i64")
