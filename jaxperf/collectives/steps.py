"""What a group of ranks finds at each tier of a fabric: how many of them it joins there, over which links."""

from __future__ import annotations

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from ..constants import AXES
from ..ops import Ops, Scalar, choose, stack
from ..spec.deployment import Efficiency
from ..spec.system import Software, Tier

Axis = Literal["tp", "cp", "ep", "pp"] | Any
"""A parallel axis by name, or a traced index of `AXES`."""

_CLOSE = 1e-3  # two degrees that differ by less are the same


class Step(eqx.Module):
    """A group's part in one tier: it joins `ranks` subgroups of `inner` ranks each, and covers `covered` after it.

    `several` is 1 where it joins any (from 0 at one rank to 1 at two), `outermost` where the group ends here,
    `innermost` where it begins here; `rounds` is ⌈log2 ranks⌉ (at least `several`: no subgroup is reached for free).
    α, α of the switch and β [s/byte] over all ports that its collectives drive, `port_beta` over one. On a torus or
    mesh (`grid`, `wrap`) `hops` is Σ(dᵢ−1), `half_sides` Σ⌊dᵢ/2⌋ and `widest` max(dᵢ) of the sides that the group
    spans; `aligned` is 0 where it does not fill whole dimensions and is priced as one ring through all its ranks.
    """

    ranks: Scalar
    inner: Scalar
    covered: Scalar
    several: Scalar
    innermost: Scalar
    outermost: Scalar
    rounds: Scalar
    alpha: Scalar
    switch_alpha: Scalar
    beta: Scalar
    port_beta: Scalar
    grid: Scalar
    wrap: Scalar
    hops: Scalar
    half_sides: Scalar
    widest: Scalar
    aligned: Scalar
    software: Software


class _Join(eqx.Module):
    """What a group's step depends on besides its tier: the ranks that the tiers before cover (`inner`), and this one
    too (`covered`), 1 where the group ends here, and the `stride` in subgroups of the tiers before."""

    inner: Scalar
    covered: Scalar
    outermost: Scalar
    stride: Scalar


class Sides(eqx.Module):
    """The sides of a grid that a group spans (see `Step`), and the `ports` that it drives."""

    hops: Scalar
    half_sides: Scalar
    widest: Scalar
    ports: Scalar
    aligned: Scalar


def grid_sides(ranks: Scalar, stride: Scalar, tier: Tier, ops: Ops) -> Sides:
    """Sides of a group on a grid whose first dimension runs fastest.

    In dimension i a group of G ranks, s positions apart, spans clip(s·G/c, 1, d)/clip(s/c, 1, d) positions, c the
    product of the dimensions before it. It is aligned where it spans each dimension whole or not at all; otherwise
    one ring through its ranks is what it can have for certain: both ways where it spans two dimensions, there and back
    over the same links where it is part of one.
    """
    before, hops, half_sides, widest, lines, aligned = 1.0, 0.0, 0.0, 1.0, 0.0, 1.0
    for size in tier.dims:
        reached = ops.minimum(ops.at_least(stride * ranks / before, 1.0), size)
        side = reached / ops.minimum(ops.at_least(stride / before, 1.0), size)
        alone, whole = side < 1 + _CLOSE, jnp.abs(side - size) < _CLOSE * size
        aligned = aligned * choose(alone | whole, 1.0, 0.0)
        hops += side - 1
        half_sides += ops.floor_divide(side, 2.0)
        widest = ops.at_least(side, widest)
        lines += choose(alone, 0.0, 1.0)
        before = before * size

    def chosen(grid: Scalar, ring: Scalar) -> Scalar:
        return aligned * grid + (1 - aligned) * ring

    directions = 1 + tier.wrap
    return Sides(
        hops=chosen(hops, ranks - 1),
        half_sides=chosen(half_sides, ops.floor_divide(ranks, 2.0)),
        widest=chosen(widest, ranks),
        ports=ops.minimum(chosen(ops.at_least(lines, 1.0) * directions, _ring_ports(lines, tier)), tier.ports),
        aligned=aligned,
    )


def _ring_ports(lines: Scalar, tier: Tier) -> Scalar:
    """Ports of one ring through ranks that span `lines` dimensions in part."""
    return choose(lines > 1.5, 1 + tier.wrap, 1.0)


