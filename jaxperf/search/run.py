"""The search itself: start, relax, round, re-score; and the exhaustive reference that tests hold it against."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from ..compiling import quick
from ..errors import InfeasibleError
from ..load import Name
from ..phases.end_to_end import REASONS, Metrics
from .factors import SLOTS
from .problem import Problem, define
from .relax import LAYOUT, METRICS, hardware_logs, metrics_at
from .round import BATCH, WIDTH, Scores, polish
from .solve import SIZE, descend, rank, score

RUNNERS_UP = 4
"""Other layouts that a result names."""

_SPLIT = 8.0  # half the range of a budget's free coordinates: shares down to e^-16


@dataclass(frozen=True)
class Found:
    """One answer: the objective's `value`, `layout` (degrees, batch, chunk), `hardware` (path → value), `metrics`."""

    value: float
    layout: dict[str, int]
    hardware: dict[str, float]
    metrics: dict[str, float] = field(repr=False)


@dataclass(frozen=True)
class SearchResult:
    """`best` and the `runners_up`, other layouts best first; `evaluations` counts distinct exact scores, `gradients`
    gradient evaluations of the relaxed objective; `wall_s` includes compiling what was not compiled before."""

    problem: Problem = field(repr=False)
    best: Found
    runners_up: tuple[Found, ...] = field(repr=False)
    evaluations: int
    gradients: int
    wall_s: float


def search(
    model: Name,
    system: Name,
    *,
    restarts: int = 64,
    steps: int = 120,
    seed: int = 0,
    **question: Any,
) -> SearchResult:
    """The best layout, batch and hardware for an objective under limits.

    Relaxed descent from many starts, rounding, exact scores, and a discrete descent. The answer is scored exactly.

    **Arguments:** names or paths of `model` and `system`; how many `restarts` and gradient `steps`; `seed` of
    the starts; the `question` (`objective`, `constraints`, `free`, ...): see `jaxperf.search.problem.define`.

    **Raises** `InputError` for a question that makes no sense, `InfeasibleError` where nothing found meets the limits.

    For example `search("llama-3.1-70b", "h100-sxm-8", constraints=["tpot_s<0.03"], max_devices=16)`.
    """
    return solve(define(model, system, **question), restarts=restarts, steps=steps, seed=seed)


def solve(problem: Problem, *, restarts: int = 64, steps: int = 120, seed: int = 0) -> SearchResult:
    """The best point of a `Problem` (see `search`)."""
    began = time.perf_counter()
    low, high = bounds(problem)
    start = low + (high - low) * np.random.default_rng(seed).uniform(size=(restarts, SIZE))
    scores = Scores(problem)
    ends = relax(problem, start, low, high, steps)
    best = polish(problem, scores, ends)
    gradients = restarts * steps
    if problem.paths:
        # The hardware settles around each discrete layout; then the descent goes on from there.
        pinned = np.log2(best[:, :WIDTH])
        start = np.repeat(start[:1], restarts, 0)
        start[:, :WIDTH] = pinned[np.arange(restarts) % len(best)]
        start[:, WIDTH:] = low[WIDTH:] + (high - low)[WIDTH:] * np.random.default_rng(seed + 1).uniform(
            size=(restarts, SLOTS)
        )
        tight_low, tight_high = np.tile(low, (restarts, 1)), np.tile(high, (restarts, 1))
        tight_low[:, :WIDTH] = tight_high[:, :WIDTH] = start[:, :WIDTH]
        settled = relax(problem, start, tight_low, tight_high, steps)
        best = polish(problem, scores, np.concatenate([settled, _to_logs(best)]))
        gradients *= 2
    best, values = scores.best(RUNNERS_UP + 1)
    if values[0] >= 1e6:
        raise InfeasibleError(why_not(problem, best[0]))
    answers = [describe(problem, point) for point, value in zip(best, values, strict=True) if value < 1e6]
    return SearchResult(
        problem=problem,
        best=answers[0],
        runners_up=tuple(answers[1:]),
        evaluations=scores.evaluations,
        gradients=gradients,
        wall_s=time.perf_counter() - began,
    )


