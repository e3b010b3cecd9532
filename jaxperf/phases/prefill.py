"""Prefill: the time of one prompt (or several at once), whole or in chunks, through the pipeline."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..ops import EXACT, Ops, Scalar
from ..spec.deployment import Deployment
from ..spec.model import Model
from ..spec.system import System
from ..stages.communication import embedding_communication, head_communication, hop_communication
from ..stages.latency import Assembly, overlapped, table_timing
from ..stages.operators import embedding_table, head_table
from ..stages.shapes import Pass
from .decode import PhaseCost
from .layers import LayerCost, Shares, layer_cost, over_groups, slowest, whole


def prefill_passes(
    isl: Scalar, chunk: Scalar, prompts: Scalar, deployment: Deployment, ops: Ops
) -> tuple[Pass, Pass]:
    """The full chunks and the short last one (0 chunks where the chunk divides the prompt).

    `prompts` prompts run at once, ⌈prompts/dpa⌉ on the fullest replica; a chunk has `chunk` tokens of each prompt, of
    which a rank holds 1/cp.
    """
    layout = deployment.parallelism
    size = ops.at_least(ops.minimum(chunk, isl), 1.0)
    full = ops.floor_divide(isl, size)
    rest = ops.at_least(isl - full * size, 0.0)
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

    return work(size, 0.0 * isl, full), work(rest, full * size, ops.minimum(rest, 1.0))


def prefill_times(
    model: Model,
    system: System,
    deployment: Deployment,
    isl: Scalar,
    prompts: tuple[Scalar, ...],
    shares: Shares,
    assembly: Assembly,
    ops: Ops,
) -> list[PhaseCost]:
    """Prefill of a prompt of `isl` tokens, for each number of `prompts` that run at once [s].

    Chunks flow through the stages: Σ_j m_j + (A − m) + hops + LM head, with m_j the slowest stage's time of chunk j
    and A − m what the other stages add for the longest chunk. For equal stages this is Σ_j t_j + (pp−1)·max_j t_j.
    """
    passes = [work for number in prompts for work in prefill_passes(isl, deployment.engine.chunk, number, deployment, ops)]
    real = jnp.result_type(float)
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf, real) for leaf in leaves]), *passes)

    def cost(group) -> LayerCost:  # noqa: ANN001
        def one(work: Pass) -> LayerCost:
            found = layer_cost(group, model, system, deployment, work, assembly, ops)
            return jax.tree.map(lambda leaf: jnp.asarray(leaf, real), found)

        return jax.vmap(one)(stacked)

    costs = over_groups(cost, model, len(passes))
    results = []
    for index in range(len(prompts)):
        full, rest = passes[2 * index], passes[2 * index + 1]
        pairs = [tuple(jax.tree.map(lambda leaf, i=i: leaf[2 * index + i], c) for i in (0, 1)) for c in costs]
        results.append(_assemble(model, system, deployment, full, rest, pairs, shares, assembly, ops))
    return results


def _assemble(
    model: Model,
    system: System,
    deployment: Deployment,
    full: Pass,
    rest: Pass,
    pairs: list,
    shares: Shares,
    assembly: Assembly,
    ops: Ops,
) -> PhaseCost:
    device, efficiency, engine, pp = system.device, deployment.efficiency, deployment.engine, deployment.parallelism.pp

    def total(field: str) -> list[Scalar]:
        return [getattr(a, field) + getattr(b, field) for a, b in pairs]

    embedding = [
        (
            table_timing(embedding_table(model, deployment, work), work, device, efficiency, assembly, ops),
            work.chunks * embedding_communication(model, system, deployment, work, ops),
        )
        for work in (full, rest)
    ]
    embed = embedding[0][0] + embedding[1][0]
    embed_network = embedding[0][1] + embedding[1][1]
    once = Pass(full.rows, full.group_tokens, full.sequences, 1.0, 0.0, 1.0, full.logit_rows, decode=False)
    head = table_timing(head_table(model, device, deployment, once), once, device, efficiency, assembly, ops)
    head_network = head_communication(model, system, deployment, once, ops)
    hops = hop_communication(model, system, deployment, full, ops)
    first = overlapped(embed.time, embed_network, engine.overlap, ops)
    last = overlapped(head.time, head_network, engine.overlap, ops)

    busiest = slowest(shares, total("time"), first, 0.0, pp, ops)
    longest = [a.last for a, _ in pairs]
    # The longest chunk's way through the other stages; the hard maximum keeps it from turning negative when relaxed.
    fill = ops.at_least(whole(model, longest) - slowest(shares, longest, 0.0, 0.0, pp, EXACT), 0.0)
    chunks = full.chunks + rest.chunks
    tokens = full.sequences * (full.chunks * full.new_tokens + rest.new_tokens)
    host = (
        chunks * (efficiency.host_step_time + efficiency.host_sequence_time * full.sequences)
        + efficiency.host_token_time * tokens
    )
    device_time = busiest + fill * ops.minimum(full.chunks, 1.0) + hops + last
    return PhaseCost(
        time=overlapped(device_time, host, engine.host_overlap, ops),
        compute=whole(model, total("compute")) + head.compute,
        memory=whole(model, total("memory")) + embed.memory + head.memory,
        network=whole(model, total("network")) + embed_network + head_network + hops,
        overhead=whole(model, total("overhead")) + embed.overhead + head.overhead + host,
        flops=whole(model, total("flops")),
        needed_bytes=whole(model, total("needed_bytes")),
    )
