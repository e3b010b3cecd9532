r"""Experts that are not equally popular: a Zipf law of routing, copies of the hot experts, and where the copies lie.

Experts are summarised by a few that stand for all: the most popular one by one, the others in bins that grow
geometrically. All is of scalars and short vectors, and tests hold it against drawn routings."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

from ..ops import Scalar, choose, clamp, larger, optional, smaller
from ..spec.options import ExpertPlacement
from ..zipf import ranks_in_groups, zipf_weights
from .routing import Spread, slowest_rank, slowest_rank_experts, slowest_rank_tokens, woken

SINGLE = 16
"""The experts that are nodes of their own."""
BINS = 48


class Slots(eqx.Module):
    """The places that hold a copy of an expert, by kind: how `many` there are of each [slots] and the `chance` that a
    token goes there. Σ many = E + R; Σ many·chance = k."""

    many: jax.Array
    chance: jax.Array

    @property
    def count(self) -> Scalar:
        """All slots, E + R."""
        return jnp.sum(self.many)

    def mean(self, values: Scalar) -> Scalar:
        """Mean over the slots of a value by kind."""
        return jnp.sum(self.many * values) / larger(self.count, 1.0)


def chosen_chance(experts: Scalar, experts_per_token: Scalar, skew: Scalar) -> tuple[jax.Array, jax.Array]:
    r"""The chance that a token picks an expert of each node, and how many the node stands for: [SINGLE + BINS] both.

    Experts are drawn one after the other without replacement with weights \(p_r \propto r^{-s}\): \(q_r = 1 -
    \exp(-\lambda p_r)\) with λ such that Σ q = k (Rosén 1972). Newton's steps from λ = k rise to the root, as the sum
    is concave.
    """
    ranks, counts = ranks_in_groups(experts, SINGLE, BINS)
    weights = zipf_weights(skew, ranks, counts)

    def step(_: int, scale: Scalar) -> Scalar:
        reached = jnp.sum(counts * -jnp.expm1(-scale * weights))
        slope = jnp.sum(counts * weights * jnp.exp(-scale * weights))
        return scale + (experts_per_token - reached) / larger(slope, 1e-9)

    start = experts_per_token * jnp.ones_like(weights[0])
    scale = jax.lax.fori_loop(0, 12, step, start)
    return -jnp.expm1(-scale * weights), counts


def slots(experts: Scalar, experts_per_token: Scalar, placement: ExpertPlacement) -> Slots:
    """Where a token may go: every expert once, and R `redundant` copies for those whose copies carry most.

    As a greedy balancer hands them out: ⌈q/λ⌉ copies with the least λ that R allows; what is left over goes to some of
    the fullest kind.
    """
    chance, counts = chosen_chance(experts, experts_per_token, placement.skew)
    spare = placement.redundant
    hottest = jnp.max(chance)

    def used(limit: Scalar) -> Scalar:
        return jnp.sum(counts * (copies(limit) - 1))

    def copies(limit: Scalar) -> jax.Array:
        return jax.lax.stop_gradient(larger(jnp.ceil(chance / limit * (1 - 1e-5)), 1.0))

    def halve(_: int, ends: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        low, high = ends
        middle = jnp.sqrt(low * high)
        fits = used(middle) <= spare
        return choose(fits, low, middle), choose(fits, middle, high)

    # The hottest expert alone would use more than there are below the first of these, and none above the second.
    _, limit = jax.lax.fori_loop(0, 40, halve, (hottest / (2 * spare + 4), hottest * (1 + 1e-4)))
    each = copies(limit * (1 + 1e-5))  # beyond the edge at which the halving ends: what rounds otherwise finds the same
    left = larger(spare - jnp.sum(counts * (each - 1)), 0.0)
    loads = choose(counts > 0, chance / each, 0.0)
    fullest = choose(loads > 0.999 * jnp.max(loads), counts, 0.0)
    share = smaller(left / larger(jnp.sum(fullest), 1e-9), 1.0) * choose(fullest > 0, 1.0, 0.0)
    many = jnp.concatenate([(1 - share) * counts * each, share * counts * (each + 1)])
    return Slots(many, jnp.concatenate([chance / each, chance / (each + 1)]))


def spread(held: Slots, values: jax.Array, ep: Scalar, balanced: Scalar) -> Spread:
    """The `Spread` of a value by kind of slot, summed over the (E + R)/ep slots of each of `ep` ranks.

    Slots lie anywhere (a draw without replacement), or `balanced`, hot ones with cold ones. Two of a rank are then the
    i-th and the i-th last; three and more even out, but a hot one leaves the others to the coldest.
    """
    local = held.count / larger(ep, 1.0)
    mean = held.mean(values)
    off = values - mean
    present = held.many > 0
    top = jnp.max(choose(present, values, 0.0))
    least = jnp.min(choose(present, values, jnp.inf))
    others = larger(local - 1, 0.0)
    uneven = clamp(3 - local, 0.0, 1.0)
    pairs = _pairs(held, values, smaller(others, 1.0))
    away = pairs - jnp.mean(pairs)
    loose = (1 - balanced) * local * (1 - 1 / larger(ep, 1.0))
    packed = larger(top + others * least, uneven * jnp.max(pairs))
    alone = top + others * (held.count * mean - top) / larger(held.count - 1, 1.0)
    several = clamp(ep - 1, 0.0, 1.0)
    tight = balanced * uneven * several
    hottest = larger(balanced * packed + (1 - balanced) * alone, local * mean)
    return Spread(
        variance=loose * held.mean(off * off) + tight * jnp.mean(away * away),
        third=loose * held.mean(off * off * off) + tight * jnp.mean(away * away * away),
        hottest=several * hottest + (1 - several) * local * mean,
        most=choose(tight > 0, hottest, local * top),
        within=1.0,
    )


def _pairs(held: Slots, values: jax.Array, second: Scalar) -> jax.Array:
    """Sums of the i-th largest value and a share `second` of the i-th smallest, at 64 places over all slots."""
    above = jnp.sum(choose(values[None, :] >= values[:, None], held.many[None, :], 0.0), axis=1)

    def at(share: Scalar) -> Scalar:
        return jnp.max(choose((above >= share * held.count) & (held.many > 0), values, 0.0))

    places = jnp.arange(0.5, 64.0) / 64
    return jax.vmap(lambda place: at(place) + second * at(1 - place))(places)


def fullest_rank(
    tokens: Scalar,
    experts: Scalar,
    experts_per_token: Scalar,
    ep: Scalar,
    score: Scalar,
    placement: ExpertPlacement | None,
) -> tuple[Scalar, Scalar]:
    """Pairs and awake experts on the fullest rank (see `slowest_rank`), with a `placement` where there is one; skipped
    where a layer has no experts."""
    if placement is None:
        return slowest_rank(tokens, experts, experts_per_token, ep, score)
    return optional(experts > 0, lambda: routed(tokens, experts, experts_per_token, ep, score, placement), (0.0, 0.0))


def expert_slots(experts: Scalar, placement: ExpertPlacement | None) -> Scalar:
    """Experts of a layer with their copies, E + R; 0 where it has none."""
    return experts if placement is None else experts + smaller(experts, 1.0) * placement.redundant


def imbalance(
    tokens: Scalar, experts: Scalar, experts_per_token: Scalar, ep: Scalar, score: Scalar, placement: ExpertPlacement
) -> Scalar:
    """Pairs that go to the fullest rank against those of equal experts, from 1 up: so much longer its exchanges."""
    how = (tokens, experts, experts_per_token, ep, score)
    (pairs, _), (even, _) = fullest_rank(*how, placement), slowest_rank(*how)
    return larger(pairs / larger(even, 1e-6), 1.0)


def routed(
    tokens: Scalar, experts: Scalar, experts_per_token: Scalar, ep: Scalar, score: Scalar, placement: ExpertPlacement
) -> tuple[Scalar, Scalar]:
    """Pairs and awake copies on the fullest rank, as `slowest_rank_tokens` and `slowest_rank_experts`, where experts
    are not equally popular or have copies."""
    held = slots(experts, experts_per_token, placement)
    pairs = spread(held, tokens * held.chance, ep, placement.balanced)
    awake = woken(held.chance, tokens)
    alike = held.mean(awake) * (1 - held.mean(awake))
    within = held.mean(awake * (1 - awake)) / larger(alike, 1e-9)
    read = eqx.tree_at(lambda s: s.within, spread(held, awake, ep, placement.balanced), smaller(within, 1.0))
    load = slowest_rank_tokens(tokens, held.count, experts_per_token, ep, score, pairs)
    return load, slowest_rank_experts(tokens, held.count, experts_per_token, ep, score, held.mean(awake), read)
