"""What a compiled program does, read from its text: how many fusions, how many FLOPs with loops counted as they run.

XLA's own `cost_analysis` counts the body of a loop once, whatever its trips. Here a loop whose trips the compiler knows
counts that often; one that ends by its data (the merging of a frontier) counts once. Of a branch's two sides the dearer
counts. A FLOP is one addition, multiplication, division, maximum, minimum, rounding or elementary function of floats;
selections, comparisons and conversions are none. Work that fusions repeat is counted where it is repeated."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache

_ARITHMETIC = frozenset(
    (
        *("add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "remainder", "sqrt", "rsqrt", "cbrt"),
        *("exponential", "exponential-minus-one", "log", "log-plus-one", "tanh", "logistic", "erf", "floor", "ceil"),
        *("round-nearest-even", "round-nearest-afz", "sine", "cosine", "tan", "atan2"),
    )
)
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_SHAPE = re.compile(r"(f16|bf16|f32|f64)\[([\d,]*)\]")
_CALLS = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


@dataclass(frozen=True)
class Counts:
    """Fusions; FLOPs with loops counted as they run, and with every loop's body counted once; loops of known and of
    unknown trips."""

    fusions: int
    flops: int
    flops_once: int
    loops: int
    open_loops: int


def _elements(shape: str) -> int:
    """Elements of the first float array of a shape, 0 where it is of other numbers."""
    found = _SHAPE.match(shape)
    return math.prod(int(n) for n in found[2].split(",") if n) if found else 0


def count(text: str) -> Counts:
    """`Counts` of a compiled program's text (`compiled.as_text()`)."""
    bodies: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            lines = bodies.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        else:
            lines.append(line)

    @cache
    def cost(name: str, once: bool) -> int:
        shapes: dict[str, str] = {}
        total = 0
        for line in bodies.get(name, ()):
            found = _LINE.match(line)
            if not found:
                continue
            own, shape, operation, rest = found.groups()
            shapes[own] = shape
            if operation in _ARITHMETIC:
                total += _elements(shape)
            elif operation in ("reduce", "reduce-window"):
                operand = re.match(r"%?([\w.\-]+)", rest)
                total += _elements(shapes.get(operand[1], "")) if operand else 0
            elif operation in ("fusion", "call"):
                total += sum(cost(called, once) for called in _CALLS.findall(rest))
            elif operation == "while":
                trips = _TRIPS.search(rest)
                total += sum(cost(c, once) for c in _CALLS.findall(rest)) * (int(trips[1]) if trips and not once else 1)
            elif operation == "conditional":
                branches = _BRANCHES.search(rest)
                named = [n.strip().lstrip("%") for n in branches[1].split(",")] if branches else _CALLS.findall(rest)
                total += max((cost(branch, once) for branch in named), default=0)
        return total

    loops = [line for lines in bodies.values() for line in lines if " while(" in line]
    known = sum(bool(_TRIPS.search(line)) for line in loops)
    fusions = text.count(" fusion(")
    return Counts(fusions, cost(entry, False), cost(entry, True), known, len(loops) - known)


def own_count(compiled: object) -> float | None:
    """FLOPs by XLA's `cost_analysis`, loop bodies once; None where it has none."""
    found = compiled.cost_analysis()  # pyright: ignore[reportAttributeAccessIssue]
    found = found[0] if isinstance(found, list) else found
    return None if not found else found.get("flops")


def bytes_accessed(compiled: object) -> float | None:
    """Bytes that pass between fusions by XLA's `cost_analysis`, loop bodies once; most of them stay in cache."""
    found = compiled.cost_analysis()  # pyright: ignore[reportAttributeAccessIssue]
    found = found[0] if isinstance(found, list) else found
    return None if not found else found.get("bytes accessed")
