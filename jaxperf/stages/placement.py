"""Which memory of a device holds the weights and the KV cache, and what reading them from there takes."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp

from ..constants import SUSTAINED_SHARE
from ..ops import Ops, Scalar, choose, larger, smaller, stack
from ..spec.deployment import Efficiency, Engine
from ..spec.system import Memory, MemoryTier


class Rooms(eqx.Module):
    """What weights and KV cache may fill [bytes], [tiers] each, fastest first: `free` in all, and by class (0 where the
    class may not go). `unplaced`: bytes of activations and reserve that fit nowhere themselves."""

    free: Scalar
    weights: Scalar
    kv_cache: Scalar
    unplaced: Scalar

    @property
    def either(self) -> Scalar:
        """Bytes that the two classes may fill together."""
        return jnp.sum(larger(self.weights, self.kv_cache))


class Residency(eqx.Module):
    """Bytes of weights and of KV cache at every tier, [tiers] each, fastest first; what fits nowhere stands on the
    slowest tier that its class may use."""

    weights: Scalar
    kv_cache: Scalar


class Slowdown(eqx.Module):
    """How much longer a byte of weights and of KV cache takes to read from where it lies than from main memory."""

    weights: Scalar
    kv_cache: Scalar


def stacked(memory: Memory) -> MemoryTier:
    """The tiers of a memory as one, with leaves [tiers]."""
    return stack(memory.tiers)


def sustained_rate(tier: MemoryTier, share: Scalar) -> Scalar:
    """Bandwidth that long reads reach [bytes/s]: BW·η for e ≤ η_HBM, times what kernels lose besides, e/η_HBM.

    `share` e is the efficiency of kernels on HBM, η the tier's own sustained share. From η_HBM up to the physical bound
    e = 1 both losses fade, so that there every tier runs at its peak. Copies from host memory and SSD lose η only.
    """
    usual = SUSTAINED_SHARE["hbm"]
    loss = smaller((1 - share) / (1 - usual), 1.0)
    kernels = share / (1 - (1 - usual) * loss)
    return tier.bandwidth * (1 - (1 - tier.sustained) * loss) * (tier.spill + (1 - tier.spill) * kernels)


def main_rate(memory: Memory, share: Scalar) -> Scalar:
    """Bandwidth that long reads of main memory reach [bytes/s] (see `sustained_rate`)."""
    tiers = stacked(memory)
    return jnp.sum(tiers.main * sustained_rate(tiers, share))


def may_use(tier: MemoryTier, pinned: Scalar, spills: Scalar) -> Scalar:
    """1 where a class may lie in a tier: the kind of memory that it is pinned to, else all but host and SSD, and these
    too where it may be offloaded."""
    free = choose(tier.kind < 0, 0.0, 1 - tier.spill * (1 - spills))
    return choose(pinned < 0, free, choose(tier.kind == pinned, 1.0, 0.0))


def rooms(memory: Memory, engine: Engine, busy: Scalar, ops: Ops) -> Rooms:
    """`Rooms` of a device: u·capacity of every tier, less what is `busy` (activations and reserve) in main memory and,
    where that is too small for them, in the device's slower tiers."""
    tiers, placement = stacked(memory), engine.placement
    fillable = engine.memory_utilisation * tiers.capacity
    working = fillable * (1 - tiers.spill) * jnp.cumsum(tiers.main)
    free = fillable - _greedy(busy, working, ops)
    return Rooms(
        free=free,
        weights=free * may_use(tiers, placement.weights_in, placement.offload_weights),
        kv_cache=free * may_use(tiers, placement.kv_cache_in, placement.offload_kv_cache),
        unplaced=ops.at_least(busy - jnp.sum(working), 0.0),
    )


def _greedy(size: Scalar, room: Scalar, ops: Ops) -> Scalar:
    """Bytes of `size` at every tier, [tiers], when the `room` [tiers] of the fastest fills first."""
    before = jnp.concatenate([jnp.zeros_like(room[:1]), jnp.cumsum(room[:-1])])
    return ops.minimum(ops.at_least(size - before, 0.0), room)


def fill(size: Scalar, room: Scalar, usable: Scalar, ops: Ops) -> Scalar:
    """Bytes of `size` at every tier, [tiers], when the `room` [tiers] of the fastest fills first; what is left over
    stands on the slowest that is `usable` [tiers] at all."""
    here = choose(usable > 0, 1.0, 0.0)
    last = here * choose(jnp.cumsum(here[::-1])[::-1] < 1.5, 1.0, 0.0)
    return _greedy(size, room, ops) + last * ops.at_least(size - jnp.sum(room), 0.0)


def place(weights: Scalar, kv_cache: Scalar, room: Rooms, engine: Engine, ops: Ops) -> Residency:
    """`Residency` of a device's weights and KV cache [bytes], each filling the fastest of its tiers first.

    The class that is pinned, or that may not be offloaded where the other may, goes first; among equals the engine's
    order decides. So whatever can fit does.
    """
    chosen = engine.placement
    bound_weights = chosen.pinned_weights + (1 - chosen.offload_weights) * chosen.offload_kv_cache
    bound_kv = chosen.pinned_kv_cache + (1 - chosen.offload_kv_cache) * chosen.offload_weights
    kv_first = choose(bound_kv > bound_weights, 1.0, choose(bound_kv < bound_weights, 0.0, chosen.kv_first))
    alone_weights = fill(weights, room.weights, room.weights, ops)
    alone_kv = fill(kv_cache, room.kv_cache, room.kv_cache, ops)
    for_weights = ops.minimum(room.weights, ops.at_least(room.free - alone_kv, 0.0))
    for_kv = ops.minimum(room.kv_cache, ops.at_least(room.free - alone_weights, 0.0))
    late_weights = fill(weights, for_weights, room.weights, ops)
    late_kv = fill(kv_cache, for_kv, room.kv_cache, ops)
    return Residency(
        weights=kv_first * late_weights + (1 - kv_first) * alone_weights,
        kv_cache=kv_first * alone_kv + (1 - kv_first) * late_kv,
    )


def read_time(placed: Scalar, memory: Memory, share: Scalar) -> Scalar:
    """Time to read what lies at every tier, `placed` [tiers] bytes, once [s]: Σ_i bytes_i/rate_i, one after the
    other."""
    return jnp.sum(placed / sustained_rate(stacked(memory), share))


def slowdown(placed: Residency, memory: Memory, efficiency: Efficiency) -> Slowdown:
    """`Slowdown` of weights and KV cache: Σ_i (bytes_i/bytes)·rate_main/rate_i; 1 where all lies in main memory."""

    def ratio(sizes: Scalar, share: Scalar) -> Scalar:
        total = jnp.sum(sizes)
        longer = main_rate(memory, share) / sustained_rate(stacked(memory), share)
        slow = jnp.sum(sizes * longer) / larger(total, 1.0)  # divided last: exactly 1 where all is in main memory
        return choose(total > 1.0, slow, 1.0)

    return Slowdown(ratio(placed.weights, efficiency.gemm_memory), ratio(placed.kv_cache, efficiency.attention_memory))
