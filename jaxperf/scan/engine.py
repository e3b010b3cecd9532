"""The scan itself: blocks of layouts × chunks × batches through one compiled program, reduced on the device.

The product is evaluated as nested vmaps, so that work which depends on a layout alone is done once a layout. The model
is the block's own, un-vmapped: what it lacks is skipped by a branch, not computed and thrown away."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..load import efficiency_document_of
from ..ops import settle
from ..phases.end_to_end import Metrics, evaluate
from ..spec.deployment import (
    Deployment,
    Parallelism,
    build_efficiency,
    build_engine,
    build_precision,
    precision_document,
)
from ..spec.library import Spec, find
from ..spec.model import Model, as_arrays, build_model
from ..spec.system import build_system
from ..spec.workload import Slo, Workload
from .reduce import Best, Block, Counts, Pareto
from .space import DEGREES, MAXIMISED, Space, SystemPoint, chunks, layouts, precisions, system_points

POINTS = 64
"""Layout points in a block: with hundreds of batches and a few chunks, intermediate arrays stay in cache."""


class Point(eqx.Module):
    """One outer point of a block: indices of its system and precision, its degrees, whether it is real."""

    system: Any
    precision: Any
    degrees: Any
    real: Any


class Inputs(eqx.Module):
    """What all blocks of a group share: stacked systems (with their efficiencies) and precisions, inner axes."""

    systems: Any
    efficiencies: Any
    precisions: Any
    engine: Any
    isl: Any
    osl: Any
    slo: Slo
    batch: Any
    chunk: Any
    chunk_real: Any


def stack(trees: list[Any]) -> Any:
    """Pytrees of equal structure as one, with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def configuration(inputs: Inputs, point: Point, batch: Any, chunk: Any) -> tuple[Any, Deployment, Workload]:
    """System, deployment and workload of one configuration of a group."""
    system = jax.tree.map(lambda leaf: leaf[point.system], inputs.systems)
    efficiency = jax.tree.map(lambda leaf: leaf[point.system], inputs.efficiencies)
    precision = jax.tree.map(lambda leaf: leaf[point.precision], inputs.precisions)
    one = jnp.ones((), inputs.isl.dtype)
    layout = Parallelism(*[point.degrees[i] for i in range(len(DEGREES))], replicas=one)
    engine = eqx.tree_at(lambda e: e.chunk, inputs.engine, chunk)
    return system, Deployment(layout, precision, engine, efficiency), Workload(inputs.isl, inputs.osl, batch, one, inputs.slo)


def objective(metrics: Metrics, name: str) -> Any:
    """A metric as a number to maximise, above 0: itself, or its reciprocal where less is better; 0 where infeasible."""
    value = getattr(metrics, name)
    value = value if name in MAXIMISED else 1 / value
    return jnp.where(metrics.feasible > 0, value, 0.0)


def evaluate_block(
    model: Model, inputs: Inputs, points: Point, number: Any, objectives: tuple[str, str]
) -> Block:
    """All configurations of a block, flat, in the order point, chunk, batch."""

    def one(point: Point, chunk: Any, chunk_real: Any, batch: Any) -> tuple[Any, ...]:
        system, deployment, workload = configuration(inputs, point, batch, chunk)
        metrics = evaluate(model, system, deployment, workload)
        # TTFT, TPOT and E2E all take part in what is feasible, so none of them can be left out.
        sound = jnp.isfinite(metrics.ttft + metrics.tpot + metrics.e2e + metrics.memory.total)
        real = point.real & chunk_real
        values = [jnp.where(real & sound, objective(metrics, name), 0.0) for name in objectives]
        return values[0], values[1], jnp.where(real, metrics.reason, -1.0).astype(jnp.int8)

    inner = jax.vmap(one, in_axes=(None, None, None, 0))
    middle = jax.vmap(inner, in_axes=(None, 0, 0, None))
    first, second, reason = jax.vmap(middle, in_axes=(0, None, None, None))(
        points, inputs.chunk, inputs.chunk_real, inputs.batch
    )
    # Settled, so that every reduction reads these arrays instead of computing them once more.
    flat = [settle(values.ravel(), model.vocabulary_size) for values in (first, second, reason)]
    return Block(*flat, number)


@eqx.filter_jit
def _step(
    model: Model, inputs: Inputs, points: Point, number: Any, states: Any, reductions: Any, objectives: tuple[str, str]
) -> Any:
    block = evaluate_block(model, inputs, points, number, objectives)
    return [reduction.update(state, block) for reduction, state in zip(reductions, states, strict=True)]


@dataclass(frozen=True)
class Group:
    """One model and workload: its outer points, in order, and its inner axes."""

    model: str
    isl: int
    osl: int
    rows: list[tuple[int, int, tuple[int, ...]]]
    chunk: list[int]
    batch: tuple[int, ...]

    @property
    def configurations(self) -> int:
        """How many distinct configurations the group holds."""
        return len(self.rows) * len(self.chunk) * len(self.batch)


@dataclass
class GroupResult:
    """What a group's scan found: counts by reason, the best row of each objective, the frontier's rows."""

    model: str
    isl: int
    osl: int
    configurations: int
    counts: dict[str, int]
    best: dict[str, dict]
    frontier: list[dict]