def bounds(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [SIZE] of the relaxed coordinates: log2 of the layout's values, log multiples or budget coordinates."""
    low, high = np.zeros(SIZE), np.zeros(SIZE)
    for index, name in enumerate(LAYOUT):
        low[index], high[index] = math.log2(problem.choices[name][0]), math.log2(problem.choices[name][-1])
    shared = np.asarray(problem.case.budgeted) > 0
    for slot, (least, most) in enumerate(zip(problem.low, problem.high, strict=True)):
        limits = (-_SPLIT, _SPLIT) if shared[slot] else (math.log(least), math.log(most))
        low[WIDTH + slot], high[WIDTH + slot] = limits
    return low, high


def relax(problem: Problem, start: np.ndarray, low: np.ndarray, high: np.ndarray, steps: int) -> np.ndarray:
    """Distinct end points of the relaxed descent with the hardware as logarithms of multiples, [n, SIZE]."""
    shape = start.shape
    ends = start.copy()
    if steps:  # none: the rounding and the discrete descent alone
        ends = descend(problem.case, start, np.broadcast_to(low, shape), np.broadcast_to(high, shape), steps)
    ranks = ends[:, 0] + ends[:, 3] + ends[:, 4]
    ends[:, 2] = np.minimum(ends[:, 2], ranks)
    ends[:, WIDTH:] = np.asarray(
        jax.vmap(lambda z: hardware_logs(problem.case, z))(jax.numpy.asarray(ends[:, WIDTH:], float))
    )
    return np.unique(np.round(ends, 4), axis=0)


def _to_logs(points: np.ndarray) -> np.ndarray:
    return np.hstack([np.log2(points[:, :WIDTH]), points[:, WIDTH:]])


def describe(problem: Problem, point: np.ndarray) -> Found:
    """What a point [SIZE] is and does."""
    metrics = measure(problem, point)
    layout = {name: int(np.rint(value)) for name, value in zip(LAYOUT, point, strict=False)}
    logs = point[WIDTH:]
    hardware = {p: v * math.exp(logs[i]) for i, (p, v) in enumerate(zip(problem.paths, problem.current, strict=True))}
    named = {name: float(getattr(metrics, f)) for name, (f, _) in METRICS.items()}
    named |= {"memory_bytes": float(metrics.memory.total), "capacity_bytes": float(metrics.memory.capacity)}
    return Found(value=named[problem.objective], layout=layout, hardware=hardware, metrics=named)


def measure(problem: Problem, point: np.ndarray) -> Metrics:
    """Exact `Metrics` of a point [SIZE]: the layout's values, then logarithms of the hardware's multiples."""
    values = jax.numpy.asarray(point, float)
    return _measured(problem.case, values[:WIDTH], values[WIDTH:])


_measured = quick(metrics_at)


def why_not(problem: Problem, point: np.ndarray) -> str:
    """A sentence on what an infeasible point [SIZE] violates."""
    metrics = measure(problem, point)
    layout = ", ".join(f"{name} {value:g}" for name, value in zip(LAYOUT, point, strict=False))
    reason = REASONS[int(metrics.reason)]
    if int(metrics.reason) == 0:
        reason = "the constraints " + ", ".join(problem.limits) + " are not met"
    return (
        f"{problem.model} on up to {problem.max_devices} devices of {problem.system}: "
        f"the layout closest to feasible ({layout}) fails: {reason}"
    )


def layouts(problem: Problem) -> np.ndarray:
    """Every legal layout of a problem, [n, SIZE], at the first batch and the hardware as it is."""
    rows = []
    choices, limit = problem.choices, problem.max_devices
    for tp in choices["tp"]:
        for pp in choices["pp"]:
            for cp in choices["cp"]:
                for dpa in choices["attention_dp"]:
                    if tp * pp * cp * dpa > limit:
                        break
                    ranks = tp * cp * dpa
                    rows += [
                        (tp, pp, ep, cp, dpa, choices["batch"][0], chunk)
                        for ep in choices["ep"]
                        for chunk in choices["chunk"]
                        if ranks % ep == 0
                    ]
    return np.hstack([np.array(rows, float).reshape(-1, WIDTH), np.zeros((len(rows), SLOTS))])


def exhaustive(problem: Problem) -> tuple[float, np.ndarray, int]:
    """The best of every point of a problem's discrete space, by scoring all of them.

    **Returns:** the objective's value (NaN where nothing is feasible), the point [SIZE], the number of points.
    """
    found, batches = layouts(problem), np.array(problem.choices["batch"], float)
    best, winner, count = math.inf, np.zeros(SIZE), 0
    for first in range(0, len(found), 2048):
        points = np.repeat(found[first : first + 2048], len(batches), 0)
        points[:, BATCH] = np.tile(batches, len(points) // len(batches))
        values = rank(score(problem.case, points))
        count += len(points)
        if values.min() < best:
            best, winner = float(values.min()), points[np.argmin(values)]
    return (math.nan if best >= 1e6 else math.exp(problem.sign * best)), winner, count
