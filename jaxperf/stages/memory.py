"""Stage 1: parameters, bytes a device, and how many sequences fit.

Counts are generic arithmetic: on a `Model` of Python ints they are exact to the unit, on arrays they are what the
kernels use."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

from ..ops import EXACT, Counting, Ops, Scalar, choose, larger, settle, unstack
from ..spec.deployment import Deployment, Parallelism, Precision
from ..spec.model import Attention, FeedForward, LayerGroup, Model
from ..spec.system import Memory
from .adapters import layer_adapter_bytes
from .placement import Rooms, rooms, stacked
from .plan import Plan
from .popularity import expert_slots
from .shapes import STATE_BYTES, cached_elements, recurrent_inputs

_NO_SEQUENCE = 1e-6  # fewer sequences than this are none: keeps the pressure of a full device finite


class LayerParameters(eqx.Module):
    """Parameters of one layer by class [elements]: attention sharded over tp, its key/value projections, its replicated
    part, dense feed-forward, shared experts, one routed expert, router, norms and other vectors."""

    attention: Scalar
    key_value: Scalar
    replicated: Scalar
    feed_forward: Scalar
    shared: Scalar
    expert: Scalar
    router: Scalar
    norms: Scalar


def attention_parameters(attention: Attention, hidden: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """Parameters of one layer's attention [elements]: (sharded over tp, key/value projections, replicated).

    Grouped-query: D·Hq·dk·(1 + gate) + Hq·dv·D, D·Hkv·(dk + dv), with biases, sinks and q/k norms.
    Latent (MLA): rq·Hq(dn+dr) or D·Hq(dn+dr), rkv·Hq(dn+dv), Hq·dv·D, a gate D·Hq·dv; replicated D·rq + D(rkv+dr) +
    norms. Compressed: the same without rkv·Hq(dn+dv), its output in two steps ro·Hq·dv + go·ro·D.
    Linear (gated delta): D(2Hk·dk + 2Hv·dv) + gates·D·Hv + K(2Hk·dk + Hv·dv) + Hv·dv·D + 2Hv + dv.
    State space (Mamba-2): the same with Hk, dk, Hv, dv = G, N, H, P, one gate: D(2HP + 2GN + H) + K(HP + 2GN) + HP·D.
    """
    a, dk, dv = attention, attention.head_size, attention.value_head_size
    ordinary = a.present * (1 - a.latent) * (1 - a.linear)
    query, key_value = a.query_heads * dk, a.stored * a.kv_heads * (dk + dv * a.value_projection)
    query_rope = a.query_heads * (dk + a.rope_head_size)
    has_rank, two_steps = _has(a.q_rank), _has(a.output_rank)
    query_input = has_rank * a.q_rank + (1 - has_rank) * hidden
    heads_out = a.query_heads * dv
    output = (1 - two_steps) * heads_out * hidden + a.output_rank * (heads_out + a.output_groups * hidden)
    up = (1 - a.direct) * a.kv_rank * a.query_heads * (dk + dv)
    keys, values = a.state_key_heads * dk, a.state_value_heads * dv
    sharded = (
        ordinary * (hidden * query * (1 + a.output_gate) + output + a.qkv_bias * query)
        + ordinary * a.sinks * a.query_heads
        + a.latent * (query_input * query_rope + up + output + a.output_gate * hidden * heads_out)
        + a.linear * (hidden * 3 * values + a.state_gates * hidden * a.state_value_heads)
        + a.linear * (a.convolution_width * values + 2 * a.state_value_heads)
    )
    shared_heads = ordinary * (hidden + a.qkv_bias) * key_value
    shared_heads += a.linear * (hidden + a.convolution_width) * 2 * keys
    replicated = (
        a.latent * (hidden * a.q_rank + hidden * (a.kv_rank + a.rope_head_size) + a.q_rank + a.kv_rank)
        + a.output_bias * hidden
        + a.qk_norm_parameters
        + a.linear * dv
        + a.extra_parameters
    )
    return sharded, shared_heads, replicated


def _has(size: Scalar) -> Scalar:
    """1 where a size is not 0, exactly, on Python ints and on arrays."""
    return Counting().minimum(size, 1) if isinstance(size, int) else size / (size + 1e-9)


def layer_parameters(group: LayerGroup, hidden: Scalar) -> LayerParameters:
    """Parameters of one layer of a group, by class [elements] (see `LayerParameters`).

    Experts that read a latent: its size in place of D, and 2·D·D_lat for the projections, counted as shared.
    """
    f: FeedForward = group.feed_forward
    attention, key_value, replicated = attention_parameters(group.attention, hidden)
    matrices = 2 + f.gated
    expert_hidden = (1 - _has(f.latent_size)) * hidden + f.latent_size
    expert_bias = f.expert_bias * ((1 + f.gated) * f.expert_width + expert_hidden)
    dense_bias = f.bias * ((1 + f.gated) * f.width + hidden)
    return LayerParameters(
        attention=attention,
        key_value=key_value,
        replicated=replicated,
        feed_forward=matrices * hidden * f.width + dense_bias,
        shared=matrices * hidden * f.shared_width + f.shared_gate * hidden + 2 * hidden * f.latent_size,
        expert=matrices * expert_hidden * f.expert_width + expert_bias,
        router=f.experts * (hidden + f.router_bias),
        norms=group.norm_vectors * hidden,
    )


class Parameters(eqx.Module):
    """Parameters of a model [elements]: all, those that one token uses, and the embedding and LM head among them."""

    total: Scalar
    active: Scalar
    embedding: Scalar
    lm_head: Scalar


def parameters(model: Model) -> Parameters:
    """Total and active parameters of a model [elements].

    Active: every parameter but the experts that a token does not choose. Exact on Python ints.
    """
    hidden = model.hidden_size
    embedding = (
        model.vocabulary_size * hidden
        + model.position_embeddings * hidden
        + model.embedding_norm_vectors * hidden
        + model.final_norm_vectors * hidden
    )
    head = (1 - model.tied_embeddings) * model.vocabulary_size * hidden + model.lm_head_bias * model.vocabulary_size
    total, active = embedding + head, embedding + head
    for group in model.groups:
        layer = layer_parameters(group, hidden)
        common = (
            layer.attention
            + layer.key_value
            + layer.replicated
            + layer.feed_forward
            + layer.shared
            + layer.router
            + layer.norms
        )
        total += group.count * (common + group.feed_forward.experts * layer.expert)
        active += group.count * (common + group.feed_forward.experts_per_token * layer.expert)
    return Parameters(total, active, embedding, head)


def kv_elements_per_token(model: Model) -> Scalar:
    """Elements that one token adds to the whole model's KV cache, windows not yet full [elements].

    Grouped-query L·Hkv·(dk + dv); MLA L·(rkv + dr); divided by the compression; linear attention and state-space
    layers 0. An indexer's keys have a width of their own: see `index_bytes_per_token`.
    """
    return sum(group.count * layer_kv_elements(group.attention) for group in model.groups)


def index_bytes_per_token(model: Model) -> Scalar:
    """Bytes that one token adds to the whole model's indexer keys [bytes]: di + 4 in a layer with an indexer, divided
    by the compression."""
    return sum(group.count * group.attention.index_bytes * group.attention.kept_share for group in model.groups)


def layer_kv_elements(attention: Attention) -> Scalar:
    """Elements that one token adds to one layer's KV cache [elements]."""
    a = attention
    ordinary = a.present * (1 - a.latent) * (1 - a.linear)
    entry = ordinary * a.kv_heads * (a.head_size + a.value_head_size) + a.latent * (a.kv_rank + a.rope_head_size)
    return a.stored * entry * a.kept_share


