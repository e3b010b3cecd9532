"""The whole: `evaluate` prices one configuration, scalars in, scalars out."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp

from ..ops import EXACT, Ops, Scalar, larger, settle
from ..spec.deployment import Deployment
from ..spec.model import LayerGroup, Model
from ..spec.system import System
from ..spec.workload import Workload
from ..stages.latency import Assembly
from ..stages.memory import DeviceMemory, activation_bytes, device_memory
from ..stages.plan import Plan, make_plan
from .decode import PhaseCost, decode_pass, decode_step
from .layers import model_shares, stack_groups
from .prefill import prefill_passes, prefill_times

REASONS = (
    "feasible",
    "too many devices",
    "tp does not divide the query heads",
    "ep does not divide the experts and the ranks",
    "more pipeline stages than layers",
    "longer than the model's context",
    "out of memory",
    "TTFT above its target",
    "TPOT above its target",
)
"""Why a configuration is infeasible, by code. The first that applies is reported."""

BOUNDS = ("compute", "memory", "network", "overhead")
"""What a phase spends most of its time on, by code."""


class Metrics(eqx.Module):
    """What one configuration does. Times in seconds, sizes in bytes, rates per second.

    `feasible` is 1 or 0 and `reason` indexes `REASONS`; every other field is finite even where infeasible.
    `ttft` is one prefill, unloaded; `tpot` the mean over the decode steps; `e2e` = ttft + (osl − 1)·tpot;
    `output_tokens_per_s` = B·osl/(⌈B/dpa⌉·t_prefill(dpa prompts at once) + (osl − 1)·tpot) of an instance times its
    replicas; `decode_tokens_per_s` = B/tpot, likewise; `mfu` of prefill, `mbu` of decode (weights and KV cache).
    `price_per_million_tokens` in USD per million output tokens and `joules_per_token` at the devices' full power are
    NaN where the system states no price or power.
    """

    ttft: Scalar
    tpot: Scalar
    e2e: Scalar
    output_tokens_per_s: Scalar
    output_tokens_per_s_per_device: Scalar
    output_tokens_per_s_per_user: Scalar
    decode_tokens_per_s: Scalar
    requests_per_s: Scalar
    devices: Scalar
    mfu: Scalar
    mbu: Scalar
    max_batch: Scalar
    price_per_million_tokens: Scalar
    joules_per_token: Scalar
    memory: DeviceMemory
    prefill: PhaseCost
    decode: PhaseCost
    prefill_bound: Scalar
    decode_bound: Scalar
    feasible: Scalar
    reason: Scalar


def evaluate(
    model: Model,
    system: System,
    deployment: Deployment,
    workload: Workload,
    ops: Ops = EXACT,
    assembly: Assembly = "operator",
) -> Metrics:
    """Latency, throughput, memory and feasibility of one configuration.

    Pure, of scalars; `jax.jit`, `jax.vmap` and `jax.grad` apply to it. One compiled program serves every model and
    system. The five stages run on one operator table: memory, FLOPs, traffic, communication, latency.

    **Arguments:**

    - `model`, `system`: from `jaxperf.load_model` and `jaxperf.load_system`.
    - `deployment`, `workload`: from `jaxperf.deployment` and `jaxperf.Workload`, or built by hand.
    - `ops`: `Exact()` or `Smooth(τ)`.
    - `assembly`: `operator` (a sum over operators of maxima) or `phase` (a maximum of sums, the classical bound).

    **Returns:** `Metrics`.
    """
    layout = deployment.parallelism
    plan, stacked = make_plan(model, system, deployment, ops), stack_groups(model)
    shares = model_shares(stacked, plan, ops)
    memory = _memory(plan, workload, stacked, shares, ops)
    decode = decode_step(plan, workload, stacked, shares, assembly, ops)
    prompts = (workload.prefill_batch, layout.attention_dp)
    prefill, loaded = prefill_times(plan, workload.isl, prompts, stacked, shares, assembly, ops)

    steps = workload.osl - 1
    alive = model.vocabulary_size
    ttft, tpot, loaded_time = (settle(phase.time, alive) for phase in (prefill, decode, loaded))
    rounds = settle(ops.at_least(ops.ceil_divide(workload.batch, layout.attention_dp), 1.0), alive)
    lifetime = rounds * loaded_time + steps * tpot
    requests = layout.replicas * workload.batch / lifetime
    tokens = requests * workload.osl
    devices = layout.instance_devices * layout.replicas
    reason = settle(_reason(model, system, deployment, workload, memory, ttft, tpot), alive)
    return Metrics(
        ttft=ttft,
        tpot=tpot,
        e2e=ttft + steps * tpot,
        output_tokens_per_s=tokens,
        output_tokens_per_s_per_device=tokens / devices,
        output_tokens_per_s_per_user=1 / tpot,
        decode_tokens_per_s=layout.replicas * workload.batch / tpot,
        requests_per_s=requests,
        devices=devices,
        mfu=prefill.flops / (layout.pp * _fastest_peak(plan) * ttft),
        mbu=ops.minimum(workload.batch, layout.pp)
        * decode.needed_bytes
        / (layout.pp * system.device.memory.bandwidth * tpot),
        max_batch=memory.max_batch,
        price_per_million_tokens=system.device.price * devices / 3600 / tokens * 1e6,
        joules_per_token=system.device.power * devices / tokens,
        memory=memory,
        prefill=prefill,
        decode=decode,
        prefill_bound=_bound(prefill),
        decode_bound=_bound(decode),
        feasible=jnp.where(reason == 0, 1.0, 0.0),
        reason=reason,
    )


def _memory(plan: Plan, workload: Workload, stacked: LayerGroup, shares: Scalar, ops: Ops) -> DeviceMemory:
    deployment, layout = plan.deployment, plan.deployment.parallelism
    decode, _ = decode_pass(deployment, workload, ops)
    full, _ = prefill_passes(workload.isl, deployment.engine.chunk, workload.prefill_batch, deployment, ops)
    live = activation_bytes(plan.model, layout, deployment.precision, decode.rows, full.rows, ops)
    sequences = ops.at_least(ops.ceil_divide(workload.batch, layout.attention_dp), 1.0)
    return device_memory(plan, shares, stacked, workload.isl + workload.osl, sequences, live, ops)


def _fastest_peak(plan: Plan) -> Scalar:
    """Peak of the fastest number type that the model's layers run in [FLOP/s]: what MFU refers to."""
    peak = larger(plan.attention.peak, plan.core_peak)
    for group in plan.model.groups:
        f = group.feed_forward
        peak = larger(peak, jnp.where(f.width > 0, plan.feed_forward.peak, 0.0))
        peak = larger(peak, jnp.where(f.experts > 0, plan.routed_experts.peak, 0.0))
        peak = larger(peak, jnp.where(f.shared_width > 0, plan.shared_experts.peak, 0.0))
    return peak


