"""What a gradient costs beside the value: the mean end-to-end time over many configurations, with respect to eight
scalars of the hardware that all of them share, in reverse mode, block by block."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxperf.constants import DTYPES
from jaxperf.scan.engine import Inputs, evaluate_block, hardware_of, judged, priced
from jaxperf.scan.inputs import block_arguments, group_inputs
from jaxperf.scan.plan import Shape, prepare

from .cases import FLAT_BLOCK, Work, flat_list, peak_memory, summary, timed
from .machine import cores

SCALARS = (
    *("memory bandwidth", "sustained share", "16-bit peak", "8-bit peak", "4-bit peak"),
    *("fabric bandwidth", "message latency", "switch latency"),
)
"""What the factors multiply, in every system: all memories, three of the peaks, the innermost tier of the fabric."""

BLOCK = 2**14


def scaled(inputs: Inputs, factors: Any) -> Inputs:
    """The inputs with every system's hardware multiplied by eight factors, in the order of `SCALARS`."""

    def leaves(systems: Any) -> list[Any]:
        device, inner = systems.device, systems.fabric[0]
        return [
            *(tier.bandwidth for tier in device.memory.tiers),
            *(tier.sustained for tier in device.memory.tiers),
            *(device.peak[DTYPES.index(name)] for name in ("bf16", "fp8", "fp4")),
            *(inner.bandwidth, inner.alpha, inner.switch_alpha),
        ]

    memories = len(inputs.systems.device.memory.tiers)
    multipliers = [factors[0]] * memories + [factors[1]] * memories + list(factors[2:])
    new = [leaf * factor for leaf, factor in zip(leaves(inputs.systems), multipliers, strict=True)]
    return eqx.tree_at(lambda i: i.systems, inputs, eqx.tree_at(leaves, inputs.systems, new))


def total(scores: Any) -> tuple[Any, Any]:
    """Sum of the end-to-end times of feasible configurations [s], and how many there are."""
    real = scores > -jnp.inf
    return jnp.sum(jnp.where(real, -scores, 0.0)), jnp.sum(real)


def product_total(factors: Any, model: Any, inputs: Inputs, arguments: Any) -> tuple[Any, Any]:
    """`total` of a block of the product."""
    return total(evaluate_block(model, scaled(inputs, factors), arguments, ("e2e",))[0][0])


def flat_total(factors: Any, model: Any, inputs: Inputs, mine: Any) -> tuple[Any, Any]:
    """`total` of a block of a flat list."""
    changed = scaled(inputs, factors)

    def one(item: Any) -> Any:
        lengths, hardware = (item.isl, item.osl, changed.slo), hardware_of(changed, item.point)
        metrics = priced(model, hardware, changed.engine, lengths, item.batch, item.chunk)
        return judged(metrics, item.point.real, ("e2e",))[0][0]

    return total(jax.vmap(one)(mine))


def product_blocks(work: Work) -> tuple[Any, list[tuple[Any, int]]]:
    """Model and inputs of the first group, and its blocks with how many configurations each holds."""
    prepared = prepare(work.load())
    group = prepared.groups[0]
    model, inputs = group_inputs(prepared, 0)
    chunks, batches = min(len(group.chunk), 4), len(group.batch)
    shape = Shape(max(min(BLOCK // (chunks * batches), len(group.rows)), 1), chunks, batches)
    parts = [group.part(n, shape) for n in range(min(group.blocks(shape), max(work.flat // shape.size, 1)))]
    blocks = [(block_arguments(prepared, group, part, shape), part.configurations) for part in parts]
    return (model, inputs), jax.device_put(blocks)


def flat_blocks(work: Work) -> tuple[Any, list[tuple[Any, int]]]:
    """Model and inputs of the first model's flat list, and its blocks."""
    prepared = prepare(work.load())
    model, inputs, everything = flat_list(prepared, prepared.space.models[0], work.flat)
    length = everything.batch.size
    size = min(FLAT_BLOCK, length)
    blocks = [
        (jax.tree.map(lambda leaf, s=start: leaf[s : s + size], everything), size)
        for start in range(0, length // size * size, size)
    ]
    return (model, inputs), jax.device_put(blocks)


def measure(work: Work, form: str) -> dict[str, Any]:
    """The mean and its gradient, the same blocks through each, and what the second costs over the first."""
    (model, inputs), blocks = product_blocks(work) if form == "product" else flat_blocks(work)
    value = product_total if form == "product" else flat_total
    factors = jnp.ones(len(SCALARS))
    configurations = sum(int(count) for _, count in blocks)
    found: dict[str, Any] = {"block": configurations // len(blocks)}
    workers = min(cores() + 1, 4)
    for name, function in (("forward", value), ("gradient", jax.value_and_grad(value, has_aux=True))):
        started = time.perf_counter()
        compiled = jax.jit(function).lower(factors, model, inputs, blocks[0][0]).compile()
        compile_s = time.perf_counter() - started
        held: list[Any] = []

        def run(compiled: Any = compiled, held: list[Any] = held) -> int:
            with ThreadPoolExecutor(workers) as pool:
                held[:] = pool.map(
                    lambda block: jax.device_get(compiled(factors, model, inputs, block[0])), list(blocks)
                )
            return configurations

        found[name] = summary(timed(run, work.repeats + 1)[1:], configurations, compile_s)
        if name == "gradient":
            real = sum(float(aux[1]) for aux, _ in held)
            mean = sum(float(aux[0]) for aux, _ in held) / real
            slopes: list[float] = (np.sum([slope for _, slope in held], axis=0) / real / mean).tolist()
            found |= {"mean_e2e_s": mean, "elasticities": dict(zip(SCALARS, slopes, strict=True))}
    forward, gradient = found["forward"], found["gradient"]
    found["ratio_to_forward"] = forward["configurations_per_s"] / gradient["configurations_per_s"]
    return found | {"peak_memory_bytes": peak_memory()} | {k: gradient[k] for k in _OWN}


_OWN = ("configurations", "configurations_per_s", "cpu_ns_per_configuration", "compile_s", "runs")
