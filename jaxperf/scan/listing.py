"""A list of configurations in any order, nothing said of what they share: sorted by layout, which is then priced once;
where a sample says that few share one, priced one by one (`unshared`).

To be sorted, a configuration is packed into one 64-bit number whose upper bits are its row (system, formats, degrees,
lengths) and whose lower ones its chunk and batch, so that a plain sort brings the configurations of a row together."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..native.kernel import Kernel, Shared, lines
from ..native.words import SPARE, edges, pack, present
from .inputs import MOST_STACKED
from .native import Kernels, gathered
from .space import DEGREES
from .unshared import Unshared, alone, unshared

PART = 2**23
"""Configurations that are sorted together: the more, the more of them share a row; their numbers take 64 bits each."""

SEGMENT = 64
"""Neighbours of a row that leave one highest score."""


@dataclass(frozen=True)
class ConfigurationList:
    """Configurations of one model as int32 columns of equal length: indices of `system` and `precision`, the five
    degrees, lengths [tokens], chunk [tokens] and batch."""

    columns: dict[str, np.ndarray]

    NAMES = ("batch", "chunk", "system", "precision", *DEGREES, "isl", "osl")

    def __post_init__(self) -> None:
        shapes = {np.shape(column) for column in self.columns.values()}
        if set(self.columns) != set(self.NAMES) or len(shapes) != 1 or len(*shapes) != 1:
            raise InputError(f"configurations: expected columns of one length: {', '.join(self.NAMES)}")
        for name, column in self.columns.items():
            plain = type(column) is np.ndarray and column.dtype == np.int32 and column.flags.c_contiguous
            if not plain or (column.size and column.min() < 0):
                raise InputError(f"configurations: {name}: expected a NumPy array of int32 numbers from 0 up")

    def __len__(self) -> int:
        return len(self.columns["batch"])


@dataclass(frozen=True)
class Packing:
    """How a list's columns are packed: for each its first bit; for columns of few, large values their `ranks` by value
    and the `values` by rank."""

    shifts: dict[str, int]
    widths: dict[str, int]
    ranks: dict[str, np.ndarray]
    values: dict[str, np.ndarray]

    @property
    def bits(self) -> tuple[int, int]:
        """Bits of the batch, and of the chunk above it."""
        return self.widths["batch"], self.widths["chunk"]

    def column(self, words: np.ndarray, name: str) -> np.ndarray:
        """A column of packed configurations."""
        found = (words >> self.shifts[name]) & ((1 << self.widths[name]) - 1)
        return self.values[name][found] if name in self.values else found


_RANKED = ("chunk", "isl", "osl")
_LARGEST = 2**24
"""What float32 counts up to without a gap."""


def packing(columns: dict[str, np.ndarray]) -> Packing | None:
    """How columns are packed; None where a configuration does not fit in 63 bits."""
    shifts, widths, ranks, values, first = {}, {}, {}, {}, 0
    for name in ConfigurationList.NAMES:
        largest = int(columns[name].max())
        if name in _RANKED:
            seen = present(columns[name], largest)
            values[name], ranks[name] = np.flatnonzero(seen), (np.cumsum(seen) - 1).astype(np.int32)
            largest = len(values[name]) - 1
        shifts[name], widths[name] = first, max(largest.bit_length(), 1)
        first += widths[name]
    return Packing(shifts, widths, ranks, values) if first <= 63 else None


@dataclass(frozen=True)
class Priced:
    """Part of a list as it was priced: its configurations as sorted `words` and how they are packed (`how`); where the
    `segments` begin that neighbours of one row are cut into, and of which row each is; the highest scores of each
    segment (`tops`, [score, segment]), and how often each reason code occurs, from −1 on. Reductions take it as a
    block; a configuration's numbers are its segment and its place there."""

    wanted: tuple[str, ...]
    words: np.ndarray
    how: Packing
    begins: np.ndarray
    rows: np.ndarray
    tops: np.ndarray
    counts: np.ndarray
    kernel: Kernel
    shared: Shared

    def highest(self, metric: str) -> np.ndarray:
        """The highest score of each segment in a metric, [segment]."""
        return self.tops[self.wanted.index(metric)]

    def first_numbers(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the first configuration of segments."""
        return places.astype(np.int32), np.zeros(len(places), np.int32)

    def points(self, places: np.ndarray, metrics: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Configurations of some segments of which all `metrics` are known: scores [point, metric], segment, place."""
        first, counts = self.begins[places], np.diff(self.begins)[places]
        begins = np.concatenate([[0], np.cumsum(counts)])
        inner = np.arange(begins[-1]) - np.repeat(begins[:-1], counts)
        words = np.zeros(begins[-1] + SPARE, np.int64)[: begins[-1]]
        words[:] = self.words[np.repeat(first, counts) + inner]
        found = self.kernel.segments(self.shared, words, begins, self.rows[places], self.how.bits, everything=True)
        assert found.scores is not None
        score = np.stack([found.scores[self.wanted.index(name)] for name in metrics], axis=-1)
        known = np.all(score > -np.inf, axis=-1)
        segment = np.repeat(places, counts).astype(np.int32)
        return {"score": score[known], "row": segment[known], "inner": inner[known].astype(np.int32)}

    def configuration(self, segment: int, place: int) -> dict[str, int]:
        """The columns of a configuration."""
        word = self.words[self.begins[segment] + place]
        return {name: int(self.how.column(word, name)) for name in ConfigurationList.NAMES}


def _check(kernels: Kernels, index: int, columns: dict[str, np.ndarray]) -> None:
    prepared = kernels.prepared
    if not len(columns["batch"]):
        raise InputError("configurations: there are none")
    if prepared.hardware.variants == 1 and len(prepared.hardware.names) > MOST_STACKED:
        raise InputError(
            f"configurations: a list of {len(prepared.hardware.names)} systems; expected at most {MOST_STACKED}"
        )
    if prepared.hardware.variants > 1:
        raise InputError("configurations: a list does not say which variant of a system is meant; expected no fields")
    limits = {"system": len(prepared.hardware.names)}
    limits["precision"] = len(prepared.precisions[prepared.groups[index].model])
    for name, limit in limits.items():
        if int(columns[name].max()) >= limit:
            raise InputError(f"configurations: {name}: {columns[name].max()} is out of range; expected below {limit}")
    for name in ConfigurationList.NAMES:
        for value in (int(columns[name].min()), int(columns[name].max())):
            if name not in limits and not 0 < value < _LARGEST:
                raise InputError(f"configurations: {name}: {value} is out of range; expected 1 to {_LARGEST - 1}")


FEW = 20
"""Configurations a row below which bringing them together costs more than it saves."""

_SAMPLE, _PIECES = 2**14, 16
_FACTOR = 0x9E3779B97F4A7C15
"""An odd number without a pattern (2⁶⁴ over the golden ratio): rows get numbers that differ, but for rare chances."""


def sharing(columns: dict[str, np.ndarray]) -> float:
    """How many configurations share a row, as far as a sample tells: pieces from all over the list, so that both an
    orderly and a shuffled list show what they share.

    Of R rows, all as likely, n drawn configurations have R·(1 − exp(−n/R)).
    """
    count = len(columns["batch"])
    piece = min(_SAMPLE, count) // _PIECES
    starts = np.linspace(0, count - piece, _PIECES).astype(np.int64)
    places = np.arange(count) if count <= _SAMPLE else (starts[:, None] + np.arange(piece)).ravel()
    keys = np.zeros(len(places), np.uint64)
    for name in ConfigurationList.NAMES[2:]:
        keys = keys * np.uint64(_FACTOR) + columns[name][places].astype(np.uint64)
    seen, drawn = len(np.unique(keys)), len(places)
    if seen == drawn or drawn == count:
        return drawn / seen
    low, high = float(seen), float(drawn) ** 2
    for _ in range(60):
        rows = math.sqrt(low * high)
        low, high = (rows, high) if -rows * math.expm1(-drawn / rows) < seen else (low, rows)
    return count / (-high * math.expm1(-count / high))


def priced(kernels: Kernels, index: int, everything: ConfigurationList, first: int, end: int) -> Priced | Unshared:
    """Prices the configurations from `first` to `end` of a list, of the model and targets of a group: row by row, or
    where fewer than `FEW` are expected to share one, or 63 bits cannot tell them apart, each by itself, with the same
    figures, bit for bit.

    **Raises** `InputError` for a part without configurations or beyond the list, an index of a system or formats that
    are not there, a degree, batch or length of 0 or from 2²⁴ on, more than 1,024 systems, and a space whose systems
    have variants, which a list does not name.
    """
    if not 0 <= first <= end <= len(everything):
        raise InputError(f"configurations: no part from {first} to {end} of {len(everything)}")
    names = ConfigurationList.NAMES
    columns = {name: everything.columns[name][first:end] for name in names}
    _check(kernels, index, columns)
    how = packing(columns) if sharing(columns) >= FEW else None
    if how is None:
        return unshared(alone(kernels, index), kernels.wanted, columns)
    bound = kernels.of(index)
    kernel = bound.kernel
    words = pack([columns[n] for n in names], [how.ranks.get(n) for n in names], [how.shifts[n] for n in names])
    words.sort()
    begins = edges(words, how.shifts["system"])
    lanes, count = kernel.target.lanes, len(begins) - 1
    rows = words[begins[np.minimum(np.arange(-(-count // lanes) * lanes), count - 1)]]
    system = how.column(rows, "system")
    lengths = np.repeat(bound.tables["lengths"][:, :1], len(rows), axis=1)
    lengths[0], lengths[1] = how.column(rows, "isl"), how.column(rows, "osl")
    inputs = {"system": system, "efficiency": system, "precision": how.column(rows, "precision"), "lengths": lengths}
    inputs["degrees"] = np.stack([how.column(rows, name) for name in DEGREES])
    table = gathered(bound.sources, len(kernel.inputs), inputs, len(rows), kernel.real)
    shared = kernel.share(lines(table), count, how.values["chunk"].astype(kernel.real))
    begins, of = _cut(begins)
    found = kernel.segments(shared, words, begins, of, how.bits)
    return Priced(kernels.wanted, words, how, begins, of, found.highest, found.counts, kernel, shared)


def _cut(begins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that begin there, and end where the next begins, cut into segments: where these begin, and of which row each
    is."""
    many = -(-np.diff(begins) // SEGMENT)
    of = np.repeat(np.arange(len(many)), many)
    first = np.cumsum(many) - many
    starts = begins[of] + SEGMENT * (np.arange(len(of)) - first[of])
    return np.append(starts, begins[-1]), of


def parts(length: int, workers: int) -> list[tuple[int, int]]:
    """First and end of the parts of a list, as many for each worker; none of an empty list."""
    count = max(-(-length // (workers * PART)), 1) * workers
    ends = [length * number // count for number in range(count + 1)]
    return [(first, end) for first, end in itertools.pairwise(ends) if end > first]