def _bound(cost: PhaseCost) -> Scalar:
    """Index in `BOUNDS` of the largest part of a phase."""
    parts = (cost.compute, cost.memory, cost.network, cost.overhead)
    best, index = parts[0], jnp.zeros_like(parts[0])
    for number, part in enumerate(parts[1:], 1):
        index = jnp.where(part > best, float(number), index)
        best = larger(part, best)
    return index


def _divides(divisor: Scalar, number: Scalar) -> Scalar:
    """True where a whole number is a multiple of another."""
    quotient = jnp.floor(number / divisor + 0.5)
    return jnp.abs(quotient * divisor - number) < 0.5


def _reason(
    model: Model,
    system: System,
    deployment: Deployment,
    workload: Workload,
    memory: DeviceMemory,
    ttft: Scalar,
    tpot: Scalar,
) -> Scalar:
    """The first reason in `REASONS` that applies, 0 when none does."""
    layout = deployment.parallelism
    heads, experts = True, True
    for group in model.groups:
        empty = group.count == 0
        a, f = group.attention, group.feed_forward
        lead = jnp.where(a.linear > 0, a.state_value_heads, a.query_heads)
        heads = heads & (empty | (a.present == 0) | _divides(layout.tp, lead))
        routed = (f.experts > 0) & _divides(layout.ep, f.experts) & _divides(layout.ep, layout.ranks)
        experts = experts & (empty | (f.experts == 0) | routed)
    has_experts = sum(jnp.where(group.count > 0, group.feed_forward.experts, 0.0) for group in model.groups) > 0
    experts = experts & (has_experts | (layout.ep < 1.5))
    usable = deployment.engine.memory_utilisation * memory.capacity
    checks = (
        layout.instance_devices * layout.replicas > system.reach + 0.5,
        ~heads,
        ~experts,
        layout.pp > model.layers + 0.5,
        workload.isl + workload.osl > model.max_context,
        memory.total > usable,
        ttft > workload.slo.ttft,
        tpot > workload.slo.tpot,
    )
    layout_checks, run_checks = checks[:5], checks[5:]
    reason = jnp.zeros_like(ttft)
    for number in range(len(run_checks), 0, -1):
        reason = jnp.where(run_checks[number - 1], float(number + len(layout_checks)), reason)
    layout_reason = jnp.zeros_like(layout.tp)
    for number in range(len(layout_checks), 0, -1):
        layout_reason = jnp.where(layout_checks[number - 1], float(number), layout_reason)
    layout_reason = settle(layout_reason, model.vocabulary_size)
    return jnp.where(layout_reason > 0, layout_reason, reason)
