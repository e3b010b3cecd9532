"""Scalar expressions as numbered nodes: each written once, folded where its operands are known, and marked with the
axes that it depends on."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numpy_kernels import KERNELS

ROW, BATCH, CHUNK, SYSTEM, FORMATS = 1, 2, 4, 8, 16
"""Axes that a node may depend on; their sum is its `mask`, 0 for what is known while the code is written. A row has a
system and formats among a few; what depends on one of these alone is the same for all rows that have it."""

ROWS = ROW | SYSTEM | FORMATS
"""All that belongs to a row."""

KINDS = {"f": "f", "i": "i", "u": "i", "b": "b"}
"""Kinds of numbers by NumPy's: floating point, integer, boolean."""

COMPARISONS = {"eq", "ne", "gt", "ge", "lt", "le"}
_FLAGS = COMPARISONS | {"is_finite"}
_COMMUTE = {"add", "mul", "and", "or", "eq", "ne"}


class Graph:
    """Nodes in the order in which they were made, so that operands come first.

    A literal is part of the code; a *given* value is known, too, but belongs to one model, and the code reads it from a
    table, so that models whose values are zero, one or absent in the same places share their code. `names`, `operands`,
    `masks`, `kinds` and `values` (None where not known) are by node; `literal` tells which known ones are literals.
    With `reciprocals`, what is divided in an inner loop by what belongs to an outer one is multiplied by its inverse.
    """

    def __init__(self, real: np.dtype, reciprocals: bool = False) -> None:
        self.real, self.reciprocals = np.dtype(real), reciprocals
        self.names: list[str] = []
        self.operands: list[tuple[int, ...]] = []
        self.masks: list[int] = []
        self.kinds: list[str] = []
        self.values: list[Any] = []
        self.literal: list[bool] = []
        self.known: dict[Any, int] = {}

    def _add(self, name: str, operands: tuple[int, ...], mask: int, kind: str, value: Any, literal: bool) -> int:
        self.names.append(name)
        self.operands.append(operands)
        self.masks.append(mask)
        self.kinds.append(kind)
        self.values.append(value)
        self.literal.append(literal)
        return len(self.names) - 1

    def constant(self, value: Any) -> int:
        """A literal."""
        value = np.asarray(value)[()]
        key = (value.dtype.str, value.tobytes())
        if key not in self.known:
            self.known[key] = self._add("literal", (), 0, KINDS[value.dtype.kind], value, True)
        return self.known[key]

    def given(self, value: Any, key: Any) -> int:
        """A value that belongs to the model, named by `key`: a literal where it is 0, 1 or no floating point."""
        value = np.asarray(value)[()]
        if value.dtype.kind != "f" or value == 0 or value == 1:
            return self.constant(value)
        key = ("given", key)
        if key not in self.known:
            self.known[key] = self._add("given", (), 0, "f", value, False)
        return self.known[key]

    def input(self, place: int, mask: int, kind: str) -> int:
        """A number that differs along the axes of `mask`: the `place`-th of all inputs."""
        return self._add("input", (place,), mask, kind, None, False)

    def is_value(self, node: int, value: float) -> bool:
        """Whether a node is known to have this value."""
        known = self.values[node]
        return known is not None and known == value

    def apply(self, name: str, operands: tuple[int, ...], kind: str, **parameters: Any) -> int:
        """The node of an operation on nodes: what it folds to, the same one as before, or a new one.

        A product with a known zero is zero: what a model lacks leaves no code. That holds for finite numbers, as all of
        evaluate's are.
        """
        folded = self._folded(name, operands)
        if folded is not None:
            return folded
        if name in _COMMUTE and operands[0] > operands[1]:
            operands = operands[::-1]
        key = (name, operands, *sorted(parameters.items(), key=lambda item: item[0]))
        if key in self.known:
            return self.known[key]
        values = [self.values[node] for node in operands]
        if all(value is not None for value in values):
            with np.errstate(all="ignore"):
                value = KERNELS[name](*values, **parameters)
            literal = all(self.literal[node] for node in operands)
            node = self.constant(value) if literal else self.given(value, key)
        else:
            mask = 0
            for operand in operands:
                mask |= self.masks[operand]
            label = name if not parameters else f"{name} {','.join(str(v) for v in parameters.values())}"
            node = self._add(label, operands, mask, kind, None, False)
        self.known[key] = node
        return node

    def _folded(self, name: str, operands: tuple[int, ...]) -> int | None:
        """What an operation is without being computed, None where it must be."""
        if name == "mul":
            for one, other in (operands, operands[::-1]):
                if self.is_value(one, 0):
                    return one
                if self.is_value(one, 1):
                    return other
        elif name in ("add", "add_any"):
            for one, other in (operands, operands[::-1]):
                if self.is_value(one, 0):
                    return other
        elif name == "sub" and self.is_value(operands[1], 0):
            return operands[0]
        elif name == "div":
            if self.is_value(operands[1], 1) or self.is_value(operands[0], 0):
                return operands[0]
            if self.reciprocals and self.kinds[operands[1]] == "f" and self._is_outer(*operands[::-1]):
                one = self.constant(self.real.type(1))
                return self.apply("mul", (operands[0], self.apply("div", (one, operands[1]), "f")), "f")
        elif name == "select_n":
            return self._selected(*operands)
        elif name in COMPARISONS:
            return self._compared(name, operands)
        elif name in ("and", "or") and self.kinds[operands[0]] == "b":
            for one, other in (operands, operands[::-1]):
                if self.values[one] is not None:
                    return other if bool(self.values[one]) == (name == "and") else one
            if operands[0] == operands[1]:
                return operands[0]
        return None

    def _selected(self, which: int, *cases: int) -> int | None:
        """What a choice is without being made. One within another that leaves the same literal is made at once, or, of
        what belongs to an outer loop, there."""
        if self.values[which] is not None:
            return cases[int(self.values[which])]
        if len(set(cases)) == 1:
            return cases[0]
        if self.kinds[which] != "b" or not self.literal[cases[0]]:
            return None
        left, case = cases
        kind = self.kinds[case]
        if self.names[which] == "and" and self.masks[case]:
            for inner, outer in (self.operands[which], self.operands[which][::-1]):
                if _is_within(self.masks[outer] | self.masks[case], self.masks[inner]):
                    case = self.apply("select_n", (outer, left, case), kind)
                    return self.apply("select_n", (inner, left, case), kind)
        if self.names[case] == "select_n" and self.operands[case][1] == left and not self._is_outer(case, which):
            within, _, value = self.operands[case]
            if self.kinds[within] == "b":
                return self.apply("select_n", (self.apply("and", (which, within), "b"), left, value), kind)
        return None

    def _compared(self, name: str, operands: tuple[int, ...]) -> int | None:
        """A comparison of a choice among literals with a literal: the flag of the choice, or its opposite."""
        for place, node in enumerate(operands):
            if self.names[node] == "select_n" and self.literal[operands[1 - place]]:
                which, *cases = self.operands[node]
                if self.kinds[which] == "b" and all(self.literal[case] for case in cases):
                    found = [self.apply(name, (*operands[:place], case, *operands[place + 1 :]), "b") for case in cases]
                    no, yes = (bool(self.values[each]) for each in found)
                    return found[0] if no == yes else which if yes else self.apply("not", (which,), "b")
        return None

    def _is_outer(self, node: int, other: int) -> bool:
        """Whether a node depends on some axes of another, but not on all of them."""
        return _is_within(self.masks[node], self.masks[other])

    def kind_of(self, name: str, operands: tuple[int, ...]) -> str:
        """The kind of number that an operation gives, where its name or its operands tell."""
        if name in _FLAGS:
            return "b"
        return self.kinds[operands[-1]]

    def needed(self, results: list[int]) -> list[int]:
        """The nodes that some results stand on, themselves included, in order."""
        seen, open_ = set(), list(results)
        while open_:
            node = open_.pop()
            if node not in seen:
                seen.add(node)
                if self.names[node] != "input":
                    open_.extend(self.operands[node])
        return sorted(seen)


def _is_within(mask: int, other: int) -> bool:
    """Whether some axes are a part of others, but not all of them."""
    return mask != other and mask | other == other
