"""The scan's program: blocks of rows × chunks × batches, evaluated as nested vmaps and reduced on the device.

The product is evaluated as nested vmaps, so that work which depends on a layout alone is done once a layout. The model
is the block's own, un-vmapped: what it lacks is skipped by a branch, not computed and thrown away."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..phases.end_to_end import Metrics, evaluate
from ..spec.deployment import Deployment, Parallelism
from ..spec.model import Model
from ..spec.workload import Slo, Workload
from .parse import MAXIMISED
from .plan import Shape
from .reduce import Block, Place, Reduction
from .space import DEGREES


class Point(eqx.Module):
    """One row of a block: its system (an index into the group's, or the system itself where there are too many to
    stack), indices of its efficiency and precision, its degrees, whether it is real; indices of its values along the
    axes where a reduction asks for them."""

    system: Any
    efficiency: Any
    precision: Any
    degrees: Any
    real: Any
    axes: Any


class Inputs(eqx.Module):
    """What all blocks of a group share: stacked systems (None where rows carry their own), efficiencies and precisions,
    engine settings, lengths [tokens], targets [s]."""

    systems: Any
    efficiencies: Any
    precisions: Any
    engine: Any
    isl: Any
    osl: Any
    slo: Slo


class Values(eqx.Module):
    """The chunk sizes [tokens] or batches of a block, and which of them are real (None: all)."""

    size: Any
    real: Any


class Arguments(eqx.Module):
    """What differs from block to block."""

    points: Point
    chunks: Values
    batches: Values
    place: Place


class Hardware(eqx.Module):
    """What a row runs on and in which formats: its system, efficiency and precision, and its degrees."""

    system: Any
    efficiency: Any
    precision: Any
    degrees: Any


def configuration(
    hardware: Hardware, engine: Any, lengths: tuple[Any, Any, Slo], batch: Any, chunk: Any
) -> tuple[Any, Deployment, Workload]:
    """System, deployment and workload of one configuration; `lengths` are prompt and output [tokens], and targets."""
    isl, osl, slo = lengths
    one = jnp.ones((), jnp.result_type(float))
    layout = Parallelism(*[hardware.degrees[i] for i in range(len(DEGREES))], replicas=one)
    engine = eqx.tree_at(lambda e: e.chunk, engine, chunk)
    deployment = Deployment(layout, hardware.precision, engine, hardware.efficiency)
    return hardware.system, deployment, Workload(isl, osl, batch, one, slo)


def hardware_of(inputs: Inputs, point: Point) -> Hardware:
    """What a point's indices stand for."""
    system = point.system
    if inputs.systems is not None:
        system = jax.tree.map(lambda leaf: leaf[point.system], inputs.systems)
    efficiency = jax.tree.map(lambda leaf: leaf[point.efficiency], inputs.efficiencies)
    precision = jax.tree.map(lambda leaf: leaf[point.precision], inputs.precisions)
    return Hardware(system, efficiency, precision, point.degrees)


def score(metrics: Metrics, name: str) -> Any:
    """A metric as a number of which more is better: itself or its negative; −∞ where infeasible or unknown (a price
    that no spec states)."""
    value = getattr(metrics, name)
    value = value if name in MAXIMISED else -value
    return jnp.where((metrics.feasible > 0) & jnp.isfinite(value), value, -jnp.inf)


def priced(
    model: Model, hardware: Hardware, engine: Any, lengths: tuple[Any, Any, Slo], batch: Any, chunk: Any
) -> Metrics:
    """All that one configuration of a scan does."""
    system, deployment, workload = configuration(hardware, engine, lengths, batch, chunk)
    return evaluate(model, system, deployment, workload)


def judged(metrics: Metrics, real: Any, wanted: tuple[str, ...]) -> tuple[tuple[Any, ...], Any]:
    """Scores of the `wanted` metrics of one configuration, −∞ where it is not `real`, and its reason, then −1."""
    # E2E, of which TTFT and TPOT are parts, takes part in what is feasible, so that none of them can be left out.
    sound = jnp.isfinite(metrics.e2e + metrics.memory.total)
    values = [jnp.where(real & sound, score(metrics, name), -jnp.inf) for name in wanted]
    return tuple(values), jnp.where(real, metrics.reason, -1.0)


