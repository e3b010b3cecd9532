"""The whole: `evaluate` prices one configuration, scalars in, scalars out."""

from __future__ import annotations

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp

from ..ops import EXACT, Ops, Scalar, choose, larger, optional, reals, settle
from ..spec.deployment import Deployment, Parallelism
from ..spec.model import LayerGroup, Model
from ..spec.system import System
from ..spec.workload import Workload
from ..stages.latency import Assembly
from ..stages.memory import DeviceMemory
from ..stages.placement import Residency
from ..stages.plan import Plan
from ..stages.popularity import expert_slots
from .decode import PhaseCost, decode_step
from .prefill import prefill_times
from .prepare import Prepared, prepare

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

    `aligned` is 0 where a parallel group does not fill whole dimensions of a torus or mesh: its collectives are then
    priced as one ring. `residency` is where the fullest device keeps its weights and KV cache, by memory tier.
    `feasible` is 1 or 0 and `reason` indexes `REASONS`; every other field is finite even where infeasible.
    `ttft` is tokenising, scheduling and one prefill, unloaded; `tpot` the mean over the decode steps;
    `e2e` = ttft + (osl − 1)·tpot + osl·detokenise;
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
    residency: Residency
    aligned: Scalar
    prefill: PhaseCost
    decode: PhaseCost
    prefill_bound: Scalar
    decode_bound: Scalar
    feasible: Scalar
    reason: Scalar


@partial(jax.jit, static_argnames=("assembly",), inline=True)
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
    system; the trace is kept for every further program around it. The five stages run on one operator table: memory,
    FLOPs, traffic, communication, latency.

    **Arguments:**

    - `model`, `system`: from `jaxperf.load_model` and `jaxperf.load_system`.
    - `deployment`, `workload`: from `jaxperf.deployment` and `jaxperf.Workload`, or built by hand.
    - `ops`: `Exact()` or `Smooth(τ)`.
    - `assembly`: `operator` (a sum over operators of maxima) or `phase` (a maximum of sums, the classical bound).

    **Returns:** `Metrics`.
    """
    model, system, deployment, workload = reals(model, system, deployment, workload)
    layout = deployment.parallelism
    ready = prepare(model, system, deployment, workload, ops)
    plan, stacked, shares = ready.plan, ready.stacked, ready.shares
    # Branches that are always taken, here and below: what follows does not compute their results anew (`ops.settle`).
    nothing = PhaseCost(*[0.0] * len(PhaseCost.__dataclass_fields__))
    alive = model.vocabulary_size > 0
    decode = optional(alive, lambda: decode_step(plan, workload, stacked, shares, assembly, ops), nothing)
    prompts = (workload.prefill_batch, layout.attention_dp)
    hit = workload.prefix_hit
    prefill, loaded = prefill_times(plan, workload.isl, prompts, stacked, shares, assembly, ops, hit)
    return summary(model, system, deployment, workload, ready, prefill, loaded, decode, ops)


def summary(
    model: Model,
    system: System,
    deployment: Deployment,
    workload: Workload,
    ready: Prepared,
    prefill: PhaseCost,
    loaded: PhaseCost,
    decode: PhaseCost,
    ops: Ops,
    yielded: Scalar | None = None,
) -> Metrics:
    """`Metrics` of a configuration from its phases.

    **Arguments:** as in `evaluate`; the configuration `ready`; `prefill` of the prompts that TTFT is timed with, and
    `loaded` of one on every replica; `decode`, one step, and the tokens `yielded` by it to every sequence (None: one).
    """
    layout, plan, memory = deployment.parallelism, ready.plan, ready.memory
    steps = workload.osl - 1
    alive = model.vocabulary_size
    engine = deployment.engine
    frontend = engine.tokenise * workload.isl + engine.schedule
    step, loaded_time = decode.time, settle(loaded.time, alive)
    ttft = settle(prefill.time, alive) + frontend
    tpot = step if yielded is None else step / yielded
    rounds = optional(alive > 0, lambda: ops.at_least(ops.ceil_divide(workload.batch, layout.attention_dp), 1.0), 0.0)
    lifetime = rounds * loaded_time + steps * tpot
    requests = layout.replicas * workload.batch / lifetime
    tokens = requests * workload.osl
    devices = layout.instance_devices * layout.replicas
    has_experts = jnp.any((ready.stacked.count > 0) & (ready.stacked.feed_forward.experts > 0))
    slots = expert_slots(ready.stacked.feed_forward.experts, engine.experts)
    layout_reason = settle(_layout_reason(model, ready.stacked, system, layout, workload, has_experts, slots), alive)
    reason = optional(alive > 0, lambda: _reason(layout_reason, workload, memory, ttft, tpot), 0.0)
    return Metrics(
        ttft=ttft,
        tpot=tpot,
        e2e=ttft + steps * tpot + workload.osl * engine.detokenise,
        output_tokens_per_s=tokens,
        output_tokens_per_s_per_device=tokens / devices,
        output_tokens_per_s_per_user=1 / tpot,
        decode_tokens_per_s=layout.replicas * workload.batch / tpot,
        requests_per_s=requests,
        devices=devices,
        mfu=prefill.flops / (layout.pp * _fastest_peak(plan, ready.stacked) * prefill.time),
        mbu=ops.minimum(workload.batch, layout.pp)
        * decode.needed_bytes
        / (layout.pp * system.device.memory.bandwidth * step),
        max_batch=memory.max_batch,
        price_per_million_tokens=system.device.price * devices / 3600 / tokens * 1e6,
        joules_per_token=system.device.power * devices / tokens,
        memory=memory,
        residency=ready.residency,
        aligned=plan.links.aligned * choose(has_experts, plan.links.ranks_aligned, 1.0),
        prefill=prefill,
        decode=decode,
        prefill_bound=_bound(prefill),
        decode_bound=_bound(decode),
        feasible=choose(reason == 0, 1.0, 0.0),
        reason=reason,
    )


def _fastest_peak(plan: Plan, stacked: LayerGroup) -> Scalar:
    """Peak of the fastest number type that the model's layers run in [FLOP/s]: what MFU refers to."""
    peak, f = larger(plan.attention.peak, plan.core_peak), stacked.feed_forward
    kinds = (f.width, plan.feed_forward), (f.experts, plan.routed_experts), (f.shared_width, plan.shared_experts)
    for size, how in kinds:
        peak = larger(peak, choose(jnp.any(size > 0), how.peak, 0.0))
    return peak


