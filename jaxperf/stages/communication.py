"""Stage 4: communication of a layer, of the head, and between pipeline stages."""

from __future__ import annotations

import equinox as eqx

from ..ops import Ops, Scalar, larger, smaller
from ..spec.model import LayerGroup
from .plan import Forwarding, Plan
from .popularity import expert_slots, imbalance
from .routing import distinct_ranks
from .shapes import AttentionShape, Pass


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
    group: LayerGroup, shape: AttentionShape, plan: Plan, work: Pass, ops: Ops
) -> LayerCommunication:
    """Communication of one layer in one chunk of a pass, the context ring at the mean context [s].

    - attention output: all-reduce of rows·D·b_a over tp;
    - dense feed-forward: the same;
    - experts, where tokens are already replicated over the ranks (attention_dp = 1, and cp = 1 or decode): one
      all-reduce over all ranks of the stage, with which the shared experts' sum is fused;
    - experts otherwise: dispatch and combine, the cheapest of all-gather + reduce-scatter of the group's tokens and, if
      experts are not split (moe_tp = 1), two all-to-alls without duplicates to one rank, longer by the load of the
      fullest rank where experts are not equally popular, or in two hops where the engine forwards tokens inside nodes;
      shared experts' all-reduce;
    - cp: a ring pass of keys and values in prefill, a reduction of partial outputs in decode.
    """
    layout, precision = plan.deployment.parallelism, plan.deployment.precision
    attention, feed_forward, links = group.attention, group.feed_forward, plan.links
    hidden, width = plan.model.hidden_size, precision.activations

    row_elements = work.rows * hidden
    row_bytes = row_elements * width
    over_tp = links.tp_reduce.time(row_bytes, ops)
    has_experts = ops.minimum(feed_forward.experts, 1.0)
    has_dense = ops.minimum(feed_forward.width, 1.0)
    has_shared = ops.minimum(feed_forward.shared_width + feed_forward.latent_size, 1.0)
    # Latent experts (Nemotron 3) are sent the latent, not the hidden state.
    latent = ops.minimum(feed_forward.latent_size, 1.0)
    to_experts = latent * feed_forward.latent_size + (1 - latent) * hidden

    replicated = links.ranks_reduce.time(row_bytes, ops)
    dispatch_width = plan.routed_experts.input_width
    gathered = work.group_tokens * to_experts
    by_gather = links.ranks_gather.time(gathered * dispatch_width) + links.ranks_gather.time(gathered * width)
    placed = plan.deployment.engine.experts
    chosen = feed_forward.experts_per_token
    copies = distinct_ranks(expert_slots(feed_forward.experts, placed), chosen, layout.ep)
    if placed is not None:  # the fullest rank takes in more than it sends, at most everything
        uneven = imbalance(work.group_tokens, feed_forward.experts, chosen, layout.ep, plan.score, placed)
        copies = smaller(copies * uneven, larger(copies, layout.ep))
    # A replica's rows stand on its tp ranks (in decode on its cp ranks, too); each sends its share of them.
    sent = work.rows * to_experts / (layout.tp * (layout.cp if work.decode else 1.0)) * copies
    by_exchange = links.exchange.time(sent * dispatch_width, ops) + links.exchange.time(sent * width, ops)
    if links.forwarded is not None:
        by_exchange = ops.cheapest(by_exchange, _forwarded(links.forwarded, group, plan, sent, copies, ops))
    split = ops.above(plan.moe_tp, 1.5)
    exchanged = ops.cheapest(by_gather, by_exchange + split * by_gather) + has_shared * over_tp
    spread = ops.above(layout.attention_dp, 1.5)
    if not work.decode:
        spread = 1 - (1 - spread) * (1 - ops.above(layout.cp, 1.5))
    experts = spread * exchanged + (1 - spread) * replicated

    if work.decode:
        value_size = shape.value_size / attention.kept_share
        context = links.cp_reduce.time(work.rows * shape.heads * value_size * width, ops)
    else:
        visible = ops.minimum(work.mean_context, attention.window - 1 + work.new_tokens)
        context = links.cp_gather.time(work.sequences * visible * shape.kv_elements * precision.kv_cache)
    return LayerCommunication(
        attention=attention.present * over_tp,
        feed_forward=has_dense * over_tp + has_experts * experts,
        context=attention.present * context,
    )


def _forwarded(forwarding: Forwarding, group: LayerGroup, plan: Plan, sent: Scalar, copies: Scalar, ops: Ops) -> Scalar:
    """Dispatch and combine in two hops [s]: a token goes to each node once, and is forwarded there to its ranks while
    more arrives, so that the slower hop counts. `sent` [elements] are for `copies` ranks a token."""
    feed_forward = group.feed_forward
    slots = expert_slots(feed_forward.experts, plan.deployment.engine.experts)
    reached = distinct_ranks(slots, feed_forward.experts_per_token, forwarding.nodes)
    to_nodes = sent * reached / larger(copies, 1e-6)
    widths = plan.routed_experts.input_width, plan.deployment.precision.activations
    hops = (
        sum(hop.time(elements * width, ops) for width in widths)
        for hop, elements in ((forwarding.among, to_nodes), (forwarding.inside, sent))
    )
    return ops.maximum(*hops)


def embedding_communication(plan: Plan, work: Pass, ops: Ops) -> Scalar:
    """All-reduce of a vocabulary-parallel embedding over tp, in one chunk [s]."""
    row_bytes = work.rows * plan.model.hidden_size * plan.deployment.precision.activations
    return plan.links.tp_reduce.time(row_bytes, ops)


def head_communication(plan: Plan, work: Pass) -> Scalar:
    """Gather of the logits over tp [s]."""
    return plan.links.tp_gather.time(
        work.logit_rows * plan.model.vocabulary_size * plan.deployment.precision.activations
    )


def hop_communication(plan: Plan, work: Pass) -> Scalar:
    """All pp − 1 stage boundaries together [s]: rows·D/tp·b_a point to point, then an all-gather over tp, of every
    vector that the residual carries."""
    layout, model = plan.deployment.parallelism, plan.model
    row_bytes = work.rows * model.boundary_vectors * model.hidden_size * plan.deployment.precision.activations
    return plan.links.hops.time(row_bytes / layout.tp) + (layout.pp - 1) * plan.links.tp_gather.time(row_bytes)
