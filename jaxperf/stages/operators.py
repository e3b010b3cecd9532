"""The operator table: a layer as a short list of GEMMs, an attention core and element-wise passes, on one rank.

Stages 2 to 5 are columns of this table: FLOPs, bytes, and time are functions of its rows."""

from __future__ import annotations

import equinox as eqx

from ..ops import Ops, Scalar, choose, larger, smaller
from ..spec.model import LayerGroup
from .plan import Arithmetic, Plan
from .popularity import fullest_rank
from .shapes import AttentionShape, Pass


class Gemm(eqx.Module):
    """`copies` products of an m×k by a k×n matrix, each with weights of its own (experts: one copy an expert).

    Widths in bytes per element of the weights, the input and the output; `peak` in FLOP/s of the type it runs in.
    `present` is 0 where a layer lacks the operator.
    """

    present: Scalar
    copies: Scalar
    m: Scalar
    n: Scalar
    k: Scalar
    weight_width: Scalar
    input_width: Scalar
    output_width: Scalar
    peak: Scalar


class AttentionCore(eqx.Module):
    """Scores and values of one layer on one rank: shapes, window [tokens], widths [bytes per element]; `cp` ranks
    share the scores; `causal_work` is the executed share of the T×T square.

    `attended` tokens that a query scores at most (by default the window) beside the `recent` ones, which weigh
    `1/kept_share` of an entry of the compressed cache; `index_flops` and `index_bytes` of an indexer
    a query-key pair and a visible token, not split over tp; `chunked` 1 where windows start anew instead of sliding;
    `stored` 0 where the layer only reads another's KV cache."""

    present: Scalar
    shape: AttentionShape
    window: Scalar
    kv_width: Scalar
    activation_width: Scalar
    cp: Scalar
    causal_work: Scalar
    peak: Scalar
    attended: Scalar | None = None
    index_flops: Scalar = 0.0
    index_bytes: Scalar = 0.0
    chunked: Scalar = 0.0
    stored: Scalar = 1.0
    recent: Scalar = 0.0
    recent_weight: Scalar = 1.0

    @property
    def reach(self) -> Scalar:
        """Tokens that a query scores at most."""
        return self.window if self.attended is None else self.attended


class Elementwise(eqx.Module):
    """A pass over `rows` rows of activations that moves `row_bytes` bytes a row; where its operations count, too,
    `row_flops` of them a row at a `peak` [FLOP/s]."""

    present: Scalar
    rows: Scalar
    row_bytes: Scalar
    row_flops: Scalar = 0.0
    peak: Scalar = 1.0

    @property
    def counts_operations(self) -> bool:
        """Whether operations are given: the usual passes have none, and no side but memory."""
        return not isinstance(self.row_flops, float)


Operator = Gemm | AttentionCore | Elementwise


def layer_table(group: LayerGroup, shape: AttentionShape, plan: Plan, work: Pass, ops: Ops) -> dict[str, Operator]:
    """The operators of one layer of a group for one pass, by name, in execution order.

    **Arguments:** the layer `group`, its attention's `shape` on a rank, the `plan`, the pass `work` (see `Pass`).

    **Returns:** a dict with the same keys for every model; what a layer lacks has `present` 0.
    """
    norms = {"norm, rope, quantise": _norm_row(group, shape, plan, work)}
    return norms | attention_rows(group, shape, plan, work) | _feed_forward_rows(group, plan, work)


def _gemm(m: Scalar, n: Scalar, k: Scalar, how: Arithmetic, width: Scalar) -> Gemm:
    """A product that is there where its weights are."""
    return Gemm(smaller(n * k, 1.0), 1.0, m, n, k, how.weight_width, how.input_width, width, how.peak)


def attention_rows(group: LayerGroup, shape: AttentionShape, plan: Plan, work: Pass) -> dict[str, Operator]:
    """The operators of one layer's attention."""
    precision, attention = plan.deployment.precision, group.attention
    hidden, rows, width, at = plan.model.hidden_size, work.rows, precision.activations, plan.attention
    # MLA's kv_b product runs once a row where it is absorbed, but for every visible token where it is expanded.
    up_rows = rows
    if not work.decode:
        up_rows = shape.absorbed * rows + (1 - shape.absorbed) * (work.sequences * work.mean_context)
    return {
        "down projections": _gemm(rows, shape.down_n, hidden, at, width),
        "qkv projection": _gemm(rows, shape.qkv_n, shape.qkv_k, at, width),
        "latent up": _gemm(up_rows, shape.up_n, shape.up_k, at, width),
        "attention": AttentionCore(
            attention.present,
            shape,
            attention.window,
            precision.kv_cache,
            width,
            plan.deployment.parallelism.cp,
            plan.deployment.engine.causal_work,
            plan.core_peak,
            attention.attended,
            2 * attention.index_size * attention.kept_share * plan.index_speed,
            attention.index_bytes * attention.kept_share,
            attention.chunked,
            attention.stored,
            attention.recent,
            1 / attention.kept_share,
        ),
        "convolution, gated norm": Elementwise(
            attention.linear, rows, (2 * shape.mixed_elements + 3 * shape.gated_elements) * width
        ),
        "output projection": _gemm(rows, attention.present * hidden, shape.out_k, at, width),
    }


