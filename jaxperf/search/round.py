"""From relaxed end points to the best discrete point: round, re-score exactly, then descend among neighbours."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from .factors import SLOTS
from .problem import Problem
from .relax import LAYOUT
from .solve import rank, score

WIDTH = len(LAYOUT)
TP, PP, EP, CP, DPA, BATCH, CHUNK = range(WIDTH)
_DEGREES = (TP, PP, EP, CP, DPA)


class Scores:
    """Exact scores of every point seen so far; `evaluations` counts the distinct ones."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._known: dict[bytes, float] = {}

    @property
    def evaluations(self) -> int:
        """Distinct points scored."""
        return len(self._known)

    def of(self, points: np.ndarray) -> np.ndarray:
        """What to sort points by, [n] (see `solve.rank`); only points not seen before are computed."""
        keys = [row.tobytes() for row in points]
        fresh = {key: row for key, row in zip(keys, points, strict=True) if key not in self._known}
        if fresh:
            found = rank(score(self.problem.case, np.stack(list(fresh.values()))))
            self._known.update(zip(fresh, found.tolist(), strict=True))
        return np.array([self._known[key] for key in keys])

    def best(self, keep: int) -> tuple[np.ndarray, np.ndarray]:
        """The best point of each of the `keep` best layouts seen, best first, [≤ keep, SIZE], and what they score."""
        values = np.array(list(self._known.values()))
        points = np.stack([np.frombuffer(key) for key in self._known])
        chosen = _distinct(points, values, keep)
        return chosen, self.of(chosen)


def legal(problem: Problem, points: np.ndarray) -> np.ndarray:
    """True [n] where a layout exists: ep divides the ranks of a stage and the devices are within the limit."""
    ranks = points[:, TP] * points[:, CP] * points[:, DPA]
    return (ranks * points[:, PP] <= problem.max_devices) & (np.mod(ranks, points[:, EP]) == 0)


def on_budget(problem: Problem, logs: np.ndarray) -> np.ndarray:
    """Hardware multiples [n, SLOTS] moved in proportion so that those under the budget spend all of it, and into
    their bounds elsewhere."""
    logs, count = logs.copy(), len(problem.paths)
    shared = np.asarray(problem.case.budgeted)[:count] > 0
    low, high = np.log(problem.low), np.log(problem.high)
    if problem.costs is not None and shared.any():
        spent = np.exp(logs[:, :count][:, shared] - np.asarray(problem.case.full, float)[:count][shared]).sum(1)
        logs[:, np.flatnonzero(shared)] -= np.log(spent)[:, None]
    free = np.flatnonzero(~shared)
    logs[:, free] = np.clip(logs[:, free], low[free], high[free])
    return logs


def around(problem: Problem, ends: np.ndarray) -> np.ndarray:
    """Legal discrete points around relaxed end points, distinct, [n, SIZE].

    **Arguments:** `ends` [restarts, SIZE]: log2 of the layout's values, then the hardware's multiples as logarithms.
    """
    found = []
    for end in ends:
        axes = []
        for name, coordinate in zip(LAYOUT, end, strict=False):
            allowed = np.array(problem.choices[name], float)
            above = min(int(np.searchsorted(np.log2(allowed), coordinate - 1e-6)), len(allowed) - 1)
            axes.append(sorted({allowed[max(above - 1, 0)], allowed[above]}))
        rows = np.array(list(itertools.product(*axes)))
        found.append(np.hstack([rows, np.tile(end[WIDTH:], (len(rows), 1))]))
    points = np.unique(np.concatenate(found), axis=0)
    return points[legal(problem, points)]


def _steps(problem: Problem, index: int, value: float) -> list[float]:
    """Values near `value` among those allowed: the next two on either side, half and double."""
    allowed = np.array(problem.choices[LAYOUT[index]], float)
    here = int(np.argmin(np.abs(allowed - value)))
    near = {here - 2, here - 1, here + 1, here + 2}
    near |= {int(np.argmin(np.abs(allowed - value * scale))) for scale in (0.5, 2.0)}
    return [float(allowed[i]) for i in sorted(near) if 0 <= i < len(allowed) and i != here]


def _layouts(problem: Problem, point: np.ndarray) -> list[np.ndarray]:
    """Layouts that differ in one degree, or in two that trade places; ep follows the ranks where it must."""
    found = [point]
    for index in _DEGREES:
        for value in _steps(problem, index, point[index]):
            found.append(_with(point, {index: value}))
    for one, two in itertools.permutations(_DEGREES, 2):
        for value in _steps(problem, one, point[one]):
            scale = value / point[one]
            for other in {point[two] / scale, point[two] * scale} if EP in (one, two) else {point[two] / scale}:
                allowed = np.array(problem.choices[LAYOUT[two]], float)
                nearest = float(allowed[np.argmin(np.abs(allowed - other))])
                found.append(_with(point, {one: value, two: nearest}))
    return found


