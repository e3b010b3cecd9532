"""A pass through all layers: per-group costs, then sums over the model and the slowest pipeline stage."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from ..ops import EXACT, Ops, Scalar
from ..spec.deployment import Deployment
from ..spec.model import LayerGroup, Model
from ..spec.system import System
from ..stages.communication import layer_communication
from ..stages.flops import flops
from ..stages.latency import Assembly, overlapped, table_timing
from ..stages.operators import layer_table
from ..stages.shapes import Pass, stage_shares
from ..stages.traffic import traffic

Shares = tuple[tuple[Scalar, ...], ...]


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


def layer_cost(
    group: LayerGroup,
    model: Model,
    system: System,
    deployment: Deployment,
    work: Pass,
    assembly: Assembly,
    ops: Ops,
) -> LayerCost:
    """Cost of one layer of a group on one rank over all chunks of a pass (see `LayerCost`)."""
    device, efficiency = system.device, deployment.efficiency
    table = layer_table(group, model, device, deployment, work, ops)
    timing = table_timing(table, work, device, efficiency, assembly, ops)
    network = layer_communication(group, model, system, deployment, work, ops).total
    moved = [traffic(operator, work, ops) for operator in table.values()]
    rho = deployment.engine.overlap
    return LayerCost(
        time=overlapped(timing.time, network * work.chunks, rho, ops),
        last=overlapped(timing.last, network, rho, ops),
        compute=timing.compute,
        memory=timing.memory,
        network=network * work.chunks,
        overhead=timing.overhead,
        flops=work.chunks * sum(flops(operator, work, ops) for operator in table.values()),
        needed_bytes=work.chunks * sum(item.weights + item.kv_cache for item in moved),
    )


def over_groups(
    cost: Callable[[LayerGroup], LayerCost], model: Model, passes: int | None = None
) -> list[LayerCost]:
    """The cost of a layer of every group, for one pass or a stack of `passes`; a slot that holds no layers is skipped at run time (zeros)."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *model.groups)

    def body(group: LayerGroup) -> LayerCost:
        real = jnp.result_type(float)

        def priced() -> LayerCost:
            return jax.tree.map(lambda leaf: jnp.asarray(leaf, real), cost(group))

        def skipped() -> LayerCost:
            shape = () if passes is None else (passes,)
            return LayerCost(*[jnp.zeros(shape, real)] * len(LayerCost.__dataclass_fields__))

        return jax.lax.cond(group.count > 0, priced, skipped)

    costs = jax.lax.map(body, stacked)
    return [jax.tree.map(lambda leaf, i=i: leaf[i], costs) for i in range(len(model.groups))]


def model_shares(model: Model, deployment: Deployment, ops: Ops) -> Shares:
    """`shares[g][c]`: layers of group g in candidate stage c (see `stage_shares`)."""
    layers, pp = model.layers, deployment.parallelism.pp
    return tuple(stage_shares(g.count, g.first, g.period, g.run, layers, pp, ops) for g in model.groups)


def whole(model: Model, values: list[Scalar]) -> Scalar:
    """Sum over all layers of a per-layer value."""
    return sum(group.count * value for group, value in zip(model.groups, values, strict=True))


def slowest(
    shares: Shares, values: list[Scalar], first: Scalar, last: Scalar, pp: Scalar, ops: Ops
) -> Scalar:
    """Largest sum over a stage of a per-layer value, with what the first and the last stage do besides."""
    alone = 1 - EXACT.above(pp, 1.5)
    count = len(shares[0])
    sums = [sum(share[c] * value for share, value in zip(shares, values, strict=True)) for c in range(count)]
    sums[0] = sums[0] + first + alone * last
    sums[-1] = sums[-1] + last + alone * first
    return ops.maximum(*sums)
