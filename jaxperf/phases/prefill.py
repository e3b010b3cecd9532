"""Prefill: the time of one prompt (or several at once), whole or in chunks, through the pipeline."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

from ..ops import EXACT, Ops, Scalar, apart, stack, unstack
from ..spec.deployment import Deployment
from ..spec.model import LayerGroup
from ..stages.communication import embedding_communication, head_communication, hop_communication
from ..stages.host import host_time
from ..stages.latency import Assembly, Timing, overlapped, table_timing
from ..stages.operators import embedding_table, head_table
from ..stages.plan import Plan
from ..stages.shapes import Pass
from .decode import PhaseCost
from .layers import LayerCost, layer_cost, over_groups, slowest, whole


def uncached(isl: Scalar, hit: Scalar, ops: Ops) -> tuple[Scalar, Scalar]:
    """The tokens of a prompt that prefill computes, and those before them whose KV cache is found: isl − hit, but at
    least one, as the first output token needs the last position's logits [tokens]."""
    if isinstance(hit, int | float) and hit == 0:
        return isl, 0.0 * isl
    new = ops.at_least(isl - hit, 1.0)
    return new, isl - new


def prefill_passes(
    isl: Scalar, chunk: Scalar, prompts: Scalar, deployment: Deployment, ops: Ops, hit: Scalar = 0
) -> tuple[Pass, Pass]:
    """The full chunks and the short last one (0 chunks where the chunk divides the prompt).

    `prompts` prompts run at once, ⌈prompts/dpa⌉ on the fullest replica; a chunk has `chunk` tokens of each prompt, of
    which a rank holds 1/cp. The first `hit` tokens of every prompt are in the cache: attention reads them, nothing
    computes them.
    """
    layout = deployment.parallelism
    new, cached = uncached(isl, hit, ops)
    size = ops.at_least(ops.minimum(chunk, new), 1.0)
    full = ops.floor_divide(new, size)
    rest = ops.at_least(new - full * size, 0.0)
    on_rank = ops.at_least(ops.ceil_divide(prompts, layout.attention_dp), 1.0)

    def work(tokens: Scalar, prior: Scalar, chunks: Scalar) -> Pass:
        return Pass(
            rows=on_rank * tokens / layout.cp,
            group_tokens=prompts * tokens,
            sequences=on_rank,
            new_tokens=tokens,
            prior=prior,
            chunks=chunks,
            logit_rows=on_rank,
            decode=False,
        )

    return work(size, cached, full), work(rest, cached + full * size, ops.minimum(rest, 1.0))


def prefill_times(
    plan: Plan,
    isl: Scalar,
    prompts: tuple[Scalar, ...],
    stacked: LayerGroup,
    shares: Scalar,
    assembly: Assembly,
    ops: Ops,
    hit: Scalar = 0,
) -> list[PhaseCost]:
    """Prefill of a prompt of `isl` tokens, its first `hit` from the cache, for each number of `prompts` at once [s].

    Chunks flow through the stages: Σ_j m_j + (A − m) + hops + LM head, with m_j the slowest stage's time of chunk j
    and A − m what the other stages add for the longest chunk. For equal stages this is Σ_j t_j + (pp−1)·max_j t_j.
    """
    deployment = plan.deployment
    chunk = deployment.engine.chunk
    passes = [p for number in prompts for p in prefill_passes(isl, chunk, number, deployment, ops, hit)]
    together = stack(passes)

    def cost(group: LayerGroup) -> LayerCost:
        return jax.lax.map(lambda work: layer_cost(group, plan, work, assembly, ops), together)

    costs = over_groups(cost, stacked, len(passes))
    pairs = jax.tree.map(lambda leaf: jnp.reshape(leaf, (len(prompts), 2)), (together, costs))
    found = jax.lax.map(lambda pair: _assemble(plan, pair[0], pair[1], shares, assembly, ops), pairs)
    return apart(found)


def _assemble(
    plan: Plan, work: Pass, costs: list[LayerCost], shares: Scalar, assembly: Assembly, ops: Ops
) -> PhaseCost:
    """One prefill from its full chunks and its short last one: leaves [2] of both, the passes and a layer's costs."""
    model, deployment = plan.model, plan.deployment
    engine, pp = deployment.engine, deployment.parallelism.pp

    def total(field: str) -> Scalar:
        return whole(model, [jnp.sum(getattr(cost, field)) for cost in costs])

    def embedded(work: Pass) -> tuple[Timing, Scalar]:
        timing = table_timing(embedding_table(plan, work), plan, work, assembly, ops)
        return timing, embedding_communication(plan, work, ops)

    embeds, embed_networks = jax.lax.map(embedded, work)
    embed: Timing = jax.tree.map(jnp.sum, embeds)
    embed_network = jnp.sum(work.chunks * embed_networks)
    full, rest = apart(work)
    once = eqx.tree_at(lambda p: p.chunks, full, 1.0)
    head = table_timing(head_table(plan, once), plan, once, assembly, ops)
    head_network, hops = head_communication(plan, once), hop_communication(plan, full)
    first = overlapped(embed.time, embed_network, engine.overlap, ops)
    last = overlapped(head.time, head_network, engine.overlap, ops)

    busiest = slowest(shares, [jnp.sum(cost.time) for cost in costs], first, 0.0, pp, ops)

    def elsewhere(lasts: list[Scalar], embed: Scalar, network: Scalar) -> Scalar:
        """What the stages but the slowest take for the last full chunk or for the short one."""
        start = overlapped(embed, network, engine.overlap, ops)
        return whole(model, lasts) + start - slowest(shares, lasts, start, 0.0, pp, EXACT)

    # The longest chunk's way through the other stages; the hard maximum keeps it from turning negative when relaxed.
    others = unstack(jax.vmap(elsewhere)([cost.last for cost in costs], embeds.last, embed_networks))
    fill = ops.at_least(ops.at_least(others[0], others[1]), 0.0)
    tokens = full.sequences * (full.chunks * full.new_tokens + rest.new_tokens)
    host = host_time(plan, jnp.sum(work.chunks), full.sequences, tokens)
    device_time = busiest + fill + hops + last
    return PhaseCost(
        time=overlapped(device_time, host, engine.host_overlap, ops),
        compute=total("compute") + head.compute,
        memory=total("memory") + embed.memory + head.memory,
        network=total("network") + embed_network + head_network + hops,
        overhead=total("overhead") + embed.overhead + head.overhead + host,
        flops=total("flops") + head.flops,
        needed_bytes=total("needed_bytes") + head.needed_bytes,
    )