def serves(tier: Tier, axis: Axis) -> Scalar:
    """1 where a tier serves a parallel axis, given by name or by its (traced) place in `AXES`."""
    if isinstance(axis, str):
        return getattr(tier.axes, axis)
    return sum(choose(axis == index, getattr(tier.axes, name), 0.0) for index, name in enumerate(AXES))


def group_steps(
    ranks: Scalar, stride: Scalar, fabric: tuple[Tier, ...], efficiency: Efficiency, axis: Axis, ops: Ops
) -> Step:
    """The steps of a group of `ranks` that lie `stride` devices apart, as one `Step` with leaves [tiers], innermost
    first.

    ⌊reach/s⌋ ranks fit inside a tier's reach. A group that does not fit takes as few racks as hold it,
    n = ⌈G/⌊reach/s⌋⌉, and fills them alike; the emptiest decides, whose k = ⌊G/n⌋ ranks take in what all others have:
    128 ranks over racks of 72 are 64 and 64, 129 are 64 and 65. The same goes for the nodes inside each rack. A tier
    that does not serve the `axis` joins none.
    """
    served = [serves(tier, axis) for tier in fabric]
    fits = [ops.at_least(ops.floor_divide(tier.reach, stride), 1.0) for tier in fabric]
    for index, tier in enumerate(fabric[1:-1], 1):  # whole nodes of a rack, and of each what fits into it
        nodes = ops.floor_divide(tier.reach, fabric[index - 1].reach)
        fits[index] = ops.minimum(fits[index], fits[index - 1] * nodes)
    shares, fullest = [ranks] * len(fabric), ranks  # what each rack, then each node in it, has of the group
    for index in reversed(range(len(fabric) - 1)):
        parts = ops.at_least(served[index] * ops.ceil_divide(fullest, fits[index]), 1.0)
        part = ops.at_least(ops.floor_divide(shares[index + 1], parts), 1.0)
        shares[index] = choose(parts > 1.5, part, shares[index + 1])
        fullest = ops.ceil_divide(fullest, parts)
    joins: list[_Join] = []
    inner, inside_before, reach_before = 1.0, 0.0, 1.0
    for index, tier in enumerate(fabric):
        used, last = served[index], index + 1 == len(fabric)
        covered = used * ops.minimum(shares[index], fits[index]) + (1 - used) * inner
        inside = 1.0 if last else ops.at_least(used * ops.covers(fits[index], ranks), inside_before)
        joins.append(_Join(inner, covered, inside - inside_before, ops.at_least(stride / reach_before, 1.0)))
        inner, inside_before, reach_before = covered, inside, tier.reach

    def step(join: _Join, tier: Tier) -> Step:
        here = join.covered / join.inner
        sides = grid_sides(here, join.stride, tier, ops)
        ports = (
            tier.full_mesh * ops.minimum(ops.at_least(here - 1, 1.0), tier.ports) + (1 - tier.full_mesh) * tier.ports
        )
        driven = tier.grid * sides.ports + (1 - tier.grid) * ports
        several = ops.minimum(here - 1, 1.0)
        port_beta = 1 / (tier.bandwidth * efficiency.collective_bandwidth)
        return Step(
            ranks=here,
            inner=join.inner,
            covered=join.covered,
            several=several,
            innermost=choose(join.inner < 1 + _CLOSE, 1.0, 0.0),
            outermost=join.outermost,
            rounds=ops.at_least(ops.ceil_log2(here), several),
            alpha=tier.alpha * efficiency.collective_latency_scale,
            switch_alpha=tier.switch_alpha * efficiency.collective_latency_scale,
            beta=port_beta / driven,
            port_beta=port_beta,
            grid=tier.grid,
            wrap=tier.wrap,
            hops=sides.hops,
            half_sides=sides.half_sides,
            widest=sides.widest,
            aligned=1 - tier.grid * (1 - sides.aligned),
            software=tier.software,
        )

    # All tiers in one batch: the program is a third as large as with a copy for each.
    return jax.vmap(step)(stack(joins), stack(fabric))


def alignment(
    groups: list[tuple[Scalar, Scalar, Axis]], fabric: tuple[Tier, ...], efficiency: Efficiency, ops: Ops
) -> Scalar:
    """1 where every group of (ranks, stride, axis) fills whole dimensions of the tori and meshes that it uses."""
    steps = [group_steps(ranks, stride, fabric, efficiency, axis, ops) for ranks, stride, axis in groups]
    return math.prod(jnp.prod(step.aligned) for step in steps)
