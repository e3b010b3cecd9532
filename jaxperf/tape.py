"""A traced function as a tape of NumPy instructions: for a program that runs once, reading it takes milliseconds where
compiling it takes seconds. The tape is made from what JAX traced, so it is no second copy of anything; it can be
pickled, and needs no device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr

from .numpy_kernels import KERNELS, TYPES, parameters_of

_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
_CALLS |= {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr"}


class NoKernelError(Exception):
    """The function asks for something that only a compiled program does."""


@dataclass(frozen=True)
class Tape:
    """Instructions (name, parameters, places read, places written) over numbered places: first `start` as it stands
    (constants), of which the arguments overwrite those at `arguments`; `types` and `shapes` are theirs."""

    instructions: list[tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...]]]
    start: list[Any]
    arguments: tuple[int, ...]
    types: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    results: tuple[int, ...]

    @property
    def size(self) -> int:
        """Instructions, those of branches and loops included."""
        inner = [tape for _, parameters, _, _ in self.instructions for tape in _tapes(parameters)]
        return len(self.instructions) + sum(tape.size for tape in inner)


def _tapes(parameters: dict[str, Any]) -> list[Tape]:
    found = [each for value in parameters.values() for each in (value if isinstance(value, tuple) else (value,))]
    return [each for each in found if isinstance(each, Tape)]


def record(function: Callable[..., Any], *arguments: Any) -> tuple[Tape, Any]:
    """The tape of a function of pytrees for arguments of these shapes, and the structure of its result.

    **Raises** `NoKernelError` where it uses a primitive that has no kernel, or that this version of JAX describes in
    another way.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    try:
        return _Recorder().program(_needed(closed)), jax.tree.structure(shape)
    except (KeyError, AttributeError) as error:  # another version of JAX describes a primitive in other words
        raise NoKernelError(f"no kernel: {error} is not there in jax {jax.__version__}") from None


def _needed(closed: Any) -> Any:
    """A program without what none of its results needs: a fifth of a derivative. As it is where this version of JAX has
    no such pass."""
    try:
        from jax.interpreters.partial_eval import dce_jaxpr
    except ImportError:
        return closed
    kept, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
    return ClosedJaxpr(kept, closed.consts)


def play(tape: Tape, leaves: list[Any]) -> list[Any]:
    """The results of a tape for the leaves of its arguments, as NumPy values that share no memory with them."""
    values = [np.array(leaf, kind)[()] for leaf, kind in zip(leaves, tape.types, strict=True)]
    with np.errstate(all="ignore"):
        return _run(tape, values)


def _run(tape: Tape, values: list[Any]) -> list[Any]:
    places = list(tape.start)
    for place, value in zip(tape.arguments, values, strict=True):
        places[place] = value
    for name, parameters, read, written in tape.instructions:
        found = _PLAYERS[name](*[places[place] for place in read], **parameters)
        if len(written) == 1 and name not in _SEVERAL:
            places[written[0]] = found
        else:
            for place, value in zip(written, found, strict=True):
                places[place] = value
    return [places[place] for place in tape.results]


def _cond(index: Any, *operands: Any, branches: tuple[Tape, ...]) -> list[Any]:
    return _run(branches[min(max(int(index), 0), len(branches) - 1)], list(operands))


def _scan(*operands: Any, body: Tape, length: int, reverse: bool, constants: int, carried: int) -> list[Any]:
    fixed, carry = list(operands[:constants]), list(operands[constants : constants + carried])
    over = operands[constants + carried :]
    rows: list[list[Any]] = [[] for _ in body.results[carried:]]
    for index in reversed(range(length)) if reverse else range(length):
        out = _run(body, [*fixed, *carry, *(each[index] for each in over)])
        carry = out[:carried]
        for row, value in zip(rows, out[carried:], strict=True):
            row.append(value)
    return [*carry, *(np.stack(row[::-1] if reverse else row) for row in rows)]


def _while(*operands: Any, test: Tape, body: Tape, test_constants: int, body_constants: int) -> list[Any]:
    tested, rest = list(operands[:test_constants]), operands[test_constants:]
    fixed, carry = list(rest[:body_constants]), list(rest[body_constants:])
    while np.any(going := np.asarray(_run(test, [*tested, *carry])[0])):
        after = _run(body, [*fixed, *carry])
        if going.ndim:  # mapped over leading axes: those that are done stay as they are
            carry = [
                np.where(going.reshape(going.shape + (1,) * (np.ndim(new) - going.ndim)), new, old)
                for new, old in zip(after, carry, strict=True)
            ]
        else:
            carry = after
    return carry