def evaluate_block(
    model: Model, inputs: Inputs, arguments: Arguments, wanted: tuple[str, ...]
) -> tuple[tuple[Any, ...], Any]:
    """Scores of the `wanted` metrics and reasons of all configurations of a block, [points, chunks, batches] each."""

    def one(point: Point, chunk: Values, batch: Values) -> tuple[Any, ...]:
        real = point.real & chunk.real
        if batch.real is not None:
            real = real & batch.real
        hardware, lengths = hardware_of(inputs, point), (inputs.isl, inputs.osl, inputs.slo)
        metrics = priced(model, hardware, inputs.engine, lengths, batch.size, chunk.size)
        scores, reason = judged(metrics, real, wanted)
        return scores, reason.astype(jnp.int8)

    inner = jax.vmap(one, in_axes=(None, None, 0))
    middle = jax.vmap(inner, in_axes=(None, 0, None))
    return jax.vmap(middle, in_axes=(0, None, None))(arguments.points, arguments.chunks, arguments.batches)


def _flat(scores: tuple[Any, ...], reason: Any, arguments: Arguments, wanted: tuple[str, ...]) -> Block:
    """A block as reductions see it, in the order point, chunk, batch."""
    flat = {name: value.ravel() for name, value in zip(wanted, scores, strict=True)}
    return Block(flat, reason.ravel(), arguments.place, arguments.points.axes, reason.shape)


def wanted_metrics(kept: tuple[Reduction, ...], columns: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The metrics that reductions and a table ask for, each once."""
    return tuple(dict.fromkeys((*(name for reduction in kept for name in reduction.metrics), *columns)))


Program = Callable[..., Any]


@functools.lru_cache(maxsize=16)
def program(kept: tuple[Reduction, ...], columns: tuple[str, ...], shape: Shape, devices: tuple[Any, ...]) -> Program:
    """The compiled step: model, inputs, arguments of a block, states → states, crowding, and the table's columns.

    **Arguments:** the reductions `kept`; metrics that leave as `columns` of a table; the `shape` of blocks; `devices`
    of this process. On several, arguments and states have a leading axis, a block for each device.
    """
    wanted = wanted_metrics(kept, columns)

    def step(model: Model, inputs: Inputs, arguments: Arguments, states: Any) -> Any:
        scores, reason = evaluate_block(model, inputs, arguments, wanted)

        def reduced(scores: tuple[Any, ...], reason: Any, states: Any) -> Any:
            block = _flat(scores, reason, arguments, wanted)
            return tuple(reduction.update(state, block) for reduction, state in zip(kept, states, strict=True))

        # A branch that is always taken: what it reads is computed once, not anew in every reduction (see `ops.settle`),
        # and in three axes, whose innermost is a vector; as part of a flat array it would not be one.
        states = jax.lax.cond(model.vocabulary_size > 0, reduced, lambda *given: given[-1], scores, reason, states)
        crowding = jnp.zeros((), jnp.int32)
        for reduction, state in zip(kept, states, strict=True):
            crowding = jnp.maximum(crowding, reduction.crowding(state))
        block = _flat(scores, reason, arguments, wanted)
        return states, crowding, ([block.scores[name] for name in columns], block.reason) if columns else None

    # XLA cuts long sums into windows, which are slower than the sums and keep what they add from being fused.
    options = {"xla_disable_hlo_passes": "tree_reduction_rewriter"} if devices[0].platform == "cpu" else None
    if len(devices) == 1:
        return jax.jit(step, compiler_options=options)
    mesh = jax.sharding.Mesh(np.asarray(devices), ("device",))
    spread, same = jax.sharding.PartitionSpec("device"), jax.sharding.PartitionSpec()

    def each(model: Model, inputs: Inputs, arguments: Arguments, states: Any) -> Any:
        mine = jax.tree.map(lambda leaf: leaf[0], (arguments, states))
        return jax.tree.map(lambda leaf: leaf[None], step(model, inputs, *mine))

    sharded = jax.shard_map(each, mesh=mesh, in_specs=(same, same, spread, spread), out_specs=spread, check_vma=False)
    return jax.jit(sharded, compiler_options=options)
