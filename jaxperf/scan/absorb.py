"""Reductions on the host: what `Reduction.update` is on a device, for blocks that left the highest score of every run.

A run that cannot change what is known is left alone; the others, few after the first blocks, are computed again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Protocol

import numpy as np

from .host import HostBlock
from .pareto import Pareto
from .pareto3 import Pareto3
from .reduce import Best, Counts, Part, Reduction, ids, sign
from .spread import Histogram, Marginals, Top, histogram_bin

AT_ONCE = 512
"""Runs that are looked into at a time, at most; what they hold rules out others."""


class Runs(Protocol):
    """What reductions ask of a block: of runs of configurations the highest scores, and then of a few runs all."""

    @property
    def counts(self) -> np.ndarray:
        """How often each reason code occurs, from −1 on."""
        ...

    def highest(self, metric: str) -> np.ndarray:
        """The highest score of each run in a metric."""
        ...

    def points(self, places: np.ndarray, metrics: tuple[str, ...]) -> Part:
        """Configurations of runs: scores [point, metric], row and inner number."""
        ...

    def first_numbers(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and inner number of the first configuration of runs."""
        ...


@dataclass
class Found:
    """What a unit has found so far: its `part`, and the `guard`: all that is known to rule others out, that of other
    units among it."""

    part: Part
    guard: Part


def begin(reduction: Reduction, hint: Part | None) -> Found:
    """Nothing found yet; a `hint` is what other units of the group know."""
    empty = reduction.extract(reduction.init())
    return Found(empty, empty if hint is None else hint)


def needs_axes(reduction: Reduction) -> bool:
    """Whether a reduction reads the indices of rows' values along the axes."""
    return isinstance(reduction, Marginals)


def needs_everything(reduction: Reduction) -> bool:
    """Whether a reduction reads every score."""
    return isinstance(reduction, (Histogram, Marginals))


@singledispatch
def absorb(reduction: Any, found: Found, block: Runs) -> Found:
    """What is found after one more block."""
    raise TypeError(f"no reduction on the host: {reduction}")


@absorb.register
def _(reduction: Counts, found: Found, block: Runs) -> Found:
    counts = block.counts[1 : 1 + found.part["count"].size]
    return Found({"count": found.part["count"] + counts}, found.guard)


@absorb.register
def _(reduction: Best, found: Found, block: Runs) -> Found:
    """Run after run from the highest, while one is no lower than the best that is known."""
    part, guard = found.part, found.guard
    heights = [block.highest(name).ravel() for name in reduction.metrics]
    for index, height in enumerate(heights):
        if height.max() < guard["score"][index, 0, index]:
            continue
        left = np.flatnonzero(height >= guard["score"][index, 0, index])
        left = left[np.logical_and.reduce([each[left] > -np.inf for each in heights])]
        while len(left):
            highest = height[left] == height[left].max()
            places, left = left[highest], left[~highest]
            for first in range(0, len(places), AT_ONCE):
                points = block.points(places[first : first + AT_ONCE], reduction.metrics)
                if len(points["row"]):
                    bests = _bests(reduction, points)
                    part, guard = reduction.merge([part, bests]), reduction.merge([guard, bests])
            left = left[height[left] >= guard["score"][index, 0, index]]
    return Found(part, guard)


def _bests(reduction: Best, points: Part) -> Part:
    """Points as a part of `Best`: all of them for each metric."""
    return {key: np.stack([value] * len(reduction.metrics)) for key, value in points.items()}


@absorb.register
def _(reduction: Pareto, found: Found, block: Runs) -> Found:
    """The runs whose corner, their two highest scores, no known point beats."""
    first, second = (block.highest(name).ravel() for name in reduction.metrics)
    guard, new = found.guard, []
    left = np.flatnonzero((second > _ladder(guard["score"], first, reduction.metrics[0])) & (first > -np.inf))
    while True:
        left = left[_open(guard["score"], first[left], second[left])]
        if not len(left):
            return Found(reduction.merge([found.part, *new]) if new else found.part, guard)
        chosen, left = _some(left)
        points = block.points(chosen, reduction.metrics)
        score = points["score"]
        points = _where(points, score[:, 1] > _ladder(guard["score"], score[:, 0], reduction.metrics[0]))
        points = _where(points, _open(guard["score"], *points["score"].T))
        guard = reduction.merge([guard, points])
        new.append(points)


def _ladder(score: np.ndarray, first: np.ndarray, metric: str) -> np.ndarray:
    """For corners of these first scores a height that some point of a frontier (by falling first score) has which is
    better in the first score by a step, a 64th of an octave, or −∞. It tells most of those apart that `_open` would, at
    a fraction of the time."""
    if not len(score):
        return np.full(len(first), -np.inf, first.dtype)
    steps = _steps(score[:, 0], metric)
    lowest = steps[-1] - 1
    better = np.searchsorted(-steps, -np.arange(lowest, steps[0] + 1), side="left")
    reached = np.concatenate([[-np.inf], score[:, 1]]).astype(first.dtype)
    return np.take(reached[better], _steps(first, metric) - lowest, mode="clip")


