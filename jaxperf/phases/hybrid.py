"""Hybrid placement on one chip: prefill on one unit, decode on another, both on the same memory (NPU and iGPU)."""

from __future__ import annotations

import equinox as eqx

from ..ops import EXACT, Ops, Scalar, choose
from ..spec.deployment import Deployment
from ..spec.model import Model
from ..spec.system import System
from ..spec.workload import Workload
from ..stages.latency import Assembly
from .end_to_end import REASONS, Metrics, evaluate


class Sharing(eqx.Module):
    """How two units share a memory: the shares of its bandwidth that `prefill` and `decode` reach, 1 where the phases
    take turns, and the `copies` of the weights in it (2 where the units want them laid out differently)."""

    prefill: Scalar = 1.0
    decode: Scalar = 1.0
    copies: Scalar = 1.0


class Hybrid(eqx.Module):
    """What a hybrid placement does: `ttft`, `tpot`, `e2e` [s], output tokens per second of a user and of all sequences,
    `total` bytes in the shared memory beside `usable` ones, feasibility and its code in `REASONS`; the `prefill` and
    the `decode` unit's own metrics."""

    ttft: Scalar
    tpot: Scalar
    e2e: Scalar
    output_tokens_per_s_per_user: Scalar
    decode_tokens_per_s: Scalar
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

    TTFT is the first unit's, TPOT the second's; the KV cache stays where it is, so nothing is handed over. The shared
    memory holds the weights (`copies` of them), one KV cache, and the larger activations and reserve of the two.

    **Arguments:** as in `evaluate`, twice: `prefill_system` and `decode_system` are the units with their memory as each
    sees it; `sharing` of its bandwidth (None: the phases take turns).
    """
    shared = Sharing() if sharing is None else sharing
    units = [
        (with_bandwidth_share(prefill_system, shared.prefill), prefill_deployment),
        (with_bandwidth_share(decode_system, shared.decode), decode_deployment),
    ]
    first, second = [evaluate(model, system, how, workload, ops, assembly) for system, how in units]
    mine, other = second.memory, first.memory
    beside = ops.maximum(mine.activations + mine.reserve, other.activations + other.reserve)
    weights = mine.weights + (shared.copies - 1) * other.weights
    total, usable = weights + mine.kv_cache + beside, ops.minimum(mine.usable, other.usable)
    full, known = float(REASONS.index("out of memory")), second.reason
    reason = choose(known == 0, choose(first.reason == full, 0.0, first.reason), known)
    reason = choose((reason == 0) & (total > usable), full, reason)
    steps = workload.osl - 1
    return Hybrid(
        ttft=first.ttft,
        tpot=second.tpot,
        e2e=first.ttft + steps * second.tpot + workload.osl * decode_deployment.engine.detokenise,
        output_tokens_per_s_per_user=1 / second.tpot,
        decode_tokens_per_s=second.decode_tokens_per_s,
        total=total,
        usable=usable,
        feasible=choose(reason == 0, 1.0, 0.0),
        reason=reason,
        prefill=first,
        decode=second,
    )
