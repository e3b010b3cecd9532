"""The two forms of a scan, timed: the product of axes as the engine runs it, and a flat list that shares nothing.

The flat list is arrays of equal length, one number of each kind a configuration: system, efficiency and precision by
index, five degrees, batch, chunk, prompt and output lengths. Its configurations are drawn from the same space without
repetition, in random order, so that no work of one helps the next. The model alone is a list's own, as in the scan."""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxperf.scan import Keep, load_space, scan
from jaxperf.scan.engine import Inputs, Point, hardware_of, judged, priced, program, wanted_metrics
from jaxperf.scan.inputs import block_arguments, group_inputs, point_of
from jaxperf.scan.keep import reductions
from jaxperf.scan.plan import Prepared, block_shape, prepare
from jaxperf.scan.reduce import Block, Place, sign
from jaxperf.scan.rows import COLUMN
from jaxperf.scan.space import Space

from .hlo import bytes_accessed, count, own_count
from .machine import cores

TOP = 100
KEEP = {"max": Keep(frontier=False), "pareto": Keep(), "top": Keep(frontier=False, top=TOP)}
"""What each case keeps beside counts by reason: the best of two objectives; their exact frontier; the best and the
hundred best."""

FLAT_BLOCK = 2**14


@dataclasses.dataclass(frozen=True)
class Work:
    """What a case runs over: the space's file (None: the default one), how many of its models, length of a model's
    flat list, repeats."""

    space: str | None
    models: int
    flat: int
    repeats: int

    def load(self) -> Space:
        """The space with its first models."""
        space = load_space(self.space)
        return dataclasses.replace(space, models=space.models[: self.models])


class FlatList(eqx.Module):
    """Configurations of one model as arrays of equal length."""

    point: Point
    batch: Any
    chunk: Any
    isl: Any
    osl: Any


def peak_memory() -> int:
    """The most memory that this process has held [bytes]."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def timed(work: Callable[[], int], repeats: int) -> list[dict[str, float]]:
    """Runs `work`, which gives how many configurations it did, and times each run."""
    runs = []
    for _ in range(repeats):
        cpu, started = time.process_time(), time.perf_counter()
        configurations = work()
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        runs.append(run_of(configurations, wall, cpu))
    return runs


def run_of(configurations: int, wall: float, cpu: float) -> dict[str, float]:
    """One run's figures."""
    return {
        "wall_s": wall,
        "configurations_per_s": configurations / wall,
        "cpu_ns_per_configuration": 1e9 * cpu / configurations,
    }


def summary(runs: list[dict[str, float]], configurations: int, compile_s: float) -> dict[str, Any]:
    """A case's figures: the fastest run counts, all are reported."""
    best = max(runs, key=lambda run: run["configurations_per_s"])
    return {
        "configurations": configurations,
        "configurations_per_s": best["configurations_per_s"],
        "cpu_ns_per_configuration": best["cpu_ns_per_configuration"],
        "compile_s": compile_s,
        "peak_memory_bytes": peak_memory(),
        "runs": runs,
    }


def described(compiled: Any, size: int, filled: float) -> dict[str, Any]:
    """What the compiled step does for one real configuration.

    **Arguments:** `size` of a block; share of its slots that are `filled`, over the whole scan.
    """
    found = count(compiled.as_text())
    once, moved = own_count(compiled), bytes_accessed(compiled)
    repeated = found.flops / max(found.flops_once, 1)
    return {
        "fusions": found.fusions,
        "loops_of_known_trips": found.loops,
        "loops_until_done": found.open_loops,
        "flops_per_configuration": found.flops / size / filled,
        "flops_per_configuration_loop_bodies_once": found.flops_once / size / filled,
        "flops_per_configuration_by_cost_analysis": None if once is None else once * repeated / size / filled,
        "bytes_between_fusions_per_configuration": None if moved is None else moved / size / filled,
    }


def product(work: Work, reduction: str, describe: bool) -> dict[str, Any]:
    """The product form: `jaxperf.scan`, block by block."""
    space, keep = work.load(), KEEP[reduction]
    first = scan(space, keep=keep)
    runs, result = [], first
    for _ in range(work.repeats):
        cpu = time.process_time()
        result = scan(space, keep=keep)
        runs.append(run_of(result.configurations, result.wall_s, time.process_time() - cpu))
    found = summary(runs, result.configurations, first.compile_s) | {"feasible": result.feasible}
    found["best"] = {
        metric: max(sign(metric) * g.best[metric][COLUMN[metric]] for g in result.groups if g.best) * sign(metric)
        for metric in space.objectives
    }
    return found | (product_program(space, keep) if describe else {})


def product_program(space: Space, keep: Keep) -> dict[str, Any]:
    """What the compiled step of a product does."""
    prepared = prepare(space)
    shape, kept = block_shape(prepared, width=jnp.dtype(jnp.result_type(float)).itemsize), reductions(prepared, keep)
    group = prepared.groups[0]
    model, inputs = group_inputs(prepared, 0)
    arguments = block_arguments(prepared, group, group.part(0, shape), shape)
    states = tuple(reduction.init() for reduction in kept)
    compiled = program(kept, (), shape, (jax.local_devices()[0],)).lower(model, inputs, arguments, states).compile()
    blocks = sum(group.blocks(shape) for group in prepared.groups)
    return described(compiled, shape.size, prepared.configurations / (blocks * shape.size))


