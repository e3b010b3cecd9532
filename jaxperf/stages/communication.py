"""Stage 4: communication of a layer, of the head, and between pipeline stages."""

from __future__ import annotations

import equinox as eqx

from ..collectives.topology import collective_time, pipeline_hops
from ..ops import Ops, Scalar
from ..spec.deployment import Deployment
from ..spec.model import LayerGroup, Model
from ..spec.system import System
from .operators import arithmetic
from .routing import distinct_ranks
from .shapes import Pass, attention_shape, ranks_moe_tp


class LayerCommunication(eqx.Module):
    """Seconds a layer and chunk: attention's all-reduce, the feed-forward's collectives, the context-parallel ring."""

    attention: Scalar
    feed_forward: Scalar
    context: Scalar

    @property
    def total(self) -> Scalar:
        """All of them [s]."""
        return self.attention + self.feed_forward + self.context


def layer_communication(
    group: LayerGroup, model: Model, system: System, deployment: Deployment, work: Pass, ops: Ops
) -> LayerCommunication:
    """Communication of one layer in one chunk of a pass, the context ring at the mean context [s].

    - attention output: all-reduce of rows·D·b_a over tp;
    - dense feed-forward: the same;
    - experts, where tokens are already replicated over the ranks (attention_dp = 1, and cp = 1 or decode): one
      all-reduce over all ranks of the stage, with which the shared experts' sum is fused;
    - experts otherwise: dispatch and combine, the cheaper of all-gather + reduce-scatter of the group's tokens and, if
      experts are not split (moe_tp = 1), two all-to-alls without duplicates to one rank; shared experts' all-reduce;
    - cp: a ring pass of keys and values in prefill, a reduction of partial outputs in decode.
    """
    layout, precision, device = deployment.parallelism, deployment.precision, system.device
    attention, feed_forward = group.attention, group.feed_forward
    hidden, width = model.hidden_size, precision.activations
    ranks, moe_tp = layout.ranks, ranks_moe_tp(layout)

    def collective(kind: str, size: Scalar, members: Scalar, stride: Scalar) -> Scalar:
        return collective_time(kind, size, members, stride, system.fabric, deployment.efficiency, ops)  # pyright: ignore

    row_bytes = work.rows * hidden * width
    over_tp = collective("all-reduce", row_bytes, layout.tp, 1.0)
    has_experts = ops.minimum(feed_forward.experts, 1.0)
    has_dense = ops.minimum(feed_forward.width, 1.0)
    has_shared = ops.minimum(feed_forward.shared_width, 1.0)

    replicated = collective("all-reduce", row_bytes, ranks, 1.0)
    dispatch_width = arithmetic(precision.routed_experts, device).input_width
    gathered = work.group_tokens * hidden
    by_gather = collective("all-gather", gathered * dispatch_width, ranks, 1.0) + collective(
        "reduce-scatter", gathered * width, ranks, 1.0
    )
    owned = work.group_tokens / ranks * hidden
    copies = distinct_ranks(feed_forward.experts, feed_forward.experts_per_token, layout.ep)
    by_exchange = collective("all-to-all", owned * copies * dispatch_width, layout.ep, moe_tp) + collective(
        "all-to-all", owned * copies * width, layout.ep, moe_tp
    )
    split = ops.above(moe_tp, 1.5)
    exchanged = ops.cheapest(by_gather, by_exchange * (1 + 1e9 * split)) + has_shared * over_tp
    spread = ops.above(layout.attention_dp, 1.5)
    if not work.decode:
        spread = 1 - (1 - spread) * (1 - ops.above(layout.cp, 1.5))
    experts = spread * exchanged + (1 - spread) * replicated

    shape = attention_shape(attention, hidden, layout.tp, work.decode, ops)
    visible = ops.minimum(work.mean_context, attention.window - 1 + work.new_tokens)
    if work.decode:
        context = collective("all-reduce", work.rows * shape.heads * shape.value_size * width, layout.cp, layout.tp)
    else:
        cache = work.sequences * visible * shape.kv_elements * precision.kv_cache
        context = collective("all-gather", cache, layout.cp, layout.tp)
    return LayerCommunication(
        attention=attention.present * over_tp,
        feed_forward=has_dense * over_tp + has_experts * experts,
        context=attention.present * context,
    )


def embedding_communication(model: Model, system: System, deployment: Deployment, work: Pass, ops: Ops) -> Scalar:
    """All-reduce of a vocabulary-parallel embedding over tp, in one chunk [s]."""
    tp = deployment.parallelism.tp
    size = work.rows * model.hidden_size * deployment.precision.activations
    return collective_time("all-reduce", size, tp, 1.0, system.fabric, deployment.efficiency, ops)


def head_communication(model: Model, system: System, deployment: Deployment, work: Pass, ops: Ops) -> Scalar:
    """Gather of the logits over tp [s]."""
    tp = deployment.parallelism.tp
    size = work.logit_rows * model.vocabulary_size * deployment.precision.activations
    return collective_time("all-gather", size, tp, 1.0, system.fabric, deployment.efficiency, ops)


def hop_communication(model: Model, system: System, deployment: Deployment, work: Pass, ops: Ops) -> Scalar:
    """All pp − 1 stage boundaries together [s]: rows·D/tp·b_a point to point, then an all-gather over tp."""
    layout, width = deployment.parallelism, deployment.precision.activations
    row_bytes = work.rows * model.hidden_size * width
    sent = pipeline_hops(row_bytes / layout.tp, layout.pp, layout.ranks, system.fabric, deployment.efficiency, ops)
    gathered = collective_time("all-gather", row_bytes, layout.tp, 1.0, system.fabric, deployment.efficiency, ops)
    return sent + (layout.pp - 1) * gathered
