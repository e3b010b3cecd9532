"""Decode: the time of one output token, with the pipeline's autoregression."""

from __future__ import annotations

import equinox as eqx

from ..ops import Ops, Scalar
from ..spec.deployment import Deployment
from ..spec.model import LayerGroup
from ..spec.workload import Workload
from ..stages.communication import embedding_communication, head_communication, hop_communication
from ..stages.host import host_time
from ..stages.latency import Assembly, overlapped, table_timing
from ..stages.operators import embedding_table, head_table
from ..stages.plan import Plan
from ..stages.shapes import Pass
from .layers import layer_cost, over_groups, slowest, whole


class PhaseCost(eqx.Module):
    """A phase: its `time` and what it is made of, summed along one pass through all stages [s]; `flops` and
    `needed_bytes` (weights and KV cache) of one rank, summed over the stages."""

    time: Scalar
    compute: Scalar
    memory: Scalar
    network: Scalar
    overhead: Scalar
    flops: Scalar
    needed_bytes: Scalar


def decode_pass(deployment: Deployment, workload: Workload, ops: Ops, tokens: Scalar = 1.0) -> tuple[Pass, Scalar]:
    """The pass of one decode step of one pipeline group, and the number of groups.

    n = min(B, pp) groups of g = ⌈B/n⌉ sequences, ⌈g/dpa⌉ a rank; mean context isl + osl/2, or what
    eviction keeps of it. A verify pass of speculative
    decoding has several new `tokens` of each sequence: as many rows each, while its KV cache is read once.
    """
    layout = deployment.parallelism
    groups = ops.minimum(workload.batch, layout.pp)
    sequences = ops.at_least(ops.ceil_divide(workload.batch, groups), 1.0)
    on_rank = ops.at_least(ops.ceil_divide(sequences, layout.attention_dp), 1.0)
    rows = on_rank * tokens
    context = deployment.engine.kv_kept * (workload.isl + workload.osl / 2)
    work = Pass(
        rows=rows,
        group_tokens=sequences * tokens,
        sequences=on_rank,
        new_tokens=tokens,
        prior=ops.at_least(context - 1, 0.0),
        chunks=1.0,
        logit_rows=rows,
        decode=True,
    )
    return work, groups


def decode_step(
    plan: Plan,
    workload: Workload,
    stacked: LayerGroup,
    shares: Scalar,
    assembly: Assembly,
    ops: Ops,
    tokens: Scalar = 1.0,
) -> PhaseCost:
    """Time of one decode step and its parts [s]: TPOT, or a verify pass of several new `tokens` a sequence.

    TPOT = max(Σ_s t_s + hops, n·max_s t_s): a sequence's next token cannot start before its last one has left the last
    stage, so a pipeline does not divide the time to read the weights. Host time overlaps or adds, as the engine does.
    """
    model, deployment = plan.model, plan.deployment
    work, groups = decode_pass(deployment, workload, ops, tokens)
    engine, pp = deployment.engine, deployment.parallelism.pp

    costs = over_groups(lambda group: layer_cost(group, plan, work, assembly, ops), stacked)
    embed = table_timing(embedding_table(plan, work), plan, work, assembly, ops)
    head = table_timing(head_table(plan, work), plan, work, assembly, ops)
    embed_network, head_network = embedding_communication(plan, work, ops), head_communication(plan, work)
    hops = hop_communication(plan, work)
    first = overlapped(embed.time, embed_network, engine.overlap, ops)
    last = overlapped(head.time, head_network, engine.overlap, ops)

    times = [c.time for c in costs]
    through = whole(model, times) + first + last + hops
    busiest = slowest(shares, times, first, last, pp, ops)
    host = host_time(plan, 1.0, work.sequences, work.rows)
    latency = overlapped(through, host, engine.host_overlap, ops)
    cycle = overlapped(busiest, host / pp, engine.host_overlap, ops)
    return PhaseCost(
        time=ops.maximum(latency, groups * cycle),
        compute=whole(model, [c.compute for c in costs]) + embed.compute + head.compute,
        memory=whole(model, [c.memory for c in costs]) + embed.memory + head.memory,
        network=whole(model, [c.network for c in costs]) + embed_network + head_network + hops,
        overhead=whole(model, [c.overhead for c in costs]) + embed.overhead + head.overhead + host,
        flops=whole(model, [c.flops for c in costs]) + head.flops,
        needed_bytes=whole(model, [c.needed_bytes for c in costs]) + head.needed_bytes,
    )
