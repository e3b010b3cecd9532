r"""Prefix caching: how often a prompt's beginning is found, and whether loading it from elsewhere pays.

What a hit saves follows from `Workload.prefix_hit`: prefill computes the suffix, and attention sees the cached prefix.
Here is how likely a hit is, by Che's approximation of a cache that drops what was not used for longest: an item of
popularity p is found with \(1 - e^{-pT}\), and T solves \(\sum_i 1 - e^{-p_i T} = C\) (Che, Tung & Wang 2002; Fricker,
Robert & Roberts 2012, arXiv:1202.3974)."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

from ..ops import EXACT, Ops, Scalar, larger, smaller
from ..spec.deployment import Deployment
from ..spec.model import Model
from ..spec.system import MemoryTier, System
from ..spec.workload import Workload
from ..stages.memory import layer_kv_bytes
from ..stages.placement import sustained_rate
from ..zipf import ranks_in_groups, zipf_weights
from .handoff import Link, handoff_time, kv_cache_bytes
from .prefill import prefill_times
from .prepare import Prepared, prepare

FIRST_RANKS = 256
"""Ranks of a popularity law that are summed one by one."""

RANK_GROUPS = 512
"""Groups of equal ratio into which all later ranks are gathered: below 1e-4 of error for a billion of them."""

_BISECTIONS = 60  # halvings of the bracket of ln T, far below float64's resolution
_LENGTHS = 256  # prefixes of equal ratio at which loading and recomputing are compared
_FULL = 1 - 1e-6  # share of all items above which a cache holds everything


class Popularity(eqx.Module):
    """A popularity law in groups: how many `items` each stands for, and the `chance` that a request asks for one given
    item of it; Σ items·chance = 1."""

    items: Scalar
    chance: Scalar


class HitRate(eqx.Module):
    """What a cache of `capacity` items finds: the `probability` of a hit, and the `requests` between two uses of an
    item that just outlives them (Che's characteristic time), infinite where everything fits."""

    probability: Scalar
    requests: Scalar
    capacity: Scalar


class Loading(eqx.Module):
    """A cached prefix from elsewhere against recomputing it, for one prompt: `load_time` and `recompute_time` [s], its
    `size` over the instance [bytes], `pays` 1 where loading is faster, and `break_even`, the shortest prefix for which
    it is [tokens], infinite where there is none."""

    load_time: Scalar
    recompute_time: Scalar
    size: Scalar
    pays: Scalar
    break_even: Scalar


def zipf(exponent: Scalar, items: Scalar) -> Popularity:
    """Zipf's law p_i ∝ i^−s over `items` distinct prefixes: the first ranks by themselves, the others in groups."""
    ranks, counts = ranks_in_groups(items, FIRST_RANKS, RANK_GROUPS)
    return Popularity(counts, zipf_weights(exponent, ranks, counts))


def _held(popularity: Popularity, log_time: Scalar) -> Scalar:
    """Items that are in a cache which keeps each for T after its last use [items]: Σ 1 − e^{−p_i T}."""
    return -jnp.sum(popularity.items * jnp.expm1(-popularity.chance * jnp.exp(log_time)))


def hit_rate(popularity: Popularity, capacity: Scalar) -> HitRate:
    """Hit probability of a least-recently-used cache of `capacity` items of one size, by Che's approximation.

    h = Σ p_i(1 − e^{−p_i T}) with T from Σ 1 − e^{−p_i T} = C. T lies between C and −ln(1 − C/N)/p_min; its logarithm
    is found by halving, and a last step of Newton's method carries the derivatives. 1 where everything fits.
    """
    everything = jnp.sum(popularity.items)
    share = capacity / everything
    held = smaller(share, _FULL) * everything
    fixed, wanted = jax.tree.map(jax.lax.stop_gradient, (popularity, held))
    rarest = jnp.min(jnp.where(fixed.items > 0, fixed.chance, jnp.inf))
    bracket = jnp.log(wanted), jnp.log(-jnp.log1p(-wanted / jnp.sum(fixed.items)) / rarest)

    def halve(_: Scalar, bracket: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        low, high = bracket
        middle = (low + high) / 2
        short = _held(fixed, middle) < wanted
        return jnp.where(short, middle, low), jnp.where(short, high, middle)

    low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, bracket)
    root = (low + high) / 2
    slope = jax.grad(_held, argnums=1)(fixed, root)
    log_time = root - (_held(popularity, root) - held) / slope
    found = -jnp.expm1(-popularity.chance * jnp.exp(log_time))
    full = share >= _FULL
    return HitRate(
        probability=jnp.where(full, 1.0, jnp.sum(popularity.items * popularity.chance * found)),
        requests=jnp.where(full, jnp.inf, jnp.exp(log_time)),
        capacity=capacity,
    )


class PrefixCache(eqx.Module):
    """A cache of prompts' beginnings: the `probability` that a prompt's is found, the `hit_tokens` that it saves on
    average [tokens], and its `kv_bytes` over an instance [bytes]."""

    probability: Scalar
    hit_tokens: Scalar
    kv_bytes: Scalar


def prefix_cache(
    model: Model,
    deployment: Deployment,
    exponent: Scalar,
    prefixes: Scalar,
    length: Scalar,
    capacity: Scalar,
    ops: Ops = EXACT,
) -> PrefixCache:
    """A cache of `capacity` tokens in which `prefixes` distinct beginnings of `length` tokens each compete, asked for
    by Zipf's law of the given `exponent` (0: all alike)."""
    items = ops.minimum(capacity / length, prefixes)
    probability = hit_rate(zipf(exponent, prefixes), capacity / length).probability
    return PrefixCache(probability, probability * length, items * kv_cache_bytes(model, deployment, length, ops))


def capacity_tokens(model: Model, deployment: Deployment, size: Scalar, length: Scalar, ops: Ops = EXACT) -> Scalar:
    """Tokens whose KV cache fits into `size` bytes over an instance, in prefixes of `length` tokens [tokens]."""
    return length * size / kv_cache_bytes(model, deployment, length, ops)


def tier_link(tier: MemoryTier, deployment: Deployment, ops: Ops = EXACT) -> Link:
    """The way from a memory tier of the devices, such as host memory or SSD: every device loads its own part, all at
    once, at the bandwidth that long reads reach."""
    devices = ops.at_least(deployment.parallelism.instance_devices, 1.0)
    return Link(0.0, sustained_rate(tier, deployment.efficiency.elementwise_memory), devices)


def load_or_recompute(
    model: Model, system: System, deployment: Deployment, workload: Workload, link: Link, ops: Ops = EXACT
) -> Loading:
    """Whether to load `workload.prefix_hit` tokens' KV cache over a `link` or to compute them again.

    Recomputing takes t_prefill(isl) − t_prefill(isl − hit, after hit); loading α + M/(BW·streams), less the share
    ρ = link.overlap of the suffix's prefill. M is the whole cache of the prefix, or `streams` times the largest part of
    one device, whichever is more. The break-even length lies on a line between the two nearest of 256 lengths.
    """
    ready = prepare(model, system, deployment, workload, ops)
    most = larger(jnp.asarray(workload.isl, float) - 1, 1.0)
    hit = jnp.asarray(workload.prefix_hit, float)
    lengths = jnp.concatenate([jnp.stack([hit, 0.0 * hit]), most ** jnp.linspace(0.0, 1.0, _LENGTHS)])
    suffix = jax.lax.map(lambda length: _prefill(ready, workload, length, ops), lengths)

    def load(length: Scalar, behind: Scalar) -> Scalar:
        whole = kv_cache_bytes(model, deployment, length, ops)
        part = link.streams * _largest_part(ready, length, ops)
        return handoff_time(ops.maximum(whole, part), 0.0, 0.0, behind, link, ops)

    loads, saved = jax.vmap(load)(lengths, suffix), suffix[1] - suffix
    return Loading(
        load_time=loads[0],
        recompute_time=saved[0],
        size=kv_cache_bytes(model, deployment, hit, ops),
        pays=jnp.where(saved[0] > loads[0], 1.0, 0.0),
        break_even=_crossing(lengths[2:], (saved - loads)[2:]),
    )


def _prefill(ready: Prepared, workload: Workload, hit: Scalar, ops: Ops) -> Scalar:
    """Prefill of the prompts that TTFT is timed with, after a hit [s]."""
    prompts = (workload.prefill_batch,)
    return prefill_times(ready.plan, workload.isl, prompts, ready.stacked, ready.shares, "operator", ops, hit)[0].time


def _largest_part(ready: Prepared, tokens: Scalar, ops: Ops) -> Scalar:
    """The largest part of one sequence's KV cache on a device [bytes]."""
    deployment = ready.plan.deployment
    cache = jax.vmap(lambda group: layer_kv_bytes(group, tokens, deployment, ops))(ready.stacked)
    return jnp.max(jnp.sum(ready.shares * cache[:, None], axis=0))


def _crossing(lengths: Scalar, gains: Scalar) -> Scalar:
    """The shortest length at which a gain turns above 0, on a line between its neighbours; infinite where none does."""
    first = jnp.argmax(gains > 0)
    before = larger(first - 1, 0)
    rise = gains[first] - gains[before]
    share = jnp.where(rise > 0, gains[first] / jnp.where(rise > 0, rise, 1.0), 0.0)
    found = lengths[first] - share * (lengths[first] - lengths[before])
    return jnp.where(jnp.max(gains) > 0, found, jnp.inf)
