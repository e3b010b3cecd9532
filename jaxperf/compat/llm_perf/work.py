"""What a device of llm_perf computes and reads: its layer as a table of jaxperf's GEMMs.

The conventions are the tool's: one width for weights, keys, values and activations; every expert is read; the head
size is D/Hq; all layers of a pipeline stage are alike, also where L/PP is no whole number; an expert-parallel rank
repeats the attention of the whole batch. Source: its documentation/modeling/decode.md, prefill.md, commit fdc49cc."""

from __future__ import annotations

import jax.numpy as jnp

from ...ops import EXACT, Scalar, larger, smaller
from ...stages.flops import flops
from ...stages.operators import Gemm
from ...stages.shapes import Pass, visible_pairs
from ...stages.traffic import traffic
from .case import Layout, Model

_KEYS_AND_VALUES = 2
_TOKEN = Pass(
    rows=1.0,
    group_tokens=1.0,
    sequences=1.0,
    new_tokens=1.0,
    prior=0.0,
    chunks=1.0,
    logit_rows=1.0,
    decode=True,
)


def _gemm(columns: Scalar, depth: Scalar, width: Scalar, copies: Scalar = 1.0) -> Gemm:
    """One token through `copies` weights of depth×columns, of `width` bytes per element."""
    return Gemm(1.0, copies, 1.0, columns, depth, width, 0.0, 0.0, 1.0)


def _attention_table(model: Model, layout: Layout) -> dict[str, Gemm]:
    hidden, tp, width = model.hidden, layout.tp, model.width
    return {
        "query": _gemm(hidden / tp, hidden, width),
        "keys and values": _gemm(_KEYS_AND_VALUES * model.kv_width / tp, hidden, width),
        "output": _gemm(hidden, hidden / tp, width),
    }


def _feed_forward_table(inner: Scalar, hidden: Scalar, width: Scalar, copies: Scalar = 1.0) -> dict[str, Gemm]:
    return {"gate, up": _gemm(2 * inner, hidden, width, copies), "down": _gemm(hidden, inner, width, copies)}


def expert_ranks(model: Model, layout: Layout) -> Scalar:
    """Ranks that share the experts: EP, at most the number of experts, 1 in a dense model."""
    return smaller(layout.ep, larger(model.experts, 1.0))


def _dense_table(model: Model, layout: Layout) -> dict[str, Gemm]:
    inner = model.dense_width / layout.tp
    return {**_attention_table(model, layout), **_feed_forward_table(inner, model.hidden, model.width)}


def _moe_table(model: Model, layout: Layout, experts: Scalar) -> dict[str, Gemm]:
    """A layer with experts, `experts` of which count: those that a token chooses for FLOPs, all for bytes. The router
    is computed everywhere and stored nowhere."""
    copies = experts / expert_ranks(model, layout)
    inner = model.expert_width / layout.tp
    return {
        **_attention_table(model, layout),
        **_feed_forward_table(inner, model.hidden, model.width, copies),
        "router": _gemm(model.experts, model.hidden, 0.0),
    }


def _stage(model: Model, layout: Layout, dense: Scalar, moe: Scalar) -> Scalar:
    """A figure of a dense layer and one of a layer with experts, over the layers of a pipeline stage."""
    return ((model.layers - model.moe_layers) * dense + model.moe_layers * moe) / layout.pp


def linear_flops(model: Model, layout: Layout) -> Scalar:
    """Projections, feed-forward and router of a token on one device [FLOP]."""

    def total(table: dict[str, Gemm]) -> Scalar:
        return sum(flops(gemm, _TOKEN, EXACT) for gemm in table.values())

    dense = total(_dense_table(model, layout))
    return _stage(model, layout, dense, total(_moe_table(model, layout, model.experts_per_token)))


def chunk_linear_flops(model: Model, layout: Layout) -> Scalar:
    """The same as `linear_flops` in chunked prefill [FLOP]: no router, the experts' width on every layer of a model
    that has any, and the feed-forward divided by EP as it stands, also in a dense model."""
    chosen = jnp.where(model.moe > 0, model.experts_per_token * model.expert_width, model.dense_width)
    table = {
        **_attention_table(model, layout),
        **_feed_forward_table(chosen / (layout.tp * layout.ep), model.hidden, model.width),
    }
    per_layer = sum(flops(gemm, _TOKEN, EXACT) for gemm in table.values())
    return model.layers / layout.pp * per_layer


def attention_flops(model: Model, layout: Layout, new_tokens: Scalar, prior: Scalar) -> Scalar:
    """Scores and values of T tokens after `prior` on one device, the full square [FLOP]: 4·pairs·D."""
    pairs = visible_pairs(new_tokens, prior, jnp.inf, 1.0, EXACT)
    return model.layers / layout.pp * 2 * pairs * (2 * model.hidden) / (layout.tp * layout.sp)


def weight_bytes(model: Model, layout: Layout) -> Scalar:
    """Weights of a pipeline stage on one device, without the embedding [bytes]."""

    def total(table: dict[str, Gemm]) -> Scalar:
        return sum(traffic(gemm, _TOKEN, EXACT).weights for gemm in table.values())

    dense = total(_dense_table(model, layout))
    return _stage(model, layout, dense, total(_moe_table(model, layout, model.experts)))


def embedding_bytes(model: Model, layout: Layout) -> Scalar:
    """One table of V×D, counted on every stage, /TP [bytes]."""
    return model.vocabulary * model.hidden * model.width / layout.tp


def kv_bytes(model: Model, layout: Layout, tokens: Scalar) -> Scalar:
    """Keys and values of `tokens` on one device [bytes]."""
    elements = _KEYS_AND_VALUES * model.kv_width * model.layers / layout.pp
    return tokens * elements * model.width / (layout.tp * layout.sp)


def activation_bytes(model: Model, batch: Scalar) -> Scalar:
    """One layer's working set, not sharded [bytes]: B·(4D + 2·Hkv)·b."""
    return batch * (4 * model.hidden + _KEYS_AND_VALUES * model.kv_width) * model.width


def unsharded_prefill_flops(hidden: Scalar, kv_width: Scalar, dense_width: Scalar, tokens: Scalar) -> tuple:
    """One dense layer over a prompt [FLOP]: (projections, attention, feed-forward). Exact on Python integers."""
    return (
        (4 * hidden**2 + 4 * hidden * kv_width) * tokens,
        4 * tokens**2 * hidden,
        6 * hidden * dense_width * tokens,
    )
