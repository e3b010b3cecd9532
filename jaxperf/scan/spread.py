"""Reductions of every configuration, not only of the best: top-k, histograms with quantiles, the best by axis value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .pareto import gather, runs
from .reduce import Block, Part, Plain, ids, sign

_LAST = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Top(Plain):
    """The `count` best configurations in one metric, best first; of equals, those of the lowest numbers."""

    metric: str
    count: int
    count_runs: int = 32

    @property
    def name(self) -> str:
        return f"top.{self.metric}"

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,)

    def init(self, hint: Any = None) -> Any:
        real = np.dtype(jnp.result_type(float))
        none = np.full(self.count, _LAST, np.int32)
        return np.full(self.count, -np.inf, real), none, none

    def update(self, state: Any, block: Block) -> Any:
        """Runs of neighbours whose best beats the last of the kept, or equals it with a lower number, are merged."""
        columns = [runs(block.scores[self.metric])]
        height = jnp.max(columns[0], axis=1)
        row, inner = block.locate(jnp.arange(height.shape[0], dtype=jnp.int32) * columns[0].shape[1])

        def left(current: Any, done: Any) -> Any:
            score, rows, inners = (part[-1] for part in current)
            earlier = (row < rows) | ((row == rows) & (inner < inners))
            return ((height > score) | ((height == score) & earlier)) & (height > -jnp.inf) & ~done

        def step(carry: Any) -> Any:
            current, waiting, done = carry
            taken, (scores,), index = gather(waiting, self.count_runs, columns)
            joined = [jnp.concatenate(p) for p in zip(current, (scores, *block.locate(index)), strict=True)]
            dead = joined[0] == -jnp.inf
            joined = [joined[0], *(jnp.where(dead, _LAST, numbers) for numbers in joined[1:])]
            order = jnp.lexsort((joined[2], joined[1], -joined[0]))[: self.count]
            current = tuple(part[order] for part in joined)
            return current, left(current, done | taken), done | taken

        state = tuple(jnp.asarray(part) for part in state)
        done = jnp.zeros(height.shape[0], bool)
        kept, _, _ = jax.lax.while_loop(lambda c: jnp.any(c[1]), step, (state, left(state, done), done))
        return kept

    def extract(self, state: Any) -> Part:
        score, row, inner = (np.asarray(part) for part in state)
        held = score > -np.inf
        return {"score": score[held], "row": row[held], "inner": inner[held]}

    def merge(self, parts: list[Part]) -> Part:
        """Scores, row and inner numbers, [count] or fewer, best first."""
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        order = np.lexsort((ids(joined["row"], joined["inner"]), -joined["score"]))[: self.count]
        return {key: value[order] for key, value in joined.items()}


_SHIFT = 13  # 2^10 bins an octave: a value is known to a thousandth
_BOTTOM = (127 - 32) << (23 - _SHIFT)
HISTOGRAM_BINS = 64 << (23 - _SHIFT)
"""Bins of a histogram: 2^-32 to 2^32, 1,024 to an octave."""


def histogram_bin(value: Any) -> Any:
    """Bin of a positive value by the exponent and the top ten bits of the mantissa of its float32 (NumPy or JAX)."""
    if isinstance(value, np.ndarray):
        bits = value.astype(np.float32).view(np.int32)
        return np.clip((bits >> _SHIFT) - _BOTTOM, 0, HISTOGRAM_BINS - 1)
    bits = jax.lax.bitcast_convert_type(value.astype(jnp.float32), jnp.int32)
    return jnp.clip((bits >> _SHIFT) - _BOTTOM, 0, HISTOGRAM_BINS - 1)


def bin_edges(bins: np.ndarray) -> np.ndarray:
    """The lowest value of each bin."""
    return ((bins + _BOTTOM) << _SHIFT).astype(np.int32).view(np.float32).astype(np.float64)


@dataclass(frozen=True)
class Histogram(Plain):
    """How often each value of a metric occurs among feasible configurations, to a thousandth of the value."""

    metric: str

    @property
    def name(self) -> str:
        return f"histogram.{self.metric}"

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,)

    def init(self, hint: Any = None) -> Any:
        return np.zeros(HISTOGRAM_BINS, np.int32)

    def update(self, state: Any, block: Block) -> Any:
        score = block.scores[self.metric]
        bins = jnp.where(score > -jnp.inf, histogram_bin(jnp.abs(score)), HISTOGRAM_BINS)
        return state.at[bins].add(1, mode="drop")

    def extract(self, state: Any) -> Part:
        counts = np.asarray(state, np.int64)
        bins = np.flatnonzero(counts)
        return {"bin": bins, "count": counts[bins]}

    def merge(self, parts: list[Part]) -> Part:
        """Bins that occur, rising, and their counts."""
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        bins, inverse = np.unique(joined["bin"], return_inverse=True)
        counts = np.zeros(len(bins), np.int64)
        np.add.at(counts, inverse, joined["count"])
        return {"bin": bins, "count": counts}


def quantiles(part: Part, shares: tuple[float, ...]) -> list[float]:
    """For each share q the middle of the bin that holds the ⌈q·n⌉-th smallest value; empty where there is none."""
    if not len(part["bin"]):
        return []
    reached = np.cumsum(part["count"])
    wanted = np.maximum(np.ceil(np.asarray(shares) * reached[-1]), 1)
    bins = part["bin"][np.searchsorted(reached, wanted)]
    return [float(value) for value in (bin_edges(bins) + bin_edges(bins + 1)) / 2]


@dataclass(frozen=True)
class Marginals(Plain):
    """The best of each metric at every value of every axis: `axes` names them with how many values they have; those
    from the third on are axes of the rows (columns of `Block.axes`), the first two are chunk and batch."""

    metrics: tuple[str, ...]
    axes: tuple[tuple[str, int], ...]
    name: str = "marginals"

    def init(self, hint: Any = None) -> Any:
        real = np.dtype(jnp.result_type(float))
        return {name: np.full((len(self.metrics), size), -np.inf, real) for name, size in self.axes}

    def update(self, state: Any, block: Block) -> Any:
        points, chunks, batches = block.shape
        score = jnp.stack([block.scores[name].reshape(points, chunks, batches) for name in self.metrics])
        chunk = block.place.chunk + jnp.arange(chunks, dtype=jnp.int32)
        batch = block.place.batch + jnp.arange(batches, dtype=jnp.int32)
        by_row = jnp.max(score, axis=(2, 3))
        found = {
            "chunk": state["chunk"].at[:, chunk].max(jnp.max(score, axis=(1, 3)), mode="drop"),
            "batch": state["batch"].at[:, batch].max(jnp.max(score, axis=(1, 2)), mode="drop"),
        }
        for column, (name, _) in enumerate(self.axes[2:]):
            found[name] = state[name].at[:, block.axes[:, column]].max(by_row)
        return found

    def extract(self, state: Any) -> Part:
        return {name: np.asarray(table) for name, table in state.items()}

    def merge(self, parts: list[Part]) -> Part:
        """By axis the best score, [metric, value], −∞ where nothing is feasible."""
        return {name: np.max([part[name] for part in parts], axis=0) for name, _ in self.axes}


def by_value(part: Part, marginals: Marginals, labels: dict[str, list[Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Marginals as metric → axis → value → best (None where nothing is feasible); axes of one value are left out."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for index, metric in enumerate(marginals.metrics):
        table = {}
        for name, values in labels.items():
            if len(values) > 1:
                scores = part[name][index][: len(values)] * sign(metric)
                table[name] = {
                    str(value): float(score) if np.isfinite(score) else None
                    for value, score in zip(values, scores, strict=True)
                }
        found[metric] = table
    return found
