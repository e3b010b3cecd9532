"""Layers split over a GPU and the host's CPU, as llama.cpp does with a model that the GPU cannot hold."""

from __future__ import annotations

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp

from ..ops import EXACT, Ops, Scalar, choose, reals
from ..spec.deployment import Deployment
from ..spec.model import LayerGroup, Model, stack_groups
from ..spec.system import System
from ..spec.workload import Workload
from ..stages.host import host_time
from ..stages.latency import table_timing
from ..stages.memory import activation_bytes, embedding_bytes, layer_kv_bytes, layer_weight_bytes
from ..stages.operators import embedding_table, head_table
from ..stages.plan import Plan, make_plan
from ..stages.shapes import Pass, layers_below
from .decode import decode_pass
from .end_to_end import first_reason
from .layers import layer_cost
from .prefill import prefill_passes


class Bus(eqx.Module):
    """What connects the two: latency α [s] and bandwidth one way [bytes/s]."""

    alpha: Scalar
    bandwidth: Scalar


class Spent(eqx.Module):
    """Where the time of a phase goes, one after the other [s]: layers on the `gpu`, layers on the `cpu`, hops over the
    `bus`, and the `runtime` (kernel launches, tokenising, scheduling)."""

    gpu: Scalar
    cpu: Scalar
    bus: Scalar
    runtime: Scalar

    @property
    def time(self) -> Scalar:
        """All of it [s]."""
        return self.gpu + self.cpu + self.bus + self.runtime


class Split(eqx.Module):
    """What a split does: `ttft`, `tpot`, `e2e` [s], tokens/s of a user; what `prefill` and a `decode` step spend where;
    bytes on the GPU and on the host (weights, KV cache, activations, reserve) and those that may be filled there;
    feasibility and its code in `REASONS`."""

    ttft: Scalar
    tpot: Scalar
    e2e: Scalar
    output_tokens_per_s_per_user: Scalar
    prefill: Spent
    decode: Spent
    gpu_bytes: Scalar
    cpu_bytes: Scalar
    gpu_usable: Scalar
    cpu_usable: Scalar
    feasible: Scalar
    reason: Scalar


class _Side(eqx.Module):
    """One of the two: its plan, its layers of each group [groups], and whether it has embedding and LM head, 0 or 1."""

    plan: Plan
    counts: Scalar
    embedding: Scalar
    head: Scalar