def _steps(score: np.ndarray, metric: str) -> np.ndarray:
    """The exponent of scores and the first six bits of their mantissa as whole numbers that rise with them. All scores
    of a metric have its sign, or are zero or −∞."""
    size = sign(metric) * score + score.dtype.type(0)  # of two zeros the positive one
    wide = score.dtype.itemsize == 8
    return sign(metric) * (size.view(np.int64 if wide else np.int32) >> (46 if wide else 17))


def _some(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A few places from all over a list, and the others."""
    step = -(-len(places) // AT_ONCE)
    taken = np.zeros(len(places), bool)
    taken[::step] = True
    return places[taken], places[~taken]


def _where(part: Part, mask: np.ndarray) -> Part:
    places = np.flatnonzero(mask)
    return {key: value[places] for key, value in part.items()}


def _open(score: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Which corners no point of a frontier (by falling first score) is better than, or as good as and better in one."""
    if not len(score):
        return np.ones(len(first), bool)
    better = np.searchsorted(-score[:, 0], -first, side="left")
    reached = np.concatenate([[-np.inf], score[:, 1]])
    near = np.minimum(better, len(score) - 1)
    equal = (score[near, 0] == first) & (score[near, 1] > second)
    return (second > reached[better]) & ~equal


@absorb.register
def _(reduction: Pareto3, found: Found, block: Runs) -> Found:
    heights = np.stack([block.highest(name).ravel() for name in reduction.metrics], axis=1)
    left = np.flatnonzero(np.all(heights > -np.inf, axis=1))
    part, guard = found.part, found.guard
    while True:
        left = left[_above(guard["score"], heights[left])]
        if not len(left):
            return Found(part, guard)
        chosen, left = _some(left)
        points = block.points(chosen, reduction.metrics)
        points = _where(points, _above(guard["score"], points["score"]))
        part, guard = reduction.merge([part, points]), reduction.merge([guard, points])


_SIDE = 128
"""Steps of the staircase in a metric that rules out corners of three."""


def _above(score: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Which corners are above the surface of some points, as far as a grid of quantiles of the first two scores tells:
    a corner below it is beaten by a point that is better in all three."""
    if not len(score):
        return np.ones(len(corners), bool)
    edges = [np.unique(np.quantile(score[:, column], np.linspace(0, 1, _SIDE), method="lower")) for column in (0, 1)]
    # Point p counts for the cells below it: corner values under the edge that p reaches.
    grid = np.full((len(edges[0]) + 1, len(edges[1]) + 1), -np.inf, score.dtype)
    at = [np.searchsorted(edges[column], score[:, column], side="right") for column in (0, 1)]
    np.maximum.at(grid, (at[0], at[1]), score[:, 2])
    for axis in (0, 1):
        grid = np.flip(np.maximum.accumulate(np.flip(grid, axis), axis), axis)
    # A corner with as many edges at or below it as a point has, or more, may be as good; with fewer it is worse.
    cell = [np.searchsorted(edges[column], corners[:, column], side="right") + 1 for column in (0, 1)]
    wide = np.pad(grid, ((0, 1), (0, 1)), constant_values=-np.inf)
    return corners[:, 2] > wide[cell[0], cell[1]]


@absorb.register
def _(reduction: Top, found: Found, block: Runs) -> Found:
    """Run after run from the highest, while one may hold a score above the last of the kept, or an earlier equal."""
    part, height = found.part, block.highest(reduction.metric).ravel()
    left = height > -np.inf

    def still(left: np.ndarray) -> np.ndarray:
        if len(part["score"]) < reduction.count:
            return left
        last = part["score"][-1]
        places = np.flatnonzero(left & (height >= last))
        kept = np.zeros_like(left)
        earlier = ids(*block.first_numbers(places)) < ids(part["row"][-1:], part["inner"][-1:])
        kept[places[(height[places] > last) | earlier]] = True
        return kept

    while (left := still(left)).any():
        places = np.flatnonzero(left)
        if len(places) > AT_ONCE:
            places = places[np.argsort(-height[places], kind="stable")[:AT_ONCE]]
        left[places] = False
        points = block.points(places, reduction.metrics)
        part = reduction.merge([part, {**points, "score": points["score"][:, 0]}])
    return Found(part, part)


@absorb.register
def _(reduction: Histogram, found: Found, block: HostBlock) -> Found:
    score = block.scores(reduction.metric)
    bins = histogram_bin(np.abs(score[score > -np.inf]))
    counts = np.bincount(bins)
    occurring = np.flatnonzero(counts)
    part = reduction.merge([found.part, {"bin": occurring, "count": counts[occurring]}])
    return Found(part, part)


@absorb.register
def _(reduction: Marginals, found: Found, block: HostBlock) -> Found:
    part = {name: table.copy() for name, table in found.part.items()}
    first_chunk, first_batch = block.part.chunk[0], block.part.batch[0]
    assert block.axes is not None
    for index, metric in enumerate(reduction.metrics):
        score = block.scores(metric)
        by_row = score.max(axis=(1, 2))
        for name, first, best in (
            ("chunk", first_chunk, score.max(axis=(0, 2))),
            ("batch", first_batch, score.max(axis=(0, 1))),
        ):
            at = slice(first, first + len(best))
            part[name][index, at] = np.maximum(part[name][index, at], best)
        for column, (name, _) in enumerate(reduction.axes[2:]):
            np.maximum.at(part[name][index], block.axes[: len(by_row), column], by_row)
    return Found(part, part)
