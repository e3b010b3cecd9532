"""llm_perf's price of a collective: which tiers it crosses, and how their costs are put together.

The α–β primitives are jaxperf's; what is peculiar stands here. Its tree all-reduces move half of what the primitives
do: ⌈log2 G⌉·M instead of 2⌈log2 G⌉·M, pipelined M instead of 2M. Tiers that a flat collective crosses add their α and
take the narrowest bandwidth. A group that spans several switched tiers fills the first one whole, and joins ⌊G/ports⌋
such groups over all the others flattened to one. Source: the tool's documentation/modeling/collectives, commit fdc49cc.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp

from ...collectives.algorithms import (
    direct_exchange,
    double_tree_all_reduce,
    in_network_all_gather,
    in_network_all_reduce,
    mesh_all_to_all,
    pairwise_all_to_all,
    point_to_point,
    ring_all_gather,
    ring_all_reduce,
    torus_all_gather,
    torus_all_to_all,
    tree_all_reduce,
)
from ...ops import EXACT, Scalar, larger
from .case import Chain, Layout
from .documents import ALL_REDUCE_ALGORITHMS, IN_NETWORK

RING, TREE, TREE_PIPELINED, INC, TORUS, AUTO = range(len(ALL_REDUCE_ALGORITHMS))
_REDUCES, _EXCHANGES = IN_NETWORK.index("sharp_class"), IN_NETWORK.index("hw_a2a")
_TIE = 1e-12  # costs that differ relatively by less are the same; the option named first wins


class Link(eqx.Module):
    """α [s] and β [s/byte]."""

    alpha: Scalar
    beta: Scalar


class Route(eqx.Module):
    """A group of `ranks` on a chain. `flat`: every crossed tier as one link; `inner`: the first, with `inner_ranks`;
    `outer`: the others as one, with `outer_ranks`; `switch`: the in-network path. `tiered` where several tiers, all
    switched, are crossed; `reduces` and `exchanges` where all of them do that in the network. On a torus or mesh
    (`grid`): `aligned` where the group fills leading dimensions, Σ(dᵢ−1), Σ⌊dᵢ/2⌋, max(dᵢ), and `wrap`."""

    ranks: Scalar
    flat: Link
    inner: Link
    inner_ranks: Scalar
    outer: Link
    outer_ranks: Scalar
    switch: Link
    tiered: Scalar
    reduces: Scalar
    exchanges: Scalar
    grid: Scalar
    aligned: Scalar
    steps: Scalar
    half_sides: Scalar
    widest: Scalar
    wrap: Scalar


def _crossed(chain: Chain, ranks: Scalar) -> Scalar:
    """Tiers that a group crosses, [tiers] of booleans: up to the first whose cumulative reach holds it."""
    before = jnp.cumprod(chain.ports) / chain.ports
    return (chain.present > 0) & (before < ranks)


def _link(chain: Chain, alpha: Scalar, tiers: Scalar) -> Link:
    """Some tiers as one link: the sum of α·η_α, the slowest β."""
    slowest = 1 / (chain.bandwidth * chain.bandwidth_share)
    return Link(jnp.sum(jnp.where(tiers, alpha * chain.alpha_scale, 0.0)), jnp.max(jnp.where(tiers, slowest, 0.0)))


def route(chain: Chain, ranks: Scalar, in_network: Scalar) -> Route:
    """The `Route` of a group of `ranks`; `in_network` 1 where in-network collectives may be used."""
    crossed = _crossed(chain, ranks)
    first = jnp.arange(chain.ports.shape[0]) == 0
    grids = crossed & (chain.grid > 0)
    grid, switched = jnp.any(grids) & ~jnp.any(crossed & ~grids), ~jnp.any(grids)
    able = switched & (in_network > 0)

    sides = jnp.where(crossed[:, None], chain.dims, 1.0).ravel()
    product = jnp.cumprod(sides)
    spanned = product / sides < ranks
    return Route(
        ranks=ranks,
        flat=_link(chain, chain.alpha, crossed),
        inner=_link(chain, chain.alpha, first),
        inner_ranks=chain.ports[0],
        outer=_link(chain, chain.alpha, crossed & ~first),
        outer_ranks=larger(EXACT.floor_divide(ranks, chain.ports[0]), 1.0),
        switch=_link(chain, chain.switch_alpha, crossed),
        tiered=switched & (jnp.sum(crossed) > 1),
        reduces=able & jnp.all(~crossed | (chain.in_network >= _REDUCES)),
        exchanges=able & jnp.all(~crossed | (chain.in_network >= _EXCHANGES)),
        grid=grid,
        aligned=jnp.any(product == ranks),
        steps=jnp.sum(jnp.where(spanned, sides - 1, 0.0)),
        half_sides=jnp.sum(jnp.where(spanned, jnp.floor(sides / 2), 0.0)),
        widest=jnp.max(jnp.where(spanned, sides, 1.0)),
        wrap=jnp.all(~crossed | (chain.wrap > 0)),
    )


def _software_all_reduce(size: Scalar, ranks: Scalar, link: Link, algorithm: Scalar) -> Scalar:
    """Ring or tree over one link [s]; not a number for an algorithm that is none in software."""
    rounds = EXACT.ceil_log2(ranks)
    time = jnp.select(
        [algorithm == RING, algorithm == TREE, algorithm == TREE_PIPELINED],
        [
            ring_all_reduce(size, ranks, link.alpha, link.beta),
            tree_all_reduce(size / 2, rounds, link.alpha, link.beta),
            double_tree_all_reduce(size / 2, ranks, rounds, link.alpha, link.beta),
        ],
        jnp.nan,
    )
    return jnp.where(ranks > 1, time, 0.0)


def _all_reduce_without_switch(way: Route, size: Scalar, algorithm: Scalar) -> Scalar:
    flat = _software_all_reduce(size, way.ranks, way.flat, algorithm)
    inside = 2 * ring_all_gather(size, way.inner_ranks, way.inner.alpha, way.inner.beta)
    outside = _software_all_reduce(size / way.inner_ranks, way.outer_ranks, way.outer, algorithm)
    spread = 2 * torus_all_gather(size, way.ranks, way.steps, way.flat.alpha, way.flat.beta)
    ring = ring_all_reduce(size, way.ranks, way.flat.alpha, way.flat.beta)
    on_grid = jnp.where(way.aligned, spread, ring)
    return jnp.where(way.grid, on_grid, jnp.where(way.tiered, inside + outside, flat))


def all_reduce(way: Route, size: Scalar, algorithm: Scalar) -> Scalar:
    """All-reduce of `size` bytes [s]: in the network where every crossed tier can, dimension by dimension on a torus,
    reduce-scatter inside, all-reduce outside, all-gather inside over several tiers, flat otherwise."""
    time = _all_reduce_without_switch(way, size, algorithm)
    time = jnp.where(way.reduces, in_network_all_reduce(size, way.ranks, way.switch.alpha, way.switch.beta), time)
    return jnp.where(way.ranks > 1, time, 0.0)


def all_gather(way: Route, size: Scalar) -> Scalar:
    """All-gather to `size` bytes [s], always a ring: inside with M/G_outer, then outside with M, over several tiers."""
    flat = ring_all_gather(size, way.ranks, way.flat.alpha, way.flat.beta)
    inside = ring_all_gather(size / way.outer_ranks, way.inner_ranks, way.inner.alpha, way.inner.beta)
    outside = ring_all_gather(size, way.outer_ranks, way.outer.alpha, way.outer.beta)
    spread = torus_all_gather(size, way.ranks, way.steps, way.flat.alpha, way.flat.beta)
    time = jnp.where(way.grid & way.aligned, spread, jnp.where(way.tiered, inside + outside, flat))
    time = jnp.where(way.reduces, in_network_all_gather(size, way.ranks, way.switch.alpha, way.switch.beta), time)
    return jnp.where(way.ranks > 1, time, 0.0)


def exchange(way: Route, size: Scalar, algorithm: Scalar) -> Scalar:
    """One all-to-all of `size` bytes a rank [s], dispatch or combine of experts: every destination at its own tier."""
    flat = jnp.where(algorithm == RING, pairwise_all_to_all(size, way.ranks, way.flat.alpha, way.flat.beta), jnp.nan)
    part = size / way.ranks
    inside = (way.inner_ranks - 1) * point_to_point(part, way.inner.alpha, way.inner.beta)
    beyond = larger(way.ranks - way.inner_ranks, 0.0)
    outside = beyond * point_to_point(part, way.outer.alpha, way.outer.beta)
    round_grid = torus_all_to_all(size, way.half_sides, way.widest, way.flat.alpha, way.flat.beta)
    open_grid = mesh_all_to_all(size, way.steps, way.widest, way.flat.alpha, way.flat.beta)
    ring = pairwise_all_to_all(size, way.ranks, way.flat.alpha, way.flat.beta)
    on_grid = jnp.where(way.aligned, jnp.where(way.wrap, round_grid, open_grid), ring)
    time = jnp.where(way.grid, on_grid, jnp.where(way.tiered, inside + outside, flat))
    time = jnp.where(way.exchanges, direct_exchange(size, way.ranks, way.switch.alpha, way.switch.beta), time)
    return jnp.where(way.ranks > 1, time, 0.0)


def resolved_all_reduce(way: Route, size: Scalar, algorithm: Scalar) -> Scalar:
    """The algorithm that `auto` stands for: the network's where it can, else the cheapest in software, the first named
    of equals; `ring` where there is nothing to do."""
    costs = jnp.stack([_all_reduce_without_switch(way, size, choice) for choice in (RING, TREE, TREE_PIPELINED)])
    cheapest = jnp.argmax(costs <= jnp.min(costs) * (1 + _TIE))
    chosen = jnp.where(way.reduces, float(INC), jnp.where(way.grid, float(TORUS), cheapest.astype(costs.dtype)))
    return jnp.where(algorithm == AUTO, jnp.where(way.ranks > 1, chosen, float(RING)), algorithm)


def resolved_exchange(way: Route, algorithm: Scalar) -> Scalar:
    """The algorithm that `auto` stands for in an exchange (see `resolved_all_reduce`)."""
    chosen = jnp.where(way.exchanges, float(INC), jnp.where(way.grid, float(TORUS), float(RING)))
    return jnp.where(algorithm == AUTO, jnp.where(way.ranks > 1, chosen, float(RING)), algorithm)


def stage_hop(chain: Chain, layout: Layout, size: Scalar) -> Scalar:
    """One message between pipeline stages [s], at the first tier that holds a whole replica, without contention."""
    replica = layout.sp * layout.tp * layout.ep * layout.pp
    crossed = _crossed(chain, replica)
    tier = jnp.sum(crossed) - 1
    time = point_to_point(size, chain.alpha[tier], 1 / chain.bandwidth[tier])
    return jnp.where(layout.pp > 1, time, 0.0)
