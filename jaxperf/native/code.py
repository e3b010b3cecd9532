"""LLVM's assembly for nodes: each a vector of neighbours along one axis."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..tape import NoKernelError
from .graph import COMPARISONS, Graph
from .target import Target
from .text import Text

Load = Callable[[int], str | None]
"""Where a node that is not of this code comes from: the name of its value, None where it is to be computed here."""

_REAL = {"add": "fadd", "add_any": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_WHOLE = {"add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "shift_left": "shl"}
_ROUNDED = {"abs": "fabs", "floor": "floor", "ceil": "ceil", "sqrt": "sqrt"}
CALLED = {"exp", "exp2", "expm1", "log", "log1p", "log2", "pow"}
"""Operations that a library of mathematical functions does."""

_REAL_TESTS = {"eq": "oeq", "ne": "une", "gt": "ogt", "ge": "oge", "lt": "olt", "le": "ole"}
_WHOLE_TESTS = {"eq": "eq", "ne": "ne", "gt": "sgt", "ge": "sge", "lt": "slt", "le": "sle"}


class Code(Text):
    """Lines of one function, and the names of the values that they compute."""

    def __init__(self, graph: Graph, target: Target, declared: set[str]) -> None:
        super().__init__(declared)
        self.graph, self.target = graph, target

    def label(self, name: str) -> None:
        """The beginning of a block."""
        self.lines.append(f"{name}:")

    def at(self, base: str, index: str, of: str) -> str:
        """The address of an entry of an array."""
        return self.put(f"getelementptr inbounds {of}, ptr {base}, i64 {index}")

    def load(self, base: str, index: str, of: str, align: int) -> str:
        """An entry of an array."""
        return self.put(f"load {of}, ptr {self.at(base, index, of.split(' x ')[-1].rstrip('>'))}, align {align}")

    def vector_at(self, base: str, index: str) -> str:
        """A vector of reals that begins at an entry of an array."""
        return self.load(base, index, self.target.vector(), self.target.real.itemsize)

    def keep(self, value: str, base: str, index: str) -> None:
        """Stores a vector of reals from an entry of an array on."""
        address = self.at(base, index, self.target.scalar)
        self.do(f"store {self.target.vector()} {value}, ptr {address}, align {self.target.real.itemsize}")

    def spread(self, scalar: str, of: str | None = None) -> str:
        """A vector of one value."""
        of = of or self.target.scalar
        vector = f"<{self.target.lanes} x {of}>"
        first = self.put(f"insertelement {vector} poison, {of} {scalar}, i64 0")
        mask = f"<{self.target.lanes} x i32> zeroinitializer"
        return self.put(f"shufflevector {vector} {first}, {vector} poison, {mask}")

    def spread_at(self, base: str, index: str) -> str:
        """A vector of one entry of an array of reals."""
        return self.spread(self.load(base, index, self.target.scalar, self.target.real.itemsize))

    def picked(self, base: str, index: str, entries: int) -> str:
        """Entries of an array of reals by a vector of whole numbers. From an array of no more `entries` than a register
        has lanes, in memory filled up to a register, they are picked without reading memory lane by lane."""
        t, v, whole = self.target, self.target.vector(), self.target.vector("i")
        if t.permute and t.lanes == t.called and entries <= t.lanes:
            table = self.load(base, "0", v, t.real.itemsize)
            if t.permuted != 32:
                wide = f"<{t.lanes} x i{t.permuted}>"
                index, whole = self.put(f"zext {whole} {index} to {wide}"), wide
            self.declared.add(f"declare {v} @llvm.{t.permute}({v}, {whole})")
            return self.put(f"call {v} @llvm.{t.permute}({v} {table}, {whole} {index})")
        pointers, all_lanes = f"<{t.lanes} x ptr>", t.splat(1, "b")
        name = f"@llvm.masked.gather.{t.suffix}.v{t.lanes}p0"
        self.declared.add(f"declare {v} {name}({pointers}, i32, {t.vector('b')}, {v})")
        at = self.put(f"getelementptr {t.scalar}, ptr {base}, {whole} {index}")
        align = t.real.itemsize
        return self.put(f"call {v} {name}({pointers} {at}, i32 {align}, {t.vector('b')} {all_lanes}, {v} poison)")

    def as_real(self, value: str, kind: str) -> str:
        """A value of any kind as reals, as it is stored between loops."""
        t = self.target
        if kind == "f":
            return value
        if kind == "i":
            return self.put(f"sitofp {t.vector('i')} {value} to {t.vector()}")
        one, zero = t.splat(t.real.type(1), "f"), t.splat(t.real.type(0), "f")
        return self.put(f"select {t.vector('b')} {value}, {t.vector()} {one}, {t.vector()} {zero}")

    def from_real(self, value: str, kind: str) -> str:
        """The opposite of `as_real`."""
        t = self.target
        if kind == "f":
            return value
        if kind == "i":
            return self.put(f"fptosi {t.vector()} {value} to {t.vector('i')}")
        return self.put(f"fcmp une {t.vector()} {value}, {t.splat(t.real.type(0), 'f')}")

    def compute(self, nodes: list[int], load: Load, kept: set[int]) -> dict[int, str]:
        """Lines for nodes in their order; the names of their values, of those that are `kept` in any case."""
        graph, names = self.graph, {}
        single = self._used_once(nodes) - kept if self.target.fused else set()
        skipped: dict[int, tuple[int, int]] = {}

        def name_of(node: int) -> str:
            if node not in names:
                if graph.literal[node]:
                    return self.target.splat(graph.values[node], graph.kinds[node])
                if node in skipped:  # a product that was to be fused with a sum of another level
                    names[node] = self._operation(node, [name_of(each) for each in skipped[node]])
                else:
                    found = load(node)
                    if found is None:
                        raise AssertionError(f"node {node} is not there")
                    names[node] = found
            return names[node]

        for node in nodes:
            if node in names:
                continue
            operands = graph.operands[node]
            if node in single and graph.names[node] == "mul" and graph.kinds[node] == "f":
                skipped[node] = (operands[0], operands[1])
                continue
            if self.target.fused and graph.names[node] in ("add", "sub") and graph.kinds[node] == "f":
                fused = self._fused(node, skipped, name_of)
                if fused is not None:
                    names[node] = fused
                    continue
            names[node] = self._operation(node, [name_of(each) for each in operands])
        return names

    def compute_parts(self, parts: list[tuple[list[int], set[int]]], load: Load) -> dict[int, str]:
        """`compute` of one part after another, each with what others need of it; the names of all."""
        names: dict[int, str] = {}

        def known(node: int) -> str | None:
            return names.get(node) or load(node)

        for nodes, kept in parts:
            names |= self.compute(nodes, known, kept)
        return names

    def _used_once(self, nodes: list[int]) -> set[int]:
        """Products among these nodes that one sum alone uses."""
        graph, uses, mine = self.graph, {}, set(nodes)
        for node in nodes:
            for operand in graph.operands[node]:
                uses.setdefault(operand, []).append(node)
        return {
            node
            for node in mine
            if graph.names[node] == "mul"
            and len(uses.get(node, ())) == 1
            and graph.names[uses[node][0]] in ("add", "sub")
        }

    def _fused(self, node: int, skipped: dict[int, tuple[int, int]], name_of: Callable[[int], str]) -> str | None:
        """A sum with a product that nothing else uses, rounded once."""
        graph, t = self.graph, self.target
        left, right = graph.operands[node]
        minus = graph.names[node] == "sub"
        v = t.vector()

        def call(a: str, b: str, c: str) -> str:
            return self._intrinsic(f"fma.{t.suffix}", v, [a, b, c])

        if left in skipped:
            a, b = (name_of(each) for each in skipped.pop(left))
            other = name_of(right)
            return call(a, b, self.put(f"fneg {v} {other}") if minus else other)
        if right in skipped:
            a, b = (name_of(each) for each in skipped.pop(right))
            return call(self.put(f"fneg {v} {a}") if minus else a, b, name_of(left))
        return None

    def _operation(self, node: int, given: list[str]) -> str:
        """The line of one node."""
        graph, t = self.graph, self.target
        name, _, parameters = graph.names[node].partition(" ")
        operands = graph.operands[node]
        kind = graph.kinds[operands[-1]] if operands else graph.kinds[node]
        v = t.vector(kind)
        if name in COMPARISONS:
            if kind == "f":
                return self.put(f"fcmp {_REAL_TESTS[name]} {v} {given[0]}, {given[1]}")
            return self.put(f"icmp {_WHOLE_TESTS[name]} {v} {given[0]}, {given[1]}")
        if name == "select_n":
            which = given[0]
            if graph.kinds[operands[0]] != "b":
                which = self.put(f"icmp ne {t.vector('i')} {which}, {t.splat(0, 'i')}")
            return self.put(f"select {t.vector('b')} {which}, {v} {given[2]}, {v} {given[1]}")
        if name.startswith("to_"):
            return self._converted(given[0], kind, name[3:])
        if name in ("max", "min"):
            test = ("fcmp o" if kind == "f" else "icmp s") + ("gt" if name == "max" else "lt")
            which = self.put(f"{test} {v} {given[0]}, {given[1]}")
            if kind == "f":  # what is no number stays so, on either side
                none = self.put(f"fcmp uno {v} {given[0]}, {given[0]}")
                which = self.put(f"or {t.vector('b')} {which}, {none}")
            return self.put(f"select {t.vector('b')} {which}, {v} {given[0]}, {v} {given[1]}")
        if name == "not":
            ones = t.splat(1 if kind == "b" else -1, kind)
            return self.put(f"xor {v} {given[0]}, {ones}")
        if kind != "f":
            if name == "population_count":
                return self._intrinsic(f"ctpop.v{t.lanes}i32", v, given)
            if name in _WHOLE:
                return self.put(f"{_WHOLE[name]} {v} {given[0]}, {given[1]}")
            raise NoKernelError(f"no code for {name} of whole numbers")
        return self._real(name, parameters, given)

    def _real(self, name: str, parameters: str, given: list[str]) -> str:
        """An operation on reals."""
        t = self.target
        v = t.vector()
        if name in _REAL:
            return self.put(f"{_REAL[name]} {v} {given[0]}, {given[1]}")
        if name == "neg":
            return self.put(f"fneg {v} {given[0]}")
        if name in _ROUNDED:
            return self._intrinsic(f"{_ROUNDED[name]}.{t.suffix}", v, given)
        if name == "square":
            return self.put(f"fmul {v} {given[0]}, {given[0]}")
        if name == "integer_pow":
            return self._power(given[0], int(parameters))
        if name == "is_finite":
            size = self._intrinsic(f"fabs.{t.suffix}", v, given)
            return self.put(f"fcmp olt {v} {size}, {t.splat(t.real.type(np.inf), 'f')}")
        if name in CALLED:
            return self._called(name, given)
        raise NoKernelError(f"no code for {name}")

    def _intrinsic(self, name: str, of: str, given: list[str]) -> str:
        return self.call(f"llvm.{name}", of, given)

    def _power(self, value: str, exponent: int) -> str:
        t = self.target
        if exponent == 0:
            return t.splat(t.real.type(1), "f")
        result = value
        for _ in range(abs(exponent) - 1):
            result = self.put(f"fmul {t.vector()} {result}, {value}")
        if exponent < 0:
            result = self.put(f"fdiv {t.vector()} {t.splat(t.real.type(1), 'f')}, {result}")
        return result

    def _called(self, name: str, given: list[str]) -> str:
        """A mathematical function: of the whole vector where the library has it, else lane by lane."""
        t = self.target
        v = t.vector()
        if name == "exp":
            return self._exponential(given[0])
        if name in t.functions:
            symbol, v = t.functions[name], f"<{t.called} x {t.scalar}>"
            parts = []
            for first in range(0, t.lanes, t.called):
                cut = [self._lanes(each, t.lanes, range(first, first + t.called)) for each in given]
                parts.append(self.call(symbol, v, cut))
            return self._joined(parts, t.called)
        symbol = scalar_function(name, t.real)
        result = "poison"
        for lane in range(t.lanes):
            parts = [self.put(f"extractelement {v} {each}, i64 {lane}") for each in given]
            found = self.call(symbol, t.scalar, parts)
            result = self.put(f"insertelement {v} {result}, {t.scalar} {found}, i64 {lane}")
        return result

    def _lanes(self, value: str, lanes: int, wanted: range) -> str:
        """Some neighbouring lanes of a vector."""
        if len(wanted) == lanes:
            return value
        of = f"<{lanes} x {self.target.scalar}>"
        mask = ", ".join(f"i32 {lane}" for lane in wanted)
        return self.put(f"shufflevector {of} {value}, {of} poison, <{len(wanted)} x i32> <{mask}>")

    def _joined(self, parts: list[str], lanes: int) -> str:
        """Vectors one after the other as one; there are a power of two of them."""
        while len(parts) > 1:
            of, mask = f"<{lanes} x {self.target.scalar}>", ", ".join(f"i32 {lane}" for lane in range(2 * lanes))
            parts = [
                self.put(f"shufflevector {of} {left}, {of} {right}, <{2 * lanes} x i32> <{mask}>")
                for left, right in zip(parts[::2], parts[1::2], strict=True)
            ]
            lanes *= 2
        return parts[0]

    def _exponential(self, value: str) -> str:
        """exp x = 2^n·exp r with n = round(x/ln 2), |r| ≤ ln 2/2, and exp r from its series: the first term left out
        is below a rounding. Without a call, which would empty all registers. ln 2 is in two parts, so that n·ln 2 is
        exact; 2^n in two factors, so that results below the smallest normal and above the largest number come out."""
        t = self.target
        narrow = t.real.itemsize == 4
        terms, bias, bits, lowest, highest = (7, 127, 23, -110.0, 90.0) if narrow else (13, 1023, 52, -760.0, 711.0)
        v, whole = t.vector(), f"<{t.lanes} x i{8 * t.real.itemsize}>"

        def real(number: float) -> str:
            return t.splat(t.real.type(number), "f")

        def whole_splat(number: int) -> str:
            return "<" + ", ".join([f"i{8 * t.real.itemsize} {number}"] * t.lanes) + ">"

        def fma(a: str, b: str, c: str) -> str:
            if not t.fused:
                return self.put(f"fadd {v} {self.put(f'fmul {v} {a}, {b}')}, {c}")
            return self._intrinsic(f"fma.{t.suffix}", v, [a, b, c])

        for test, bound in (("ogt", real(lowest)), ("olt", real(highest))):  # what is no number stays so
            beyond = self.put(f"fcmp {test} {v} {bound}, {value}")
            value = self.put(f"select {t.vector('b')} {beyond}, {v} {bound}, {v} {value}")
        n = self._intrinsic(f"rint.{t.suffix}", v, [self.put(f"fmul {v} {value}, {real(1 / math.log(2))}")])
        upper = 0.693145751953125 if narrow else 0.6931471803691238  # ln 2 without its last bits
        rest = fma(n, real(-upper), value)
        rest = fma(n, real(upper - math.log(2) if narrow else -1.9082149292705877e-10), rest)
        result = real(1 / math.factorial(terms))
        for term in range(terms - 1, -1, -1):
            result = fma(result, rest, real(1 / math.factorial(term)))
        power = self.put(f"fptosi {v} {n} to {whole}")
        half = self.put(f"ashr {whole} {power}, {whole_splat(1)}")
        for part in (half, self.put(f"sub {whole} {power}, {half}")):
            exponent = self.put(f"add {whole} {part}, {whole_splat(bias)}")
            factor = self.put(f"bitcast {whole} {self.put(f'shl {whole} {exponent}, {whole_splat(bits)}')} to {v}")
            result = self.put(f"fmul {v} {result}, {factor}")
        return result

    def _converted(self, value: str, kind: str, to: str) -> str:
        """A value of one kind as another."""
        t = self.target
        if to == "f":
            return self.as_real(value, kind)
        if to == "b":
            test = "fcmp une" if kind == "f" else "icmp ne"
            zero = t.splat(t.real.type(0) if kind == "f" else 0, kind)
            return self.put(f"{test} {t.vector(kind)} {value}, {zero}")
        if kind == "f":
            return self.put(f"fptosi {t.vector()} {value} to {t.vector('i')}")
        return self.put(f"zext {t.vector('b')} {value} to {t.vector('i')}")


def scalar_function(name: str, real: np.dtype) -> str:
    """What C's library calls a mathematical function."""
    return name + ("f" if real.itemsize == 4 else "")
