"""A list whose configurations have little in common: each priced by itself, in the list's order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..native.across import REASONS
from ..native.graph import BATCH, CHUNK, FORMATS, SYSTEM
from ..native.listing import Column, Listing, Origin, Table
from .native import MASKS, Kernels
from .space import DEGREES

SEGMENT = 64
"""Neighbours that leave one highest score."""


def alone(kernels: Kernels, index: int) -> Listing:
    """The code for lists of a group's model and targets: scores and, last, codes; made once."""
    bound = kernels.of(index)
    with kernels.lock:
        if index not in kernels.alone:
            program = kernels.unfolded[kernels.prepared.groups[index].model]
            results = [*program.results[: len(kernels.wanted)], program.results[-1]]
            tables, origins = _sources(bound.tables)
            kernels.alone[index] = Listing(program.graph, results, tables, partial(_origin, origins), effort=1)
        return kernels.alone[index]


def _sources(tables: dict[str, np.ndarray]) -> tuple[dict[int, Table], dict[int, Origin]]:
    """The tables of systems and of formats, by their axis; and where the other inputs of a row, which are the numbers
    of all tables in turn, come from."""
    values: dict[int, dict[int, np.ndarray]] = {SYSTEM: {}, FORMATS: {}}
    origins: dict[int, Origin] = {}
    place = 0
    for name, table in tables.items():
        own = {"degrees": DEGREES, "lengths": ("isl", "osl")}.get(name, ())
        for number, line in enumerate(table):
            if name in MASKS:
                values[MASKS[name]][place] = line
            else:
                origins[place] = Column(own[number], whole=True) if number < len(own) else float(line[0])
            place += 1
    index = {SYSTEM: "system", FORMATS: "precision"}
    return {mask: Table(Column(index[mask], whole=True), each) for mask, each in values.items()}, origins


def _origin(rows: dict[int, Origin], mask: int, place: int) -> Origin:
    if mask == CHUNK:
        return Column("chunk", whole=True)
    if mask == BATCH:
        return Column("batch", whole=True) if place == 0 else 1.0
    return rows[place]


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


def unshared(code: Listing, wanted: tuple[str, ...], columns: dict[str, np.ndarray]) -> Unshared:
    """Prices every configuration of a list."""
    count = len(columns["batch"])
    found = code([columns[str(column.name)] for column in code.columns])
    counts = np.zeros(REASONS, np.int64)
    left, reason = count, 0
    while left:
        counts[reason + 1] = np.count_nonzero(found[-1] == reason)
        left, reason = left - counts[reason + 1], reason + 1
    return Unshared(wanted, columns, found[:-1], counts)
