"""The operator table: a layer as a short list of GEMMs, an attention core and element-wise passes, on one rank.

Stages 2 to 5 are columns of this table: FLOPs, bytes, and time are functions of its rows."""

from __future__ import annotations

import equinox as eqx

from ..ops import Ops, Scalar, choose, larger, smaller
from ..spec.model import LayerGroup
from .plan import Arithmetic, Plan
from .routing import slowest_rank
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

    `attended` tokens that a query scores at most (by default the window); `index_flops` and `index_bytes` of an indexer
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
    layout, precision = plan.deployment.parallelism, plan.deployment.precision
    attention, feed_forward = group.attention, group.feed_forward
    hidden, rows, width = plan.model.hidden_size, work.rows, precision.activations
    tp, moe_tp = layout.tp, plan.moe_tp
    at, ff, shared, routed = plan.attention, plan.feed_forward, plan.shared_experts, plan.routed_experts

    def gemm(
        m: Scalar, n: Scalar, k: Scalar, how: Arithmetic, copies: Scalar = 1.0, present: Scalar | None = None
    ) -> Gemm:
        if present is None:
            present = smaller(n * k, 1.0)
        return Gemm(present, copies, m, n, k, how.weight_width, how.input_width, width, how.peak)

    # MLA's kv_b product runs once a row where it is absorbed, but for every visible token where it is expanded.
    up_rows = rows if shape.absorbed else work.sequences * work.mean_context
    has_experts = smaller(feed_forward.experts, 1.0)
    chosen, experts = feed_forward.experts_per_token, feed_forward.experts
    load, active = slowest_rank(work.group_tokens, experts, chosen, layout.ep, plan.score)
    expert_rows = load / larger(active, 1e-6)
    gates = 1 + feed_forward.gated
    expert_width = feed_forward.expert_width / moe_tp
    shared_width = feed_forward.shared_width / tp
    # Latent experts: the projections to the latent and back run as columns and depth of the shared experts' products.
    latent, latent_columns = feed_forward.latent_size, feed_forward.latent_size / tp
    expert_hidden = (1 - smaller(latent, 1.0)) * hidden + latent
    dense_width = feed_forward.width / tp
    has_dense = smaller(feed_forward.width, 1.0)
    has_shared = smaller(feed_forward.shared_width + latent, 1.0)

    rope_elements = (
        (1 - attention.linear)
        * 2
        * choose(
            attention.latent > 0,
            (shape.heads + 1) * attention.rope_head_size,
            shape.heads * attention.head_size + shape.kv_elements / 2,
        )
    )
    feed_forward_input = has_dense * ff.input_width + has_experts * routed.input_width
    has_feed_forward = larger(has_dense, has_experts)
    quantised = _quantise(at.input_width, width) * attention.present + has_feed_forward * _quantise(
        feed_forward_input, width
    )
    sites = attention.present + has_feed_forward
    norm_bytes = sites * 4 * hidden * width + rope_elements * width + hidden * quantised
    gated_width = (2 + feed_forward.gated) * width
    has_rows = larger(has_dense, has_shared)
    return {
        "norm, rope, quantise": Elementwise(smaller(sites, 1.0), rows, norm_bytes),
        "latent down": gemm(rows, shape.down_n, hidden, at),
        "qkv projection": gemm(rows, shape.qkv_n, shape.qkv_k, at),
        "latent up": gemm(up_rows, shape.up_n, shape.up_k, at),
        "attention": AttentionCore(
            attention.present,
            shape,
            attention.window,
            precision.kv_cache,
            width,
            layout.cp,
            plan.deployment.engine.causal_work,
            plan.core_peak,
            attention.attended,
            2 * attention.index_size * attention.kept_share * plan.index_speed,
            attention.index_bytes * attention.kept_share,
            attention.chunked,
            attention.stored,
        ),
        "output projection": gemm(rows, attention.present * hidden, shape.out_k, at),
        "router": gemm(rows, experts, hidden, plan.router),
        "expert gate, up": gemm(expert_rows, gates * expert_width, expert_hidden, routed, active, has_experts),
        "expert down": gemm(expert_rows, expert_hidden, expert_width, routed, active, has_experts),
        "shared gate, up": gemm(rows, gates * shared_width + latent_columns, hidden, shared, 1.0, has_shared),
        "shared down": gemm(rows, hidden, shared_width + latent_columns, shared, 1.0, has_shared),
        "ffn gate, up": gemm(rows, gates * dense_width, hidden, ff, 1.0, has_dense),
        "ffn down": gemm(rows, hidden, dense_width, ff, 1.0, has_dense),
        "activation": Elementwise(has_rows, rows, gated_width * (dense_width + shared_width)),
        "expert activation": Elementwise(has_experts, load, gated_width * expert_width),
    }


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
