"""Stage 1: parameters, bytes a device, and how many sequences fit.

Counts are generic arithmetic: on a `Model` of Python ints they are exact to the unit, on arrays they are what the
kernels use."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

from ..ops import Counting, Ops, Scalar, settle
from ..spec.deployment import Deployment, Parallelism, Precision
from ..spec.model import Attention, FeedForward, LayerGroup, Model
from .plan import Plan
from .shapes import attention_shape, kv_heads_on_rank


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
    Latent (MLA): rq·Hq(dn+dr) or D·Hq(dn+dr), rkv·Hq(dn+dv), Hq·dv·D; replicated D·rq + D(rkv+dr) + norms.
    Linear (gated delta): D(2Hk·dk + 2Hv·dv) + 2D·Hv + K(2Hk·dk + Hv·dv) + Hv·dv·D + 2Hv + dv.
    """
    a, dk, dv = attention, attention.head_size, attention.value_head_size
    ordinary = a.present * (1 - a.latent) * (1 - a.linear)
    query, key_value = a.query_heads * dk, a.kv_heads * (dk + dv)
    query_rope = a.query_heads * (dk + a.rope_head_size)
    has_rank = Counting().minimum(a.q_rank, 1) if isinstance(a.q_rank, int) else a.q_rank / (a.q_rank + 1e-9)
    query_input = has_rank * a.q_rank + (1 - has_rank) * hidden
    keys, values = a.state_key_heads * dk, a.state_value_heads * dv
    sharded = (
        ordinary * (hidden * query * (1 + a.output_gate) + a.query_heads * dv * hidden + a.qkv_bias * query)
        + ordinary * a.sinks * a.query_heads
        + a.latent * (query_input * query_rope + a.kv_rank * a.query_heads * (dk + dv) + a.query_heads * dv * hidden)
        + a.linear * (hidden * (2 * keys + 3 * values) + 2 * hidden * a.state_value_heads)
        + a.linear * (a.convolution_width * (2 * keys + values) + 2 * a.state_value_heads)
    )
    shared_heads = ordinary * (hidden + a.qkv_bias) * key_value
    replicated = (
        a.latent * (hidden * a.q_rank + hidden * (a.kv_rank + a.rope_head_size) + a.q_rank + a.kv_rank)
        + a.output_bias * hidden
        + a.qk_norm_parameters
        + a.linear * dv
        + a.extra_parameters
    )
    return sharded, shared_heads, replicated


def layer_parameters(group: LayerGroup, hidden: Scalar) -> LayerParameters:
    """Parameters of one layer of a group, by class [elements] (see `LayerParameters`)."""
    f: FeedForward = group.feed_forward
    attention, key_value, replicated = attention_parameters(group.attention, hidden)
    matrices = 2 + f.gated
    expert_bias = f.expert_bias * ((1 + f.gated) * f.expert_width + hidden)
    dense_bias = f.bias * ((1 + f.gated) * f.width + hidden)
    return LayerParameters(
        attention=attention,
        key_value=key_value,
        replicated=replicated,
        feed_forward=matrices * hidden * f.width + dense_bias,
        shared=matrices * hidden * f.shared_width + f.shared_gate * hidden,
        expert=matrices * hidden * f.expert_width + expert_bias,
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

    Grouped-query L·Hkv·(dk + dv); MLA L·(rkv + dr); linear attention and state-space layers 0.
    """
    return sum(group.count * layer_kv_elements(group.attention) for group in model.groups)


def layer_kv_elements(attention: Attention) -> Scalar:
    """Elements that one token adds to one layer's KV cache [elements]."""
    a = attention
    ordinary = a.present * (1 - a.latent) * (1 - a.linear)
    return ordinary * a.kv_heads * (a.head_size + a.value_head_size) + a.latent * (a.kv_rank + a.rope_head_size)


def layer_weight_bytes(
    group: LayerGroup, hidden: Scalar, layout: Parallelism, precision: Precision, ops: Ops
) -> Scalar:
    """Weights of one layer on one device [bytes].

    Attention, dense and shared feed-forward /tp; key/value projections at most Hkv ways; MLA's down-projections,
    router and norms replicated; experts /(ep·moe_tp).
    """
    layer = layer_parameters(group, hidden)
    tp = layout.tp
    key_value = layer.key_value * kv_heads_on_rank(group.attention, tp, ops) / ops.at_least(group.attention.kv_heads, 1)
    attention = layer.attention / tp + key_value + layer.replicated
    experts = group.feed_forward.experts * layer.expert / layout.ranks
    return (
        attention * precision.attention.bytes
        + layer.feed_forward / tp * precision.feed_forward.bytes
        + layer.shared / tp * precision.shared_experts.bytes
        + experts * precision.routed_experts.bytes
        + layer.router * precision.router.bytes
        + layer.norms * precision.activations
    )


def layer_kv_bytes(group: LayerGroup, tokens: Scalar, deployment: Deployment, ops: Ops) -> Scalar:
    """KV cache and recurrent state of one sequence and layer on one device [bytes].

    ⌈min(S, w)/block⌉ blocks a sequence, split over cp; key/value heads split over at most Hkv ranks; MLA's latent
    is replicated over tp; state does not grow with the sequence.
    """
    layout, precision, engine = deployment.parallelism, deployment.precision, deployment.engine
    shape = attention_shape(group.attention, 1.0, layout.tp, True, ops)
    kept = ops.minimum(tokens, group.attention.window)
    blocks = ops.ceil_divide(kept, engine.block_tokens)
    cache = blocks * engine.block_tokens * shape.kv_elements * precision.kv_cache / layout.cp
    return cache + shape.state_elements * 4.0


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
    model: Model, layout: Parallelism, precision: Precision, decode_rows: Scalar, prefill_rows: Scalar, ops: Ops
) -> Scalar:
    """Live activations of the widest layer, the larger of the two phases, with the decode logits [bytes].

    Decode: rows·(4D + 2·Hkv·dk)·b_a + 4 B·rows·V/tp; a prefill chunk: rows·(2D + widest part)·b_a, the widest part the
    larger of (Hq + 2Hkv)·dk/tp, 3F/tp and k·(D + 3Fe)/moe_tp.
    """
    hidden, tp, moe_tp = model.hidden_size, layout.tp, layout.ranks / layout.ep
    kv, widest = 0.0, 0.0
    for group in model.groups:
        a, f = group.attention, group.feed_forward
        kv = ops.at_least(kv, layer_kv_elements(a))
        qkv = (a.query_heads * a.head_size + 2 * a.kv_heads * a.head_size) / tp
        experts = f.experts_per_token * (hidden + 3 * f.expert_width) / moe_tp
        widest = ops.at_least(ops.at_least(ops.at_least(widest, qkv), 3 * (f.width + f.shared_width) / tp), experts)
    logits = 4.0 * model.vocabulary_size / tp
    decode = decode_rows * ((4 * hidden + kv) * precision.activations + logits)
    prefill = prefill_rows * (2 * hidden + widest) * precision.activations + logits
    alive = model.vocabulary_size
    return ops.maximum(settle(decode, alive), settle(prefill, alive))


