"""A pass through all layers: per-group costs, then sums over the model and the slowest pipeline stage."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from ..ops import EXACT, Ops, Scalar, apart, unstack
from ..spec.model import LayerGroup, Model
from ..stages.communication import layer_communication
from ..stages.forms import core_shape
from ..stages.latency import Assembly, overlapped, table_timing
from ..stages.options import optioned_table
from ..stages.plan import Plan
from ..stages.shapes import Pass, in_turns, stage_shares


class LayerCost(eqx.Module):
    """One layer over all chunks of a pass: `time` with communication, `last` of the last chunk, and what they are made
    of: `compute`, `memory`, `network`, `overhead` [s]; `flops`, and `needed_bytes` of weights and KV cache."""

    time: Scalar
    last: Scalar
    compute: Scalar
    memory: Scalar
    network: Scalar
    overhead: Scalar
    flops: Scalar
    needed_bytes: Scalar


def layer_cost(group: LayerGroup, plan: Plan, work: Pass, assembly: Assembly, ops: Ops) -> LayerCost:
    """Cost of one layer of a group on one rank over all chunks of a pass (see `LayerCost`), in turns where two halves
    of the batch take them."""
    work, turns, rho = in_turns(work, plan.deployment.engine, ops)
    table = optioned_table(group, plan, work, ops)
    timing = table_timing(table, plan, work, assembly, ops)
    network = layer_communication(group, core_shape(table), plan, work, ops).total
    in_halves = plan.deployment.engine.two_batch is not None
    cost = LayerCost(
        time=overlapped(timing.time, network * work.chunks, rho, ops),
        # One half on its way through the other stages computes and communicates in turn: only the other half hides it.
        last=timing.last + network if in_halves else overlapped(timing.last, network, rho, ops),
        compute=timing.compute,
        memory=timing.memory,
        network=network * work.chunks,
        overhead=timing.overhead,
        flops=timing.flops,
        needed_bytes=timing.needed_bytes,
    )
    return jax.tree.map(lambda leaf: turns * leaf, cost) if in_halves else cost


def over_groups(
    cost: Callable[[LayerGroup], LayerCost], stacked: LayerGroup, passes: int | None = None
) -> list[LayerCost]:
    """The cost of a layer of every group, for one pass or a stack of `passes`; a slot that holds no layers is skipped
    at run time (zeros)."""
    real = jnp.result_type(float)

    def body(group: LayerGroup) -> LayerCost:
        def priced() -> LayerCost:
            return jax.tree.map(lambda leaf: jnp.asarray(leaf, real), cost(group))

        def skipped() -> LayerCost:
            shape = () if passes is None else (passes,)
            return LayerCost(*[jnp.zeros(shape, real)] * len(LayerCost.__dataclass_fields__))

        return jax.lax.cond(group.count > 0, priced, skipped)

    return apart(jax.lax.map(body, stacked))


def model_shares(stacked: LayerGroup, plan: Plan, ops: Ops) -> Scalar:
    """[groups, candidates] layers of each group in each candidate stage (see `stage_shares`)."""
    layers, pp = plan.model.layers, plan.deployment.parallelism.pp
    return jax.vmap(lambda group: stage_shares(group, layers, pp, ops))(stacked)


def whole(model: Model, values: list[Scalar]) -> Scalar:
    """Sum over all layers of a per-layer value."""
    return sum(group.count * value for group, value in zip(model.groups, values, strict=True))


def slowest(shares: Scalar, values: list[Scalar], first: Scalar, last: Scalar, pp: Scalar, ops: Ops) -> Scalar:
    """Largest sum over a stage of a per-layer value, with what the first and the last stage do besides."""
    alone = 1 - EXACT.above(pp, 1.5)
    count = shares.shape[1]
    held = unstack(jnp.reshape(shares, -1))
    sums = [sum(share * value for share, value in zip(held[c::count], values, strict=True)) for c in range(count)]
    sums[0] = sums[0] + first + alone * last
    sums[-1] = sums[-1] + last + alone * first
    return ops.maximum(*sums)
