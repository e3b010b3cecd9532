"""What a gradient costs beside the value: the mean end-to-end time of a scan, with respect to eight scalars of the
hardware that all configurations share, in forward mode: each number that depends on the hardware brings eight more."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxperf.constants import DTYPES
from jaxperf.native.kernel import Batches, Kernel
from jaxperf.scan import engine
from jaxperf.scan.engine import Hardware
from jaxperf.scan.native import Kernels
from jaxperf.scan.plan import Prepared, block_shape, prepare

from .cases import Work, peak_memory, summary, timed
from .machine import cores

SCALARS = (
    *("memory bandwidth", "sustained share", "16-bit peak", "8-bit peak", "4-bit peak"),
    *("fabric bandwidth", "message latency", "switch latency"),
)
"""What the factors multiply, in every system: all memories, three of the peaks, the innermost tier of the fabric."""


def scaled(system: Any, factors: Any) -> Any:
    """A system with its hardware multiplied by eight factors, in the order of `SCALARS`."""

    def leaves(system: Any) -> list[Any]:
        device, inner = system.device, system.fabric[0]
        return [
            *(tier.bandwidth for tier in device.memory.tiers),
            *(tier.sustained for tier in device.memory.tiers),
            *(device.peak[DTYPES.index(name)] for name in ("bf16", "fp8", "fp4")),
            *(inner.bandwidth, inner.alpha, inner.switch_alpha),
        ]

    memories = len(system.device.memory.tiers)
    multipliers = [factors[0]] * memories + [factors[1]] * memories + list(factors[2:])
    new = [leaf * factor for leaf, factor in zip(leaves(system), multipliers, strict=True)]
    return eqx.tree_at(leaves, system, new)


def results(slopes: bool, fixed: Any, row: dict[str, Any], batch: Any, chunk: Any) -> list[Any]:
    """End-to-end time [s] of a configuration, its `slopes` by the factors where asked for, 0 where it is infeasible,
    and its reason."""
    (model, settings), (size, real) = fixed, batch

    def time_of(factors: Any) -> tuple[Any, Any]:
        hardware = Hardware(scaled(row["system"], factors), row["efficiency"], row["precision"], row["degrees"])
        metrics = engine.priced(model, hardware, settings, row["lengths"], size, chunk)
        (score,), reason = engine.judged(metrics, real, ("e2e",))
        return metrics.e2e, (metrics.e2e, score > -jnp.inf, reason)

    ones = np.ones(len(SCALARS), jnp.result_type(float))
    if not slopes:
        value, (_, alive, reason) = time_of(ones)
        return [jnp.where(alive, value, 0.0), reason]
    found, (value, alive, reason) = jax.jacfwd(time_of, has_aux=True)(ones)
    return [*(jnp.where(alive, each, 0.0) for each in (value, *found)), reason]


def blocks(prepared: Prepared, kernels: Kernels) -> list[tuple[Kernel, int, tuple[int, int], Any, Batches]]:
    """The blocks of all groups: kernel, group, first row and how many, chunks, batches."""
    shape, found = block_shape(prepared, whole=True), []
    for index, group in enumerate(prepared.groups):
        kernel = kernels.of(index).kernel
        for number in range(group.blocks(shape)):
            part = group.part(number, shape)
            chunk = np.asarray(group.chunk[part.chunk[0] :][: part.chunk[1]], kernel.real)
            found.append((kernel, index, part.row, chunk, kernels.filled(kernel, group, part)))
    return found


def measure(work: Work) -> dict[str, Any]:
    """The mean and its gradient, the same blocks through each, and what the second costs over the first."""
    prepared = prepare(work.load())
    found: dict[str, Any] = {}
    for name, slopes in (("forward", False), ("gradient", True)):
        started = time.perf_counter()
        labels = ("e2e", *SCALARS) if slopes else ("e2e",)
        kernels = Kernels(prepared, labels, results=partial(results, slopes), total=True)
        parts = blocks(prepared, kernels)
        compile_s = time.perf_counter() - started
        sums: list[Any] = []

        def one(part: Any, kernels: Kernels = kernels) -> tuple[np.ndarray, int]:
            kernel, index, rows, chunk, batches = part
            shared = kernel.share(kernels.rows(index, *rows), rows[1], chunk)
            block = kernel.block(shared, batches)
            return block.highest.sum(axis=(1, 2, 3), dtype=np.float64), int(block.counts[1])

        def run(one: Any = one, parts: Any = parts, sums: Any = sums) -> int:
            with ThreadPoolExecutor(cores()) as pool:
                sums[:] = list(pool.map(one, parts))
            return prepared.configurations

        found[name] = summary(timed(run, work.repeats + 1)[1:], prepared.configurations, compile_s)
        if slopes:
            total, real = np.sum([each for each, _ in sums], axis=0), sum(count for _, count in sums)
            found["mean_e2e_s"] = float(total[0] / real)
            found["elasticities"] = dict(zip(SCALARS, (total[1:] / total[0]).tolist(), strict=True))
    forward, gradient = found["forward"], found["gradient"]
    found["ratio_to_forward"] = forward["configurations_per_s"] / gradient["configurations_per_s"]
    return found | {"peak_memory_bytes": peak_memory()} | {k: gradient[k] for k in _OWN}


_OWN = ("configurations", "configurations_per_s", "cpu_ns_per_configuration", "compile_s", "runs")
