"""How small programs run: for one scalar `evaluate`, compiling it is most of what a person would wait for."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer

from .tape import NoKernelError, Tape, play, record

COMPILING_S = 1e-3
"""About what compiling takes for each instruction [s]: a program that has been played for so long is compiled."""


class _Program:
    """A function for arguments of one shape: played from its tape, or compiled where that is not possible or pays."""

    def __init__(
        self, function: Callable[..., Any], compile_: Callable[..., Any], patience: float, arguments: tuple[Any, ...]
    ) -> None:
        self.function, self.compile, self.left = function, compile_, 0.0
        self.tape: Tape | None = None
        self.compiled: Callable[..., Any] | None = None
        try:
            self.tape, self.structure = record(function, *arguments)
            self.left = patience * self.tape.size
        except NoKernelError:
            self.compiled = compile_(function)

    def __call__(self, arguments: tuple[Any, ...], leaves: list[Any]) -> Any:
        if self.compiled is None and self.left <= 0:
            self.compiled = self.compile(self.function)
        if self.compiled is not None or self.tape is None:
            return (self.compiled or self.function)(*arguments)
        begun = time.perf_counter()
        results = play(self.tape, leaves)
        self.left -= time.perf_counter() - begun
        return jax.tree.unflatten(self.structure, jax.device_put(results))


class quick:  # noqa: N801, used as a decorator
    """The function for a few calls: traced, and played from its tape by NumPy in milliseconds; compiled, as by
    `jax.jit`, only where NumPy does not know an operation, or once playing has taken as long as compiling would. Under
    a transformation of JAX it is the function itself. `programs` are those of the shapes seen so far; `compile_`
    compiles, by other options than `jax.jit`'s where a function needs them, and takes about `patience` seconds for each
    instruction."""

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
        key = (structure, jax.numpy.result_type(float), *map(jax.typeof, leaves))
        if key not in self.programs:
            self.programs[key] = _Program(self.function, self.compile, self.patience, arguments)
        return self.programs[key](arguments, leaves)
