"""What a scan found, by group of model and workload, from the merged parts of its reductions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..phases.end_to_end import REASONS
from .inputs import axis_labels
from .plan import Prepared
from .reduce import Best, Part, Reduction
from .rows import COLUMN, configuration_rows
from .space import Space
from .spread import Histogram, Marginals, Top, by_value, quantiles

SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""The quantiles that are reported."""


@dataclass
class GroupResult:
    """What a group's scan found: counts by reason, the best row of each objective, the frontier's rows; where asked
    for, the `top` rows by metric, `quantiles` by column and share, `marginals` by column, axis and value."""

    model: str
    isl: int
    osl: int
    configurations: int
    counts: dict[str, int]
    best: dict[str, dict]
    frontier: list[dict]
    top: dict[str, list[dict]] = field(default_factory=dict)
    quantiles: dict[str, dict[str, float]] = field(default_factory=dict)
    marginals: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def document(self) -> dict:
        """The group as JSON; what was not asked for is left out."""
        more = {"top": self.top, "quantiles": self.quantiles, "marginals": self.marginals}
        return {
            "model": self.model,
            "isl": self.isl,
            "osl": self.osl,
            "configurations": self.configurations,
            "feasible": self.counts.get("feasible", 0),
            "best": self.best,
            "frontier": self.frontier,
            **{key: value for key, value in more.items() if value},
        }


@dataclass
class ScanResult:
    """What a scan found, by group of model and workload, and how fast it ran. `resumed` configurations came out of a
    journal; the rate is of the others."""

    space: Space
    configurations: int
    feasible: int
    infeasible: dict[str, int]
    compile_s: float
    wall_s: float
    configurations_per_s: float
    groups: list[GroupResult]
    resumed: int = 0
    lost_bytes: int = 0
    processes: int = 1
    devices: int = 1
    backend: str = "xla"
    table: str | None = None

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
            "resumed": self.resumed,
            "processes": self.processes,
            "devices": self.devices,
            "backend": self.backend,
            "table": self.table,
            "groups": [group.document() for group in self.groups],
        }


def group_result(prepared: Prepared, index: int, kept: tuple[Reduction, ...], merged: list[Part]) -> GroupResult:
    """A group's result from the merged part of each reduction."""
    group, objectives = prepared.groups[index], prepared.space.objectives
    found = GroupResult(group.model, group.isl, group.osl, group.configurations, {}, {}, [])

    def rows(metrics: tuple[str, ...], score: np.ndarray, row: np.ndarray, inner: np.ndarray) -> list[dict]:
        scores = {metric: score[:, column] for column, metric in enumerate(metrics)}
        return configuration_rows(prepared, index, row, inner, scores)

    for reduction, part in zip(kept, merged, strict=True):
        if reduction.name == "counts":
            found.counts = {reason: int(n) for reason, n in zip(REASONS, part["count"], strict=True) if n}
        elif reduction.name == "frontier":
            found.frontier = rows(reduction.metrics, part["score"], part["row"], part["inner"])
            found.best = dict(zip(objectives, _ends(part["score"], found.frontier), strict=False))
        elif isinstance(reduction, Best):
            for metric, score, row, inner in zip(
                reduction.metrics, part["score"], part["row"], part["inner"], strict=True
            ):
                if row[0] >= 0:
                    found.best[metric] = rows(reduction.metrics, score, row, inner)[0]
        elif isinstance(reduction, Top):
            column = COLUMN[reduction.metric]
            found.top[column] = rows((reduction.metric,), part["score"][:, None], part["row"], part["inner"])
        elif isinstance(reduction, Histogram):
            values = quantiles(part, SHARES)
            if values:
                found.quantiles[COLUMN[reduction.metric]] = dict(zip(map(str, SHARES), values, strict=True))
        elif isinstance(reduction, Marginals):
            table = by_value(part, reduction, axis_labels(prepared, group))
            found.marginals = {COLUMN[metric]: axes for metric, axes in table.items()}
    return found


def _ends(score: np.ndarray, rows: list[dict]) -> list[dict]:
    """The best row of each objective on a frontier; of equals, the best in the other objectives, in their order."""
    if not rows:
        return []
    chosen = []
    for metric in range(score.shape[1]):
        others = [other for other in range(score.shape[1]) if other != metric]
        keys = [-score[:, column] for column in (metric, *others)]
        chosen.append(rows[int(np.lexsort(list(reversed(keys)))[0])])
    return chosen
