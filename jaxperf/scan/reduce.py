"""Reductions of a scan on the device, behind one small protocol: nothing of the size of the space ever leaves a block.

A reduction has `init`, a state of arrays; `update`, pure and traced; `extract`, the state's small part on the host; and
`merge` of parts, which neither their order nor how the space was cut changes. What it finds is named by the number of
its row and its number within the row (see `jaxperf.scan.plan.places`). Of equals, the lowest number wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..phases.end_to_end import REASONS
from .parse import MAXIMISED

_COUNTED = 512  # numbers that are counted together, fewer than ten bits hold

Part = dict[str, np.ndarray]
"""What a reduction knows of a part of the space: small named arrays, on the host."""


class Place(eqx.Module):
    """Where a block lies, int32: its first row, chunk and batch, and how many batches a row's chunk has in all."""

    row: Any
    chunk: Any
    batch: Any
    batches: Any


class Block(eqx.Module):
    """Flat arrays over one block. `scores` by metric: the metric, negative where less is better, −∞ where infeasible,
    unknown or padding; so the highest is always best. `reason` is the int8 code, −1 for padding. `axes` [points, axis]
    are indices of values, where a reduction asks for them. `shape` is points, chunks, batches."""

    scores: dict[str, Any]
    reason: Any
    place: Place
    axes: Any
    shape: tuple[int, int, int] = eqx.field(static=True)

    def locate(self, index: Any) -> tuple[Any, Any]:
        """Row number and number within the row of flat indices."""
        _, chunks, batches = self.shape
        point, inner = index // (chunks * batches), index % (chunks * batches)
        chunk, batch = inner // batches, inner % batches
        inner = (self.place.chunk + chunk) * self.place.batches + self.place.batch + batch
        return self.place.row + point, inner


class Reduction(Protocol):
    """What every reduction offers. Instances are hashable: a program is compiled for a tuple of them."""

    @property
    def name(self) -> str:
        """What it is called; one of a scan's reductions each."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics whose scores it reads."""
        ...

    def init(self, hint: Any = None) -> Any:
        """The state before any block; a `hint` is what another state of the group already rules out."""
        ...

    def update(self, state: Any, block: Block) -> Any:
        """The state after one more block."""
        ...

    def crowding(self, state: Any) -> Any:
        """int32: 0 while there is room, 1 where the state should be extracted soon, 2 where something was lost."""
        ...

    def hint(self, state: Any, old: Any) -> Any:
        """What a state and an `old` hint rule out together, on the host; None where nothing."""
        ...

    def extract(self, state: Any) -> Part:
        """The part of the space that the state has seen."""
        ...

    def merge(self, parts: list[Part]) -> Part:
        """Several parts as one."""
        ...


def sign(metric: str) -> int:
    """+1 where more of a metric is better, −1 where less is."""
    return 1 if metric in MAXIMISED else -1


