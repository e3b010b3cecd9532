"""Hybrid placement on one chip: prefill on one unit, decode on another, both on the same memory (NPU and iGPU)."""

from __future__ import annotations

import equinox as eqx

from ..ops import EXACT, Ops, Scalar, choose
from ..spec.deployment import Deployment
from ..spec.model import Model
from ..spec.system import Memory, System
from ..spec.workload import Workload
from ..stages.latency import Assembly
from .end_to_end import REASONS, Metrics, evaluate, first_reason
from .handoff import Handoff, Link, handoff
from .pools import decoding, filling


class Sharing(eqx.Module):
    """How two units share a memory: the shares of its bandwidth that `prefill` and `decode` reach, 1 where the phases
    take turns; the `copies` of the weights in it (2 where the units want them laid out differently); and `alpha`, from
    the end of one unit's work to the start of the other's [s]."""

    prefill: Scalar = 1.0
    decode: Scalar = 1.0
    copies: Scalar = 1.0
    alpha: Scalar = 0.0


class Hybrid(eqx.Module):
    """What a hybrid placement does: `ttft`, `tpot`, `e2e` [s], output tokens per second of a user and, while decoding,
    of all sequences; requests/s and output tokens/s where the phases take turns; the `handoff` of a prompt; `total`
    bytes in the shared memory, `weights` of them, beside `usable` ones; feasibility and its code in `REASONS`; the
    `prefill` and the `decode` unit's own metrics."""

    ttft: Scalar
    tpot: Scalar
    e2e: Scalar
    output_tokens_per_s_per_user: Scalar
    decode_tokens_per_s: Scalar
    requests_per_s: Scalar
    output_tokens_per_s: Scalar
    handoff: Handoff
    weights: Scalar
    total: Scalar
    usable: Scalar
    feasible: Scalar
    reason: Scalar
    prefill: Metrics
    decode: Metrics


def with_bandwidth_share(system: System, share: Scalar) -> System:
    """The system with a share of its memories' bandwidth."""
    tiers = tuple(
        eqx.tree_at(lambda t: t.bandwidth, tier, tier.bandwidth * share) for tier in system.device.memory.tiers
    )
    return eqx.tree_at(lambda s: s.device.memory.tiers, system, tiers)


def hybrid(
    model: Model,
    prefill_system: System,
    decode_system: System,
    prefill_deployment: Deployment,
    decode_deployment: Deployment,
    workload: Workload,
    sharing: Sharing | None = None,
    ops: Ops = EXACT,
    assembly: Assembly = "operator",
) -> Hybrid:
    """Prefill on one unit and decode on another of a chip (LIFE, arXiv:2508.00904: NPU and iGPU).

    **Arguments:** as in `evaluate`, twice: `prefill_system` and `decode_system` are the units with their memory as each
    sees it; `sharing` of its bandwidth (None: the phases take turns).
    """
    shared = Sharing() if sharing is None else sharing
    units = (
        (with_bandwidth_share(prefill_system, shared.prefill), prefill_deployment, filling(workload)),
        (with_bandwidth_share(decode_system, shared.decode), decode_deployment, decoding(workload)),
    )
    first, second = (evaluate(model, system, how, work, ops, assembly) for system, how, work in units)
    how, memory = (prefill_deployment, decode_deployment), units[1][0].device.memory
    return on_one_memory(model, first, second, *how, memory, workload, shared, ops)


def on_one_memory(
    model: Model,
    prefill: Metrics,
    decode: Metrics,
    prefill_deployment: Deployment,
    decode_deployment: Deployment,
    memory: Memory,
    workload: Workload,
    sharing: Sharing,
    ops: Ops = EXACT,
) -> Hybrid:
    """A hybrid placement from what each unit does alone.

    TTFT is the first unit's, TPOT the second's; the KV cache stays where it is, so the handoff between them is one over
    a link of infinite bandwidth: α, and the time to repack the cache where the units hold it differently. The shared
    memory holds the weights (`copies` of them), one KV cache, and the larger activations and reserve of the two. Taking
    turns, B requests take ⌈B/prompts⌉ prefills, B handoffs and osl − 1 steps.

    **Arguments:** `Metrics` of the units at `filling(workload)` and `decoding(workload)`, their deployments, and the
    shared `memory` as the decode unit sees it.
    """
    link = Link(sharing.alpha, float("inf"))
    moved = handoff(model, prefill_deployment, decode_deployment, memory, workload, prefill.prefill.time, link, ops)
    mine, other = decode.memory, prefill.memory
    beside = ops.maximum(mine.activations + mine.reserve, other.activations + other.reserve)
    weights = mine.weights + (sharing.copies - 1) * other.weights
    total, usable = weights + mine.kv_cache + beside, ops.minimum(mine.usable, other.usable)
    ttft, tpot = prefill.ttft + moved.time, decode.tpot
    full, known = float(REASONS.index("out of memory")), decode.reason
    reason = choose(known == 0, choose(prefill.reason == full, 0.0, prefill.reason), known)
    further = first_reason(
        {
            "out of memory": total > usable,
            "TTFT above its target": ttft > workload.slo.ttft,
            "TPOT above its target": tpot > workload.slo.tpot,
        }
    )
    reason = choose(reason == 0, further, reason)
    fills = ops.ceil_divide(workload.batch, workload.prefill_batch) * prefill.prefill.time
    steps = workload.osl - 1
    requests = workload.batch / (fills + workload.batch * moved.time + steps * tpot)
    return Hybrid(
        ttft=ttft,
        tpot=tpot,
        e2e=ttft + steps * tpot + workload.osl * decode_deployment.engine.detokenise,
        output_tokens_per_s_per_user=1 / tpot,
        decode_tokens_per_s=decode.decode_tokens_per_s,
        requests_per_s=requests,
        output_tokens_per_s=requests * workload.osl,
        handoff=moved,
        weights=weights,
        total=total,
        usable=usable,
        feasible=choose(reason == 0, 1.0, 0.0),
        reason=reason,
        prefill=prefill,
        decode=decode,
    )
