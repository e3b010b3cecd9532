"""One operation on numbers of one type as lines of LLVM's assembly, with the meaning that NumPy gives it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..tape import NoKernelError
from .text import Text, real_literal

TYPES = {"float64": "double", "float32": "float", "int64": "i64", "int32": "i32", "uint32": "i32", "bool": "i1"}
"""LLVM's names of types."""

STORED = TYPES | {"bool": "i8"}
"""LLVM's names of types as they are in memory."""

_REAL = {"add": "fadd", "add_any": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_WHOLE = {"add": "add", "add_any": "add", "sub": "sub", "mul": "mul"}
_BITS = {"and": "and", "or": "or"}
_INTRINSIC = {"abs": "fabs", "floor": "floor", "ceil": "ceil", "sqrt": "sqrt"}
_TESTS = {"eq": ("oeq", "eq", "eq"), "ne": ("une", "ne", "ne"), "gt": ("ogt", "sgt", "ugt")}
_TESTS |= {"ge": ("oge", "sge", "uge"), "lt": ("olt", "slt", "ult"), "le": ("ole", "sle", "ule")}
CALLED = {"cos", "exp", "exp2", "expm1", "log", "log1p", "log2", "pow", "sin", "tanh"}
"""Operations that C's library does."""

OPERATIONS = {*_REAL, *_BITS, *_INTRINSIC, *_TESTS, *CALLED}
OPERATIONS |= {
    "bitcast_convert_type",
    "clamp",
    "convert_element_type",
    "integer_pow",
    "is_finite",
    "logistic",
    "max",
    "min",
}
OPERATIONS |= {"neg", "not", "polynomial", "population_count", "select_n", "shift_left", "sign", "square"}
"""Operations between numbers at the same place of arrays."""

_MULTIPLIED = 3
"""Powers up to which products are as exact as the library's function."""


def literal(kind: str, value: Any) -> str:
    """A number as LLVM reads it: reals by their bits."""
    if kind.startswith("float"):
        return real_literal(value)
    return str(int(value))


class Lines(Text):
    """Lines of a function of scalars."""

    def operation(self, name: str, parameters: dict[str, Any], kind: str, given: list[str]) -> list[str]:
        """The values of an operation on values of a type (for choices and comparisons: that of what is compared)."""
        first, _, rest = name.partition("_")
        if first == "all":
            return [self._narrow(kind, self._folded(rest, kind, given)[-1])]
        if first == "each":
            return [self._narrow(kind, value) for value in self._folded(rest, kind, given)]
        if name in ("argmax", "argmin"):
            return [self._place(name, kind, given, TYPES[parameters["to"]])]
        return [self.one(name, parameters, kind, given)]

    def _place(self, name: str, kind: str, given: list[str], to: str) -> str:
        """The number of the first of the greatest or least values; of the first that is no number, if there is one."""
        of, place, best = TYPES[kind], "0", given[0]
        test = "gt" if name == "argmax" else "lt"
        for number, value in enumerate(given[1:], 1):
            better = self.one(test, {}, kind, [value, best])
            if kind.startswith("float"):
                none, valid = self.put(f"fcmp uno {of} {value}, {value}"), self.put(f"fcmp ord {of} {best}, {best}")
                better = self.put(f"or i1 {better}, {self.put(f'and i1 {none}, {valid}')}")
            place = self.put(f"select i1 {better}, {to} {number}, {to} {place}")
            best = self.put(f"select i1 {better}, {of} {value}, {of} {best}")
        return place

    def _folded(self, name: str, kind: str, given: list[str]) -> list[str]:
        """An operation between values one after another; sums in double precision, as NumPy's kernels make them."""
        if name == "add" and kind == "float32":
            given = [self.put(f"fpext float {each} to double") for each in given]
            kind = "float64"
        found = [given[0]]
        for each in given[1:]:
            found.append(self.one(name, {}, kind, [found[-1], each]))
        self.wide = kind
        return found

    def _narrow(self, kind: str, value: str) -> str:
        return value if self.wide == kind else self.put(f"fptrunc double {value} to float")

    def one(self, name: str, parameters: dict[str, Any], kind: str, given: list[str]) -> str:
        """The value of an operation."""
        of, real = TYPES[kind], kind.startswith("float")
        if name in _TESTS:
            test = _TESTS[name][0 if real else 2 if kind in ("uint32", "bool") else 1]
            return self.put(f"{'fcmp' if real else 'icmp'} {test} {of} {given[0]}, {given[1]}")
        if name == "select_n":
            return self._chosen(of, TYPES[parameters["which"]], *given)
        if name in ("max", "min"):
            return self.extreme(name, kind, given[0], given[1])
        if name == "clamp":
            low, value, high = given
            return self.extreme("min", kind, self.extreme("max", kind, value, low), high)
        if name == "convert_element_type":
            return self._converted(given[0], kind, str(np.dtype(parameters["new_dtype"])))
        if name == "bitcast_convert_type":
            to = TYPES[str(np.dtype(parameters["new_dtype"]))]
            return given[0] if to == of else self.put(f"bitcast {of} {given[0]} to {to}")
        if name == "integer_pow":
            return self._power(given[0], kind, parameters["y"])
        if name == "square":
            name, given = "mul", [given[0], given[0]]
        if real:
            return self._real(name, kind, given)
        if name in _BITS:
            return self.put(f"{_BITS[name]} {of} {given[0]}, {given[1]}")
        if name == "not":
            return self.put(f"xor {of} {given[0]}, {'true' if kind == 'bool' else '-1'}")
        if kind != "bool" and name in _WHOLE:
            return self.put(f"{_WHOLE[name]} {of} {given[0]}, {given[1]}")
        if kind != "bool" and name == "neg":
            return self.put(f"sub {of} 0, {given[0]}")
        if kind != "bool" and name == "population_count":
            return self.call(f"llvm.ctpop.{of}", of, given)
        if kind != "bool" and name == "shift_left":
            inside = self.put(f"icmp ult {of} {given[1]}, {of[1:]}")
            held = self.put(f"select i1 {inside}, {of} {given[1]}, {of} 0")
            shifted = self.put(f"shl {of} {given[0]}, {held}")
            return self.put(f"select i1 {inside}, {of} {shifted}, {of} 0")
        raise NoKernelError(f"no code for {name} of {kind}")

    def _real(self, name: str, kind: str, given: list[str]) -> str:
        """An operation on reals."""
        of = TYPES[kind]
        one, zero = literal(kind, 1), literal(kind, 0)
        if name in _REAL:
            return self.put(f"{_REAL[name]} {of} {given[0]}, {given[1]}")
        if name == "neg":
            return self.put(f"fneg {of} {given[0]}")
        if name in _INTRINSIC:
            return self.call(f"llvm.{_INTRINSIC[name]}.f{kind[5:]}", of, given)
        if name == "is_finite":
            size = self.call(f"llvm.fabs.f{kind[5:]}", of, given)
            return self.put(f"fcmp olt {of} {size}, {literal(kind, np.inf)}")
        if name == "sign":
            unequal = self.put(f"fcmp une {of} {given[0]}, {zero}")  # where equal, 0, and no number stays none
            up, down = (self.put(f"fcmp {test} {of} {given[0]}, {zero}") for test in ("ogt", "olt"))
            kept = self.put(f"select i1 {unequal}, {of} {given[0]}, {of} {zero}")
            least = self.put(f"select i1 {down}, {of} {literal(kind, -1)}, {of} {kept}")
            return self.put(f"select i1 {up}, {of} {one}, {of} {least}")
        if name == "logistic":
            small = self._real("exp", kind, [self.put(f"fneg {of} {given[0]}")])
            return self.put(f"fdiv {of} {one}, {self.put(f'fadd {of} {one}, {small}')}")
        if name == "polynomial":
            value, *coefficients = given
            result = coefficients[-1]
            for coefficient in coefficients[-2::-1]:
                result = self.put(f"fadd {of} {self.put(f'fmul {of} {result}, {value}')}, {coefficient}")
            return result
        if name in CALLED:
            return self.call(name + ("f" if kind == "float32" else ""), of, given)
        raise NoKernelError(f"no code for {name} of {kind}")

    def _chosen(self, of: str, by: str, which: str, *cases: str) -> str:
        """One of several values by a flag or a number."""
        result = cases[0]
        for number, case in enumerate(cases[1:], 1):
            here = which if by == "i1" else self.put(f"icmp eq {by} {which}, {number}")
            result = self.put(f"select i1 {here}, {of} {case}, {of} {result}")
        return result

    def extreme(self, name: str, kind: str, left: str, right: str) -> str:
        """The greater or the lesser of two values; no number where one of them is none."""
        of = TYPES[kind]
        if kind == "bool":
            return self.put(f"{'or' if name == 'max' else 'and'} i1 {left}, {right}")
        if not kind.startswith("float"):
            return self.call(f"llvm.{'u' if kind == 'uint32' else 's'}{name}.{of}", of, [left, right])
        better = self.put(f"fcmp {'ogt' if name == 'max' else 'olt'} {of} {left}, {right}")
        none = self.put(f"fcmp uno {of} {left}, {left}")
        return self.put(f"select i1 {self.put(f'or i1 {better}, {none}')}, {of} {left}, {of} {right}")

    def _power(self, value: str, kind: str, exponent: int) -> str:
        """A value to a known whole power."""
        of, real = TYPES[kind], kind.startswith("float")
        one = literal(kind, 1)
        if not real and exponent < 0:
            raise NoKernelError("no code for an inverse of a whole number")
        if real and abs(exponent) > _MULTIPLIED:
            return self.call("pow" + ("f" if kind == "float32" else ""), of, [value, literal(kind, exponent)])
        if exponent == 0:
            return one
        if exponent < 0:
            value = self.put(f"fdiv {of} {one}, {value}")
        result = value
        for _ in range(abs(exponent) - 1):
            result = self.put(f"{'fmul' if real else 'mul'} {of} {result}, {value}")
        return result

    def _converted(self, value: str, kind: str, to: str) -> str:
        """A value of one type as another; of reals that do not fit into whole numbers the nearest that does."""
        of, into = TYPES[kind], TYPES[to]
        if to == "bool":
            test, zero = ("fcmp une", literal(kind, 0)) if kind.startswith("float") else ("icmp ne", "0")
            return self.put(f"{test} {of} {value}, {zero}")
        if kind.startswith("float"):
            if to.startswith("float"):
                return self.put(f"{'fpext' if to == 'float64' else 'fptrunc'} {of} {value} to {into}")
            symbol = f"llvm.fpto{'u' if to == 'uint32' else 's'}i.sat.{into}.f{kind[5:]}"
            return self.call(symbol, of, [value], into)
        unsigned = kind in ("bool", "uint32")
        if to.startswith("float"):
            return self.put(f"{'uitofp' if unsigned else 'sitofp'} {of} {value} to {into}")
        if of == into:
            return value
        widens = kind == "bool" or into == "i64"
        return self.put(f"{('zext' if unsigned else 'sext') if widens else 'trunc'} {of} {value} to {into}")
