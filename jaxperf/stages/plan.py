"""What every pass of one configuration shares, computed once: arithmetic by class, collectives as lines, degrees."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..collectives.steps import Step, group_steps
from ..collectives.topology import Envelope, Line, exchange_envelope, exchange_of, gather_of, hop_line, reduce_of
from ..constants import AXES, DTYPES
from ..ops import Ops, Scalar, apart, choose, clamp, settle_together, stack
from ..spec.deployment import Deployment, Efficiency, Parallelism, WeightFormat
from ..spec.model import LayerGroup, Model
from ..spec.system import Device, Software, System, Tier
from .kernels import kernels
from .placement import Slowdown, main_rate
from .routing import normal_score


class Arithmetic(eqx.Module):
    """How a class of weights is computed on a device: stored width, width of the GEMM's input [bytes per element],
    peak [FLOP/s]."""

    weight_width: Scalar
    input_width: Scalar
    peak: Scalar


def select(values: tuple[Scalar, ...], dtype: Any) -> Scalar:
    """The entry of a table by `DTYPES` for a (traced) type index."""
    result = values[0]
    for index in range(1, len(DTYPES)):
        result = choose(dtype == index, values[index], result)
    return result


def arithmetic(form: WeightFormat, device: Device) -> Arithmetic:
    """The peak is that of the slower of weight and activation type; a type that the device lacks runs at the next
    wider one with activations of that width."""
    return Arithmetic(form.bytes, select(device.activation_bytes, form.dtype), select(device.peak, form.dtype))


class Links(eqx.Module):
    """Collectives of the layout as lines over their message size: all-reduce and gather over tp, over all ranks of a
    stage and over cp; exchange over ep; all hops between pipeline stages; where tokens are forwarded inside nodes, the
    exchanges among `nodes` of them and inside one. `aligned` is 0 where a group does not line up
    with the dimensions of a torus or mesh, `ranks_aligned` where all ranks of a stage do not."""

    tp_reduce: Envelope
    tp_gather: Line
    ranks_reduce: Envelope
    ranks_gather: Line
    cp_reduce: Envelope
    cp_gather: Line
    exchange: Envelope
    hops: Line
    aligned: Scalar
    ranks_aligned: Scalar
    forwarded: Forwarding | None = None


class Forwarding(eqx.Module):
    """An exchange in two hops: among `nodes` (the innermost tier's domains that hold an expert group), one copy to
    each, and `inside` them to the ranks."""

    nodes: Scalar
    among: Envelope
    inside: Envelope


def offered(fabric: tuple[Tier, ...], collectives: Software) -> tuple[Tier, ...]:
    """The fabric with those of its algorithms that an engine's communication library offers, too."""

    def both(tier: Tier) -> Tier:
        return eqx.tree_at(lambda t: t.software, tier, jax.tree.map(lambda a, b: a * b, tier.software, collectives))

    return tuple(both(tier) for tier in fabric)


class _Group(eqx.Module):
    """A parallel group: its size, the stride of its ranks, its place in `AXES`."""

    ranks: Scalar
    stride: Scalar
    axis: Scalar


def make_links(
    layout: Parallelism, fabric: tuple[Tier, ...], efficiency: Efficiency, ops: Ops, forwards: bool = False
) -> Links:
    """The `Links` of a layout, with what the efficiency adds to every collective. The ranks of a stage talk as expert
    parallel groups do: only experts use them. `forwards`: whether an engine forwards tokens inside nodes."""
    tp, cp, ep, moe_tp = layout.tp, layout.cp, layout.ep, layout.ranks / layout.ep

    def started(found: Line, ranks: Scalar) -> Line:
        return Line(found.latency + ops.minimum(ranks - 1, 1.0) * efficiency.collective_time, found.per_byte)

    def each(found: Envelope, ranks: Scalar) -> Envelope:
        return Envelope(tuple(started(line, ranks) for line in found.lines))

    def price(group: _Group) -> tuple[Envelope, Line, Step]:
        steps = group_steps(group.ranks, group.stride, fabric, efficiency, group.axis, ops)
        return each(reduce_of(steps, ops), group.ranks), started(gather_of(steps, ops), group.ranks), steps

    # All groups in one batch: the program is a third as large as with a copy for each.
    groups = [(tp, 1.0, "tp"), (cp, tp, "cp"), (layout.ranks, 1.0, "ep"), (ep, moe_tp, "ep")]
    stacked = stack([_Group(size, stride, float(AXES.index(axis))) for size, stride, axis in groups])
    reduces, gathers, steps = jax.vmap(price)(stacked)
    over_tp, over_cp, over_ranks, _ = apart((reduces, gathers))
    among_experts = jax.tree.map(lambda leaf: leaf[3], steps)
    aligned = jnp.prod(steps.aligned, axis=1)
    forwarded = None
    if forwards:
        inside = clamp(ops.floor_divide(fabric[0].reach, moe_tp), 1.0, ep)
        nodes = ops.ceil_divide(ep, inside)
        hops = [(nodes, moe_tp * inside), (inside, moe_tp)]
        priced = [each(exchange_envelope(n, stride, fabric, efficiency, ops, "ep"), n) for n, stride in hops]
        forwarded = Forwarding(nodes, *priced)
    return Links(
        tp_reduce=over_tp[0],
        tp_gather=over_tp[1],
        ranks_reduce=over_ranks[0],
        ranks_gather=over_ranks[1],
        cp_reduce=over_cp[0],
        cp_gather=over_cp[1],
        exchange=each(exchange_of(among_experts, ep, ops), ep),
        hops=hop_line(layout.pp, layout.ranks, fabric, efficiency, ops, "pp"),
        aligned=aligned[0] * aligned[1] * aligned[3],
        ranks_aligned=aligned[2],
        forwarded=forwarded,
    )


class Rates(eqx.Module):
    """Bandwidth of main memory that each class of operators reaches [bytes/s]."""

    gemm: Scalar
    attention: Scalar
    elementwise: Scalar


class Plan(eqx.Module):
    """One configuration, ready to price passes. `score` is the expected maximum of ep standard normals; `slowdown`
    tells how much longer weights and KV cache take to read where they do not lie in main memory; `index_speed` is the
    time of a FLOP of an indexer (fp8) against one of attention's core; `kernels` of one pass through the model."""

    model: Model
    system: System
    deployment: Deployment
    attention: Arithmetic
    feed_forward: Arithmetic
    shared_experts: Arithmetic
    routed_experts: Arithmetic
    router: Arithmetic
    lm_head: Arithmetic
    core_peak: Scalar
    index_speed: Scalar
    moe_tp: Scalar
    score: Scalar
    links: Links
    rates: Rates
    slowdown: Slowdown
    kernels: Scalar


def make_plan(model: Model, stacked: LayerGroup, system: System, deployment: Deployment, ops: Ops) -> Plan:
    """The `Plan` of a configuration, the model's groups `stacked` (see `stack_groups`). Attention's core runs in
    bf16; moe_tp = tp·cp·attention_dp/ep."""
    layout, precision, device = deployment.parallelism, deployment.precision, system.device
    efficiency, memory = deployment.efficiency, device.memory
    engine = deployment.engine
    links = make_links(layout, offered(system.fabric, engine.collectives), efficiency, ops, engine.forwards is not None)
    rates = Rates(
        gemm=main_rate(memory, efficiency.gemm_memory),
        attention=main_rate(memory, efficiency.attention_memory),
        elementwise=main_rate(memory, efficiency.elementwise_memory),
    )
    return Plan(
        model=model,
        system=system,
        deployment=deployment,
        attention=arithmetic(precision.attention, device),
        feed_forward=arithmetic(precision.feed_forward, device),
        shared_experts=arithmetic(precision.shared_experts, device),
        routed_experts=arithmetic(precision.routed_experts, device),
        router=arithmetic(precision.router, device),
        lm_head=arithmetic(precision.lm_head, device),
        core_peak=device.peak[DTYPES.index("bf16")],
        index_speed=device.peak[DTYPES.index("bf16")] / device.peak[DTYPES.index("fp8")],
        moe_tp=layout.ranks / layout.ep,
        score=normal_score(layout.ep),
        links=settle_together(links, model.vocabulary_size),
        rates=settle_together(rates, model.vocabulary_size),
        slowdown=Slowdown(1.0, 1.0),
        kernels=kernels(model, stacked, deployment, ops),
    )
