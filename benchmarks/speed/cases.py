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

import numpy as np

from jaxperf.native.kernel import NEW_FORMATS, NEW_LAYOUT
from jaxperf.native.product import TOGETHER
from jaxperf.scan import Keep, absorb, load_space, scan
from jaxperf.scan.engine import wanted_metrics
from jaxperf.scan.keep import reductions
from jaxperf.scan.listing import ConfigurationList, parts, priced
from jaxperf.scan.native import Kernels
from jaxperf.scan.plan import Prepared, block_shape, prepare
from jaxperf.scan.reduce import sign
from jaxperf.scan.rows import COLUMN
from jaxperf.scan.space import DEGREES, Space
from jaxperf.scan.unshared import Unshared, alone, unshared

from .machine import cores

TOP = 100
COMPILED = 2**20
"""Configurations of the list for which code is made before the clock runs: enough to share rows, as the whole does."""

KEEP = {"max": Keep(frontier=False), "pareto": Keep(), "top": Keep(frontier=False, top=TOP)}
"""What each case keeps beside counts by reason: the best of two objectives; their exact frontier; the best and the
hundred best."""


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


def product(work: Work, reduction: str, describe: bool) -> dict[str, Any]:
    """The product form: `jaxperf.scan`, block by block."""
    space, keep = work.load(), KEEP[reduction]
    first = scan(space, keep=keep)
    runs, result = [], first
    for _ in range(work.repeats):
        before = time.process_time()
        result = scan(space, keep=keep)
        spent = time.process_time() - before
        runs.append(run_of(result.configurations, result.wall_s, spent))
    found = summary(runs, result.configurations, first.compile_s) | {"feasible": result.feasible}
    found["best"] = {
        metric: max(sign(metric) * g.best[metric][COLUMN[metric]] for g in result.groups if g.best) * sign(metric)
        for metric in space.objectives
    }
    return found | (product_flops(space, keep) if describe else {})


def product_flops(space: Space, keep: Keep) -> dict[str, Any]:
    """FLOPs that a scan executes for each configuration, padding of runs included, reductions not; operations in each
    loop of each model's code."""
    prepared = prepare(space)
    kernels, done, nodes = Kernels(prepared, wanted_metrics(reductions(prepared, keep))), 0, {}
    for index, group in enumerate(prepared.groups):
        kernel, rows, chunks = kernels.of(index).kernel, len(group.rows), len(group.chunk)
        size = np.asarray(group.batch, kernel.real)
        batches = kernel.batches(np.stack([size, size]), np.zeros(2)).values.shape[1]
        changes, shape = kernels.rows(index, 0, rows).changes[:rows].copy(), block_shape(prepared, whole=True)
        changes[:: min(TOGETHER, shape.points)] = NEW_LAYOUT
        layouts, formats = (int(np.sum(changes <= change)) for change in (NEW_LAYOUT, NEW_FORMATS))
        done += rows * (kernel.flops["row"] + chunks * kernel.flops["chunk"])
        done += batches * (layouts * kernel.flops["layout"] + formats * kernel.flops["formats"])
        done += batches * rows * (kernel.flops["batch"] + chunks * kernel.flops["each"])
        nodes[group.model] = kernel.nodes
    return {"flops_per_configuration": done / prepared.configurations, "operations_by_loop": nodes}