def layer_weight_bytes(group: LayerGroup, hidden: Scalar, deployment: Deployment, ops: Ops) -> Scalar:
    """Weights of one layer on one device [bytes].

    Attention, dense and shared feed-forward /tp; key/value projections at most Hkv ways; MLA's down-projections,
    router and norms replicated; experts, with what copies there are, /(ep·moe_tp).
    """
    layout, precision = deployment.parallelism, deployment.precision
    layer = layer_parameters(group, hidden)
    tp = layout.tp
    heads = group.attention.kv_heads + group.attention.linear * group.attention.state_key_heads
    key_value = layer.key_value * ops.at_least(heads / tp, 1.0) / ops.at_least(heads, 1)
    attention = layer.attention / tp + key_value + layer.replicated
    experts = expert_slots(group.feed_forward.experts, deployment.engine.experts) * layer.expert / layout.ranks
    return (
        attention * precision.attention.bytes
        + layer.feed_forward / tp * precision.feed_forward.bytes
        + layer.shared / tp * precision.shared_experts.bytes
        + experts * precision.routed_experts.bytes
        + layer.router * precision.router.bytes
        + layer.norms * precision.activations
    )


def layer_kv_bytes(group: LayerGroup, tokens: Scalar, deployment: Deployment, ops: Ops, states: Scalar = 1.0) -> Scalar:
    """KV cache and recurrent state of one sequence and layer on one device [bytes].

    ⌈min(S, w)/block⌉ blocks a sequence, split over cp; key/value heads split over at most Hkv ranks; MLA's latent
    and an indexer's keys are replicated over tp; a compressed cache holds its most recent tokens besides. State does
    not grow with the sequence: 4 B an element, and the K − 1 last inputs of the convolution; `states` of them where
    drafted tokens may be refused. A layer that reads
    another's cache has none of its own.
    """
    layout, precision, engine = deployment.parallelism, deployment.precision, deployment.engine
    a = group.attention
    token, state = cached_elements(a, layout.tp, ops)
    entry, index = token * precision.kv_cache, a.index_bytes * a.kept_share

    def stored(kept: Scalar, width: Scalar) -> Scalar:
        return ops.ceil_divide(kept, engine.block_tokens) * engine.block_tokens * width

    cache = stored(ops.minimum(tokens, a.window), entry + index)
    cache = a.stored * (cache + stored(ops.minimum(tokens, a.recent), entry / a.kept_share)) / layout.cp
    convolution = ops.at_least(a.convolution_width - 1, 0.0) * recurrent_inputs(a, layout.tp, ops)
    return cache + states * (state * STATE_BYTES + convolution * precision.activations)


