"""A space made ready and cut up: groups of a model and a workload, blocks that one program runs, units of blocks.

A unit is what is journalled and what a process takes; its identity depends on the space and the block's shape alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..spec.library import Spec, find
from .enumeration import Hardware, Rows, chunks, hardware, precisions, rows
from .space import Space

BLOCK = (2**19, 2**20)
"""Configurations of a block on a CPU, at least and at most: fewer, and the steps that depend on a layout alone, a
thousand loops over a few numbers each, take as long as the rest; more, and the arrays of a block leave the cache."""

NATIVE_BLOCK = (2**21, 2**22)
"""The same for machine code, whose blocks leave only the highest scores of runs."""

WIDE_BLOCK = (2**21, 2**22)
"""The same on an accelerator, which wants more at a time."""

UNIT = 2**23
"""Configurations of a unit: below a second of work, so that an interrupted scan loses less than that."""

MOST_POINTS = 2**14
BYTES_PER_CONFIGURATION = 160
"""Memory of a block's intermediate arrays [bytes of float32]: measured, see `benchmarks/results`; twice in float64."""


@dataclass(frozen=True)
class Shape:
    """The shape of every block: outer points, chunk slots, batches; what a block does not fill is padding."""

    points: int
    chunks: int
    batches: int

    @property
    def size(self) -> int:
        """Configurations of a full block."""
        return self.points * self.chunks * self.batches


@dataclass(frozen=True)
class Group:
    """One model and workload: its outer points, by number, and its inner axes."""

    model: str
    isl: int
    osl: int
    rows: Rows
    chunk: tuple[int, ...]
    batch: tuple[int, ...]

    @property
    def configurations(self) -> int:
        """How many distinct configurations the group holds."""
        return len(self.rows) * self.inner

    @property
    def inner(self) -> int:
        """Configurations of a row."""
        return len(self.chunk) * len(self.batch)

    def blocks(self, shape: Shape) -> int:
        """How many blocks the group takes: every set of chunks and batches for every run of rows."""
        sets, parts = self._cuts(shape)
        return -(-len(self.rows) // shape.points) * sets * parts

    def _cuts(self, shape: Shape) -> tuple[int, int]:
        return -(-len(self.chunk) // shape.chunks), -(-len(self.batch) // shape.batches)

    def part(self, number: int, shape: Shape) -> Part:
        """What a block holds; nothing where there is no such block."""
        sets, parts = self._cuts(shape)
        run, chunk_set, batch_part = number // (sets * parts), number // parts % sets, number % parts
        first = run * shape.points
        return Part(
            row=(first, max(min(shape.points, len(self.rows) - first), 0)),
            chunk=(chunk_set * shape.chunks, min(shape.chunks, len(self.chunk) - chunk_set * shape.chunks)),
            batch=(batch_part * shape.batches, min(shape.batches, len(self.batch) - batch_part * shape.batches)),
        )


@dataclass(frozen=True)
class Part:
    """The rows, chunks and batches of a block: first and count of each, padding left out."""

    row: tuple[int, int]
    chunk: tuple[int, int]
    batch: tuple[int, int]

    @property
    def configurations(self) -> int:
        """Real configurations of the block."""
        return self.row[1] * self.chunk[1] * self.batch[1]


@dataclass(frozen=True)
class Unit:
    """A run of blocks of one group: its place in the plan, the group's index, first block and end."""

    index: int
    group: int
    first: int
    end: int


@dataclass
class Prepared:
    """A space made ready: specs found, hardware and rows numbered. Nothing is on a device yet; `kernels` where the
    scan's blocks are machine code."""

    space: Space
    hardware: Hardware
    models: dict[str, Spec]
    precisions: dict[str, list[tuple[str | None, str | None]]]
    groups: list[Group]
    inputs: dict[int, Any]
    kernels: Any = None

    @property
    def configurations(self) -> int:
        """Distinct configurations of the whole space."""
        return sum(group.configurations for group in self.groups)


def prepare(space: Space) -> Prepared:
    """Numbers the layouts that can exist, by model and system.

    **Raises** `InputError` where there are none.
    """
    hard = hardware(space)
    models = {name: find("model", name) for name in space.models}
    found = {name: precisions(space, model) for name, model in models.items()}
    groups = []
    for name, model in models.items():
        numbered = rows(space, model, hard, len(found[name]))
        groups += [
            Group(name, isl, osl, numbered, tuple(chunks(space, isl)), space.batch) for isl, osl in space.workloads
        ]
    prepared = Prepared(space, hard, models, found, groups, {})
    if not prepared.configurations:
        raise InputError(f"{space.name}: no layout of the space can exist; widen tp, pp, ep or max_devices")
    return prepared


def block_shape(
    prepared: Prepared, memory: float | None = None, wide: bool = False, width: int = 4, whole: bool = False
) -> Shape:
    """A shape with the chunk slots that waste least over all groups, and as many points as a block should have.

    **Arguments:** `memory` that blocks may take [bytes] (None: whatever is fastest); `wide` for an accelerator;
    `width` of a float [bytes]; `whole`: all chunks in one block where they fit, as what is not filled costs nothing.
    """
    low, high = WIDE_BLOCK if wide else NATIVE_BLOCK if whole else BLOCK
    if memory is not None:
        high = int(max(memory / (BYTES_PER_CONFIGURATION * width / 4), 2**10))
        low = min(low, high)
        high = min(high, 2**24)
    counts = [len(group.chunk) for group in prepared.groups if len(group.rows)]
    batches = min(len(prepared.space.batch), max(high // 8, 1))
    most = min(max(counts), 16, max(high // batches, 1))
    slots = min(range(1, most + 1), key=lambda n: sum(-(-count // n) * (n + 1) for count in counts))
    if whole:
        slots = most
    points = 64
    while points > 1 and points * slots * batches > high:
        points //= 2
    largest = max(len(group.rows) for group in prepared.groups)
    while (
        points < min(MOST_POINTS, largest) and points * slots * batches < low and 2 * points * slots * batches <= high
    ):
        points *= 2
    return Shape(points, slots, batches)


def units(prepared: Prepared, shape: Shape, size: int = UNIT) -> list[Unit]:
    """The units of a scan in their fixed order: the groups by turns, each from its first block on.

    **Arguments:** `size`, the configurations that a unit should have, at least (one block where that is more).
    """
    length = max(math.ceil(size / shape.size), 1)
    turns = [
        (turn, index, first, min(first + length, group.blocks(shape)))
        for index, group in enumerate(prepared.groups)
        for turn, first in enumerate(range(0, group.blocks(shape), length))
    ]
    return [Unit(place, index, first, end) for place, (_, index, first, end) in enumerate(sorted(turns))]


def places(shape: Shape, group: Group, part: Part) -> np.ndarray:
    """Row number × `group.inner` + inner number of every configuration of a block, padding −1; [points·chunks·batches]

    This is what reductions know a configuration by.
    """
    row = np.arange(shape.points, dtype=np.int64)[:, None, None]
    chunk = np.arange(shape.chunks, dtype=np.int64)[None, :, None]
    batch = np.arange(shape.batches, dtype=np.int64)[None, None, :]
    real = (row < part.row[1]) & (chunk < part.chunk[1]) & (batch < part.batch[1])
    inner = (part.chunk[0] + chunk) * len(group.batch) + part.batch[0] + batch
    return np.where(real, (part.row[0] + row) * group.inner + inner, -1).ravel()
