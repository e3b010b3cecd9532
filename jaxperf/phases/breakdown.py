"""Where the time of a phase goes: the rows of the operator table, summed over layers and chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..ops import EXACT, Ops, Scalar, choose, reals
from ..spec.deployment import Deployment
from ..spec.model import LayerGroup, Model
from ..spec.system import System
from ..spec.workload import Workload
from ..stages.communication import (
    embedding_communication,
    head_communication,
    hop_communication,
    layer_communication,
)
from ..stages.forms import core_shape
from ..stages.host import host_time
from ..stages.latency import operator_timing
from ..stages.operators import Operator, embedding_table, head_table
from ..stages.options import optioned_table
from ..stages.plan import Plan
from ..stages.shapes import Pass, in_turns
from ..stages.traffic import traffic
from .decode import decode_pass
from .prefill import prefill_passes
from .prepare import prepare


class Row(eqx.Module):
    """One operator of one rank over a whole phase: how often it runs (`count`, 0 where the model or the layout has no
    such thing), `flops` [FLOP], bytes between memory and arithmetic by class: `weights_bytes`, `kv_cache_bytes` (with
    recurrent state), `activations_bytes` [bytes], `time` [s], and the sides it is made of: `compute`, `memory`,
    `network`, `overhead` [s]."""

    count: Scalar
    flops: Scalar
    weights_bytes: Scalar
    kv_cache_bytes: Scalar
    activations_bytes: Scalar
    time: Scalar
    compute: Scalar
    memory: Scalar
    network: Scalar
    overhead: Scalar

    @property
    def bytes(self) -> Scalar:
        """All classes together [bytes]."""
        return self.weights_bytes + self.kv_cache_bytes + self.activations_bytes


class Columns(eqx.Module):
    """The rows of a phase as one array: `values` [rows, fields of `Row`], and the `names` of the rows."""

    values: Scalar
    names: tuple[str, ...] = eqx.field(static=True)


Rows = dict[str, Row]


def breakdown(
    model: Model, system: System, deployment: Deployment, workload: Workload, ops: Ops = EXACT
) -> dict[str, Rows]:
    """The operators, collectives and host work of each phase: `{"prefill": {name: Row}, "decode": {name: Row}}`.

    The same table, timings and collectives that `evaluate` sums, one row each. On one pipeline stage and with
    engine.overlap = engine.host_overlap = 0 the times of a phase add up to its `PhaseCost.time`. Otherwise they do not:

    - with pp > 1 the rows are one pass through all stages, each chunk on its own, as if nothing ran at the same time; a
      prefill in chunks takes less, as stages work on different chunks, and a decode step of several groups takes more;
    - with an overlap, or where two halves of a batch take turns, the part of a collective or of host work that hides
      behind the device still stands in its row.

    **Arguments:** as in `evaluate`. **Returns:** rows in the order of execution, for `evaluate`'s operator assembly.
    Attention's bytes in a prefill of several chunks are those of the mean of the first and the last chunk.
    """
    phases = breakdown_columns(model, system, deployment, workload, ops)
    return {name: split(columns) for name, columns in phases.items()}


def split(columns: Columns) -> Rows:
    """The rows of a phase by name."""
    return {name: Row(*columns.values[index]) for index, name in enumerate(columns.names)}


@partial(jax.jit, inline=True)
def breakdown_columns(
    model: Model,
    system: System,
    deployment: Deployment,
    workload: Workload,
    ops: Ops = EXACT,
    tokens: Scalar = 1.0,
) -> dict[str, Columns]:
    """`breakdown` with the rows of a phase in one array, which compiles in half the time of hundreds of scalars; decode
    is a step of `tokens` new tokens a sequence."""
    model, system, deployment, workload = reals(model, system, deployment, workload)
    ready = prepare(model, system, deployment, workload, ops)
    plan, stacked = ready.plan, ready.stacked
    chunk, prompts = deployment.engine.chunk, workload.prefill_batch
    full, rest = prefill_passes(workload.isl, chunk, prompts, deployment, ops, workload.prefix_hit)
    step, _ = decode_pass(deployment, workload, ops, tokens)
    once = eqx.tree_at(lambda p: p.chunks, full, 1.0)
    return {
        "prefill": _phase(plan, stacked, [full, rest], once, ops),
        "decode": _phase(plan, stacked, [step], step, ops),
    }


def _phase(plan: Plan, stacked: LayerGroup, passes: list[Pass], once: Pass, ops: Ops) -> Columns:
    """A phase: its embedding, layers and host work in each of some passes, its head and its hops `once`."""
    together = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf, float) for leaf in leaves]), *passes)

    def layers(work: Pass) -> Columns:
        return _total(lambda group: _columns(_layer_rows(group, plan, work, ops)), stacked)

    head = {name: _row(operator, plan, once, ops) for name, operator in head_table(plan, once).items()}
    head["logits gather"] = _network(head_communication(plan, once), 1.0)
    head["pipeline hops"] = _network(hop_communication(plan, once), plan.deployment.parallelism.pp - 1)
    parts = [
        _total(lambda work: _columns(_embedding_rows(plan, work, ops)), together),
        _total(layers, together),
        _columns(head),
        _total(lambda work: _columns({"host": _host(plan, work, ops)}), together),
    ]
    return Columns(jnp.concatenate([part.values for part in parts]), sum((part.names for part in parts), ()))


def _columns(rows: Rows) -> Columns:
    return Columns(jnp.stack([jnp.stack(jax.tree.leaves(row)) for row in rows.values()]), tuple(rows))


def _total(columns: Callable[[Any], Columns], stacked: Any) -> Columns:
    """The sum of `columns(item)` over a pytree's leading axis, one by one: a loop compiles faster than a batch."""
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), jax.lax.map(columns, stacked))


