"""A list whose configurations have little in common: each priced by itself, in the list's order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..native.graph import BATCH, CHUNK
from ..native.listing import Column, Entry, Listing, Origin
from ..native.tiles import REASONS
from .native import Kernels
from .space import DEGREES

SEGMENT = 64
"""Neighbours that leave one highest score."""

INDEX_OF = {"system": "system", "efficiency": "system", "precision": "precision"}
"""Tables of a model's inputs, by the column that says which entry."""


@dataclass(frozen=True)
class Alone:
    """Code that prices configurations one by one, and the memory of its tables."""

    listing: Listing
    memory: np.ndarray

    def __call__(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        """Scores and, last, codes of a list by its columns: [result, configuration]."""
        return self.listing([columns[str(column.name)] for column in self.listing.columns], self.memory)


def alone(kernels: Kernels, index: int) -> Alone:
    """The code for lists of a group's model and targets; made once."""
    bound = kernels.of(index)
    with kernels.lock:
        if index not in kernels.alone:
            program = kernels.unfolded[kernels.prepared.groups[index].model]
            results = [*range(len(kernels.wanted)), len(program.results) - 1]
            listing = Listing(program, results, partial(_origin, bound.tables), effort=1)
            kernels.alone[index] = Alone(listing, listing.packed(list(bound.tables.values())))
        return kernels.alone[index]


def _origin(tables: dict[str, np.ndarray], mask: int, place: int) -> Origin:
    """Where an input of a group comes from: the rows' inputs are the numbers of all its tables in turn."""
    if mask == CHUNK:
        return Column("chunk", whole=True)
    if mask == BATCH:
        return Column("batch", whole=True) if place == 0 else 1.0
    for number, (name, table) in enumerate(tables.items()):
        if place < len(table):
            if name in INDEX_OF:
                return Entry(Column(INDEX_OF[name], whole=True), number, place, table.shape[1])
            own = DEGREES if name == "degrees" else ("isl", "osl")
            return Column(own[place], whole=True) if place < len(own) else float(table[place, 0])
        place -= len(table)
    raise AssertionError(f"no table has input {place} of a row")


@dataclass(frozen=True)
class Unshared:
    """Part of a list as it was priced: its `columns`, all scores, [score, configuration], and how often each reason
    code occurs, from −1 on. Reductions take it as a block; a configuration's numbers are its segment and its place
    there."""

    wanted: tuple[str, ...]
    columns: dict[str, np.ndarray]
    scores: np.ndarray
    counts: np.ndarray

    def highest(self, metric: str) -> np.ndarray:
        """The highest score of each segment in a metric, [segment]."""
        score = self.scores[self.wanted.index(metric)]
        whole = len(score) // SEGMENT * SEGMENT
        tops = score[:whole].reshape(-1, SEGMENT).max(axis=1)
        return np.append(tops, score[whole:].max()) if whole < len(score) else tops

    def first_numbers(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the first configuration of segments."""
        return places.astype(np.int32), np.zeros(len(places), np.int32)

    def points(self, places: np.ndarray, metrics: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Configurations of some segments of which all `metrics` are known: scores [point, metric], segment, place."""
        numbers = (places[:, None] * SEGMENT + np.arange(SEGMENT)).ravel()
        numbers = numbers[numbers < self.scores.shape[1]]
        score = np.stack([self.scores[self.wanted.index(name), numbers] for name in metrics], axis=-1)
        known = np.all(score > -np.inf, axis=-1)
        row, inner = (each.astype(np.int32) for each in np.divmod(numbers[known], SEGMENT))
        return {"score": score[known], "row": row, "inner": inner}

    def configuration(self, segment: int, place: int) -> dict[str, int]:
        """The columns of a configuration."""
        return {name: int(column[segment * SEGMENT + place]) for name, column in self.columns.items()}


def unshared(code: Alone, wanted: tuple[str, ...], columns: dict[str, np.ndarray]) -> Unshared:
    """Prices every configuration of a list."""
    count = len(columns["batch"])
    found = code(columns)
    counts = np.zeros(REASONS, np.int64)
    left, reason = count, 0
    while left:
        counts[reason + 1] = np.count_nonzero(found[-1] == reason)
        left, reason = left - counts[reason + 1], reason + 1
    return Unshared(wanted, columns, found[:-1], counts)