def ids(row: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Row and inner number as one int64 that orders alike."""
    return (row.astype(np.int64) << 32) | inner.astype(np.int64)


class Plain:
    """What reductions without pruning and without a limit share."""

    def crowding(self, state: Any) -> Any:
        return jnp.zeros((), jnp.int32)

    def hint(self, state: Any, old: Any) -> Any:
        return None


@dataclass(frozen=True)
class Counts(Plain):
    """How many configurations have each reason code."""

    name: str = "counts"
    metrics: tuple[str, ...] = ()

    def init(self, hint: Any = None) -> Any:
        return np.zeros(len(REASONS), np.int32)

    def update(self, state: Any, block: Block) -> Any:
        """Three counters of ten bits share a number, so that the codes are read three times, not nine."""
        padding = -block.reason.size % _COUNTED
        reason = jnp.pad(block.reason, (0, padding), constant_values=-1).reshape(-1, _COUNTED).astype(jnp.int32)
        counts = []
        for first in range(0, len(REASONS), 3):
            shift = reason - first
            packed = jnp.where((shift >= 0) & (shift < 3), jnp.left_shift(1, 10 * shift), 0)
            rows = jnp.sum(packed, axis=1, dtype=jnp.int32)
            counts += [jnp.sum((rows >> (10 * place)) & 1023, dtype=jnp.int32) for place in range(3)]
        return state + jnp.stack(counts)[: len(REASONS)]

    def extract(self, state: Any) -> Part:
        return {"count": np.asarray(state, np.int64)}

    def merge(self, parts: list[Part]) -> Part:
        return {"count": sum((part["count"] for part in parts), np.zeros(len(REASONS), np.int64))}


@dataclass(frozen=True)
class Best(Plain):
    """The best configuration in each of a few metrics; of equals, the best in the other metrics, in their order.
    Configurations of which one of the metrics is unknown do not take part."""

    metrics: tuple[str, ...]
    name: str = "best"

    def _ranked(self, first: int) -> list[int]:
        return [first, *(index for index in range(len(self.metrics)) if index != first)]

    def init(self, hint: Any = None) -> Any:
        """Scores [best of, metric], row and inner number [best of]."""
        count, real = len(self.metrics), np.dtype(jnp.result_type(float))
        return np.full((count, count), -np.inf, real), np.full(count, -1, np.int32), np.full(count, -1, np.int32)

    def update(self, state: Any, block: Block) -> Any:
        """The block's highest score first; its configuration only where that is no worse than what is known."""
        columns = [block.scores[name] for name in self.metrics]
        known = jnp.stack([column > -jnp.inf for column in columns]).all(axis=0)
        scores, rows, inners = list(state[0]), list(state[1]), list(state[2])
        for index in range(len(self.metrics)):
            top = jnp.max(jnp.where(known, columns[index], -jnp.inf))
            kept = (scores[index], rows[index], inners[index])

            def replaced(kept: Any, index: int = index) -> Any:
                return self._better(kept, self._pick(block, columns, known, index), index)

            better = (top >= kept[0][index]) & (top > -jnp.inf)
            scores[index], rows[index], inners[index] = jax.lax.cond(better, replaced, lambda kept: kept, kept)
        return jnp.stack(scores), jnp.stack(rows), jnp.stack(inners)

    def _pick(self, block: Block, columns: list[Any], mask: Any, first: int) -> Any:
        for index in self._ranked(first):
            column = jnp.where(mask, columns[index], -jnp.inf)
            mask = mask & (column == jnp.max(column))
        at = jnp.argmax(mask).astype(jnp.int32)
        return jnp.stack([column[at] for column in columns]), *block.locate(at)

    def _better(self, kept: Any, new: Any, first: int) -> Any:
        """Whichever comes first by scores, then by numbers."""
        wins, equal = jnp.asarray(False), jnp.asarray(True)
        for index in self._ranked(first):
            wins = wins | (equal & (new[0][index] > kept[0][index]))
            equal = equal & (new[0][index] == kept[0][index])
        wins = wins | (equal & ((new[1] < kept[1]) | ((new[1] == kept[1]) & (new[2] < kept[2]))))
        return jax.tree.map(lambda n, k: jnp.where(wins, n, k), new, kept)

    def extract(self, state: Any) -> Part:
        scores, row, inner = (np.asarray(part) for part in state)
        return {"score": scores[:, None], "row": row[:, None], "inner": inner[:, None]}

    def merge(self, parts: list[Part]) -> Part:
        """Scores [best of, 1, metric], row and inner number [best of, 1]; row −1 where there is none."""
        joined = {key: np.concatenate([part[key] for part in parts], axis=1) for key in parts[0]}
        chosen = []
        for index in range(len(self.metrics)):
            number = np.where(
                joined["row"][index] < 0, np.iinfo(np.int64).max, ids(joined["row"][index], joined["inner"][index])
            )
            keys = [-joined["score"][index][:, other] for other in self._ranked(index)]
            chosen.append(np.lexsort((number, *reversed(keys)))[0])
        return {key: np.stack([value[i, [at]] for i, at in enumerate(chosen)]) for key, value in joined.items()}
