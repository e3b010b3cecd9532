"""The exact Pareto frontier of two metrics on the device: a short sorted list, and a ladder that rules out the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .reduce import Block, Part, ids, sign

BINS = 4096  # of a ladder: 64 to an octave, 64 octaves
_LOWEST = (127 - 24) << 6  # the bin of 2^-24
RUN = 32  # neighbours that are ruled out together


def logarithmic_bin(score: Any, direction: int) -> Any:
    """Bin of a score by exponent and the top six bits of the mantissa of its float32, monotone.

    **Arguments:** `score`, above 0 for `direction` +1 and below 0 for −1, or −∞; 2^±24..40 are told apart.
    """
    bits = jax.lax.bitcast_convert_type(score.astype(jnp.float32), jnp.int32)
    if direction > 0:
        bins = (bits >> 17) - _LOWEST
    else:
        bins = BINS - 1 - (((bits & 0x7FFFFFFF) >> 17) - _LOWEST)
    return jnp.clip(bins, 0, BINS - 1)


def runs(score: Any) -> Any:
    """A flat array as runs of neighbours, [runs, RUN], filled up with −∞."""
    padding = -score.size % RUN
    return jnp.pad(score, (0, padding), constant_values=-jnp.inf).reshape(-1, RUN)


def gather(waiting: Any, count: int, columns: list[Any]) -> tuple[Any, list[Any], Any]:
    """The first `count` waiting runs: which they are (marked in a mask), their scores and flat indices."""
    total = waiting.shape[0]
    chosen = jnp.nonzero(waiting, size=count, fill_value=total)[0].astype(jnp.int32)
    taken = jnp.zeros(total, bool).at[chosen].set(True, mode="drop")
    at = jnp.minimum(chosen, total - 1)
    real = (chosen < total)[:, None]
    index = (at[:, None] * RUN + jnp.arange(RUN, dtype=jnp.int32)[None, :]).ravel()
    return taken, [jnp.where(real, column[at], -jnp.inf).ravel() for column in columns], index


class Frontier(eqx.Module):
    """Points sorted by falling first score, `capacity` of them, −∞ where empty; the ladder of the best second score
    above each bin of the first; how many points there are, which may be more than there is room for."""

    first: Any
    second: Any
    row: Any
    inner: Any
    ladder: Any
    count: Any


@dataclass(frozen=True)
class Pareto:
    """The exact frontier of two metrics: no other configuration is at least as good in both. Of equals, the one of the
    lowest number. There is room for `capacity` points on the device; `count_runs` runs are merged at a time."""

    metrics: tuple[str, str]
    capacity: int = 1024
    count_runs: int = 32
    name: str = "frontier"

    def init(self, hint: Any = None) -> Frontier:
        real = np.dtype(jnp.result_type(float))
        empty, none = np.full(self.capacity, -np.inf, real), np.full(self.capacity, -1, np.int32)
        ladder = np.full(BINS, -np.inf, real) if hint is None else hint
        return Frontier(empty, empty, none, none, ladder, np.zeros((), np.int32))

    def update(self, state: Frontier, block: Block) -> Frontier:
        """A run of neighbours is no better than the corner of its two maxima. The ladder rules out almost every corner;
        what is left is merged a few runs at a time, and each merge raises the ladder for the next."""
        columns = [runs(block.scores[name]) for name in self.metrics]
        corner = logarithmic_bin(jnp.max(columns[0], axis=1), sign(self.metrics[0]))
        height = jnp.max(columns[1], axis=1)

        def left(ladder: Any, done: Any) -> Any:
            return (height > ladder[corner]) & ~done

        def step(carry: Any) -> Any:
            current, waiting, done = carry
            taken, scores, index = gather(waiting, self.count_runs, columns)
            current = self._merge(current, scores, index, block)
            return current, left(current.ladder, done | taken), done | taken

        done = jnp.zeros(height.shape[0], bool)
        merged, _, _ = jax.lax.while_loop(lambda c: jnp.any(c[1]), step, (state, left(state.ladder, done), done))
        return merged

    def _merge(self, state: Frontier, scores: list[Any], index: Any, block: Block) -> Frontier:
        """The frontier of the kept points and of others: these are sorted by themselves and woven in."""
        order = jnp.lexsort((index, -scores[1], -scores[0]))
        first, second = scores[0][order], scores[1][order]
        row, inner = block.locate(index[order])
        place = self._place(state, first, second, row, inner)
        new_at = place + jnp.arange(place.size, dtype=jnp.int32)
        old_at = jnp.arange(self.capacity, dtype=jnp.int32)
        old_at = old_at + jnp.searchsorted(place, old_at, side="right").astype(jnp.int32)

        def woven(old: Any, new: Any) -> Any:
            joined = jnp.zeros(self.capacity + place.size, old.dtype)
            return joined.at[old_at].set(old, unique_indices=True).at[new_at].set(new, unique_indices=True)

        first, second = woven(state.first, first), woven(state.second, second)
        reached = jax.lax.cummax(second)
        keep = second > jnp.concatenate([jnp.full(1, -jnp.inf, second.dtype), reached[:-1]])
        target = jnp.where(keep, jnp.cumsum(keep, dtype=jnp.int32) - 1, self.capacity)

        def packed(values: Any, fill: Any) -> Any:
            return jnp.full(self.capacity, fill, values.dtype).at[target].set(values, mode="drop")

        first, second = packed(first, -jnp.inf), packed(second, -jnp.inf)
        count = jnp.sum(keep, dtype=jnp.int32)
        count = jnp.where(state.count > self.capacity, state.count, count)  # once lost, lost
        row, inner = packed(woven(state.row, row), -1), packed(woven(state.inner, inner), -1)
        return Frontier(first, second, row, inner, self._ladder(state.ladder, first, second), count)

    def _place(self, state: Frontier, first: Any, second: Any, row: Any, inner: Any) -> Any:
        """The place of newcomers among the kept, whose first scores fall: after an equal one that goes before it."""
        place = jnp.searchsorted(-state.first, -first, side="left").astype(jnp.int32)
        near = jnp.minimum(place, self.capacity - 1)
        earlier = (state.row[near] < row) | ((state.row[near] == row) & (state.inner[near] < inner))
        before = (state.second[near] > second) | ((state.second[near] == second) & earlier)
        return place + ((state.first[near] == first) & before).astype(jnp.int32)

    def _ladder(self, old: Any, first: Any, second: Any) -> Any:
        """What the kept points rule out beside what was ruled out before."""
        low = jnp.full(1, -jnp.inf, second.dtype)
        tops = jnp.full(BINS, -jnp.inf, second.dtype).at[logarithmic_bin(first, sign(self.metrics[0]))].max(second)
        return jnp.maximum(old, jnp.concatenate([jax.lax.cummax(tops, reverse=True)[1:], low]))

    def crowding(self, state: Frontier) -> Any:
        return (state.count > self.capacity // 2).astype(jnp.int32) + (state.count > self.capacity).astype(jnp.int32)

    def hint(self, state: Frontier, old: Any) -> np.ndarray:
        ladder = np.asarray(state.ladder)
        return ladder if old is None else np.maximum(ladder, old)

    def extract(self, state: Frontier) -> Part:
        held = np.asarray(state.row) >= 0
        score = np.stack([np.asarray(state.first)[held], np.asarray(state.second)[held]], axis=1)
        return {"score": score, "row": np.asarray(state.row)[held], "inner": np.asarray(state.inner)[held]}

    def merge(self, parts: list[Part]) -> Part:
        """Points by falling first score: scores [point, metric], row and inner number [point]."""
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        score = joined["score"]
        order = np.lexsort((ids(joined["row"], joined["inner"]), -score[:, 1], -score[:, 0]))
        reached = np.maximum.accumulate(np.concatenate([[-np.inf], score[order, 1]]))[:-1]
        kept = order[score[order, 1] > reached]
        return {key: value[kept] for key, value in joined.items()}