def _layer_rows(group: LayerGroup, plan: Plan, work: Pass, ops: Ops) -> Rows:
    """The rows of all layers of one group over all chunks of a pass."""
    work, turns, _ = in_turns(work, plan.deployment.engine, ops)
    table = optioned_table(group, plan, work, ops)
    network = layer_communication(group, core_shape(table), plan, work, ops)
    rows = {name: _row(operator, plan, work, ops) for name, operator in table.items()}
    rows["attention collective"] = _network(network.attention * work.chunks, work.chunks)
    rows["ffn collective"] = _network(network.feed_forward * work.chunks, work.chunks)
    rows["context ring"] = _network(network.context * work.chunks, work.chunks)
    # Over rows, not over the dict: a tree map would sort the names.
    return {name: jax.tree.map(lambda leaf: group.count * turns * leaf, row) for name, row in rows.items()}


def _embedding_rows(plan: Plan, work: Pass, ops: Ops) -> Rows:
    rows = {name: _row(operator, plan, work, ops) for name, operator in embedding_table(plan, work).items()}
    rows["embedding collective"] = _network(work.chunks * embedding_communication(plan, work, ops), work.chunks)
    return rows


def _row(operator: Operator, plan: Plan, work: Pass, ops: Ops) -> Row:
    """One operator over all chunks of a pass."""
    timing, moved = operator_timing(operator, plan, work, ops), traffic(operator, work, ops)
    return _real(
        count=operator.present * work.chunks,
        flops=timing.flops,
        weights_bytes=moved.weights * work.chunks,
        kv_cache_bytes=moved.kv_cache * work.chunks,
        activations_bytes=moved.activations * work.chunks,
        time=timing.time,
        compute=timing.compute,
        memory=timing.memory,
        network=0.0,
        overhead=timing.overhead,
    )


def _network(time: Scalar, runs: Scalar) -> Row:
    """A collective of `time` seconds in all that runs `runs` times; on one rank it takes no time and does not exist."""
    exists = choose(time > 0, 1.0, 0.0)
    return _real(count=exists * runs, time=time, network=time)


def _host(plan: Plan, work: Pass, ops: Ops) -> Row:
    """Host time of the passes."""
    tokens = work.chunks * work.sequences * work.new_tokens
    time = host_time(plan, work.chunks, work.sequences, tokens)
    exists = choose(time > 0, 1.0, 0.0)
    return _real(count=exists * work.chunks, time=time, overhead=time)


def _real(**values: Scalar) -> Row:
    """A `Row` whose leaves are all arrays of the default real type, so that rows stack; what is not given is 0."""
    return Row(**{field.name: jnp.asarray(values.get(field.name, 0.0), float) for field in fields(Row)})


__all__ = ["Columns", "Row", "Rows", "breakdown", "breakdown_columns", "split"]
