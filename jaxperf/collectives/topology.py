"""Tiers of a fabric → cost of one collective of a group that may cross several of them.

Whatever the algorithm, a collective costs α + βM: a line over its message size. What a group could do is a handful of
lines, of which the cheapest counts (`Envelope`). They depend on the layout and the fabric alone, so a scan computes
them once for all batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from ..ops import Ops, Scalar
from ..spec.deployment import Efficiency
from ..spec.system import Tier
from . import algorithms as costs
from .steps import Axis, Step, group_steps, serves

Cost = TypeVar("Cost")
"""A `Line` or an `Envelope`."""

Collective = Literal["all-reduce", "all-gather", "reduce-scatter", "all-to-all", "broadcast"]


class Line(eqx.Module):
    """A cost that is linear in the message size: `latency` [s] and `per_byte` [s/byte]."""

    latency: Scalar
    per_byte: Scalar

    def time(self, size: Scalar) -> Scalar:
        """Seconds for `size` bytes."""
        return self.latency + self.per_byte * size

    def __add__(self, other: Line) -> Line:
        return Line(self.latency + other.latency, self.per_byte + other.per_byte)

    def times(self, number: Scalar, share: Scalar = 1.0) -> Line:
        """The cost of `number` such messages, each of a `share` of the size."""
        return Line(number * self.latency, number * share * self.per_byte)


_NOTHING = Line(0.0, 0.0)


class Envelope(eqx.Module):
    """The cheapest of some lines."""

    lines: tuple[Line, ...]

    def time(self, size: Scalar, ops: Ops) -> Scalar:
        """Seconds for `size` bytes."""
        return ops.cheapest(*[line.time(size) for line in self.lines])


def _blend(flag: Scalar, chosen: Scalar, otherwise: Scalar) -> Scalar:
    """`chosen` where a flag is 1, `otherwise` where it is 0 (in between where relaxed)."""
    return flag * chosen + (1 - flag) * otherwise


def _choose(flag: Scalar, chosen: Line, otherwise: Line) -> Line:
    return Line(_blend(flag, chosen.latency, otherwise.latency), _blend(flag, chosen.per_byte, otherwise.per_byte))


def _line(cost: Callable[[Scalar, Scalar, Scalar], Scalar], alpha: Scalar, beta: Scalar) -> Line:
    """The line of a cost(M, α, β), from its value at no bytes and at one byte without α."""
    return Line(cost(0.0, alpha, 0.0), cost(1.0, 0.0, beta))


def _over_tiers(cost: Callable[[Step], Cost], steps: Step) -> Cost:
    """The sum over all tiers of what a step costs."""
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), jax.vmap(cost)(steps))


def _gather(step: Step, ops: Ops) -> Line:
    """All-gather inside one tier, over the bytes that the step's ranks hold together.

    Ring, doubling, direct and in-network move the same bytes, so the cheapest is the one of least latency.
    """
    soft, alpha = step.software, step.alpha
    ring = costs.ring_all_gather(0.0, step.ranks, alpha, 0.0)
    latency = ops.cheapest(
        ring,
        _blend(soft.halving_doubling, step.rounds * alpha, ring),
        _blend(soft.direct, step.several * alpha, ring),
        _blend(soft.in_network, step.several * 2 * step.switch_alpha, ring),
    )
    on_grid = costs.torus_all_gather(0.0, step.ranks, step.hops, alpha, 0.0)
    return Line(_blend(step.grid, on_grid, latency), costs.ring_all_gather(1.0, step.ranks, 0.0, step.beta))


def gather_line(
    ranks: Scalar, stride: Scalar, fabric: tuple[Tier, ...], efficiency: Efficiency, ops: Ops, axis: Axis = "tp"
) -> Line:
    """All-gather (or reduce-scatter) as a line over the gathered size M, the cheapest algorithm at every tier.

    **Arguments:** `ranks` G of the group; `stride` s, the product of the degrees nested inside it: G ranks that lie s
    devices apart span s·G devices; the `fabric`, innermost tier first; the parallel `axis`, which decides the tiers.

    Over several tiers the gather runs outer first with M/G_inner, then inner with M. Zero at G = 1. A degree between
    whole numbers takes the racks of the nearest one.
    """
    return gather_of(group_steps(ranks, stride, fabric, efficiency, axis, ops), ops)


def gather_of(steps: Step, ops: Ops) -> Line:
    """`gather_line` of a group whose steps are known."""
    return _over_tiers(lambda step: _gather(step, ops).times(1.0, 1 / step.inner), steps)


def reduce_envelope(
    ranks: Scalar, stride: Scalar, fabric: tuple[Tier, ...], efficiency: Efficiency, ops: Ops, axis: Axis = "tp"
) -> Envelope:
    """All-reduce of M bytes: reduce-scatter inside, all-reduce of M/G_inner at the outermost tier, all-gather inside.

    Three lines, by what the outermost tier does: two gathers (ring, halving-doubling, two-shot: the fewest bytes that
    software can move); one-shot where peers address each other, else a double tree (least latency); or the switch adds
    up. Arguments as in `gather_line`.
    """
    return reduce_of(group_steps(ranks, stride, fabric, efficiency, axis, ops), ops)


def reduce_of(steps: Step, ops: Ops) -> Envelope:
    """`reduce_envelope` of a group whose steps are known."""

    def lines(step: Step) -> Envelope:
        g, rounds, soft, share = step.ranks, step.rounds, step.software, 1 / step.inner
        start = step.several * step.alpha  # the bytes of one-shot vanish with the peers, its α would not
        one_shot = _line(lambda m, a, b: costs.one_shot_all_reduce(m, g, a, b), start, step.beta)
        tree = _line(lambda m, a, b: costs.double_tree_all_reduce(m, g, rounds, a, b), step.alpha, step.beta)
        switch = step.switch_alpha, step.beta
        network = _line(lambda m, a, b: costs.in_network_all_reduce(m, g, a, b, soft.multicast), *switch)
        twice = _gather(step, ops).times(2.0)
        fewest_steps = _choose(soft.direct, one_shot, _choose(soft.double_tree, tree.times(step.several), twice))
        in_network = _choose(soft.in_network, network.times(step.several), twice)
        scattered = twice.times(1.0, share)
        quick = _choose(step.outermost, fewest_steps, twice).times(1.0, share)
        switched = _choose(step.outermost, in_network, twice).times(1.0, share)
        return Envelope((scattered, quick, switched))

    return _over_tiers(lines, steps)


def exchange_envelope(
    ranks: Scalar, stride: Scalar, fabric: tuple[Tier, ...], efficiency: Efficiency, ops: Ops, axis: Axis = "ep"
) -> Envelope:
    """All-to-all over M, what a rank sends in total, each destination at the tier that it crosses.

    (G_in−1)(α_in + M/G·β_in) + (G−G_in)(α_out + M/G·β_out), with one α a tier where messages go at once or the switch
    exchanges; on a torus or mesh what its bisection takes; or Bruck's rounds where one tier holds the group.
    Arguments as in `gather_line`.
    """
    return exchange_of(group_steps(ranks, stride, fabric, efficiency, axis, ops), ranks, ops)


def exchange_of(steps: Step, ranks: Scalar, ops: Ops) -> Envelope:
    """`exchange_envelope` of a group whose steps are known."""

    def lines(step: Step) -> Envelope:
        soft, messages = step.software, step.covered - step.inner
        in_turn = messages * step.alpha
        latency = ops.cheapest(
            in_turn,
            _blend(soft.direct, step.several * step.alpha, in_turn),
            _blend(soft.hardware_exchange, step.several * step.switch_alpha, in_turn),
        )
        port = step.alpha, step.port_beta
        torus = _line(lambda m, a, b: costs.torus_all_to_all(m, step.half_sides, step.widest, a, b), *port)
        mesh = _line(lambda m, a, b: costs.mesh_all_to_all(m, step.hops, step.widest, a, b), *port)
        # On a grid M goes to the destinations that this tier reaches, the rank itself included as in the formula.
        grid = _choose(step.wrap, torus, mesh).times(step.several, step.covered / ranks)
        base = _choose(step.grid, grid, Line(latency, messages / ranks * step.beta))
        rounds = _line(lambda m, a, b: costs.bruck_all_to_all(m, step.rounds, a, b), step.alpha, step.beta)
        return Envelope((base, _choose(step.outermost * step.innermost * soft.bruck, rounds, base)))

    return _over_tiers(lines, steps)


def broadcast_envelope(
    ranks: Scalar, stride: Scalar, fabric: tuple[Tier, ...], efficiency: Efficiency, ops: Ops, axis: Axis = "tp"
) -> Envelope:
    """Broadcast or reduce of M bytes, tier by tier: a pipelined ring or the switch (which move the same bytes, so the
    one of less latency counts), or a binomial tree. Arguments as in `gather_line`."""

    def lines(step: Step) -> Envelope:
        around = _line(lambda m, a, b: costs.ring_broadcast(m, step.ranks, a, b), step.alpha, step.beta)
        down = _line(lambda m, a, b: costs.tree_broadcast(m, step.rounds, a, b), step.alpha, step.beta)
        switch = step.switch_alpha, step.beta
        network = _line(lambda m, a, b: costs.in_network_broadcast(m, step.ranks, a, b), *switch)
        latency = ops.cheapest(around.latency, _blend(step.software.in_network, network.latency, around.latency))
        once = Line(latency, around.per_byte).times(step.several)
        return Envelope((once, _choose(1 - step.grid, down, once)))

    return _over_tiers(lines, group_steps(ranks, stride, fabric, efficiency, axis, ops))


def hop_line(
    stages: Scalar, stride: Scalar, fabric: tuple[Tier, ...], efficiency: Efficiency, ops: Ops, axis: Axis = "pp"
) -> Line:
    """All pp − 1 hops between stages that lie `stride` devices apart, each at the tier that it crosses, as a line.

    Of the pp − 1 boundaries, ⌈pp/⌊reach/s⌋⌉ − 1 lie beyond a tier's reach. In a full mesh, torus or mesh a message
    takes one port.
    """
    total, remaining = _NOTHING, stages - 1
    for index, tier in enumerate(fabric):
        crossing = 0.0
        if index + 1 < len(fabric):
            inside = ops.at_least(ops.floor_divide(tier.reach, stride), 1.0)
            crossing = ops.minimum(ops.ceil_divide(stages, inside) - 1, remaining)
            crossing = _blend(serves(tier, axis), crossing, remaining)
        single = tier.full_mesh + tier.grid
        beta = 1 / (tier.bandwidth * _blend(single, 1.0, tier.ports) * efficiency.collective_bandwidth)
        hop = _line(costs.point_to_point, tier.alpha * efficiency.collective_latency_scale, beta)
        total += hop.times(remaining - crossing)
        remaining = crossing
    return total


def collective_time(
    kind: Collective,
    size: Scalar,
    ranks: Scalar,
    stride: Scalar,
    fabric: tuple[Tier, ...],
    efficiency: Efficiency,
    ops: Ops,
    axis: Axis = "tp",
) -> Scalar:
    """Time of one collective [s] by the cheapest algorithm that the tiers admit; `size` M [bytes] as in `algorithms`,
    the rest as in `gather_line`. A tier's `software` (its spec's `algorithms`) narrows the choice."""
    group = (ranks, stride, fabric, efficiency, ops, axis)
    if kind == "all-to-all":
        return exchange_envelope(*group).time(size, ops)
    if kind == "all-reduce":
        return reduce_envelope(*group).time(size, ops)
    if kind == "broadcast":
        return broadcast_envelope(*group).time(size, ops)
    return gather_line(*group).time(size)
