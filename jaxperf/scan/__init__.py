"""Massive configuration scans: millions of layouts, batches and lengths, reduced on the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import InputError
from .engine import GroupResult, Prepared, Progress, block_size, compile_seconds, prepare, run_group
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
            f"ScanResult({self.configurations:,} configurations, {self.feasible:,} feasible, {len(self.groups)} groups, "
            f"{rate:.0f} M/s)"
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
    size, slots = block_size(prepared), max(len(group.chunk) for group in prepared.groups)
    compiled = compile_seconds(prepared, size, slots)

    started = time.perf_counter()
    done, results = 0, []
    for group in prepared.groups:
        label = f"{group.model} {group.isl}/{group.osl}"

        def tick(count: int, label: str = label) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(Progress(done, total, time.perf_counter() - started, label))

        if not group.rows:
            results.append(GroupResult(group.model, group.isl, group.osl, 0, {}, {}, []))
            continue
        counts, first, second, frontier = run_group(prepared, group, size, slots, tick)
        places = [(number, index) for _, _, number, index in frontier]
        bests = [(name, found) for name, found in zip(space.objectives, (first, second), strict=True) if found]
        rows = configuration_rows(prepared, group, size, slots, places + [found[1:] for _, found in bests])
        best = {name: rows[len(places) + position] for position, (name, _) in enumerate(bests)}
        results.append(
            GroupResult(group.model, group.isl, group.osl, group.configurations, counts, best, rows[: len(places)])
        )
    wall = time.perf_counter() - started
    infeasible: dict[str, int] = {}
    for group in results:
        for reason, count in group.counts.items():
            if reason != "feasible":
                infeasible[reason] = infeasible.get(reason, 0) + count
    feasible = sum(group.counts.get("feasible", 0) for group in results)
    return ScanResult(space, total, feasible, infeasible, compiled, wall, total / wall, results)
