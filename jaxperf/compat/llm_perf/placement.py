"""What a device of llm_perf holds, and where: memory tiers filled fastest first, activations, paged KV cache.

Source: the tool's documentation/modeling/sram.md §1–2, kv.md, decode.md §2, commit fdc49cc."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp

from ...ops import EXACT, Scalar, larger
from ...stages.placement import fill
from .case import Layout, Memory, Model, Serving
from .work import activation_bytes, embedding_bytes, kv_bytes, weight_bytes

_CLOSE = 1e-9  # bytes by which a tier may overflow


class Placed(eqx.Module):
    """Bytes of weights and of KV cache on each memory tier, [tiers]; `possible` unless a pinned class overflows."""

    weights: Scalar
    kv_cache: Scalar
    possible: Scalar


def place(memory: Memory, weights: Scalar, kv_cache: Scalar) -> Placed:
    """Weights and KV cache over the memory tiers: pinned classes first, then the others, fastest tier first, in the
    order asked for. The slowest tier takes whatever is left, whether it fits or not."""
    pinned_weights, pinned_kv = jnp.any(memory.weights_pin > 0), jnp.any(memory.kv_pin > 0)
    reserved = memory.weights_pin * weights
    possible = jnp.all((memory.weights_pin == 0) | (weights <= memory.capacity))
    free = memory.capacity - reserved
    possible &= jnp.all((memory.kv_pin == 0) | (kv_cache <= free))
    free = jnp.where(memory.last > 0, jnp.inf, larger(free - memory.kv_pin * kv_cache, 0.0))

    to_fill = jnp.where(pinned_weights, 0.0, weights), jnp.where(pinned_kv, 0.0, kv_cache)
    first = jnp.where(memory.kv_first > 0, to_fill[1], to_fill[0])
    second = jnp.where(memory.kv_first > 0, to_fill[0], to_fill[1])
    placed_first = fill(first, free, free, EXACT)
    placed_second = fill(second, free - placed_first, free, EXACT)
    swap = memory.kv_first > 0
    return Placed(
        weights=reserved + jnp.where(swap, placed_second, placed_first),
        kv_cache=memory.kv_pin * kv_cache + jnp.where(swap, placed_first, placed_second),
        possible=possible,
    )


def memory_time(memory: Memory, placed: Placed) -> Scalar:
    """Time to read everything once [s]: Σ bytes/(bandwidth·η) over the tiers."""
    return jnp.sum((placed.weights + placed.kv_cache) / memory.bandwidth)


class Held(eqx.Module):
    """Memory of a device in decode [bytes]; `fits` where no tier overflows, `tiers` what each holds."""

    weights: Scalar
    activations: Scalar
    kv_cache: Scalar
    fits: Scalar
    tiers: Scalar


def held(model: Model, layout: Layout, memory: Memory, batch: Scalar, context: Scalar) -> Held:
    """What a device holds; activations lie on the fastest tier. Nothing is placed where a pinned class overflows."""
    weights = weight_bytes(model, layout) + embedding_bytes(model, layout)
    cache = batch * kv_bytes(model, layout, context)
    activations = activation_bytes(model, batch)
    placed = place(memory, weights, cache)
    fastest = jnp.arange(memory.capacity.shape[0]) == 0
    tiers = placed.weights + placed.kv_cache + jnp.where(fastest, activations, 0.0)
    return Held(
        weights=weights,
        activations=activations,
        kv_cache=cache,
        fits=placed.possible & jnp.all(tiers <= memory.capacity + _CLOSE),
        tiers=jnp.where(placed.possible, tiers, 0.0),
    )


class Paging(eqx.Module):
    """A block [bytes], blocks a sequence, inflation, bytes free for KV cache, sequences and tokens that fit."""

    block: Scalar
    blocks: Scalar
    inflation: Scalar
    free: Scalar
    sequences: Scalar
    longest: Scalar


def paging(model: Model, layout: Layout, main: Scalar, serving: Serving, context: Scalar, usage: Held) -> Paging:
    """Paged KV cache in the main memory: ⌈S/block⌉ blocks a sequence, inflated by φ = 1 + block/(2S) besides."""
    block = kv_bytes(model, layout, serving.block_tokens)
    blocks = EXACT.ceil_divide(context, serving.block_tokens)
    inflation = 1 + serving.block_tokens / (2 * context)
    free = larger(main - usage.weights - usage.activations - serving.reserve, 0.0)
    return Paging(
        block=block,
        blocks=blocks,
        inflation=inflation,
        free=free,
        sequences=jnp.floor(free / (blocks * block * inflation)),
        longest=free / (kv_bytes(model, layout, 1.0) * inflation),
    )