@partial(jax.jit, inline=True)
def layer_split(
    model: Model,
    gpu: System,
    cpu: System,
    gpu_deployment: Deployment,
    cpu_deployment: Deployment,
    workload: Workload,
    layers_on_gpu: Scalar,
    bus: Bus,
    ops: Ops = EXACT,
) -> Split:
    """A model with its last `layers_on_gpu` layers on one GPU and the others on the CPU.

    A token passes one after the other, so times add: t = Σ layers·t + hops of rows·D·b_a over the bus, one into the GPU
    and one back where the CPU has the LM head. The embedding stays on the host; the LM head is on the GPU where all
    layers are (llama.cpp: `--n-gpu-layers` above L). One device each, weights where they are computed with; a prompt's
    weights are not copied to the GPU.
    """
    model, gpu, cpu, workload = reals(model, gpu, cpu, workload)
    stacked, layers = stack_groups(model), model.layers
    on_cpu = jax.vmap(lambda group: layers_below(group, layers - layers_on_gpu))(stacked)
    whole = choose(layers_on_gpu > layers - 0.5, 1.0, 0.0)
    some = choose(layers_on_gpu > 0.5, 1.0, 0.0)
    sides = (
        _Side(make_plan(model, stacked, gpu, gpu_deployment, ops), stacked.count - on_cpu, 0.0 * whole, whole),
        _Side(make_plan(model, stacked, cpu, cpu_deployment, ops), on_cpu, 1.0 + 0.0 * whole, 1 - whole),
    )

    def spent(work: Pass, tokens: Scalar) -> Spent:
        vectors = work.rows * model.boundary_vectors * model.hidden_size
        crossing = bus.alpha + vectors * gpu_deployment.precision.activations / bus.bandwidth
        on_gpu, on_cpu = (_time(side, work, stacked, ops) for side in sides)
        runtime = [host_time(side.plan, work.chunks, work.sequences, tokens) for side in sides]
        hops = some * (2 - whole) * crossing * work.chunks
        return Spent(on_gpu, on_cpu, hops, some * runtime[0] + (1 - some) * runtime[1])

    def heads(work: Pass) -> Spent:
        on_gpu, on_cpu = (_head_time(side, work, ops) for side in sides)
        return Spent(on_gpu, on_cpu, 0.0, 0.0)

    engine, prompts = cpu_deployment.engine, workload.prefill_batch
    full, rest = prefill_passes(workload.isl, engine.chunk, prompts, cpu_deployment, ops, workload.prefix_hit)
    step, _ = decode_pass(gpu_deployment, workload, ops)
    frontend = Spent(0.0, 0.0, 0.0, engine.tokenise * workload.isl + engine.schedule)
    once = eqx.tree_at(lambda p: p.chunks, full, 1.0)
    passes = [spent(p, p.chunks * p.sequences * p.new_tokens) for p in (full, rest)]
    prefill = _together(*passes, heads(once), frontend)
    decode = _together(spent(step, step.rows), heads(step))
    ttft, tpot = prefill.time, decode.time
    held = [_bytes(side, stacked, workload, step, full, ops) for side in sides]
    rooms = [side.plan.deployment.engine.memory_utilisation * side.plan.system.device.memory.capacity for side in sides]
    reason = first_reason(
        {
            "longer than the model's context": workload.isl + workload.osl > model.max_context,
            "out of memory": (held[0] > rooms[0]) | (held[1] > rooms[1]),
            "TTFT above its target": ttft > workload.slo.ttft,
            "TPOT above its target": tpot > workload.slo.tpot,
        }
    )
    return Split(
        ttft=ttft,
        tpot=tpot,
        e2e=ttft + (workload.osl - 1) * tpot + workload.osl * engine.detokenise,
        output_tokens_per_s_per_user=1 / tpot,
        prefill=prefill,
        decode=decode,
        gpu_bytes=held[0],
        cpu_bytes=held[1],
        gpu_usable=rooms[0],
        cpu_usable=rooms[1],
        feasible=choose(reason == 0, 1.0, 0.0),
        reason=reason,
    )


def _together(*parts: Spent) -> Spent:
    """The sum of several, part by part."""
    return jax.tree.map(lambda *times: sum(times), *parts)


def _time(side: _Side, work: Pass, stacked: LayerGroup, ops: Ops) -> Scalar:
    """Embedding and layers of one side over all chunks of a pass [s]."""
    costs = jax.lax.map(lambda group: layer_cost(group, side.plan, work, "operator", ops).time, stacked)
    embed = table_timing(embedding_table(side.plan, work), side.plan, work, "operator", ops)
    return jnp.sum(side.counts * costs) + side.embedding * embed.time


def _head_time(side: _Side, work: Pass, ops: Ops) -> Scalar:
    """LM head and sampling of one side [s]."""
    return side.head * table_timing(head_table(side.plan, work), side.plan, work, "operator", ops).time


def _bytes(side: _Side, stacked: LayerGroup, workload: Workload, step: Pass, prompt: Pass, ops: Ops) -> Scalar:
    """What one side holds for the whole batch at the peak [bytes]."""
    model, deployment = side.plan.model, side.plan.deployment
    layout, precision = deployment.parallelism, deployment.precision
    hidden, tokens = model.hidden_size, workload.isl + workload.osl
    layer = jax.vmap(lambda group: layer_weight_bytes(group, hidden, deployment, ops))(stacked)
    cache = jax.vmap(lambda group: layer_kv_bytes(group, tokens, deployment, ops))(stacked)
    live = activation_bytes(model, stacked, layout, precision, step.rows, prompt.rows, ops)
    ends = side.embedding * embedding_bytes(model, layout, precision)
    apart = side.head * (1 - model.tied_embeddings * side.embedding)
    head = apart * model.vocabulary_size * hidden * precision.lm_head.bytes
    return jnp.sum(side.counts * (layer + workload.batch * cache)) + ends + head + live + deployment.engine.reserve
