"""A block of a scan as it was computed on this processor, for the reductions of the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..native.kernel import Batches, Heights, Kernel, Shared
from .native import Kernels
from .plan import Group, Part, Shape


@dataclass
class HostBlock:
    """A block as it was computed: the highest scores of its runs, and what finds the scores of a run again."""

    heights: Heights
    wanted: tuple[str, ...]
    kernel: Kernel
    shared: Shared
    batches: Batches
    part: Part
    group: Group
    axes: np.ndarray | None

    @property
    def counts(self) -> np.ndarray:
        """How often each reason code occurs, from −1 on."""
        return self.heights.counts

    def highest(self, metric: str) -> np.ndarray:
        """The highest score of each run in a metric, [row, chunk, run]."""
        return self.heights.highest[self.wanted.index(metric)]

    def scores(self, metric: str) -> np.ndarray:
        """All scores in a metric, [row, chunk, batch], of a block that was computed with everything."""
        assert self.heights.scores is not None
        return self.heights.scores[self.wanted.index(metric)][..., : self.part.batch[1]]

    def numbers(self, row: np.ndarray, chunk: np.ndarray, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row number and number within the row of places in the block, as a `Block` locates them."""
        inner = (self.part.chunk[0] + chunk) * len(self.group.batch) + self.part.batch[0] + batch
        return (self.part.row[0] + row).astype(np.int32), inner.astype(np.int32)

    def first_numbers(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the first configuration of runs (flat places in [row, chunk, run])."""
        row, chunk, run = np.unravel_index(places, self.heights.highest.shape[1:])
        return self.numbers(row, chunk, run * self.batches.length)

    def points(self, places: np.ndarray, metrics: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Configurations of some runs of which all `metrics` are known: scores [point, metric], numbers of row and
        within it."""
        row, chunk, run = np.unravel_index(places, self.heights.highest.shape[1:])
        found = self.kernel.listed(self.shared, self.batches, row, chunk, run)
        columns = [found[self.wanted.index(name)].ravel() for name in metrics]
        known = np.flatnonzero(np.logical_and.reduce([column > -np.inf for column in columns]))
        at, lane = np.divmod(known, self.batches.length)
        rows, inner = self.numbers(row[at], chunk[at], run[at] * self.batches.length + lane)
        return {"score": np.stack([column[known] for column in columns], axis=-1), "row": rows, "inner": inner}


def host_block(kernels: Kernels, index: int, part: Part, everything: bool, axes: np.ndarray | None) -> HostBlock:
    """Computes a block of a group; all scores where `everything` is asked for."""
    group = kernels.prepared.groups[index]
    kernel = kernels.of(index).kernel
    rows = kernels.rows(index, *part.row)
    chunk = np.asarray(group.chunk[part.chunk[0] : part.chunk[0] + part.chunk[1]], kernel.real)
    shared = kernel.share(rows, part.row[1], chunk)
    batches = kernels.filled(kernel, group, part)
    return HostBlock(
        kernel.block(shared, batches, everything), kernels.wanted, kernel, shared, batches, part, group, axes
    )


def padded(block: HostBlock, shape: Shape, columns: tuple[str, ...]) -> tuple[list[np.ndarray], np.ndarray]:
    """The columns of a table and the reasons of a block, flat and filled up as blocks of XLA are."""

    def whole(table: np.ndarray, fill: Any) -> np.ndarray:
        wide = np.full((shape.points, shape.chunks, shape.batches), fill, table.dtype)
        wide[: table.shape[0], : table.shape[1], : table.shape[2]] = table
        return wide.ravel()

    assert block.heights.reasons is not None
    reasons = block.heights.reasons[..., : block.part.batch[1]]
    return [whole(block.scores(name), -np.inf) for name in columns], whole(reasons, -1)