def _feed_forward_rows(group: LayerGroup, plan: Plan, work: Pass) -> dict[str, Operator]:
    """The operators of one layer's feed-forward: dense, shared experts, routed experts."""
    layout, feed_forward = plan.deployment.parallelism, group.feed_forward
    hidden, rows, width = plan.model.hidden_size, work.rows, plan.deployment.precision.activations
    ff, shared, routed = plan.feed_forward, plan.shared_experts, plan.routed_experts
    has_experts = smaller(feed_forward.experts, 1.0)
    chosen, experts = feed_forward.experts_per_token, feed_forward.experts
    placed = plan.deployment.engine.experts
    load, active = fullest_rank(work.group_tokens, experts, chosen, layout.ep, plan.score, placed)
    expert_rows = load / larger(active, 1e-6)
    gates = 1 + feed_forward.gated
    expert_width = feed_forward.expert_width / plan.moe_tp
    shared_width = feed_forward.shared_width / layout.tp
    # Latent experts: the projections to the latent and back run as columns and depth of the shared experts' products.
    latent, latent_columns = feed_forward.latent_size, feed_forward.latent_size / layout.tp
    expert_hidden = (1 - smaller(latent, 1.0)) * hidden + latent
    dense_width = feed_forward.width / layout.tp
    has_dense = smaller(feed_forward.width, 1.0)
    has_shared = smaller(feed_forward.shared_width + latent, 1.0)
    gated_width = (2 + feed_forward.gated) * width

    def expert(n: Scalar, k: Scalar) -> Gemm:
        form = routed.weight_width, routed.input_width, width, routed.peak
        return Gemm(has_experts, active, expert_rows, n, k, *form)

    def product(present: Scalar, n: Scalar, k: Scalar, how: Arithmetic) -> Gemm:
        return Gemm(present, 1.0, rows, n, k, how.weight_width, how.input_width, width, how.peak)

    return {
        "router": _gemm(rows, experts, hidden, plan.router, width),
        "expert gate, up": expert(gates * expert_width, expert_hidden),
        "expert down": expert(expert_hidden, expert_width),
        "shared gate, up": product(has_shared, gates * shared_width + latent_columns, hidden, shared),
        "shared down": product(has_shared, hidden, shared_width + latent_columns, shared),
        "ffn gate, up": product(has_dense, gates * dense_width, hidden, ff),
        "ffn down": product(has_dense, hidden, dense_width, ff),
        "activation": Elementwise(larger(has_dense, has_shared), rows, gated_width * (dense_width + shared_width)),
        "expert activation": Elementwise(has_experts, load, gated_width * expert_width),
    }


def _norm_row(group: LayerGroup, shape: AttentionShape, plan: Plan, work: Pass) -> Elementwise:
    """Norms with their residuals, rotary embedding, and quantisation of what low-precision GEMMs read."""
    attention, feed_forward = group.attention, group.feed_forward
    hidden, width = plan.model.hidden_size, plan.deployment.precision.activations
    has_dense, has_experts = smaller(feed_forward.width, 1.0), smaller(feed_forward.experts, 1.0)
    rope_elements = (
        (1 - attention.linear)
        * 2
        * choose(
            attention.latent > 0,
            (shape.heads + 1) * attention.rope_head_size,
            shape.heads * attention.head_size + shape.kv_elements / 2,
        )
    )
    feed_forward_input = has_dense * plan.feed_forward.input_width + has_experts * plan.routed_experts.input_width
    has_feed_forward = larger(has_dense, has_experts)
    quantised = _quantise(plan.attention.input_width, width) * attention.present + has_feed_forward * _quantise(
        feed_forward_input, width
    )
    sites = attention.present + has_feed_forward
    norm_bytes = sites * group.residual_vectors * hidden * width + rope_elements * width + hidden * quantised
    return Elementwise(smaller(sites, 1.0), work.rows, norm_bytes)


def _quantise(input_width: Scalar, width: Scalar) -> Scalar:
    """Bytes per element to read wide and write narrow, 0 where the GEMM takes the activations as they are."""
    return choose(input_width < width, width + input_width, 0.0)


def embedding_table(plan: Plan, work: Pass) -> dict[str, Operator]:
    """The embedding gather of a pass on one rank: rows·D read and written, never the whole table."""
    precision = plan.deployment.precision
    row_bytes = plan.model.hidden_size * (precision.embedding.bytes + precision.activations)
    return {"embedding": Elementwise(1.0, work.rows, row_bytes)}


def head_table(plan: Plan, work: Pass) -> dict[str, Operator]:
    """The LM head and sampling on one rank, for the rows that need logits; 4 passes over fp32 logits to sample."""
    tp, how = plan.deployment.parallelism.tp, plan.lm_head
    vocabulary, rows, width = plan.model.vocabulary_size, work.logit_rows, plan.deployment.precision.activations
    columns, depth = vocabulary / tp, plan.model.hidden_size
    return {
        "lm head": Gemm(1.0, 1.0, rows, columns, depth, how.weight_width, how.input_width, width, how.peak),
        "sampling": Elementwise(1.0, rows, 4.0 * vocabulary * 4.0),
    }