def embedding_bytes(model: Model, layout: Parallelism, precision: Precision) -> Scalar:
    """Embedding table (and positions, norms) on a device of the first stage [bytes]."""
    table = (model.vocabulary_size + model.position_embeddings) * model.hidden_size / layout.tp
    norms = (model.embedding_norm_vectors + model.final_norm_vectors) * model.hidden_size
    return table * precision.embedding.bytes + norms * precision.activations


def head_bytes(model: Model, layout: Parallelism, precision: Precision, ops: Ops) -> Scalar:
    """LM head on a device of the last stage [bytes]; tied to the embedding it costs only where the stages differ."""
    head = model.vocabulary_size * (model.hidden_size + model.lm_head_bias) / layout.tp * precision.lm_head.bytes
    apart = 1 - model.tied_embeddings * (1 - ops.above(layout.pp, 1.5))
    return head * apart


def activation_bytes(
    model: Model,
    stacked: LayerGroup,
    layout: Parallelism,
    precision: Precision,
    decode_rows: Scalar,
    prefill_rows: Scalar,
    ops: Ops,
) -> Scalar:
    """Live activations of the widest layer, the larger of the two phases, with the decode logits [bytes].

    Decode: rows·((2 + 2v)·D + 2·Hkv·dk)·b_a + 4 B·rows·V/tp; a prefill chunk: rows·((1 + v)·D + widest part)·b_a, with
    v hidden vectors in a residual (1, or several streams) and the widest part the larger of (Hq + 2Hkv)·dk/tp, 3F/tp
    and k·(D + 3Fe)/moe_tp.
    """
    hidden, tp, moe_tp = model.hidden_size, layout.tp, layout.ranks / layout.ep

    def sizes(group: LayerGroup) -> tuple[Scalar, Scalar]:
        a, f = group.attention, group.feed_forward
        qkv = (a.query_heads * a.head_size + 2 * a.kv_heads * a.head_size) / tp
        experts = f.experts_per_token * (hidden + 3 * f.expert_width) / moe_tp
        return layer_kv_elements(a), ops.at_least(ops.at_least(qkv, 3 * (f.width + f.shared_width) / tp), experts)

    kv, widest = (EXACT.maximum(*unstack(found)) for found in jax.vmap(sizes)(stacked))
    logits = 4.0 * model.vocabulary_size / tp
    vectors = model.live_vectors
    decode = decode_rows * ((2 * (1 + vectors) * hidden + kv) * precision.activations + logits)
    prefill = prefill_rows * ((1 + vectors) * hidden + widest) * precision.activations + logits
    alive = model.vocabulary_size
    return ops.maximum(settle(decode, alive), settle(prefill, alive))


class DeviceMemory(eqx.Module):
    """Memory of the fullest device [bytes]: what it holds, `total` of it, `capacity` of the tiers in use, what of that
    may be filled (`usable`), and by how much weights and KV cache miss their tiers (`overflow`, 0 where they fit).

    Then the largest batch of an instance that fits [sequences], the longest context at the configured batch [tokens],
    KV pressure (used over available on the stage where it is largest; above 1 it does not fit), and the `rooms` of
    every tier.
    """

    weights: Scalar
    kv_cache: Scalar
    activations: Scalar
    reserve: Scalar
    total: Scalar
    capacity: Scalar
    usable: Scalar
    overflow: Scalar
    max_batch: Scalar
    max_context: Scalar
    kv_pressure: Scalar
    rooms: Rooms


