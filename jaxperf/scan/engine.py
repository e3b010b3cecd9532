"""The scan itself: blocks of layouts × chunks × batches through one compiled program, reduced on the device.

The product is evaluated as nested vmaps, so that work which depends on a layout alone is done once a layout. The model
is the block's own, un-vmapped: what it lacks is skipped by a branch, not computed and thrown away."""

from __future__ import annotations

import random
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
from ..spec.model import Model, build_model
from ..spec.system import build_system
from ..spec.workload import Slo, Workload
from .reduce import Block, Counts, Pareto
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


class Chunks(eqx.Module):
    """The chunk sizes of a block [tokens], and which of them are real."""

    size: Any
    real: Any


def on_host(tree: Any) -> Any:
    """The same pytree with NumPy leaves: floats of the default width, integers as they are."""
    real = np.dtype(jnp.result_type(float))

    def convert(leaf: Any) -> Any:
        array = np.asarray(leaf)
        return array if array.dtype == np.int32 else array.astype(real)

    return jax.tree.map(convert, tree)


def stack(trees: list[Any]) -> Any:
    """Pytrees of equal structure as one with a leading axis, on the host."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *[on_host(tree) for tree in trees])


def configuration(inputs: Inputs, point: Point, batch: Any, chunk: Any) -> tuple[Any, Deployment, Workload]:
    """System, deployment and workload of one configuration of a group."""
    system = jax.tree.map(lambda leaf: leaf[point.system], inputs.systems)
    efficiency = jax.tree.map(lambda leaf: leaf[point.system], inputs.efficiencies)
    precision = jax.tree.map(lambda leaf: leaf[point.precision], inputs.precisions)
    one = jnp.ones((), inputs.isl.dtype)
    layout = Parallelism(*[point.degrees[i] for i in range(len(DEGREES))], replicas=one)
    engine = eqx.tree_at(lambda e: e.chunk, inputs.engine, chunk)
    return (
        system,
        Deployment(layout, precision, engine, efficiency),
        Workload(inputs.isl, inputs.osl, batch, one, inputs.slo),
    )


def objective(metrics: Metrics, name: str) -> Any:
    """A metric as a number to maximise, above 0: itself, or its reciprocal where less is better; 0 where infeasible or
    unknown (a price that no spec states)."""
    value = getattr(metrics, name)
    value = value if name in MAXIMISED else 1 / value
    return jnp.where((metrics.feasible > 0) & jnp.isfinite(value), value, 0.0)


def evaluate_block(
    model: Model, inputs: Inputs, points: Point, chunks: Chunks, number: Any, objectives: tuple[str, str]
) -> Block:
    """All configurations of a block, flat, in the order point, chunk, batch."""

    def one(point: Point, chunk: Chunks, batch: Any) -> tuple[Any, ...]:
        system, deployment, workload = configuration(inputs, point, batch, chunk.size)
        metrics = evaluate(model, system, deployment, workload)
        # TTFT, TPOT and E2E all take part in what is feasible, so none of them can be left out.
        sound = jnp.isfinite(metrics.ttft + metrics.tpot + metrics.e2e + metrics.memory.total)
        real = point.real & chunk.real
        values = [jnp.where(real & sound, objective(metrics, name), 0.0) for name in objectives]
        return values[0], values[1], jnp.where(real, metrics.reason, -1.0).astype(jnp.int8)

    inner = jax.vmap(one, in_axes=(None, None, 0))
    middle = jax.vmap(inner, in_axes=(None, 0, None))
    first, second, reason = jax.vmap(middle, in_axes=(0, None, None))(points, chunks, inputs.batch)
    # Settled, so that every reduction reads these arrays instead of computing them once more.
    alive = model.vocabulary_size
    return Block(
        first=settle(first.ravel(), alive),
        second=settle(second.ravel(), alive),
        reason=settle(reason.ravel(), alive),
        number=number,
    )


@eqx.filter_jit
def _step(
    model: Model,
    inputs: Inputs,
    points: Point,
    chunks: Chunks,
    number: Any,
    states: Any,
    kept: tuple[Any, ...],
    objectives: tuple[str, str],
) -> Any:
    block = evaluate_block(model, inputs, points, chunks, number, objectives)
    return [reduction.update(state, block) for reduction, state in zip(kept, states, strict=True)]


@dataclass(frozen=True)
class Shape:
    """The shape of every block: outer points and chunk slots; what a block does not fill is padding."""

    points: int
    chunks: int


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

    def blocks(self, shape: Shape) -> int:
        """How many blocks the group takes: every set of chunks for every run of rows."""
        return -(-len(self.chunk) // shape.chunks) * -(-len(self.rows) // shape.points)

    def part(self, number: int, shape: Shape) -> tuple[list[tuple[int, int, tuple[int, ...]]], list[int]]:
        """The rows and the chunks of one block, without padding."""
        run, chunk_set = number // -(-len(self.chunk) // shape.chunks), number % -(-len(self.chunk) // shape.chunks)
        rows = self.rows[run * shape.points : (run + 1) * shape.points]
        return rows, self.chunk[chunk_set * shape.chunks : (chunk_set + 1) * shape.chunks]


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
    systems: Any
    efficiencies: Any

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
        # Good and bad layouts mixed: a good one in an early block rules out much of what follows.
        random.Random(0).shuffle(rows)
        for isl, osl in space.workloads:
            groups.append(Group(name, isl, osl, rows, chunks(space, isl), space.batch))
    systems = stack([build_system(point.document) for point in points])
    efficiencies = stack(
        [build_efficiency(efficiency_document_of(space.efficiency, point.name, space.engine)) for point in points]
    )
    return Prepared(space, points, models, found, groups, systems, efficiencies)


def group_inputs(prepared: Prepared, group: Group) -> tuple[Model, Inputs]:
    """The model and shared inputs of a group."""
    space, model = prepared.space, prepared.models[group.model]
    kinds = [
        build_precision(precision_document(model.document["precision"], weights, kv))
        for weights, kv in prepared.precisions[group.model]
    ]
    engine = build_engine(None if space.engine is None else find("engine", space.engine).document)
    real = np.dtype(jnp.result_type(float))
    inputs = Inputs(
        systems=prepared.systems,
        efficiencies=prepared.efficiencies,
        precisions=stack(kinds),
        engine=on_host(engine),
        isl=np.asarray(group.isl, real),
        osl=np.asarray(group.osl, real),
        slo=on_host(Slo(space.slo_ttft, space.slo_tpot)),
        batch=np.asarray(group.batch, real),
    )
    return jax.device_put((on_host(build_model(model.document)), inputs))


def block_points(group: Group, number: int, shape: Shape) -> tuple[Point, Chunks]:
    """The outer points and chunks of one block, filled up with repeats that are not real."""
    rows, chunk = group.part(number, shape)
    real = np.dtype(jnp.result_type(float))
    padded, padded_chunk = (
        rows + rows[-1:] * (shape.points - len(rows)),
        chunk + chunk[-1:] * (shape.chunks - len(chunk)),
    )
    points = Point(
        system=np.asarray([row[0] for row in padded], np.int32),
        precision=np.asarray([row[1] for row in padded], np.int32),
        degrees=np.asarray([row[2] for row in padded], real),
        real=np.arange(shape.points) < len(rows),
    )
    return points, Chunks(np.asarray(padded_chunk, real), np.arange(shape.chunks) < len(chunk))


def block_shape(prepared: Prepared) -> Shape:
    """A shape of 2^17 to 2^19 configurations a block, with the chunk slots that waste least over all groups."""
    counts = [len(group.chunk) for group in prepared.groups if group.rows]
    most = min(max(counts), 16)
    slots = min(range(1, most + 1), key=lambda n: sum(-(-count // n) * (n + 1) for count in counts))
    points = POINTS
    while points > 1 and points * slots * len(prepared.space.batch) > 2**19:
        points //= 2
    while points < 4096 and points * slots * len(prepared.space.batch) < 2**17:
        points *= 2
    return Shape(points, slots)


CAPACITY = 1024
"""Frontier points for which there is room at first; a group with more is scanned again with eight times the room."""


def reductions(capacity: int) -> tuple[Any, ...]:
    """What a scan keeps: counts by reason and the exact frontier, whose ends are the best of either objective."""
    return Counts(), Pareto(capacity)


def run_group(
    prepared: Prepared, group: Group, shape: Shape, tick: Callable[[int], bool], capacity: int | None = None
) -> tuple[Any, ...]:
    """Scans a group and finishes every one of `reductions`; `tick` is told of each block's configurations
    and answers whether to go on."""
    capacity = capacity or CAPACITY
    kept = reductions(capacity)
    model, inputs = group_inputs(prepared, group)
    states = [reduction.init() for reduction in kept]
    for number in range(group.blocks(shape)):
        points, chunk = block_points(group, number, shape)
        states = _step(model, inputs, points, chunk, np.int32(number), states, kept, prepared.space.objectives)
        jax.block_until_ready(states[0])
        if not tick(int(points.real.sum() * chunk.real.sum()) * len(group.batch)):
            raise KeyboardInterrupt
    try:
        return tuple(reduction.finish(state) for reduction, state in zip(kept, states, strict=True))
    except OverflowError:
        return run_group(prepared, group, shape, lambda count: tick(0), 8 * capacity)


def compile_seconds(prepared: Prepared, shape: Shape) -> float:
    """Compiles the program of a space by running its first block once [s]; a later scan finds it in memory."""
    group = next(group for group in prepared.groups if group.rows)
    model, inputs = group_inputs(prepared, group)
    kept = reductions(CAPACITY)
    states = [reduction.init() for reduction in kept]
    started = time.perf_counter()
    points, chunk = block_points(group, 0, shape)
    jax.block_until_ready(_step(model, inputs, points, chunk, np.int32(0), states, kept, prepared.space.objectives))
    return time.perf_counter() - started
