"""What a pass looks like to one device: rows, contexts, and the matrix shapes of a layer after sharding."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp

from ..ops import EXACT, Ops, Scalar, larger, smaller
from ..spec.model import Attention, LayerGroup


class Pass(eqx.Module):
    """`chunks` equal forward passes, one after another, each with `new_tokens` new tokens of each sequence.

    `rows` token rows on one rank, `group_tokens` tokens of the whole expert group, `sequences` on the rank, `prior`
    tokens in each sequence's KV cache before the first chunk, `logit_rows` rows that need logits, `decode` whether this
    is a decode step (one chunk).
    """

    rows: Scalar
    group_tokens: Scalar
    sequences: Scalar
    new_tokens: Scalar
    prior: Scalar
    chunks: Scalar
    logit_rows: Scalar
    decode: bool = eqx.field(static=True)

    @property
    def mean_context(self) -> Scalar:
        """Mean context at the end of a chunk [tokens]."""
        return self.prior + self.new_tokens * (self.chunks + 1) / 2

    @property
    def last_context(self) -> Scalar:
        """Context at the end of the last chunk [tokens]."""
        return self.prior + self.new_tokens * self.chunks


class AttentionShape(eqx.Module):
    """Matrix sizes of a layer's attention on one rank [elements]; parts that a kind lacks are 0.

    `qkv_n`×`qkv_k`: fused query, key and value projection (for MLA the up-projection of q); `down_n`: MLA's
    replicated down-projections from D; `up_n`×`up_k`: MLA's kv_b, absorbed in decode and applied to every visible
    token in prefill; `out_k`: input of the output projection. `heads`, `score_size`, `value_size`: the core;
    `kv_elements` a token in the cache; `rebuilt_elements` a visible token whose keys and values expanded MLA rebuilds;
    `state_elements` a sequence (linear attention), read and written each pass; `state_flops` a new token.
    """

    qkv_n: Scalar
    qkv_k: Scalar
    down_n: Scalar
    up_n: Scalar
    up_k: Scalar
    out_k: Scalar
    heads: Scalar
    score_size: Scalar
    value_size: Scalar
    kv_elements: Scalar
    rebuilt_elements: Scalar
    state_elements: Scalar
    state_flops: Scalar


def kv_heads_on_rank(attention: Attention, tp: Scalar, ops: Ops) -> Scalar:
    """Key/value heads that one tensor-parallel rank holds: max(1, Hkv/tp), so they shard at most Hkv ways."""
    return ops.at_least(attention.kv_heads / tp, 1.0)


def attention_shape(attention: Attention, hidden: Scalar, tp: Scalar, decode: bool, ops: Ops) -> AttentionShape:
    """The sharded shapes of one layer's attention (see `AttentionShape`).

    MLA decodes absorbed (heads of size rkv + dr and rkv over the latent cache) and prefills expanded (heads of size
    dn + dr and dv over keys and values that are rebuilt from the latent). Source: DeepSeek-V2, arXiv:2405.04434.
    """
    a = attention
    latent, linear = a.latent, a.linear
    ordinary = a.present * (1 - latent) * (1 - linear)
    dk, dv = a.head_size, a.value_head_size
    kv_heads = kv_heads_on_rank(a, tp, ops)
    nope_rope = dk + a.rope_head_size
    has_q_rank = ops.minimum(a.q_rank, 1.0)
    absorbed = latent * int(decode)
    expanded = latent * int(not decode)
    state = linear * a.state_value_heads * dk * dv / tp
    return AttentionShape(
        qkv_n=ordinary * (a.query_heads * dk * (1 + a.output_gate) / tp + kv_heads * (dk + dv))
        + latent * a.query_heads * nope_rope / tp
        + linear * (2 * a.state_key_heads * dk + a.state_value_heads * (2 * dv + 2)) / tp,
        qkv_k=hidden + latent * has_q_rank * (a.q_rank - hidden),
        down_n=latent * (a.q_rank + a.kv_rank + a.rope_head_size),
        up_n=latent * a.query_heads * (dk + dv) / tp,
        up_k=a.kv_rank,
        out_k=((ordinary + latent) * a.query_heads + linear * a.state_value_heads) * dv / tp,
        heads=(ordinary + latent) * a.query_heads / tp,
        score_size=ordinary * dk + absorbed * (a.kv_rank + a.rope_head_size) + expanded * nope_rope,
        value_size=ordinary * dv + absorbed * a.kv_rank + expanded * dv,
        kv_elements=ordinary * kv_heads * (dk + dv) + latent * (a.kv_rank + a.rope_head_size),
        rebuilt_elements=expanded * a.query_heads * (nope_rope + dv) / tp,
        state_elements=state,
        state_flops=7.0 * state,
    )


def visible_pairs(new_tokens: Scalar, prior: Scalar, window: Scalar, causal_work: Scalar, ops: Ops) -> Scalar:
    """Query-key pairs that a kernel executes when T new tokens follow `prior` tokens, each seeing at most w [pairs].

    Σ_{i=1..T} min(prior + i, w), plus the share of the T×T square above the diagonal that the kernel does not skip:
    (2·causal_work − 1)·T(T−1)/2. Summed without differences of large squares, so float32 keeps it.
    """
    context = prior + new_tokens
    reach = ops.minimum(window, context)
    unsaturated = ops.minimum(ops.at_least(reach - prior, 0.0), new_tokens)
    pairs = unsaturated * prior + unsaturated * (unsaturated + 1) / 2 + (new_tokens - unsaturated) * reach
    return pairs + (2 * causal_work - 1) * new_tokens * (new_tokens - 1) / 2


CANDIDATES = 6
"""Pipeline stages among which the slowest and the fullest are sought (see `stage_shares`)."""


def stage_shares(group: LayerGroup, layers: Scalar, pp: Scalar, ops: Ops) -> Scalar:
    """Layers of one group in each of the `CANDIDATES` for the slowest pipeline stage, [CANDIDATES] [layers].

    Stages are contiguous; the first L mod pp hold one layer more. The candidates are the first two stages of each
    size and the last of each, the first and the last stage among them: every stage that can be the extreme when groups
    are a prefix or alternate. Relaxed degrees keep these values and take the gradient of count/pp.
    """
    base = EXACT.floor_divide(layers, pp)
    extra = layers - base * pp
    last = pp - 1
    stage = jnp.stack(
        [
            0.0 * pp,
            smaller(last, 1.0),
            larger(extra - 1, 0.0),
            smaller(extra, last),
            smaller(extra + 1, last),
            last,
        ]
    )

    def below(layer: Scalar) -> Scalar:
        """Layers of the group among the first `layer` layers."""
        offset = larger(layer - group.first, 0.0)
        full = EXACT.floor_divide(offset, group.period)
        within = smaller(offset - full * group.period, group.run)
        return smaller(full * group.run + within, group.count)

    start = stage * base + smaller(stage, extra)
    size = base + EXACT.above(extra, stage)
    return ops.straight_through(below(start + size) - below(start), group.count / pp)
