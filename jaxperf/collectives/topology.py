"""Tiers of a fabric → cost of one collective of a group that may cross several of them."""

from __future__ import annotations

from typing import Literal

from ..ops import Ops, Scalar
from ..spec.deployment import Efficiency
from ..spec.system import Tier
from .algorithms import point_to_point, ring_all_gather

Collective = Literal["all-reduce", "all-gather", "reduce-scatter", "all-to-all"]


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


def collective_time(
    kind: Collective,
    size: Scalar,
    ranks: Scalar,
    stride: Scalar,
    fabric: tuple[Tier, ...],
    efficiency: Efficiency,
    ops: Ops,
) -> Scalar:
    """Time of one collective [s].

    **Arguments:** `kind`; `size` M [bytes] as in `algorithms`; `ranks` G of the group; `stride` s, the product of the
    degrees nested inside it (G ranks that lie s devices apart span s·G devices); the `fabric`, innermost tier first.

    The group has min(G, reach/s) ranks inside a tier's reach. Over several tiers an all-gather runs outer first with
    M/G_inner, then inner with M; reduce-scatter the reverse; all-reduce is both; an all-to-all pays for each
    destination at the tier that it crosses. 0 at G = 1, continuous in every degree.
    """
    total = 0.0 * size
    inner = 1.0 + 0.0 * ranks
    for reach, alpha, beta in _links(fabric, efficiency):
        covered = ops.minimum(ranks, ops.at_least(reach / stride, 1.0))
        if kind == "all-to-all":
            total += (covered - inner) * point_to_point(size / ranks, alpha, beta)
        else:
            total += ring_all_gather(size / inner, covered / inner, alpha, beta)
        inner = covered
    return 2 * total if kind == "all-reduce" else total


def pipeline_hops(
    size: Scalar, stages: Scalar, stride: Scalar, fabric: tuple[Tier, ...], efficiency: Efficiency, ops: Ops
) -> Scalar:
    """Time of all pp − 1 hops between stages that lie `stride` devices apart [s]; each at the tier that it crosses.

    Of the pp − 1 boundaries, ⌈pp·s/reach⌉ − 1 lie beyond a tier's reach. Message: `size` bytes.
    """
    total = 0.0 * size
    remaining = stages - 1
    for index, (reach, alpha, beta) in enumerate(_links(fabric, efficiency)):
        if index + 1 < len(fabric):
            inside = ops.at_least(ops.floor_divide(reach, stride), 1.0)
            crossing = ops.minimum(ops.ceil_divide(stages, inside) - 1, remaining)
        else:
            crossing = 0.0 * stages
        total += (remaining - crossing) * point_to_point(size, alpha, beta)
        remaining = crossing
    return total