def flat_list(prepared: Prepared, model: str, length: int, seed: int = 0) -> tuple[Any, Inputs, FlatList]:
    """Model, shared inputs and a random list of a model's configurations, without repetition."""
    indices = [index for index, group in enumerate(prepared.groups) if group.model == model]
    groups = [prepared.groups[index] for index in indices]
    starts = np.cumsum([0, *(group.configurations for group in groups)])
    generator = np.random.default_rng(seed)
    chosen = generator.choice(starts[-1], min(length, int(starts[-1])), replace=False, shuffle=True)
    of = np.searchsorted(starts, chosen, side="right") - 1
    real = np.dtype(jnp.result_type(float))
    batch, chunk, isl, osl = (np.zeros(len(chosen), real) for _ in range(4))
    row = np.zeros(len(chosen), np.int64)
    for number, group in enumerate(groups):
        mine = of == number
        row[mine], inner = np.divmod(chosen[mine] - starts[number], group.inner)
        at_chunk, at_batch = np.divmod(inner, len(group.batch))
        batch[mine], chunk[mine] = np.asarray(group.batch)[at_batch], np.asarray(group.chunk)[at_chunk]
        isl[mine], osl[mine] = group.isl, group.osl
    point = point_of(prepared, groups[0].rows.take(row), np.ones(len(chosen), bool))
    own, inputs = group_inputs(prepared, indices[0])
    return own, inputs, FlatList(point, batch, chunk, isl, osl)


def flat_step(kept: tuple[Any, ...], size: int) -> Callable[..., Any]:
    """Model, inputs, a list, place of a block in it, states → states after that block of `size`."""
    wanted = wanted_metrics(kept)

    def step(model: Any, inputs: Inputs, everything: FlatList, start: Any, states: Any) -> Any:
        mine = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), everything)

        def one(item: FlatList) -> Any:
            lengths, hardware = (item.isl, item.osl, inputs.slo), hardware_of(inputs, item.point)
            metrics = priced(model, hardware, inputs.engine, lengths, item.batch, item.chunk)
            scores, reason = judged(metrics, item.point.real, wanted)
            return scores, reason.astype(jnp.int8)

        scores, reason = jax.vmap(one)(mine)
        zero, first = jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32)
        block = Block(
            dict(zip(wanted, scores, strict=True)), reason, Place(start, zero, zero, first), None, (size, 1, 1)
        )
        return tuple(reduction.update(state, block) for reduction, state in zip(kept, states, strict=True))

    return jax.jit(step)


def flat(work: Work, reduction: str, describe: bool) -> dict[str, Any]:
    """The flat form: lists of the space's configurations in random order, one a model, blocks of them on every core."""
    prepared = prepare(work.load())
    kept = reductions(prepared, KEEP[reduction])
    lists = [flat_list(prepared, model, work.flat) for model in prepared.space.models]
    length = min(everything.batch.size for _, _, everything in lists)
    size = min(FLAT_BLOCK, length)
    length = length // size * size
    lists = [jax.device_put((m, i, jax.tree.map(lambda leaf: leaf[:length], e))) for m, i, e in lists]
    step = flat_step(kept, size)
    first = jax.device_put(tuple(reduction.init() for reduction in kept))
    blocks = [(n, start) for n in range(len(lists)) for start in range(0, length, size)]
    started = time.perf_counter()
    lowered = step.lower(*lists[0], np.int32(0), first)
    compiled = lowered.compile()
    compile_s = time.perf_counter() - started
    workers = min(cores() + 1, 4, len(blocks))

    def share(index: int) -> Any:
        states = {}
        for number, start in blocks[index::workers]:
            states[number] = compiled(*lists[number], np.int32(start), states.get(number, first))
        return jax.block_until_ready(states)

    parts: list[dict[int, Any]] = []

    def run() -> int:
        with ThreadPoolExecutor(workers) as pool:
            parts[:] = list(pool.map(share, range(workers)))
        return len(blocks) * size

    runs = timed(run, work.repeats + 1)[1:]
    found = summary(runs, len(blocks) * size, compile_s) | {"block": size}
    found["list_bytes_per_configuration"] = sum(
        leaf.nbytes / length for leaf in jax.tree.leaves(lists[0][2]) if leaf.ndim
    )
    states = [held for part in parts for held in part.values()]
    if max(int(r.crowding(held[i])) for held in states for i, r in enumerate(kept)) > 1:
        raise RuntimeError("a frontier outgrew its room; make the list shorter")
    merged = {r.name: r.merge([r.extract(held[i]) for held in states]) for i, r in enumerate(kept)}
    objectives = prepared.space.objectives
    best = np.max(merged["frontier" if reduction == "pareto" else "best"]["score"].reshape(-1, len(objectives)), axis=0)
    found["feasible"] = int(merged["counts"]["count"][0])
    found["best"] = {metric: float(sign(metric) * best[i]) for i, metric in enumerate(objectives)}
    return found | (described(compiled, size, 1.0) if describe else {})
