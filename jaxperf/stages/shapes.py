"""What a pass looks like to one device: rows, contexts, and the matrix shapes of a layer after sharding."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

from ..constants import PLACE_BITS, PLACE_WORDS
from ..ops import EXACT, Ops, Scalar, choose, clamp, larger, smaller
from ..spec.deployment import Engine
from ..spec.model import INDEX_SCALE_BYTES, Attention, LayerGroup

STATE_BYTES = 4.0
"""Bytes an element of recurrent state: fp32, as the published configs ask (`mamba_ssm_dtype`)."""


class Pass(eqx.Module):
    """`chunks` equal forward passes, one after another, each with `new_tokens` new tokens of each sequence.

    `rows` token rows on one rank, `group_tokens` tokens of the whole expert group, `sequences` on the rank, `prior`
    tokens in each sequence's KV cache before the first chunk, `logit_rows` rows that need logits, `decode` whether this
    is a decode step (one chunk, of one new token a sequence, or of several that were drafted).
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


def in_turns(work: Pass, engine: Engine, ops: Ops) -> tuple[Pass, Scalar, Scalar]:
    """A pass as a layer runs it, how often it runs that, and the share of its communication that hides: the pass
    itself, once, and the engine's ρ, unless two halves of the batch take turns.

    In decode each half has half of the sequences. In prefill each has half of the new tokens, one chunk after another
    (the pass then counts twice the chunks). One computes while the other communicates, so that ρ = 1; what cannot be
    halved runs as it is.
    """
    if engine.two_batch is None:
        return work, 1.0, engine.overlap
    turns = ops.minimum(1 + engine.two_batch, ops.at_least(work.sequences if work.decode else work.new_tokens, 1.0))
    halved = eqx.tree_at(lambda w: (w.rows, w.group_tokens), work, (work.rows / turns, work.group_tokens / turns))
    overlap = ops.maximum(engine.overlap, turns - 1)
    if work.decode:
        return eqx.tree_at(lambda w: w.sequences, halved, work.sequences / turns), turns, overlap
    chunks, tokens = work.chunks * turns, work.new_tokens / turns
    return eqx.tree_at(lambda w: (w.chunks, w.new_tokens), halved, (chunks, tokens)), 1.0, overlap