def _with(point: np.ndarray, changes: dict[int, float]) -> np.ndarray:
    moved = point.copy()
    for index, value in changes.items():
        moved[index] = value
    return moved


def _batches(problem: Problem, point: np.ndarray, previous: np.ndarray, wide: bool) -> Iterable[float]:
    """Batches to try with a layout: multiples of its groups (pp·dpa) and replicas (dpa), where throughput jumps."""
    allowed = problem.choices["batch"]
    if len(allowed) == 1:
        return allowed
    low, high, batch = allowed[0], allowed[-1], previous[BATCH]
    tried = {batch}
    scales = 2.0 ** (np.arange(-6, 7) / 2) if wide else 2.0 ** np.arange(-1, 2)
    growth = np.prod(point[[TP, PP, CP, DPA]]) / np.prod(previous[[TP, PP, CP, DPA]])
    for step in {1.0, point[DPA], point[DPA] * point[PP]}:
        for scale in (*scales, growth):
            tried.add(step * round(batch * scale / step))
        if wide:
            whole = step * (batch // step)
            tried |= {whole - 2 * step, whole - step, whole, whole + step, whole + 2 * step, step * (high // step)}
    return {float(value) for value in tried if low <= value <= high}


def neighbours(problem: Problem, point: np.ndarray, stride: float) -> np.ndarray:
    """Legal points near a point, [n, SIZE]: other layouts, batches and chunks, and hardware a `stride` away."""
    found = []
    for layout in _layouts(problem, point):
        same = bool(np.all(layout[:BATCH] == point[:BATCH]))
        found += [_with(layout, {BATCH: batch}) for batch in _batches(problem, layout, point, same)]
    found += [_with(point, {CHUNK: value}) for value in _steps(problem, CHUNK, point[CHUNK])]
    for slot in range(len(problem.paths)):
        for move in (-stride, stride):
            found.append(_with(point, {WIDTH + slot: point[WIDTH + slot] + move}))
    points = np.array(found)
    points[:, WIDTH:] = on_budget(problem, points[:, WIDTH:])
    points = np.unique(points, axis=0)
    return points[legal(problem, points)]


def line(problem: Problem, point: np.ndarray) -> np.ndarray:
    """The same point with every allowed batch (of a range too long to try, 512 spaced evenly in logarithm)."""
    allowed = np.array(problem.choices["batch"], float)
    if len(allowed) > 512:
        allowed = np.unique(np.round(np.geomspace(allowed[0], allowed[-1], 512)))
    points = np.tile(point, (len(allowed), 1))
    points[:, BATCH] = allowed
    return points


def polish(problem: Problem, scores: Scores, ends: np.ndarray, keep: int = 6) -> np.ndarray:
    """The best points found, best first, distinct in layout, [≤ keep, SIZE].

    Rounds every end point, keeps the best of `keep` distinct layouts, and moves each to its best neighbour until none
    of them improves, trying every batch at the end; hardware strides shrink from 10 % to 0.1 %.
    """
    points = around(problem, ends)
    if not len(points):
        points = np.array([[problem.choices[name][0] for name in LAYOUT] + [0.0] * SLOTS], float)
    points[:, WIDTH:] = on_budget(problem, points[:, WIDTH:])
    best = _distinct(points, scores.of(points), keep)
    stride = 0.1
    done: set[bytes] = set()
    while True:
        moved, improved = [], False
        for point in best:
            if (point.tobytes() + bytes(str(stride), "ascii")) in done:
                moved.append(point)
                continue
            near = neighbours(problem, point, stride)
            values, here = scores.of(near), scores.of(point[None])[0]
            if values.min() >= here:
                near = line(problem, point)
                values = scores.of(near)
            if values.min() < here:
                moved.append(near[np.argmin(values)])
                improved = True
            else:
                done.add(point.tobytes() + bytes(str(stride), "ascii"))
                moved.append(point)
        pool = np.stack(moved)
        best = _distinct(pool, scores.of(pool), keep)
        if not improved:
            if not problem.paths or stride < 1e-3:
                return best
            stride /= 3


def _distinct(points: np.ndarray, values: np.ndarray, keep: int) -> np.ndarray:
    """The best point of each of the `keep` best layouts."""
    chosen: dict[bytes, np.ndarray] = {}
    for index in np.argsort(values, kind="stable"):
        chosen.setdefault(points[index, :BATCH].tobytes(), points[index])
        if len(chosen) == keep:
            break
    return np.stack(list(chosen.values()))
