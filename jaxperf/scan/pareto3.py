"""The exact Pareto frontier of three metrics on the device: a list of points, and a grid that rules out most others."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .pareto import gather, logarithmic_bin, runs
from .reduce import Block, Part, ids, sign

_SIDE = 256  # bins of the grid along either of the first two metrics, 32 to an octave below the best point


class Surface(eqx.Module):
    """Points in no order, scores [capacity, 3], −∞ where empty; the grid of the best third score above each pair of
    bins of the first two, which starts at the bins `base`; how many points there are, or more than fit."""

    score: Any
    row: Any
    inner: Any
    grid: Any
    base: Any
    count: Any


@dataclass(frozen=True)
class Pareto3:
    """The exact frontier of three metrics: no other configuration is at least as good in all. Of equals, the one of the
    lowest number. There is room for `capacity` points on the device; `count_runs` runs are merged at a time."""

    metrics: tuple[str, str, str]
    capacity: int = 2048
    count_runs: int = 8
    name: str = "frontier"

    def init(self, hint: Any = None) -> Surface:
        real = np.dtype(jnp.result_type(float))
        grid = np.full((_SIDE + 1, _SIDE + 1), -np.inf, real)
        none = np.full(self.capacity, -1, np.int32)
        empty = np.full((self.capacity, 3), -np.inf, real)
        grid, base = (grid, np.zeros(2, np.int32)) if hint is None else hint
        return Surface(empty, none, none, grid, base, np.zeros((), np.int32))

    def _bins(self, scores: list[Any]) -> list[Any]:
        return [logarithmic_bin(s, sign(m)) >> 1 for s, m in zip(scores[:2], self.metrics[:2], strict=True)]

    def update(self, state: Surface, block: Block) -> Surface:
        """A run of neighbours is no better than the corner of its three maxima; see `Pareto.update`."""
        columns = [runs(block.scores[name]) for name in self.metrics]
        corner = [jnp.max(column, axis=1) for column in columns]
        bins = self._bins(corner)

        def left(current: Surface, done: Any) -> Any:
            across, along = (jnp.clip(b - current.base[i], 0, _SIDE - 1) + 1 for i, b in enumerate(bins))
            return (corner[2] > current.grid[across, along]) & ~done

        def step(carry: Any) -> Any:
            current, waiting, done = carry
            taken, scores, index = gather(waiting, self.count_runs, columns)
            current = self._merge(current, jnp.stack(scores, axis=1), index, block)
            return current, left(current, done | taken), done | taken

        done = jnp.zeros(corner[0].shape[0], bool)
        merged, _, _ = jax.lax.while_loop(lambda c: jnp.any(c[1]), step, (state, left(state, done), done))
        return merged

    def _merge(self, state: Surface, new: Any, index: Any, block: Block) -> Surface:
        """Every pair of newcomer and kept point is compared."""
        row, inner = block.locate(index)

        def dominated(points: Any, numbers: Any, others: Any, other_numbers: Any) -> Any:
            equal, most = jnp.asarray(True), jnp.asarray(True)
            for i in range(3):
                mine, its = points[:, i][:, None], others[:, i][None, :]
                most, equal = most & (its >= mine), equal & (its == mine)
            same_row = other_numbers[0][None, :] == numbers[0][:, None]
            earlier = (other_numbers[0][None, :] < numbers[0][:, None]) | (
                same_row & (other_numbers[1][None, :] < numbers[1][:, None])
            )
            return jnp.any(most & (~equal | earlier), axis=1)

        fresh, kept = (row, inner), (state.row, state.inner)
        stays = ~dominated(new, fresh, new, fresh) & ~dominated(new, fresh, state.score, kept)
        stays = stays & jnp.all(new > -jnp.inf, axis=1)
        old_stays = ~dominated(state.score, kept, new, fresh) & (state.row >= 0)
        keep = jnp.concatenate([old_stays, stays])
        target = jnp.where(keep, jnp.cumsum(keep, dtype=jnp.int32) - 1, self.capacity)
        score = jnp.full_like(state.score, -jnp.inf).at[target].set(jnp.concatenate([state.score, new]), mode="drop")
        rows = jnp.full_like(state.row, -1).at[target].set(jnp.concatenate([state.row, row]), mode="drop")
        inners = jnp.full_like(state.inner, -1).at[target].set(jnp.concatenate([state.inner, inner]), mode="drop")
        count = jnp.sum(keep, dtype=jnp.int32)
        count = jnp.where(state.count > self.capacity, state.count, count)  # once lost, lost
        grid, base = self._grid(state, score)
        return Surface(score, rows, inners, grid, base, count)

    def _grid(self, state: Surface, score: Any) -> tuple[Any, Any]:
        """The grid of these points, anchored at the best bins; what was ruled out before stays, if its anchor does."""
        bins = jnp.stack(self._bins([score[:, 0], score[:, 1]]))
        base = jnp.maximum(jnp.max(bins, axis=1) - (_SIDE - 1), 0)
        base = jnp.maximum(base, state.base)
        across, along = (jnp.clip(bins[i] - base[i], 0, _SIDE - 1) for i in range(2))
        grid = jnp.full_like(state.grid, -jnp.inf).at[across, along].max(score[:, 2])
        for axis in (0, 1):
            grid = jax.lax.cummax(grid, axis=axis, reverse=True)
        return jnp.where(jnp.all(base == state.base), jnp.maximum(grid, state.grid), grid), base

    def crowding(self, state: Surface) -> Any:
        return (state.count > self.capacity // 2).astype(jnp.int32) + (state.count > self.capacity).astype(jnp.int32)

    def hint(self, state: Surface, old: Any) -> Any:
        return np.asarray(state.grid), np.asarray(state.base)

    def extract(self, state: Surface) -> Part:
        held = np.asarray(state.row) >= 0
        return {
            "score": np.asarray(state.score)[held],
            "row": np.asarray(state.row)[held],
            "inner": np.asarray(state.inner)[held],
        }

    def merge(self, parts: list[Part]) -> Part:
        """Points by falling first, second, third score: scores [point, 3], row and inner number [point]."""
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        score = joined["score"]
        order = np.lexsort((ids(joined["row"], joined["inner"]), -score[:, 2], -score[:, 1], -score[:, 0]))
        kept = order[_sweep(score[order, 1].tolist(), score[order, 2].tolist())]
        return {key: value[kept] for key, value in joined.items()}


def _sweep(second: list[float], third: list[float]) -> np.ndarray:
    """Which of points in falling order of their first score no earlier one is at least as good as in the others.

    The best of the earlier ones form a staircase: rising in the second score, falling in the third.
    """
    keep = np.zeros(len(second), bool)
    steps: list[float] = []
    heights: list[float] = []
    for index, (b, c) in enumerate(zip(second, third, strict=True)):
        at = bisect_left(steps, b)
        if at < len(steps) and heights[at] >= c:
            continue
        keep[index] = True
        end = at + 1 if at < len(steps) and steps[at] == b else at
        begin = at
        while begin > 0 and heights[begin - 1] <= c:
            begin -= 1
        steps[begin:end], heights[begin:end] = [b], [c]
    return keep