class AttentionShape(eqx.Module):
    """Matrix sizes of a layer's attention on one rank [elements]; parts that a kind lacks are 0.

    `qkv_n`×`qkv_k`: fused query, key and value projection (for MLA the up-projection of q); `down_n`: MLA's
    replicated down-projections from D, and its output gate; `up_n`×`up_k`: MLA's kv_b, absorbed in decode and applied
    to every visible token in prefill; `out_k`: input of the output projection. `heads`, `score_size`, `value_size`: the
    core;
    `kv_elements` a token in the cache (a compressed cache has its share of an entry, scores and values likewise);
    `rebuilt_elements` a visible token whose keys and values expanded MLA rebuilds;
    `state_elements` a sequence (linear attention, state space) and `state_inputs` of its convolution, read and written
    each pass; `state_flops` a new token in decode, `chunk_flops` in prefill; `mixed_elements` a token that the
    convolution reads and writes and the core reads, `gated_elements` a token that the core writes.
    `absorbed` is 1 where the core works on a latent cache as it is: absorbed MLA, compressed attention.
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
    absorbed: Scalar = 0.0
    state_inputs: Scalar = 0.0
    chunk_flops: Scalar = 0.0
    mixed_elements: Scalar = 0.0
    gated_elements: Scalar = 0.0


def kv_heads_on_rank(attention: Attention, tp: Scalar, ops: Ops) -> Scalar:
    """Key/value heads that one tensor-parallel rank holds: max(1, Hkv/tp), so they shard at most Hkv ways."""
    return ops.at_least(attention.kv_heads / tp, 1.0)


def cached_elements(attention: Attention, tp: Scalar, ops: Ops) -> tuple[Scalar, Scalar]:
    """What one layer keeps on one rank [elements]: of a token in the KV cache (a compressed cache has its share of an
    entry), and of a sequence as recurrent state."""
    a = attention
    ordinary = a.present * (1 - a.latent) * (1 - a.linear)
    token = ordinary * kv_heads_on_rank(a, tp, ops) * (a.head_size + a.value_head_size)
    token = (token + a.latent * (a.kv_rank + a.rope_head_size)) * a.kept_share
    return token, a.linear * a.state_value_heads * a.head_size * a.value_head_size / tp


def recurrent_inputs(attention: Attention, tp: Scalar, ops: Ops) -> Scalar:
    """Queries, keys and values of a recurrent layer's token on one rank, which its convolution mixes with the tokens
    before it [elements]: 2·max(1, Hk/tp)·dk + Hv·dv/tp, as key heads (Mamba-2's groups) shard at most Hk ways."""
    a = attention
    keys = ops.at_least(a.state_key_heads / tp, 1.0) * a.head_size
    return a.linear * (2 * keys + a.state_value_heads * a.value_head_size / tp)


def attention_shape(attention: Attention, hidden: Scalar, tp: Scalar, absorbed: Scalar, ops: Ops) -> AttentionShape:
    """The sharded shapes of one layer's attention (see `AttentionShape`).

    MLA works `absorbed` (1: heads of size rkv + dr and rkv over the latent cache), as it decodes, or expanded (0: heads
    of size dn + dr and dv over keys and values that are rebuilt from the latent). Source: arXiv:2405.04434.
    Compressed attention works on its entries as they are in both phases; an output projection in two steps is one
    product as large as both. Mamba-2 has the shapes of gated delta with one gate (arXiv:2405.21060).
    """
    a = attention
    latent, linear = a.latent, a.linear
    ordinary = a.present * (1 - latent) * (1 - linear)
    dk, dv = a.head_size, a.value_head_size
    kv_heads = kv_heads_on_rank(a, tp, ops)
    nope_rope = dk + a.rope_head_size
    has_q_rank = ops.minimum(a.q_rank, 1.0)
    expanded = latent * (1 - a.direct) * (1 - absorbed)
    on_latent = latent - expanded
    out_size, two_steps = a.query_heads * dv, ops.minimum(a.output_rank, 1.0)
    output = (1 - two_steps) * out_size + a.output_rank * (a.output_groups + out_size / hidden)
    latent_elements = a.kv_rank + a.rope_head_size
    kept, state = cached_elements(a, tp, ops)
    own_keys = a.stored * kv_heads * (dk + dv * a.value_projection)
    mixed = recurrent_inputs(a, tp, ops)
    return AttentionShape(
        qkv_n=ordinary * (a.query_heads * dk * (1 + a.output_gate) / tp + own_keys)
        + latent * (a.query_heads * nope_rope / tp + has_q_rank * a.index_size)
        + mixed
        + linear * a.state_value_heads * (dv + a.state_gates) / tp
        + ordinary * _indexer_columns(a),
        qkv_k=hidden + latent * has_q_rank * (a.q_rank - hidden),
        down_n=latent * (a.q_rank + latent_elements + a.output_gate * out_size / tp + _indexer_columns(a))
        + a.present * a.extra_projections / hidden,
        up_n=latent * (1 - a.direct) * a.query_heads * (dk + dv) / tp,
        up_k=a.kv_rank,
        out_k=((ordinary + latent) * output + linear * a.state_value_heads * dv) / tp,
        heads=(ordinary + latent) * a.query_heads / tp,
        score_size=(ordinary * dk + on_latent * latent_elements + expanded * nope_rope) * a.kept_share,
        value_size=(ordinary * dv + on_latent * a.kv_rank + expanded * dv) * a.kept_share,
        kv_elements=kept,
        rebuilt_elements=expanded * a.query_heads * (nope_rope + dv) / tp,
        state_elements=state,
        state_inputs=ops.at_least(a.convolution_width - 1, 0.0) * mixed,
        state_flops=a.state_operations * state,
        chunk_flops=a.chunk_operations * linear * a.state_value_heads / tp,
        mixed_elements=mixed,
        gated_elements=linear * a.state_value_heads * dv / tp,
        absorbed=on_latent,
    )


def _indexer_columns(attention: Attention) -> Scalar:
    """Columns of an indexer's projections from the hidden size, replicated over tp: its one key (of a compressed cache
    it is among the `extra_projections`), a weight a head, and its queries, unless these read MLA's q rank."""
    a = attention
    key = larger(a.index_bytes - INDEX_SCALE_BYTES, 0.0)
    heads = a.index_size / larger(key, 1.0)
    reads_rank = smaller(a.q_rank, 1.0)
    return key * (1 - a.direct) + heads + a.index_size * (1 - reads_rank)


def _in_chunks(new_tokens: Scalar, prior: Scalar, size: Scalar) -> Scalar:
    """Pairs of T tokens after `prior` ones where each sees the tokens before it in its own chunk of `size` [pairs]."""
    start = prior - jnp.floor(prior / size + 1e-6) * size
    first = smaller(new_tokens, size - start)
    rest = new_tokens - first
    whole = jnp.floor(rest / size + 1e-6)
    last = rest - whole * size
    return first * start + (first * (first + 1) + whole * size * (size + 1) + last * (last + 1)) / 2


def chunk_pairs(attention_window: Scalar, work: Pass, prior: Scalar) -> Scalar:
    """Query-key pairs of a layer whose windows start anew every w tokens (Llama 4) [pairs].

    In decode the mean over a window, (w + 1)/2, once the context is longer than one: where in its window a sequence
    stands is a matter of chance.
    """
    size = choose(jnp.isfinite(attention_window), attention_window, 1.0)
    if work.decode:
        context = prior + work.new_tokens
        return work.new_tokens * choose(context > size, (size + 1) / 2, context)
    return _in_chunks(work.new_tokens, prior, size)


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


def layers_below(group: LayerGroup, layer: Scalar) -> Scalar:
    """Layers of a group among the model's first `layer` layers [layers]."""
    offset = larger(layer - group.first, 0.0)
    full = EXACT.floor_divide(offset, group.period)
    within = clamp(offset - full * group.period, 0.0, group.run)  # below 0 only where the period is not whole
    regular = smaller(full * group.run + within, group.count)
    if group.places is None:
        return regular
    starts = jnp.arange(0.0, float(PLACE_BITS * PLACE_WORDS), float(PLACE_BITS))
    held = clamp(layer - starts, 0.0, float(PLACE_BITS)).astype(jnp.int32)
    words = jnp.asarray(group.places).astype(jnp.int32)
    listed = jnp.sum(jax.lax.population_count(words & ((1 << held) - 1)))
    return choose(jnp.any(words > 0), jnp.asarray(listed, float), regular)


CANDIDATES, FEW = 16, 8
"""Pipeline stages among which the slowest and the fullest are sought (see `stage_shares`)."""


def stage_shares(group: LayerGroup, layers: Scalar, pp: Scalar, ops: Ops) -> Scalar:
    """Layers of one group in each of the candidates for the slowest pipeline stage, [candidates] [layers].

    Stages are contiguous; the first L mod pp hold one layer more. The candidates are all stages where there are no more
    than that; else the first four and the last four of each size, among which is every stage that can be the extreme
    when groups are a prefix or repeat themselves soon; the first two and the last two where a group has no `places`.
    Relaxed degrees keep these values and take the gradient of count/pp.
    """
    base = EXACT.floor_divide(layers, pp)
    extra = layers - base * pp
    last, count = pp - 1, FEW if group.places is None else CANDIDATES
    steps = [float(number) for number in range(count // 4)]
    ends = [smaller(last, step) for step in steps] + [larger(extra - 1 - step, 0.0) for step in reversed(steps)]
    ends += [smaller(extra + step, last) for step in steps] + [larger(last - step, 0.0) for step in reversed(steps)]
    every = smaller(jnp.arange(float(count)), last)
    stage = choose(pp > count + 0.5, jnp.stack(ends), every)
    start = stage * base + smaller(stage, extra)
    size = base + EXACT.above(extra, stage)
    below = jax.vmap(layers_below, (None, 0))
    held = below(group, start + size) - below(group, start)
    return ops.straight_through(held, group.count / pp)
