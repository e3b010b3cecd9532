"""Prefill: the time of one prompt (or several at once), whole or in chunks, through the pipeline."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

from ..ops import EXACT, Ops, Scalar
from ..spec.deployment import Deployment
from ..spec.model import LayerGroup
from ..stages.communication import embedding_communication, head_communication, hop_communication
from ..stages.host import host_time
from ..stages.latency import Assembly, overlapped, table_timing
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
    real = jnp.result_type(float)
    together = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf, real) for leaf in leaves]), *passes)

    def cost(group: LayerGroup) -> LayerCost:
        return jax.vmap(lambda work: layer_cost(group, plan, work, assembly, ops))(together)

    costs = over_groups(cost, stacked, len(passes))
    results = []
    for index in range(len(prompts)):
        full, rest = passes[2 * index], passes[2 * index + 1]
        pairs = [tuple(jax.tree.map(lambda leaf, place=2 * index + i: leaf[place], c) for i in (0, 1)) for c in costs]
        results.append(_assemble(plan, full, rest, pairs, shares, assembly, ops))
    return results


def _assemble(
    plan: Plan,
    full: Pass,
    rest: Pass,
    pairs: list[tuple[LayerCost, ...]],
    shares: Scalar,
    assembly: Assembly,
    ops: Ops,
) -> PhaseCost:
    """One prefill from the costs of its full chunks and its short last one."""
    model, deployment = plan.model, plan.deployment
    engine, pp = deployment.engine, deployment.parallelism.pp

    def total(field: str) -> list[Scalar]:
        return [getattr(a, field) + getattr(b, field) for a, b in pairs]

    embeds = [table_timing(embedding_table(plan, p), plan, p, assembly, ops) for p in (full, rest)]
    embed = embeds[0] + embeds[1]
    embed_networks = [embedding_communication(plan, p, ops) for p in (full, rest)]
    embed_network = full.chunks * embed_networks[0] + rest.chunks * embed_networks[1]
    once = eqx.tree_at(lambda p: p.chunks, full, 1.0)
    head = table_timing(head_table(plan, once), plan, once, assembly, ops)
    head_network, hops = head_communication(plan, once), hop_communication(plan, full)
    first = overlapped(embed.time, embed_network, engine.overlap, ops)
    last = overlapped(head.time, head_network, engine.overlap, ops)

    busiest = slowest(shares, total("time"), first, 0.0, pp, ops)

    def elsewhere(index: int) -> Scalar:
        """What the stages but the slowest take for the last full chunk (0) or for the short one (1)."""
        lasts = [pair[index].last for pair in pairs]
        start = overlapped(embeds[index].last, embed_networks[index], engine.overlap, ops)
        return whole(model, lasts) + start - slowest(shares, lasts, start, 0.0, pp, EXACT)

    # The longest chunk's way through the other stages; the hard maximum keeps it from turning negative when relaxed.
    fill = ops.at_least(ops.at_least(elsewhere(0), elsewhere(1)), 0.0)
    chunks = full.chunks + rest.chunks
    tokens = full.sequences * (full.chunks * full.new_tokens + rest.new_tokens)
    host = host_time(plan, chunks, full.sequences, tokens)
    device_time = busiest + fill + hops + last
    return PhaseCost(
        time=overlapped(device_time, host, engine.host_overlap, ops),
        compute=whole(model, total("compute")) + head.compute,
        memory=whole(model, total("memory")) + embed.memory + head.memory,
        network=whole(model, total("network")) + embed_network + head_network + hops,
        overhead=whole(model, total("overhead")) + embed.overhead + head.overhead + host,
        flops=whole(model, total("flops")) + head.flops,
        needed_bytes=whole(model, total("needed_bytes")) + head.needed_bytes,
    )
