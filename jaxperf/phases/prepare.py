"""What every phase of a configuration starts from: its plan, its layers by stage, its memory and where things lie."""

from __future__ import annotations

import equinox as eqx

from ..ops import Ops, Scalar, settle_together
from ..spec.deployment import Deployment
from ..spec.model import LayerGroup, Model, stack_groups
from ..spec.system import System
from ..spec.workload import Workload
from ..stages.memory import Beside, DeviceMemory, activation_bytes, device_memory
from ..stages.placement import Residency, place, slowdown
from ..stages.plan import Plan, make_plan
from .decode import decode_pass
from .layers import model_shares
from .prefill import prefill_passes


class Prepared(eqx.Module):
    """The `plan` of a configuration with its memory placed, the model's groups `stacked`, the layers of each group in
    each candidate stage (`shares`), the `memory` of the fullest device, and the `residency` of its bytes by tier."""

    plan: Plan
    stacked: LayerGroup
    shares: Scalar
    memory: DeviceMemory
    residency: Residency


def prepare(
    model: Model,
    system: System,
    deployment: Deployment,
    workload: Workload,
    ops: Ops,
    beside: Beside | None = None,
) -> Prepared:
    """Stage 1 of a configuration, and the plan for the others. The fullest device decides for all what lies where.

    Where a draft stands `beside` the model, a step decodes all tokens that are reserved for it.
    """
    engine = deployment.engine
    cached = deployment.precision.kv_cache * engine.kv_width
    deployment = eqx.tree_at(lambda d: d.precision.kv_cache, deployment, cached)
    stacked = stack_groups(model)
    plan = make_plan(model, stacked, system, deployment, ops)
    shares = model_shares(stacked, plan, ops)
    layout = deployment.parallelism
    decode, _ = decode_pass(deployment, workload, ops, 1.0 if beside is None else beside.tokens)
    chunk, prompts = deployment.engine.chunk, workload.prefill_batch
    full, _ = prefill_passes(workload.isl, chunk, prompts, deployment, ops, workload.prefix_hit)
    live = activation_bytes(model, stacked, layout, deployment.precision, decode.rows, full.rows, ops)
    sequences = ops.at_least(ops.ceil_divide(workload.batch, layout.attention_dp), 1.0)
    peak = workload.isl + workload.osl
    if beside is not None:
        peak = peak + beside.tokens
    memory = device_memory(plan, shares, stacked, engine.kv_kept * peak, sequences, live, ops, beside)
    memory = eqx.tree_at(lambda m: m.max_context, memory, memory.max_context / engine.kv_kept)
    residency = place(memory.weights, memory.kv_cache, memory.rooms, deployment.engine, ops)
    if len(system.device.memory.tiers) > 1:
        slow = slowdown(residency, system.device.memory, deployment.efficiency)
        plan = eqx.tree_at(lambda p: p.slowdown, plan, settle_together(slow, model.vocabulary_size))
    return Prepared(plan, stacked, shares, memory, residency)
