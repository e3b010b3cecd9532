"""Two pools of instances joined by a link, one that prefills and one that decodes: what they do together, what they
cost, and whether both are feasible."""

from __future__ import annotations

import equinox as eqx

from ..ops import EXACT, Ops, Scalar, choose
from ..spec.deployment import Deployment
from ..spec.model import Model
from ..spec.system import System
from ..spec.workload import Slo, Workload
from .end_to_end import Metrics, first_reason
from .handoff import Disaggregated, Handoff, Link, disaggregated, handoff


class Pools(eqx.Module):
    """What two pools do: the `handoff` of a prompt; `together`, latencies and rates; USD per million output tokens and
    joules per output token at full power of both pools' devices (NaN where a system states no price or power);
    `decode_tokens_per_s` of the decode pool when it is never idle;
    feasibility and its code in `REASONS`, the prefill pool's before the decode pool's before the targets'."""

    handoff: Handoff
    together: Disaggregated
    output_tokens_per_s_per_user: Scalar
    decode_tokens_per_s: Scalar
    price_per_million_tokens: Scalar
    joules_per_token: Scalar
    feasible: Scalar
    reason: Scalar


def filling(workload: Workload) -> Workload:
    """What an instance that only prefills serves: its prompts, to their first token. No targets: the pair has them."""
    prompts = workload.prefill_batch
    return Workload(workload.isl, 1.0, prompts, prompts, Slo(), workload.prefix_hit)


def decoding(workload: Workload) -> Workload:
    """What an instance that only decodes serves: its batch, whose prompts' KV cache comes from elsewhere, like a prefix
    that is always found, so that its activations are those of decode. No targets: the pair has them."""
    return Workload(workload.isl, workload.osl, workload.batch, 1.0, Slo(), workload.isl)


def pools(
    model: Model,
    prefill: Metrics,
    decode: Metrics,
    systems: tuple[System, System],
    deployments: tuple[Deployment, Deployment],
    workload: Workload,
    link: Link,
    instances: tuple[Scalar, Scalar] = (1.0, 1.0),
    ops: Ops = EXACT,
) -> Pools:
    """Two pools from what an instance of each does alone.

    An attention replica sends or receives one prompt at a time: the link has a lane for each of the smaller side's.

    **Arguments:** `Metrics` at `filling(workload)` and `decoding(workload)` of an instance of each; the prefill pool's
    system, deployment and number of `instances` before the decode pool's.
    """
    target = systems[1].device.memory
    moved = handoff(model, *deployments, target, workload, prefill.prefill.time, link, ops)
    sizes = [deployment.parallelism.instance_devices for deployment in deployments]
    replicas = [number * how.parallelism.attention_dp for number, how in zip(instances, deployments, strict=True)]
    lanes = ops.minimum(*replicas)
    both = disaggregated(prefill, decode, moved, workload, sizes[0], sizes[1], *instances, lanes)
    counts = [number * size for number, size in zip(instances, sizes, strict=True)]
    price, power = (
        sum(count * getattr(system.device, what) for count, system in zip(counts, systems, strict=True))
        for what in ("price", "power")
    )
    targets = {
        "TTFT above its target": both.ttft > workload.slo.ttft,
        "TPOT above its target": both.tpot > workload.slo.tpot,
    }
    reason = choose(decode.reason > 0, decode.reason, first_reason(targets))
    reason = choose(prefill.reason > 0, prefill.reason, reason)
    return Pools(
        handoff=moved,
        together=both,
        output_tokens_per_s_per_user=1 / both.tpot,
        decode_tokens_per_s=instances[1] * decode.decode_tokens_per_s,
        price_per_million_tokens=price / 3600 / both.output_tokens_per_s * 1e6,
        joules_per_token=power / both.output_tokens_per_s,
        feasible=choose(reason == 0, 1.0, 0.0),
        reason=reason,
    )