class Beside(eqx.Module):
    """What every device holds beside the model, such as a draft: its `weights` [bytes] and the `kv_cache` of one
    sequence at the peak [bytes]. Its groups `stacked`, `counts` layers of each, and its `deployment` tell how that
    cache grows; `tokens` of a sequence are reserved for drafts."""

    weights: Scalar
    kv_cache: Scalar
    stacked: LayerGroup
    counts: Scalar
    deployment: Deployment
    tokens: Scalar


def device_memory(
    plan: Plan,
    shares: Scalar,
    stacked: LayerGroup,
    tokens: Scalar,
    sequences: Scalar,
    activations: Scalar,
    ops: Ops,
    beside: Beside | None = None,
) -> DeviceMemory:
    """What the fullest stage holds, and B_max = dpa·⌊(room − weights)/KV a sequence⌋, where the room is u·capacity of
    the tiers that either class may use, less activations and reserve in main memory.

    **Arguments:** `shares`, [groups, candidate stages] layers (see `stage_shares`); the model's groups `stacked`;
    `tokens` at the peak, isl + osl; `sequences` a replica holds; `activations` [bytes]. `total` counts the whole batch,
    whether it fits or not. What stands `beside` counts on every stage, as weights and KV cache.

    Both fit if each is at most the room of its own tiers, and together at most that of both (Hall's condition, which
    `placement.place` attains), on every stage. An engine that does not page keeps its longest sequence for each.
    """
    model, deployment = plan.model, plan.deployment
    layout, precision, engine = deployment.parallelism, deployment.precision, deployment.engine
    hidden = model.hidden_size
    layer = jax.vmap(lambda group: layer_weight_bytes(group, hidden, deployment, ops))(stacked)
    if engine.options is not None:
        layer = layer + jax.vmap(lambda group: layer_adapter_bytes(group, hidden, deployment, ops))(stacked)
    kept = ops.at_least(tokens, engine.contiguous_tokens)
    states = 1.0 if beside is None else beside.tokens
    cache = jax.vmap(lambda group: layer_kv_bytes(group, kept, deployment, ops, states))(stacked)
    count = shares.shape[1]
    first, last = embedding_bytes(model, layout, precision), head_bytes(model, layout, precision, ops)
    alone = 1 - ops.above(layout.pp, 1.5)
    ends = jnp.stack([first + alone * last, *[0.0 * first] * (count - 2), last + alone * first])
    held = ends + jnp.sum(shares * layer[:, None], axis=0)
    kv = jnp.sum(shares * cache[:, None], axis=0)
    if beside is not None:
        held, kv = held + beside.weights, kv + beside.kv_cache
    room = rooms(plan.system.device.memory, engine, engine.reserve + activations, ops)
    kv_room, weights_room, either = jnp.sum(room.kv_cache), jnp.sum(room.weights), room.either
    weights_on, kv_on = unstack(held), unstack(kv)
    spare = [ops.minimum(ops.at_least(either - on, 0.0), kv_room) for on in weights_on]
    none = room.unplaced > 0
    spare = [choose((on > weights_room) | none, 0.0, space) for on, space in zip(weights_on, spare, strict=True)]
    fits = ops.minimum(*[space / ops.at_least(on, 1e-3) for space, on in zip(spare, kv_on, strict=True)])
    totals = [weights + sequences * cache for weights, cache in zip(weights_on, kv_on, strict=True)]
    total = settle(ops.maximum(*totals), model.vocabulary_size)
    weights = _of_largest(totals, weights_on, ops)
    most_weights, most_kv = EXACT.maximum(*weights_on), sequences * EXACT.maximum(*kv_on)
    missing = (total + room.unplaced - either, most_weights - weights_room, most_kv - kv_room)
    context = longest_context(shares, stacked, jnp.stack(spare) / sequences, deployment, ops, beside)
    return DeviceMemory(
        weights=weights,
        kv_cache=total - weights,
        activations=activations,
        reserve=engine.reserve,
        total=total + activations + engine.reserve,
        capacity=_capacity_in_use(plan.system.device.memory, room),
        usable=either + activations + engine.reserve,
        overflow=ops.at_least(EXACT.maximum(*missing), room.unplaced),
        max_batch=layout.attention_dp * ops.floor(fits),
        max_context=context,
        kv_pressure=sequences / ops.at_least(fits, _NO_SEQUENCE),
        rooms=room,
    )