def _bound(cost: PhaseCost) -> Scalar:
    """Index in `BOUNDS` of the largest part of a phase."""
    parts = (cost.compute, cost.memory, cost.network, cost.overhead)
    best, index = parts[0], jnp.zeros_like(parts[0])
    for number, part in enumerate(parts[1:], 1):
        index = choose(part > best, float(number), index)
        best = larger(part, best)
    return index


def _too_wide(system: System, layout: Parallelism, has_experts: Scalar) -> Scalar:
    """True where the fabric does not reach all devices, or a group is wider than the tiers that serve its axis."""
    spans = {"tp": layout.tp, "ep": choose(has_experts, layout.ranks, 1.0)}
    spans["cp"] = choose(layout.cp > 1.5, layout.tp * layout.cp, 1.0)
    spans["pp"] = choose(layout.pp > 1.5, layout.instance_devices, 1.0)
    wide = layout.instance_devices * layout.replicas > system.reach + 0.5
    for axis, span in spans.items():
        reaches = [getattr(tier.axes, axis) * tier.reach for tier in system.fabric]
        wide = wide | (span > EXACT.maximum(*reaches) + 0.5)
    return wide


def _divides(divisor: Scalar, number: Scalar) -> Scalar:
    """True where a whole number is a multiple of another."""
    quotient = jnp.floor(number / divisor + 0.5)
    return jnp.abs(quotient * divisor - number) < 0.5


def _layout_reason(
    model: Model,
    stacked: LayerGroup,
    system: System,
    layout: Parallelism,
    workload: Workload,
    has_experts: Scalar,
    slots: Scalar,
) -> Scalar:
    """The first reason in `REASONS` that the layout or the lengths give, 0 when none does; `slots`, experts of each
    group with their copies."""
    a, f = stacked.attention, stacked.feed_forward
    empty = stacked.count == 0
    lead = choose(a.linear > 0, a.state_value_heads, a.query_heads)
    heads = empty | (a.present == 0) | _divides(layout.tp, lead)
    routed = _divides(layout.ep, slots) & _divides(layout.ep, layout.ranks)
    experts = jnp.all(empty | (f.experts == 0) | routed) & (has_experts | (layout.ep < 1.5))
    return _first(
        _too_wide(system, layout, has_experts),
        ~jnp.all(heads),
        ~experts,
        layout.pp > model.layers + 0.5,
        workload.isl + workload.osl > model.max_context,
    )


def _reason(layout_reason: Scalar, workload: Workload, memory: DeviceMemory, ttft: Scalar, tpot: Scalar) -> Scalar:
    """The first reason in `REASONS` that applies, 0 when none does."""
    before = len(REASONS) - 4  # those of the layout
    found = _first(memory.overflow > 0, ttft > workload.slo.ttft, tpot > workload.slo.tpot, before=before)
    return choose(layout_reason > 0, layout_reason, found)


def _first(*checks: Scalar, before: int = 0) -> Scalar:
    """The number of the first check that is true, from 1 and what is `before` them; 0 when none is."""
    number = 0.0
    for index in range(len(checks), 0, -1):
        number = choose(checks[index - 1], float(before + index), number)
    return number


def first_reason(checks: dict[str, Scalar]) -> Scalar:
    """The code in `REASONS` of the first check that is true, by the reason that it stands for; 0 when none is."""
    code = 0.0
    for name, wrong in reversed(checks.items()):
        code = choose(wrong, float(REASONS.index(name)), code)
    return code
