"""How small programs run: for one scalar `evaluate`, compiling it is most of what a person would wait for."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from .tape import NoKernelError, Tape, play, record

COMPILING_S = 1e-3
"""About what compiling takes for each instruction [s]: a program that has been played for so long is compiled."""

NATIVE_S = 6e-5
"""The same for code of our own (see `native.scalar`), which is for programs of small arrays alone."""

_on_device = jax.jit(lambda values: values)  # a tenth of the time of `jax.device_put`


def _native(tape: Tape) -> Any:
    """The code of a tape; None where there is none for it, or no LLVM."""
    from .native.scalar import Compiled

    try:
        return Compiled(tape)
    except NoKernelError:
        return None


class _Program:
    """A function for arguments of one shape: played from its tape, or compiled where that is not possible or pays."""

    def __init__(
        self, function: Callable[..., Any], compile_: Callable[..., Any], patience: float, arguments: tuple[Any, ...]
    ) -> None:
        self.function, self.compile, self.patience, self.played = function, compile_, patience, 0.0
        self.tape: Tape | None = None
        self.asked = False
        self.native: Callable[[list[Any]], list[Any]] | None = None
        self.compiled: Callable[..., Any] | None = None
        try:
            self.tape, self.structure = record(function, *arguments)
        except NoKernelError:
            self.compiled = compile_(function)

    def __call__(self, arguments: tuple[Any, ...], leaves: list[Any]) -> Any:
        tape = self.tape
        if tape is not None and self.compiled is None:
            if not self.asked and self.played >= NATIVE_S * tape.size:
                self.native, self.asked = _native(tape), True
            if self.native is not None:
                return jax.tree.unflatten(self.structure, _on_device(self.native(leaves)))
            if self.played < self.patience * tape.size:
                begun = time.perf_counter()
                results = play(tape, leaves)
                self.played += time.perf_counter() - begun
                return jax.tree.unflatten(self.structure, jax.device_put(results))
        compiled = self.compiled = self.compiled or self.compile(self.function)
        return compiled(*arguments)


class quick:  # noqa: N801, used as a decorator
    """The function for a few calls: traced, and played from its tape by NumPy in milliseconds; compiled only once
    playing has taken as long as that would: in a fraction of a second by ourselves where all its arrays are small, else
    as by `jax.jit`, as is what NumPy does not know. Under a transformation of JAX it is the function itself. `programs`
    are those of the shapes seen so far; `compile_` compiles in place of `jax.jit`, by other options where a function
    needs them, and takes about `patience` seconds for each instruction."""

    def __init__(
        self,
        function: Callable[..., Any],
        compile_: Callable[..., Any] = jax.jit,
        patience: float = COMPILING_S,
    ) -> None:
        self.function, self.compile, self.patience = function, compile_, patience
        self.programs: dict[Any, _Program] = {}
        functools.update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return self.function(*arguments)
        key = (structure, jax.numpy.result_type(float), *map(_type, leaves))
        if key not in self.programs:
            self.programs[key] = _Program(self.function, self.compile, self.patience, arguments)
        return self.programs[key](arguments, leaves)


def _type(leaf: Any) -> Any:
    """JAX's type of an array or a number."""
    return leaf.aval if isinstance(leaf, jax.Array) else jax.typeof(leaf)


class mapped:  # noqa: N801, used as a decorator
    """The function mapped over leading axes of the arguments for which `axes` says 0 (and not of those of None), as
    `jax.vmap` maps it: traced for one row, compiled by ourselves at once, and called for each row. Where that is not
    possible, and under a transformation of JAX, it is `otherwise`, by default `quick` of the mapped function with these
    settings. `programs` are those of the rows seen so far."""

    def __init__(
        self,
        function: Callable[..., Any],
        axes: tuple[int | None, ...],
        otherwise: Callable[..., Any] | None = None,
        **settings: Any,
    ) -> None:
        self.function, self.axes = function, axes
        self.otherwise = otherwise or quick(jax.vmap(function, in_axes=axes), **settings)
        self.programs: dict[Any, tuple[Any, Any]] = {}
        functools.update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return self.otherwise(*arguments)
        axes = [axis for axis, part in zip(self.axes, arguments, strict=True) for _ in jax.tree.leaves(part)]
        first = [leaf if axis is None else np.asarray(leaf)[0] for leaf, axis in zip(leaves, axes, strict=True)]
        key = (structure, jax.numpy.result_type(float), *map(_type, first))
        if key not in self.programs:
            self.programs[key] = self._program(jax.tree.unflatten(structure, first))
        native, results = self.programs[key]
        if native is None:
            return self.otherwise(*arguments)
        return jax.tree.unflatten(results, jax.device_put(native.rows(leaves, axes)))

    def _program(self, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
        """The code for one row, None where there is none, and the structure of its results."""
        try:
            tape, results = record(self.function, *arguments)
        except NoKernelError:
            return None, None
        return _native(tape), results
