"""How small programs are compiled: on a CPU, compiling one scalar `evaluate` is most of what a person waits for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax


@functools.cache
def quick_options() -> dict[str, Any] | None:
    """Options for a program that runs once: no LLVM optimisation and, where XLA still has them, the older loop emitters
    (jax 0.10; later versions refuse the option). Compiles `evaluate` in a third of the time; None off CPU."""
    if jax.default_backend() != "cpu":
        return None
    options: dict[str, Any] = {"xla_backend_optimization_level": 0}
    if jax.__version_info__ < (0, 11):
        options["xla_cpu_use_fusion_emitters"] = False
        options["xla_cpu_parallel_codegen_split_count"] = 1  # nothing of it runs in parallel without optimisation
    return options


def quick(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` that compiles fast rather than runs fast; decided at the first call, so that importing stays cheap."""

    @functools.cache
    def compiled() -> Callable[..., Any]:
        return jax.jit(function, compiler_options=quick_options())

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return compiled()(*arguments)

    return call