class DeviceMemory(eqx.Module):
    """Memory of the fullest device [bytes], and the largest batch of an instance that fits [sequences]."""

    weights: Scalar
    kv_cache: Scalar
    activations: Scalar
    reserve: Scalar
    total: Scalar
    capacity: Scalar
    max_batch: Scalar


def device_memory(
    plan: Plan, shares: Scalar, stacked: LayerGroup, tokens: Scalar, sequences: Scalar, activations: Scalar, ops: Ops
) -> DeviceMemory:
    """What the fullest stage holds, and B_max = dpa·⌊(u·capacity − weights − activations − reserve)/KV a sequence⌋.

    **Arguments:** `shares`, [groups, candidate stages] layers (see `stage_shares`); the model's groups `stacked`;
    `tokens` at the peak, isl + osl; `sequences` a replica holds; `activations` [bytes]. `total` counts the whole batch,
    whether it fits or not; `capacity` is the device's, of which the engine may fill its share u.
    """
    model, deployment = plan.model, plan.deployment
    layout, precision, engine = deployment.parallelism, deployment.precision, deployment.engine
    layer = jax.vmap(lambda group: layer_weight_bytes(group, model.hidden_size, layout, precision, ops))(stacked)
    cache = jax.vmap(lambda group: layer_kv_bytes(group, tokens, deployment, ops))(stacked)
    count = shares.shape[1]
    first, last = embedding_bytes(model, layout, precision), head_bytes(model, layout, precision, ops)
    alone = 1 - ops.above(layout.pp, 1.5)
    ends = jnp.stack([first + alone * last, *[0.0 * first] * (count - 2), last + alone * first])
    held = ends + jnp.sum(shares * layer[:, None], axis=0)
    kv = jnp.sum(shares * cache[:, None], axis=0)
    usable = engine.memory_utilisation * plan.system.device.memory.capacity - engine.reserve - activations
    candidates = range(count)
    fits = ops.minimum(*[ops.at_least(usable - held[c], 0.0) / ops.at_least(kv[c], 1e-3) for c in candidates])
    totals = [held[c] + sequences * kv[c] for c in candidates]
    total = settle(ops.maximum(*totals), model.vocabulary_size)
    weights = _of_largest(totals, [held[c] for c in candidates], ops)
    return DeviceMemory(
        weights=weights,
        kv_cache=total - weights,
        activations=activations,
        reserve=engine.reserve,
        total=total + activations + engine.reserve,
        capacity=plan.system.device.memory.capacity,
        max_batch=layout.attention_dp * ops.floor(fits),
    )


def _of_largest(keys: list[Scalar], values: list[Scalar], ops: Ops) -> Scalar:
    """The value that belongs to the largest key (the first of equals)."""
    best, value = keys[0], values[0]
    for key, other in zip(keys[1:], values[1:], strict=True):
        higher = ops.above(key, best)
        value = higher * other + (1 - higher) * value
        best = ops.at_least(best, key)
    return value
