"""Tiers of a fabric → cost of one collective of a group that may cross several of them."""

from __future__ import annotations

from typing import Literal

import equinox as eqx

from ..ops import Ops, Scalar
from ..spec.deployment import Efficiency
from ..spec.system import Tier
from .algorithms import point_to_point, ring_all_gather

Collective = Literal["all-reduce", "all-gather", "reduce-scatter", "all-to-all"]


class Line(eqx.Module):
    """A cost that is linear in the message size: `latency` [s] and `per_byte` [s/byte]."""

    latency: Scalar
    per_byte: Scalar

    def time(self, size: Scalar) -> Scalar:
        """Seconds for `size` bytes."""
        return self.latency + self.per_byte * size


def _links(fabric: tuple[Tier, ...], efficiency: Efficiency) -> list[tuple[Scalar, Scalar, Scalar]]:
    """(reach, α [s], β [s/byte]) of every tier, innermost first, with the efficiency of collectives in."""
    return [
        (
            tier.reach,
            tier.alpha * efficiency.collective_latency_scale,
            1 / (tier.bandwidth * efficiency.collective_bandwidth),
        )
        for tier in fabric
    ]


def ring_line(ranks: Scalar, stride: Scalar, fabric: tuple[Tier, ...], efficiency: Efficiency, ops: Ops) -> Line:
    """Ring all-gather (or reduce-scatter) as a line over the gathered size M; an all-reduce is two of them.

    **Arguments:** `ranks` G of the group; `stride` s, the product of the degrees nested inside it: G ranks that lie s
    devices apart span s·G devices; the `fabric`, innermost tier first.

    min(G, reach/s) ranks lie inside a tier's reach. Over several tiers the gather runs outer first with M/G_inner, then
    inner with M. Zero at G = 1 and continuous in every degree.
    """
    latency, per_byte, inner = 0.0, 0.0, 1.0
    for reach, alpha, beta in _links(fabric, efficiency):
        covered = ops.minimum(ranks, ops.at_least(reach / stride, 1.0))
        latency += ring_all_gather(0.0, covered / inner, alpha, 0.0)
        per_byte += ring_all_gather(1.0, covered / inner, 0.0, beta) / inner
        inner = covered
    return Line(latency, per_byte)


def exchange_line(ranks: Scalar, stride: Scalar, fabric: tuple[Tier, ...], efficiency: Efficiency, ops: Ops) -> Line:
    """Pairwise all-to-all as a line over M, what a rank sends in total; each destination at the tier that it crosses.

    (G_in−1)(α_in + M/G·β_in) + (G−G_in)(α_out + M/G·β_out). Arguments as in `ring_line`.
    """
    latency, per_byte, inner = 0.0, 0.0, 1.0
    for reach, alpha, beta in _links(fabric, efficiency):
        covered = ops.minimum(ranks, ops.at_least(reach / stride, 1.0))
        latency += (covered - inner) * alpha
        per_byte += (covered - inner) * beta
        inner = covered
    return Line(latency, per_byte / ranks)


def hop_line(stages: Scalar, stride: Scalar, fabric: tuple[Tier, ...], efficiency: Efficiency, ops: Ops) -> Line:
    """All pp − 1 hops between stages that lie `stride` devices apart, each at the tier that it crosses, as a line.

    Of the pp − 1 boundaries, ⌈pp/⌊reach/s⌋⌉ − 1 lie beyond a tier's reach.
    """
    latency, per_byte, remaining = 0.0, 0.0, stages - 1
    for index, (reach, alpha, beta) in enumerate(_links(fabric, efficiency)):
        crossing = 0.0
        if index + 1 < len(fabric):
            inside = ops.at_least(ops.floor_divide(reach, stride), 1.0)
            crossing = ops.minimum(ops.ceil_divide(stages, inside) - 1, remaining)
        latency += (remaining - crossing) * point_to_point(0.0, alpha, beta)
        per_byte += (remaining - crossing) * beta
        remaining = crossing
    return Line(latency, per_byte)


def collective_time(
    kind: Collective,
    size: Scalar,
    ranks: Scalar,
    stride: Scalar,
    fabric: tuple[Tier, ...],
    efficiency: Efficiency,
    ops: Ops,
) -> Scalar:
    """Time of one collective [s]; `size` M [bytes] as in `algorithms`, the rest as in `ring_line`."""
    if kind == "all-to-all":
        return exchange_line(ranks, stride, fabric, efficiency, ops).time(size)
    once = ring_line(ranks, stride, fabric, efficiency, ops).time(size)
    return 2 * once if kind == "all-reduce" else once