_PLAYERS: dict[str, Callable[..., Any]] = {**KERNELS, "cond": _cond, "scan": _scan, "while": _while}
PASSED = {"copy", "stop_gradient", "optimization_barrier"}
"""Primitives that give what they are given: no instruction."""

_SEVERAL = {"cond", "scan", "while", "split", "unstack"}


@dataclass
class _Recorder:
    """The tape of one program as it grows; `known` are the places of what an instruction that is asked for again has
    written, which then is not repeated."""

    instructions: list[tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    start: list[Any] = field(default_factory=list)
    known: dict[Any, tuple[int, ...]] = field(default_factory=dict)

    def program(self, closed: Any) -> Tape:
        jaxpr = closed.jaxpr
        if any(isinstance(value, Tracer) for value in closed.consts):
            raise NoKernelError("no tape of what is being traced")
        if any(var.aval.dtype not in TYPES for var in (*jaxpr.invars, *jaxpr.constvars)):
            raise NoKernelError("no kernel for numbers of such a type")
        places = {var: self.place() for var in jaxpr.invars}
        for var, value in zip(jaxpr.constvars, closed.consts, strict=True):
            places[var] = self.place(np.asarray(value))
        arguments = tuple(places[var] for var in jaxpr.invars)
        results = self.inline(jaxpr, places)
        types = tuple(str(var.aval.dtype) for var in jaxpr.invars)
        shapes = tuple(tuple(var.aval.shape) for var in jaxpr.invars)
        return Tape(self.instructions, self.start, arguments, types, shapes, results)

    def place(self, value: Any = None) -> int:
        self.start.append(value)
        return len(self.start) - 1

    def literal(self, value: np.ndarray) -> int:
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self.known:
            self.known[key] = (self.place(value[()]),)
        return self.known[key][0]

    def instruction(self, equation: Any, read: tuple[int, ...]) -> tuple[int, ...]:
        """Where the results of an equation are that reads these places."""
        name = equation.primitive.name
        if name in PASSED:
            return read
        parameters = _parameters(equation)
        key = (name, read, repr(sorted(parameters.items()))) if name in KERNELS else None
        if key in self.known:
            return self.known[key]
        written = tuple(self.place() for _ in equation.outvars)
        self.instructions.append((name, parameters, read, written))
        if key is not None:
            self.known[key] = written
        return written

    def inline(self, jaxpr: Any, places: dict[Any, int]) -> tuple[int, ...]:
        """Records the equations of a jaxpr whose inputs are at known places; where its results are."""

        def at(atom: Any) -> int:
            if hasattr(atom, "val"):
                return self.literal(np.asarray(atom.val, atom.aval.dtype))
            return places[atom]

        for equation in jaxpr.eqns:
            name, read = equation.primitive.name, tuple(at(atom) for atom in equation.invars)
            if name in _CALLS:
                inner = equation.params[_CALLS[name]]
                inner, constants = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
                known = {var: self.place(np.asarray(v)) for var, v in zip(inner.constvars, constants, strict=True)}
                written = self.inline(inner, known | dict(zip(inner.invars, read, strict=True)))
                places.update(zip(equation.outvars, written, strict=True))
                continue
            places.update(zip(equation.outvars, self.instruction(equation, read), strict=True))
        return tuple(at(atom) for atom in jaxpr.outvars)


def _loop_operands(given: dict[str, Any]) -> tuple[int, int]:
    """How many operands of a loop stay the same and how many it carries; newer versions of JAX hold them as trees."""
    if "ft_in" in given:
        constants, carried, _ = given["ft_in"].unpack()
        return len(list(constants)), len(list(carried))
    return given["num_consts"], given["num_carry"]


def _parameters(equation: Any) -> dict[str, Any]:
    """What an equation's player takes besides its operands."""
    name, given = equation.primitive.name, equation.params
    if name == "cond":
        return {"branches": tuple(_Recorder().program(branch) for branch in given["branches"])}
    if name == "scan":
        if not given["length"]:
            raise NoKernelError("no kernel for a loop of no rounds")
        constants, carried = _loop_operands(given)
        return {
            "body": _Recorder().program(given["jaxpr"]),
            "length": int(given["length"]),
            "reverse": bool(given["reverse"]),
            "constants": constants,
            "carried": carried,
        }
    if name == "while":
        return {
            "test": _Recorder().program(given["cond_jaxpr"]),
            "body": _Recorder().program(given["body_jaxpr"]),
            "test_constants": given["cond_nconsts"],
            "body_constants": given["body_nconsts"],
        }
    kept = parameters_of(name, given, [atom.aval for atom in equation.invars], [var.aval for var in equation.outvars])
    if kept is None:
        raise NoKernelError(f"no kernel for {name} with {sorted(given)}")
    return kept