def flat_list(prepared: Prepared, model: str, length: int, seed: int = 0) -> ConfigurationList:
    """A random list of a model's configurations, without repetition."""
    groups = [group for group in prepared.groups if group.model == model]
    starts = np.cumsum([0, *(group.configurations for group in groups)])
    generator = np.random.default_rng(seed)
    chosen = generator.choice(starts[-1], min(length, int(starts[-1])), replace=False, shuffle=True)
    of = np.searchsorted(starts, chosen, side="right") - 1
    columns = {name: np.zeros(len(chosen), np.int32) for name in ConfigurationList.NAMES}
    for number, group in enumerate(groups):
        mine = of == number
        row, inner = np.divmod(chosen[mine] - starts[number], group.inner)
        at_chunk, at_batch = np.divmod(inner, len(group.batch))
        points = group.rows.take(row)
        values = {"batch": np.asarray(group.batch)[at_batch], "chunk": np.asarray(group.chunk)[at_chunk]}
        values |= {"system": points.system, "precision": points.precision, "isl": group.isl, "osl": group.osl}
        for name, column in (values | dict(zip(DEGREES, points.degrees.T, strict=True))).items():
            columns[name][mine] = column
    return ConfigurationList(columns)


def flat_lists(work: Work, reduction: str) -> tuple[Kernels, tuple[Any, ...], dict[int, ConfigurationList]]:
    """The kernels of a space, its reductions, and by the first group of each model a list."""
    prepared = prepare(work.load())
    kept = reductions(prepared, KEEP[reduction])
    first_of = {group.model: index for index, group in reversed(list(enumerate(prepared.groups)))}
    lists = {first_of[model]: flat_list(prepared, model, work.flat) for model in prepared.space.models}
    return Kernels(prepared, wanted_metrics(kept)), kept, lists


def flat(work: Work, reduction: str, describe: bool, one_by_one: bool = False) -> dict[str, Any]:
    """The flat form: lists of the space's configurations in random order, one a model, parts of them on every core.
    All that is done for a list is timed: packing, sorting and pricing, or `one_by_one` pricing alone."""
    kernels, kept, lists = flat_lists(work, reduction)
    pieces = [(index, *part) for index, every in lists.items() for part in parts(len(every), cores())]
    flops: list[int] = []

    def shared(index: int, first: int, end: int) -> Any:
        block = priced(kernels, index, lists[index], first, end)
        if isinstance(block, Unshared):
            flops.append((end - first) * alone(kernels, index).flops)
            return block
        kernel, rows = block.kernel, int(block.rows[-1]) + 1
        of_row = kernel.flops["row"] + len(block.how.values["chunk"]) * kernel.flops["chunk"]
        of_one = sum(kernel.flops[loop] for loop in ("layout", "formats", "batch", "each"))
        flops.append(rows * of_row + len(block.words) * of_one)
        return block

    def apart(index: int, first: int, end: int) -> Any:
        code = alone(kernels, index)
        flops.append((end - first) * code.flops)
        columns = {name: column[first:end] for name, column in lists[index].columns.items()}
        return unshared(code, kernels.wanted, columns)

    def one(piece: tuple[int, int, int]) -> list[absorb.Found]:
        block = (apart if one_by_one else shared)(*piece)
        return [absorb.absorb(r, absorb.begin(r, None), block) for r in kept]

    started = time.perf_counter()
    for index in lists:
        one((index, 0, min(len(lists[index]), COMPILED)))
    compile_s = time.perf_counter() - started
    held: list[list[absorb.Found]] = []
    total = sum(len(everything) for everything in lists.values())

    def run() -> int:
        flops.clear()
        with ThreadPoolExecutor(cores()) as pool:
            held[:] = list(pool.map(one, pieces))
        return total

    runs = timed(run, work.repeats + 1)[1:]
    found = summary(runs, total, compile_s) | {"list": max(map(len, lists.values()))}
    found["list_bytes_per_configuration"] = 4 * len(ConfigurationList.NAMES)
    merged = {r.name: r.merge([each[i].part for each in held]) for i, r in enumerate(kept)}
    objectives = kernels.prepared.space.objectives
    best = np.max(merged["frontier" if reduction == "pareto" else "best"]["score"].reshape(-1, len(objectives)), axis=0)
    found["feasible"] = int(merged["counts"]["count"][0])
    found["best"] = {metric: float(sign(metric) * best[i]) for i, metric in enumerate(objectives)}
    return found | ({"flops_per_configuration": sum(flops) / total} if describe else {})
