"""A list whose configurations have little in common: each priced by itself, in the list's order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..native.graph import BATCH, CHUNK, ROW
from ..native.listing import INDEX, Listing, Table
from ..native.tiles import REASONS
from .native import Bound, Kernels
from .space import DEGREES

BLOCK = 2**12
"""Configurations priced at a time: their columns and scores stay in cache."""

SEGMENT = 64
"""Neighbours that leave one highest score; divides `BLOCK`."""

INDEXED = {"system": "system", "efficiency": "system", "precision": "precision"}
"""Tables of a model's inputs, by the column that says which entry."""


@dataclass(frozen=True)
class Alone:
    """Code that prices configurations one by one, the memory of its tables, and where its columns come from: names of
    a list's columns, or numbers that all configurations share."""

    listing: Listing
    memory: np.ndarray
    origins: list[str | float]

    def __call__(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        """Scores and, last, codes: [result, configuration]."""
        count = len(columns["batch"])
        table = np.empty((len(self.origins), count), self.listing.real)
        for line, origin in zip(table, self.origins, strict=True):
            line[:] = columns[origin] if isinstance(origin, str) else origin
        return self.listing(table, self.memory)


def alone(kernels: Kernels, index: int) -> Alone:
    """The code for lists of a group's model and targets; made once."""
    bound = kernels.of(index)
    with kernels.lock:
        if index not in kernels.alone:
            kernels.alone[index] = _made(kernels, index, bound)
        return kernels.alone[index]


def _made(kernels: Kernels, index: int, bound: Bound) -> Alone:
    tables, first, place = {}, {}, 0
    for name, table in bound.tables.items():
        if name in INDEXED:
            tables[name] = Table(tuple(range(place, place + len(table))), table.shape[1])
        first[name] = place
        place += len(table)
    program = kernels.unfolded[kernels.prepared.groups[index].model]
    results = [*range(len(kernels.wanted)), len(program.results) - 1]
    listing = Listing(program, results, tuple(tables.values()), effort=1)
    indexed = [INDEXED[name] for name in tables]
    origins = [_origin(mask, place, indexed, bound, first) for mask, place in listing.columns]
    return Alone(listing, listing.packed([bound.tables[name] for name in tables]), origins)


def _origin(mask: int, place: int, indexed: list[str], bound: Bound, first: dict[str, int]) -> str | float:
    if mask == INDEX:
        return indexed[place]
    if mask == CHUNK:
        return "chunk"
    if mask == BATCH:
        return "batch" if place == 0 else 1.0
    assert mask == ROW
    if first["degrees"] <= place < first["degrees"] + len(DEGREES):
        return DEGREES[place - first["degrees"]]
    at = place - first["lengths"]
    return ("isl", "osl")[at] if at < 2 else float(bound.tables["lengths"][at, 0])


@dataclass(frozen=True)
class Unshared:
    """Part of a list as it was priced: its `columns`, all scores, [score, configuration], filled up to whole segments,
    and how often each reason code occurs, from −1 on. Reductions take it as a block; a configuration's numbers are its
    segment and its place there."""

    wanted: tuple[str, ...]
    columns: dict[str, np.ndarray]
    scores: np.ndarray
    counts: np.ndarray

    def _segments(self, metric: str) -> np.ndarray:
        return self.scores[self.wanted.index(metric)].reshape(-1, SEGMENT)

    def highest(self, metric: str) -> np.ndarray:
        """The highest score of each segment in a metric, [segment]."""
        return self._segments(metric).max(axis=1)

    def first_numbers(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the first configuration of segments."""
        return places.astype(np.int32), np.zeros(len(places), np.int32)

    def points(self, places: np.ndarray, metrics: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Configurations of some segments of which all `metrics` are known: scores [point, metric], segment, place."""
        score = np.stack([self._segments(name)[places] for name in metrics], axis=-1)
        known = np.all(score > -np.inf, axis=-1)
        at, inner = np.nonzero(known)
        return {"score": score[known], "row": places[at].astype(np.int32), "inner": inner.astype(np.int32)}

    def configuration(self, segment: int, place: int) -> dict[str, int]:
        """The columns of a configuration."""
        return {name: int(column[segment * SEGMENT + place]) for name, column in self.columns.items()}


def unshared(code: Alone, wanted: tuple[str, ...], columns: dict[str, np.ndarray]) -> Unshared:
    """Prices every configuration of a list."""
    count = len(columns["batch"])
    scores = np.full((len(wanted), -(-count // SEGMENT) * SEGMENT), -np.inf, code.listing.real)
    counts = np.zeros(REASONS, np.int64)
    for first in range(0, count, BLOCK):
        end = min(first + BLOCK, count)
        *found, codes = code({name: column[first:end] for name, column in columns.items()})
        scores[:, first:end] = found
        counts += np.bincount(codes.astype(np.intp) + 1, minlength=REASONS)
    return Unshared(wanted, columns, scores, counts)