@dataclass
class Progress:
    """Passed to a scan's callback after every few blocks."""

    done: int
    total: int
    seconds: float
    group: str
    best: dict[str, float] = field(default_factory=dict)


@dataclass
class Prepared:
    """A space made ready: specs stacked once, groups enumerated."""

    space: Space
    points: list[SystemPoint]
    models: dict[str, Spec]
    precisions: dict[str, list[tuple[str | None, str | None]]]
    groups: list[Group]

    @property
    def configurations(self) -> int:
        """Distinct configurations of the whole space."""
        return sum(group.configurations for group in self.groups)


def prepare(space: Space) -> Prepared:
    """Enumerates the layouts that can exist, by model and system; builds nothing on a device yet."""
    points = system_points(space)
    models = {name: find("model", name) for name in space.models}
    found = {name: precisions(space, model) for name, model in models.items()}
    groups = []
    for name, model in models.items():
        rows = [
            (index, precision, layout)
            for index, point in enumerate(points)
            for layout in layouts(space, model, point.document)
            for precision in range(len(found[name]))
        ]
        for isl, osl in space.workloads:
            groups.append(Group(name, isl, osl, rows, chunks(space, isl), space.batch))
    return Prepared(space, points, models, found, groups)


def group_inputs(prepared: Prepared, group: Group, chunk_slots: int) -> tuple[Model, Inputs]:
    """The model and shared inputs of a group, on the device. Unused chunk slots repeat the last and are not real."""
    space, model = prepared.space, prepared.models[group.model]
    systems = [as_arrays(build_system(point.document)) for point in prepared.points]
    efficiencies = [
        as_arrays(build_efficiency(efficiency_document_of(space.efficiency, point.name, space.engine)))
        for point in prepared.points
    ]
    kinds = [
        as_arrays(build_precision(precision_document(model.document["precision"], weights, kv)))
        for weights, kv in prepared.precisions[group.model]
    ]
    engine = build_engine(None if space.engine is None else find("engine", space.engine).document)
    padding = chunk_slots - len(group.chunk)
    real = jnp.result_type(float)
    inputs = Inputs(
        systems=stack(systems),
        efficiencies=stack(efficiencies),
        precisions=stack(kinds),
        engine=as_arrays(engine),
        isl=jnp.asarray(group.isl, real),
        osl=jnp.asarray(group.osl, real),
        slo=as_arrays(Slo(space.slo_ttft, space.slo_tpot)),
        batch=jnp.asarray(group.batch, real),
        chunk=jnp.asarray(group.chunk + group.chunk[-1:] * padding, real),
        chunk_real=jnp.asarray([True] * len(group.chunk) + [False] * padding),
    )
    return as_arrays(build_model(model.document)), inputs


def block_points(group: Group, number: int, size: int) -> Point:
    """The outer points of one block; the last one is filled up with points that are not real."""
    rows = group.rows[number * size : (number + 1) * size]
    padding = size - len(rows)
    rows = rows + [rows[-1]] * padding
    real = np.dtype(jnp.result_type(float))
    return Point(
        system=np.asarray([row[0] for row in rows], np.int32),
        precision=np.asarray([row[1] for row in rows], np.int32),
        degrees=np.asarray([row[2] for row in rows], real),
        real=np.asarray([True] * (size - padding) + [False] * padding),
    )


def block_size(prepared: Prepared) -> int:
    """Points a block, so that a block has 2^17 to 2^19 configurations whatever the inner axes."""
    inner = len(prepared.space.batch) * max(len(group.chunk) for group in prepared.groups)
    size = POINTS
    while size > 1 and size * inner > 2**19:
        size //= 2
    while size * inner < 2**17 and size < 4096:
        size *= 2
    return size


def run_group(
    prepared: Prepared,
    group: Group,
    size: int,
    chunk_slots: int,
    tick: Callable[[int], None],
) -> tuple[Any, ...]:
    """Scans a group: (counts, best of the first objective, best of the second, frontier) as reductions finish them."""
    model, inputs = group_inputs(prepared, group, chunk_slots)
    reductions = (Counts(), Best(0), Best(1), Pareto())
    states = [reduction.init() for reduction in reductions]
    inner = len(group.chunk) * len(group.batch)
    for number in range(-(-len(group.rows) // size)):
        points = block_points(group, number, size)
        states = _step(model, inputs, points, np.int32(number), states, reductions, prepared.space.objectives)
        if number % 4 == 3:
            jax.block_until_ready(states[0])
        tick(min(size, len(group.rows) - number * size) * inner)
    return tuple(reduction.finish(state) for reduction, state in zip(reductions, states, strict=True))


def compile_seconds(prepared: Prepared, size: int, chunk_slots: int) -> float:
    """Compiles the program of a space by running its first block once [s]; a later scan finds it in memory."""
    group = prepared.groups[0]
    model, inputs = group_inputs(prepared, group, chunk_slots)
    reductions = (Counts(), Best(0), Best(1), Pareto())
    states = [reduction.init() for reduction in reductions]
    started = time.perf_counter()
    points = block_points(group, 0, size)
    jax.block_until_ready(_step(model, inputs, points, np.int32(0), states, reductions, prepared.space.objectives))
    return time.perf_counter() - started
