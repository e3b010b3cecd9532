"""Massive configuration scans: millions of layouts, batches and lengths, reduced on the device."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..callable_module import make_callable
from ..errors import InputError
from .engine import Group, GroupResult, Prepared, Progress, block_shape, compile_seconds, prepare, run_group
from .rows import configuration_rows
from .space import Space, build_space, load_space

__all__ = ["GroupResult", "Progress", "ScanResult", "Space", "build_space", "load_space", "scan"]


@dataclass
class ScanResult:
    """What a scan found, by group of model and workload, and how fast it ran."""

    space: Space
    configurations: int
    feasible: int
    infeasible: dict[str, int]
    compile_s: float
    wall_s: float
    configurations_per_s: float
    groups: list[GroupResult]

    def __repr__(self) -> str:
        rate = self.configurations_per_s / 1e6
        return (
            f"ScanResult({self.configurations:,} configurations, {self.feasible:,} feasible, "
            f"{len(self.groups)} groups, {rate:.0f} M/s)"
        )

    def document(self) -> dict:
        """The result as one JSON object (see the command line's `--json`)."""
        return {
            "objectives": list(self.space.objectives),
            "configurations": self.configurations,
            "feasible": self.feasible,
            "infeasible": self.infeasible,
            "compile_s": self.compile_s,
            "wall_s": self.wall_s,
            "configurations_per_s": self.configurations_per_s,
            "groups": [
                {
                    "model": group.model,
                    "isl": group.isl,
                    "osl": group.osl,
                    "configurations": group.configurations,
                    "feasible": group.counts.get("feasible", 0),
                    "best": group.best,
                    "frontier": group.frontier,
                }
                for group in self.groups
            ],
        }


def _concurrently(
    work: Callable[[Group], GroupResult], groups: list[Group], stop: threading.Event
) -> list[GroupResult]:
    """Groups are independent, so a few run at once: where one waits or reduces on one core, another computes. Results
    keep the groups' order. An interrupt stops every group after its block."""
    with ThreadPoolExecutor(max_workers=min((os.cpu_count() or 1) + 1, 4)) as pool:
        futures = [pool.submit(work, group) for group in groups]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def scan(space: Space | dict | str | None = None, progress: Callable[[Progress], None] | None = None) -> ScanResult:
    """Evaluates every configuration of a space and keeps, for each model and workload, the exact Pareto frontier of the
    two objectives, the best configuration of each, and counts by reason of infeasibility.

    **Arguments:** a `Space`, its dict form, the path of a TOML file, or None for the embedded default space;
    `progress`, called after each block.

    **Returns:** `ScanResult`. **Raises** `InputError` for a space that is wrong or holds no configuration.
    """
    if space is None or isinstance(space, str):
        space = load_space(space)
    elif isinstance(space, dict):
        space = build_space(space, "space")
    prepared: Prepared = prepare(space)
    total = prepared.configurations
    if not total:
        raise InputError(f"{space.name}: no layout of the space can exist; widen tp, pp, ep or max_devices")
    shape = block_shape(prepared)
    compiled = compile_seconds(prepared, shape)

    started, lock, stop = time.perf_counter(), threading.Lock(), threading.Event()
    done = 0

    def scan_group(group: Group) -> GroupResult:
        if not group.rows:
            return GroupResult(group.model, group.isl, group.osl, 0, {}, {}, [])

        def tick(count: int) -> bool:
            nonlocal done
            with lock:
                done += count
                if progress is not None:
                    label = f"{group.model} {group.isl}/{group.osl}"
                    progress(Progress(done, total, time.perf_counter() - started, label))
            return not stop.is_set()

        counts, frontier = run_group(prepared, group, shape, tick)
        rows = configuration_rows(prepared, group, shape, [(number, index) for _, _, number, index in frontier])
        best = {name: rows[end] for name, end in zip(space.objectives, (0, -1), strict=True)} if rows else {}
        return GroupResult(group.model, group.isl, group.osl, group.configurations, counts, best, rows)

    results = _concurrently(scan_group, prepared.groups, stop)
    wall = time.perf_counter() - started
    infeasible: dict[str, int] = {}
    for group in results:
        for reason, count in group.counts.items():
            if reason != "feasible":
                infeasible[reason] = infeasible.get(reason, 0) + count
    feasible = sum(group.counts.get("feasible", 0) for group in results)
    return ScanResult(space, total, feasible, infeasible, compiled, wall, total / wall, results)


make_callable(__name__, scan)
