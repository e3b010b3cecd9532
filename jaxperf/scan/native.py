"""Blocks of a scan as machine code on this processor: what `engine` compiles with XLA, from the same function."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..native.graph import BATCH, CHUNK, FORMATS, ROW, ROWS, SYSTEM
from ..native.jit import for_batches, target
from ..native.kernel import NEW_FORMATS, NEW_LAYOUT, NEW_SYSTEM, Batches, Kernel, Lines, Unfolded, lines, unfolded
from ..native.listing import Listing
from ..tape import Tape, record
from . import engine
from .engine import Hardware, Point
from .inputs import group_inputs, point_of
from .plan import Group, Part, Prepared

FIELDS = (
    *("ttft", "tpot", "e2e", "output_tokens_per_s", "output_tokens_per_s_per_device", "output_tokens_per_s_per_user"),
    *("decode_tokens_per_s", "requests_per_s", "devices", "mfu", "mbu", "max_batch", "price_per_million_tokens"),
    *("joules_per_token", "memory.total", "prefill_bound", "decode_bound"),
)
"""Fields of `Metrics` that the rows of a result show."""

LARGE = 2**24
"""Configurations of a space from which on fast code is worth the time that it takes to make."""

MOST_RECENT = 32
"""Tapes, their scalar forms and kernels that are kept for the next scan, at most."""


class Recent:
    """What was made of late, by key; the oldest goes when there are more than `most`."""

    def __init__(self, most: int) -> None:
        self.most, self.held, self.lock = most, {}, threading.Lock()

    def __call__(self, key: Any, make: Callable[[], Any]) -> Any:
        """What belongs to a key: what is there, or what `make` gives."""
        with self.lock:
            found = self.held.pop(key, None)
        found = make() if found is None else found
        with self.lock:
            self.held[key] = found
            while len(self.held) > self.most:
                self.held.pop(next(iter(self.held)))
        return found


RECENT = Recent(MOST_RECENT)

MOST_KEPT = 2**24
"""Inputs of all rows of groups that are kept, all groups together, at most."""


MASKS = {"system": SYSTEM, "efficiency": SYSTEM, "precision": FORMATS}
"""The axes of the tables that rows take their inputs from; the others' is the rows' own."""


@dataclass(frozen=True)
class Source:
    """Where some inputs of a kernel come from: which inputs (`into`), which numbers (`out`) of what the source holds,
    and these as a table [input, entry]."""

    name: str
    into: np.ndarray
    out: np.ndarray
    table: np.ndarray


@dataclass(frozen=True)
class Bound:
    """The kernel of a model, and where the inputs of the rows of a group come from: all `sources`; the `same` lines of
    inputs in which rows do not differ; and the `changes`, sources of the others, which are at the places `differing`
    of all."""

    kernel: Kernel
    tables: dict[str, np.ndarray]
    sources: list[Source]
    same: Lines
    differing: np.ndarray
    changes: list[Source]


@dataclass
class Kernels:
    """The kernels of a scan, made when they are first asked for, or there since another scan: one a model. `results`
    are what they compute, in place of `scores_and_fields`; with `total`, runs leave sums of scores, not the highest.
    `seconds` is what making them all took [s]."""

    prepared: Prepared
    wanted: tuple[str, ...]
    results: Callable[..., list[Any]] | None = None
    total: bool = False
    unfolded: dict[str, Unfolded] = field(default_factory=dict)
    made: dict[str, Kernel] = field(default_factory=dict)
    keys: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    bound: dict[int, Bound] = field(default_factory=dict)
    alone: dict[int, Any] = field(default_factory=dict)
    batches: dict[tuple[str, tuple[int, ...]], Batches] = field(default_factory=dict)
    inputs: dict[tuple[str, int, int], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    kept: int = 0
    lock: Any = field(default_factory=threading.Lock)
    seconds: float = 0.0

    def of(self, index: int) -> Bound:
        """The kernel of a group with the group's inputs."""
        with self.lock:
            if index not in self.bound:
                self.bound[index] = self._bind(index)
            return self.bound[index]

    def make(self) -> None:
        """Makes the kernels of all models. **Raises** `NoKernelError` where there is none."""
        started = time.perf_counter()
        for index, group in enumerate(self.prepared.groups):
            if len(group.rows):
                self.of(index)
        self.seconds = time.perf_counter() - started

    def _bind(self, index: int) -> Bound:
        group = self.prepared.groups[index]
        model, inputs = group_inputs(self.prepared, index)
        real = np.dtype(jnp.result_type(float))
        stacked = _stacked(self.prepared, group, inputs)
        if group.model not in self.made:
            one = {name: jax.tree.map(lambda leaf: leaf[0], tree) for name, tree in stacked.items()}
            self._make(group.model, (model, inputs.engine), one, real)
        tables = {name: _table(stacked[name], real) for name in sorted(stacked)}  # as JAX orders the keys of a dict
        kernel = self.made[group.model]
        found = sources(tables, kernel.inputs)
        differs = np.ones(len(kernel.inputs), bool)
        values = np.zeros((len(kernel.inputs), kernel.target.lanes), real)
        for source in found:
            if source.name != "degrees" and (source.name != "system" or inputs.systems is not None):
                differs[source.into] = np.any(source.table != source.table[:, :1], axis=1)
                values[source.into] = source.table[:, :1]
        same = replace(lines(values), steps=differs.astype(np.int64))
        changes = [_of_places(source, differs) for source in found]
        return Bound(kernel, tables, found, same, np.flatnonzero(differs), changes)

    def _make(self, name: str, fixed: Any, row: dict[str, Any], real: np.dtype) -> None:
        """The kernel of a model, of which each part may be there since another scan."""
        size = np.ones((), real)
        arguments = fixed, row, (size, np.ones((), bool)), size
        leaves, structure = jax.tree.flatten(arguments)
        kinds = tuple((leaf.shape, leaf.dtype.str) for leaf in map(np.asarray, leaves))
        traced = self.results, self.wanted, engine.evaluate, structure, kinds, real.str
        results = self.results or partial(scores_and_fields, self.wanted)
        tape: Tape = RECENT(("tape", *traced), lambda: record(results, *arguments)[0])
        known = [np.asarray(leaf) for leaf in jax.tree.leaves(fixed)]
        rows = [MASKS.get(name, ROW) for name in sorted(row) for _ in jax.tree.leaves(row[name])]
        self.keys[name] = its = *traced, tuple(leaf.tobytes() for leaf in known)
        self.unfolded[name] = program = RECENT(("unfolded", *its), lambda: unfolded(tape, known, rows, 2, real))
        effort = 2 if self.prepared.configurations > LARGE else 0
        scores = list(range(len(self.wanted)))
        batches = len(self.prepared.space.batch)
        self.made[name] = RECENT(
            ("kernel", *its, effort, self.total, for_batches(target(real), batches).lanes),
            lambda: Kernel(program, scores, effort, self.total, batches),
        )

    def metrics(self, index: int, row: np.ndarray, batch: np.ndarray, chunk: np.ndarray) -> dict[str, np.ndarray]:
        """`FIELDS` of configurations of a group by their rows' numbers, batches and chunks."""
        bound, group = self.of(index), self.prepared.groups[index]
        program, first = self.unfolded[group.model], len(self.wanted)
        chosen = program.results[first : first + len(FIELDS)]
        listing: Listing = RECENT(("fields", *self.keys[group.model]), lambda: Listing(program.graph, chosen))
        keys = [column.name for column in listing.columns]
        places = [place for mask, place in keys if mask & ROWS]
        points = self._points(row, group)
        rows = iter(self._inputs(sources(bound.tables, places), len(places), points))
        given = {(BATCH, 0): batch, (BATCH, 1): np.ones(len(batch)), (CHUNK, 0): chunk}
        columns = [next(rows)[: len(row)] if key[0] & ROWS else given[key] for key in keys]
        return dict(zip(FIELDS, listing(columns), strict=True))

    def filled(self, kernel: Kernel, group: Group, part: Part) -> Batches:
        """The batches of a block, with what says which are real."""
        chosen = group.batch[part.batch[0] : part.batch[0] + part.batch[1]]
        key = (group.model, chosen)
        found = self.batches.get(key)
        if found is None:
            size = np.asarray(chosen, kernel.real)
            found = kernel.batches(np.stack([size, np.ones_like(size)]), np.asarray([1, 0]))
            self.batches[key] = found
        return found

    def rows(self, index: int, first: int, count: int) -> Lines:
        """The inputs of `count` rows of a group from the `first` on, filled up to whole vectors. Those that differ
        between the rows of a model are kept, for all its groups, as long as there is room."""
        bound, group = self.of(index), self.prepared.groups[index]
        key = group.model, first, count
        if key not in self.inputs:
            points = self._points(np.arange(first, first + count), group)
            decoded = self._inputs(bound.changes, len(bound.differing), points), changes(points)
            with self.lock:
                if key not in self.inputs and self.kept + decoded[0].size <= MOST_KEPT:
                    self.kept += decoded[0].size
                    self.inputs[key] = decoded
        else:
            decoded = self.inputs[key]
        own = lines(decoded[0])
        addresses = bound.same.addresses.copy()
        addresses[bound.differing] = own.addresses
        held = bound.same.held + own.held
        return replace(bound.same, rows=own.rows, addresses=addresses, held=held, changes=decoded[1])

    def _points(self, numbers: np.ndarray, group: Group) -> Point:
        """Rows of these numbers, filled up to whole vectors."""
        lanes = target(np.dtype(jnp.result_type(float))).lanes
        numbers = numbers[np.minimum(np.arange(-(-len(numbers) // lanes) * lanes), len(numbers) - 1)]
        return point_of(self.prepared, group.rows.take(numbers), np.ones(len(numbers), bool))

    def _inputs(self, sources: list[Source], inputs: int, points: Point) -> np.ndarray:
        """The inputs of rows, [input, row]."""
        indices = {name: getattr(points, name) for name in ("system", "efficiency", "precision")}
        columns = {**indices, "degrees": points.degrees.T}
        return gathered(sources, inputs, columns, len(points.degrees), np.dtype(jnp.result_type(float)))


def changes(points: Point) -> np.ndarray:
    """What each row has that the one before it has not."""
    found = np.full(len(points.degrees), NEW_LAYOUT, np.int64)
    layout = np.all(points.degrees[1:] == points.degrees[:-1], axis=1)
    found[1:][layout] = NEW_FORMATS
    found[1:][layout & (points.precision[1:] == points.precision[:-1])] = NEW_SYSTEM
    return found


def gathered(sources: list[Source], inputs: int, columns: dict[str, Any], count: int, real: np.dtype) -> np.ndarray:
    """The inputs of `count` rows, [input, row], from their `columns`: indices into the tables of the sources, degrees
    and, where rows differ in them, lengths as they are [number, row]; a system of their own as a pytree."""
    rows = np.empty((inputs, count), real)
    for source in sources:
        column = columns.get(source.name)
        if column is None:
            rows[source.into] = source.table
        elif source.name in ("degrees", "lengths"):
            rows[source.into] = column[source.out]
        elif isinstance(column, np.ndarray):
            for into, line in zip(source.into, source.table, strict=True):
                np.take(line, column, out=rows[into], mode="clip")
        else:
            rows[source.into] = _table(column, real)[source.out]
    return rows


def _stacked(prepared: Prepared, group: Group, inputs: Any) -> dict[str, Any]:
    """What rows take their inputs from: pytrees with a leading axis, by name."""
    first = point_of(prepared, group.rows.take(np.zeros(1, np.int64)), np.ones(1, bool))
    return {
        "degrees": first.degrees,
        "efficiency": inputs.efficiencies,
        "lengths": jax.tree.map(lambda leaf: np.asarray(leaf)[None], (inputs.isl, inputs.osl, inputs.slo)),
        "precision": inputs.precisions,
        "system": first.system if inputs.systems is None else inputs.systems,
    }


def sources(tables: dict[str, np.ndarray], places: list[int]) -> list[Source]:
    """Where inputs at some places of a row, among the numbers of all tables in turn, come from."""
    found, first = [], 0
    for name, table in tables.items():
        used = [(into, place - first) for into, place in enumerate(places) if first <= place < first + len(table)]
        if used:
            into, out = (np.asarray(each) for each in zip(*used, strict=True))
            found.append(Source(name, into, out, np.ascontiguousarray(table[out])))
        first += len(table)
    return found


def _of_places(source: Source, chosen: np.ndarray) -> Source:
    """What a source gives for some places, counted among these alone."""
    mine = chosen[source.into]
    into = (np.cumsum(chosen) - 1)[source.into[mine]]
    return replace(source, into=into, out=source.out[mine], table=np.ascontiguousarray(source.table[mine]))


def _table(tree: Any, real: np.dtype) -> np.ndarray:
    """The leaves of a pytree with a leading axis, one number after another, [number, entry]."""
    columns = [np.asarray(leaf).reshape(len(leaf), -1).T.astype(real) for leaf in jax.tree.leaves(tree)]
    return np.concatenate(columns)


def scores_and_fields(wanted: tuple[str, ...], fixed: Any, row: dict[str, Any], batch: Any, chunk: Any) -> list[Any]:
    """Scores of the wanted metrics of one configuration, its `FIELDS`, and its reason, −1 where it is not real."""
    (model, settings), (size, real) = fixed, batch
    hardware = Hardware(row["system"], row["efficiency"], row["precision"], row["degrees"])
    metrics = engine.priced(model, hardware, settings, row["lengths"], size, chunk)
    scores, reason = engine.judged(metrics, real, wanted)
    return [*scores, *(attrgetter(name)(metrics) for name in FIELDS), reason]
