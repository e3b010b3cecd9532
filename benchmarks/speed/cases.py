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

from jaxperf.native.graph import BATCH, CHUNK, ROW
from jaxperf.native.listing import Listing
from jaxperf.scan import Keep, absorb, load_space, scan
from jaxperf.scan.engine import wanted_metrics
from jaxperf.scan.keep import reductions
from jaxperf.scan.listing import ConfigurationList, parts, priced
from jaxperf.scan.native import Kernels, gathered, sources
from jaxperf.scan.plan import Prepared, prepare
from jaxperf.scan.reduce import sign
from jaxperf.scan.rows import COLUMN
from jaxperf.scan.space import DEGREES, Space

from .machine import cores

TOP = 100
KEEP = {"max": Keep(frontier=False), "pareto": Keep(), "top": Keep(frontier=False, top=TOP)}
"""What each case keeps beside counts by reason: the best of two objectives; their exact frontier; the best and the
hundred best."""

FLAT_BLOCK = 2**12
ALONE = 2**17
"""Configurations of a block, and of the list, where nothing is shared."""


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
    """FLOPs that a scan executes for each configuration, padding of runs included, reductions not."""
    prepared = prepare(space)
    kernels, done = Kernels(prepared, wanted_metrics(reductions(prepared, keep))), 0
    for index, group in enumerate(prepared.groups):
        kernel, rows, chunks = kernels.of(index).kernel, len(group.rows), len(group.chunk)
        size = np.asarray(group.batch, kernel.real)
        batches = kernel.batches(np.stack([size, size]), np.zeros(2)).values.shape[1]
        of_row = kernel.flops["row"] + chunks * kernel.flops["chunk"]
        done += rows * (of_row + batches * (kernel.flops["batch"] + chunks * kernel.flops["each"]))
    return {"flops_per_configuration": done / prepared.configurations}


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


def flat(work: Work, reduction: str, describe: bool) -> dict[str, Any]:
    """The flat form: lists of the space's configurations in random order, one a model, parts of them on every core.
    Packing, sorting and pricing are all timed."""
    kernels, kept, lists = flat_lists(work, reduction)
    started = time.perf_counter()
    for index, everything in lists.items():
        priced(kernels, index, everything, 0, 64)
    compile_s = time.perf_counter() - started
    pieces = [(index, *part) for index, every in lists.items() for part in parts(len(every), cores())]
    flops: list[int] = []

    def one(piece: tuple[int, int, int]) -> list[absorb.Found]:
        block = priced(kernels, piece[0], lists[piece[0]], *piece[1:])
        kernel, rows = block.kernel, int(block.rows[-1]) + 1
        of_row = kernel.flops["row"] + len(block.how.values["chunk"]) * kernel.flops["chunk"]
        flops.append(rows * of_row + len(block.words) * (kernel.flops["batch"] + kernel.flops["each"]))
        return [absorb.absorb(r, absorb.begin(r, None), block) for r in kept]

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


def alone(work: Work, describe: bool) -> dict[str, Any]:
    """The flat form of a model with nothing shared at all: all work is done anew for every configuration, whose own
    numbers of system, formats and lengths are gathered before the clock runs."""
    kernels, kept, lists = flat_lists(work, "max")
    index, everything = next(iter(lists.items()))
    kernels.of(index)
    scores = len(wanted_metrics(kept))
    program = kernels.unfolded[kernels.prepared.groups[index].model]
    started = time.perf_counter()
    listing = Listing(program, [*range(scores), len(program.results) - 1], effort=1)
    compile_s = time.perf_counter() - started
    length = min(len(everything), ALONE)
    inputs = list_inputs(kernels, index, listing, everything, length)
    blocks = [np.ascontiguousarray(inputs[:, first : first + FLAT_BLOCK]) for first in range(0, length, FLAT_BLOCK)]

    def run() -> int:
        with ThreadPoolExecutor(cores()) as pool:
            held[:] = list(pool.map(lambda block: listing(block)[:scores].max(axis=1), blocks))
        return length

    held: list[np.ndarray] = []
    found = summary(timed(run, work.repeats + 1)[1:], length, compile_s) | {"list": length}
    found["list_bytes_per_configuration"] = inputs.shape[0] * inputs.itemsize
    return found | ({"flops_per_configuration": listing.flops} if describe else {})


def list_inputs(
    kernels: Kernels, index: int, listing: Listing, everything: ConfigurationList, length: int
) -> np.ndarray:
    """What a `Listing` reads of the first configurations of a list, [input, configuration]."""
    bound, real = kernels.of(index), listing.real
    column = {name: values[:length] for name, values in everything.columns.items()}
    places = [place for mask, place in listing.inputs if mask == ROW]
    lengths = np.repeat(bound.tables["lengths"][:, :1], length, axis=1)
    lengths[0], lengths[1] = column["isl"], column["osl"]
    rows = {"system": column["system"], "efficiency": column["system"], "precision": column["precision"]}
    rows |= {"degrees": np.stack([column[name] for name in DEGREES]), "lengths": lengths}
    of_rows = iter(gathered(sources(bound.tables, places), len(places), rows, length, real))
    given = {(BATCH, 0): column["batch"], (BATCH, 1): np.ones(length), (CHUNK, 0): column["chunk"]}
    return np.stack(
        [next(of_rows) if mask == ROW else given[mask, place].astype(real) for mask, place in listing.inputs]
    )