def _capacity_in_use(memory: Memory, room: Rooms) -> Scalar:
    """Capacity of main memory and of the tiers that weights or KV cache may use [bytes]."""
    tiers = stacked(memory)
    used = larger(tiers.main, choose(room.weights + room.kv_cache > 0, 1.0, 0.0))
    return jnp.sum(used * tiers.capacity)


def _cache_growth(
    stacked: LayerGroup, deployment: Deployment, ops: Ops, states: Scalar = 1.0
) -> tuple[Scalar, Scalar, Scalar]:
    """How the KV cache of a layer of each group grows: `state` [groups] that every sequence has [bytes], then, of the
    groups' windows and of their recent tokens, bytes a token and the tokens at which that ends [2·groups]."""
    block, attention = deployment.engine.block_tokens, stacked.attention
    plain = eqx.tree_at(lambda g: g.attention.recent, stacked, jnp.zeros_like(attention.recent))
    tokens = jnp.stack([0.0 * block, block])

    def grown(group: LayerGroup) -> Scalar:
        return jax.vmap(lambda some: layer_kv_bytes(group, some, deployment, ops, states))(tokens)

    held = jax.vmap(grown)(plain)
    state, token = held[:, 0], (held[:, 1] - held[:, 0]) / block
    index = attention.stored * attention.index_bytes * attention.kept_share / deployment.parallelism.cp
    rates = jnp.concatenate([token, (token - index) / attention.kept_share])
    return state, rates, jnp.concatenate([attention.window, attention.recent])


def longest_context(
    shares: Scalar,
    stacked: LayerGroup,
    room: Scalar,
    deployment: Deployment,
    ops: Ops,
    beside: Beside | None = None,
) -> Scalar:
    """Longest context whose KV cache fits into `room`, [candidates] bytes a sequence on each stage [tokens].

    KV bytes are Σ_t a_t·min(S, w_t) + state over terms t: each group's window, and the recent tokens of a compressed
    cache. That is the least of some lines in S, one for each choice of which terms count as full. So the longest S is
    the largest at which one of them meets the room; infinite where nothing grows with S, and 0 where not even the
    contiguous tokens of an engine that does not page fit.
    """
    block, contiguous = deployment.engine.block_tokens, deployment.engine.contiguous_tokens
    states = 1.0 if beside is None else beside.tokens
    state, rates, window = _cache_growth(stacked, deployment, ops, states)
    counts = jnp.concatenate([shares, shares])
    if beside is not None:
        more = _cache_growth(beside.stacked, beside.deployment, ops)
        state, rates, window = (jnp.concatenate(pair) for pair in zip((state, rates, window), more, strict=True))
        layers = jnp.repeat(beside.counts[:, None], shares.shape[1], axis=1)
        shares, counts = jnp.concatenate([shares, layers]), jnp.concatenate([counts, layers, layers])
    endless = jnp.isinf(window)
    whole_blocks = ops.ceil_divide(choose(endless, block, window), block) * block
    window = choose(endless, jnp.inf, whole_blocks)
    least = jnp.concatenate([jnp.zeros(1, window.dtype), window])
    growing = endless[None, :] | (window[None, :] > least[:, None])
    full = choose(growing, 0.0, whole_blocks[None, :])

    def reached(space: Scalar, share: Scalar, count: Scalar) -> Scalar:
        rate = (count * rates)[None, :]
        slope = jnp.sum(jnp.where(growing, rate, 0.0), axis=1)
        left = space - jnp.sum(rate * full, axis=1) - jnp.sum(share * state)
        flat = choose(left > 0, jnp.inf, 0.0)
        return jnp.max(choose(slope > 0, left / choose(slope > 0, slope, 1.0), flat))

    longest = EXACT.minimum(*unstack(jax.vmap(reached, in_axes=(0, 1, 1))(room, shares, counts)))
    longest = larger(longest, 0.0)
    longest = ops.floor(longest / block) * block
    if beside is not None:
        longest = ops.at_least(longest - beside.tokens, 0.0)
    return choose(longest < contiguous, 0.0, longest)


def _of_largest(keys: list[Scalar], values: list[Scalar], ops: Ops) -> Scalar:
    """The value that belongs to the largest key (the first of equals)."""
    best, value = keys[0], values[0]
    for key, other in zip(keys[1:], values[1:], strict=True):
        higher = ops.above(key, best)
        value = higher * other + (1 - higher) * value
        best = ops.at_least(best, key)
    return value
