"""A function of (fixed, row, batch, chunk) as a kernel over their product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..tape import Tape
from .across import REASONS
from .graph import BATCH, CHUNK, KINDS, Graph
from .jit import Library, for_batches, library, target
from .levels import ATTRIBUTES, Wanted, computed, flops, levels, steps
from .product import module
from .rows import ROW_ARGUMENTS
from .segments import SEGMENT_ARGUMENTS, segments_function
from .tiles import RUN, TILE_ARGUMENTS, most_vectors
from .unfold import unfold

NEW_LAYOUT, NEW_FORMATS, NEW_SYSTEM = 0, 1, 2
"""What a row has that the row before it has not: in inputs of `graph.ROW`, of `graph.FORMATS`, of `graph.SYSTEM`."""


LARGE = 2**16
"""Batches, more than which need not be told apart."""


@dataclass(frozen=True)
class Lines:
    """Inputs of neighbouring `rows`, filled up to whole vectors: for each the address of its line of reals, and the
    `steps` from a row's to the next one's, 0 where all rows have the same; the line is then one vector of it. `held` is
    what the addresses point into. `changes` says of each row what it has that the one before has not: `NEW_LAYOUT`,
    where all inputs may differ, `NEW_FORMATS`, where formats and the system may, or `NEW_SYSTEM`."""

    rows: int
    addresses: np.ndarray
    steps: np.ndarray
    held: tuple[np.ndarray, ...]
    changes: np.ndarray


def lines(table: np.ndarray) -> Lines:
    """The lines of a table [input, row], of rows that have nothing in common."""
    if table.strides[1] != table.itemsize:
        raise ValueError("neighbouring rows must stand side by side")
    inputs, rows = table.shape
    addresses = table.ctypes.data + table.strides[0] * np.arange(inputs, dtype=np.int64)
    return Lines(rows, addresses, np.ones(inputs, np.int64), (table,), np.full(rows, NEW_LAYOUT, np.int64))


@dataclass(frozen=True)
class Shared:
    """What a kernel computed for some rows: entries `live` of each row, `chunk_live` of each of its `chunks`, and what
    `changes` from row to row (see `Lines`)."""

    rows: int
    chunks: int
    live: np.ndarray
    chunk_live: np.ndarray
    changes: np.ndarray


@dataclass(frozen=True)
class Batches:
    """The batches of a product, filled up to whole stretches: each batch-level input [input, batches]; `vectors` of a
    stretch; how many `runs` there are, `per_stretch`, of `length` batches each."""

    values: np.ndarray
    vectors: int
    runs: int
    per_stretch: int
    length: int


@dataclass(frozen=True)
class Heights:
    """What a kernel leaves of a block: the highest score of each run, [score, row, chunk, run]; how often each code
    from −1 on occurs; where asked for, all scores [score, row, chunk, batch] and codes [row, chunk, batch]."""

    highest: np.ndarray
    counts: np.ndarray
    scores: np.ndarray | None = None
    reasons: np.ndarray | None = None


@dataclass(frozen=True)
class Unfolded:
    """A tape for one model: its graph and the nodes of its results."""

    graph: Graph
    results: list[int]


def unfolded(tape: Tape, fixed: list[Any], rows: Sequence[int], batches: int, real: np.dtype) -> Unfolded:
    """The scalar form of a tape whose arguments are the leaves of what is `fixed` (numbers known now), of `rows` (the
    mask of each), of `batches` (how many), and one chunk size, in this order. An input's place counts the numbers of
    rows, of batches and of chunks.

    **Raises** `NoKernelError` where there is none.
    """
    graph = Graph(real, reciprocals=True)
    arguments: list[np.ndarray] = []
    for number, leaf in enumerate(fixed):
        value = np.asarray(leaf)
        value = value.astype(real) if value.dtype.kind == "f" else value
        nodes = [graph.given(each, (number, index)) for index, each in enumerate(value.ravel())]
        arguments.append(np.asarray(nodes, np.int64).reshape(value.shape))
    for masks in (rows, [BATCH] * batches, [CHUNK]):
        place = 0
        for mask in masks:
            number = len(arguments)
            kind, shape = KINDS[np.dtype(tape.types[number]).kind], tape.shapes[number]
            nodes = [graph.input(place + index, mask, kind) for index in range(math.prod(shape))]
            arguments.append(np.asarray(nodes, np.int64).reshape(shape))
            place += len(nodes)
    return Unfolded(graph, [int(nodes) for nodes in unfold(graph, tape, arguments)])


class Kernel:
    """Scores and a code as machine code over the product of rows, chunks and batches, for one model.

    `inputs` are the places of the rows' inputs that it reads. Of the results, those of `scores` and the last are
    computed. `effort` is LLVM's (see `jit.library`). `flops` are those of a row, of a chunk of a row, of a batch of a
    layout, of its formats and of a row (see `levels.steps`), and of each configuration besides, and `nodes` the
    operations of these loops. With `total`, runs leave sums of scores in place of the highest. There will be so many
    `batches`.
    """

    def __init__(
        self, program: Unfolded, scores: list[int], effort: int = 2, total: bool = False, batches: int = LARGE
    ) -> None:
        graph = program.graph
        self.real, self.target = graph.real, target(graph.real)
        self.of_tiles = for_batches(self.target, batches)
        self.scores = len(scores)
        chosen, reason = [program.results[index] for index in scores], program.results[-1]
        found = levels(graph, [*chosen, reason])
        wanted = Wanted(graph, found, chosen, reason)
        self.inputs = sorted({graph.operands[node][0] for node in found.row if graph.names[node] == "input"})
        self.live, self.chunk_live = max(len(found.inner_live), 1), max(len(found.chunk_live), 1)
        self.given = np.asarray([graph.values[node] for node in found.given] or [0], self.real)
        places = {place: index for index, place in enumerate(self.inputs)}
        text = module(wanted, places, self.target, self.of_tiles, total)
        self.library: Library = library(text, ("rows", "tiles", "listed"), effort)
        loops = {name: computed(graph, getattr(found, name)) for name in ("row", "chunk", "each")}
        parts = steps(graph, found, [])["batch"]
        loops |= {name: nodes for name, (nodes, _) in zip(("layout", "formats", "batch"), parts, strict=True)}
        self.flops = {name: flops(graph, nodes) for name, nodes in loops.items()}
        self.nodes = {name: len(nodes) for name, nodes in loops.items()}
        self._sorted = partial(_sorted_library, wanted, effort)

    def share(self, rows: Lines, count: int, chunks: np.ndarray) -> Shared:
        """Computes what belongs to rows, and to chunks of rows.

        **Arguments:** the inputs of the `rows` that the kernel reads, of which `count` are real; the `chunks`' sizes.
        """
        if rows.rows % self.target.lanes or len(rows.addresses) != len(self.inputs):
            raise ValueError("rows must be filled up to whole vectors, and have all inputs")
        if any(held.dtype != self.real for held in rows.held):
            raise ValueError(f"rows must be {self.real}")
        live = np.empty(rows.rows * self.live, self.real)
        chunk_live = np.empty(rows.rows * len(chunks) * self.chunk_live, self.real)
        arrays = {"lines": rows.addresses, "steps": rows.steps, "given": self.given, "live": live}
        arrays |= {"chunk_values": np.ascontiguousarray(chunks, self.real), "chunk_live": chunk_live}
        given = {"count": count, "chunks": len(chunks)}
        given |= {name: array.ctypes.data for name, array in arrays.items()}
        arguments = np.asarray([given[name] for name in ROW_ARGUMENTS], np.int64)
        self.library.functions["rows"](arguments.ctypes.data)
        return Shared(count, len(chunks), live, chunk_live, np.ascontiguousarray(rows.changes, np.int64))

    def segments(
        self,
        shared: Shared,
        words: np.ndarray,
        begins: np.ndarray,
        rows: np.ndarray,
        bits: tuple[int, int],
        everything: bool = False,
    ) -> Heights:
        """Configurations by their words, segment by segment: the highest scores of each segment, [score, segment], and
        counts by code; all scores, [score, word], and codes, [word], where `everything` is asked for.

        **Arguments:** what the kernel `shared` of the rows; the `words`, int64, with as many spare ones behind them in
        the same memory as a vector has; where the words of each segment begin, and their end; the row of each, int64;
        how many `bits` of a word the batch has, and the chunk's index above them.
        """
        lanes, segments = self.target.lanes, len(rows)
        highest, counts = np.empty((self.scores, segments), self.real), np.zeros(REASONS, np.int64)
        arrays = {"given": self.given, "live": shared.live, "chunk_live": shared.chunk_live, "words": words}
        arrays |= {"begins": begins, "rows": rows, "highest": highest, "counts": counts}
        given = {"chunks": shared.chunks, "batch_bits": bits[0], "chunk_bits": bits[1], "segments": segments}
        scores = reasons = None
        if everything:
            length = len(words) + lanes
            full, codes = np.empty((self.scores, length), self.real), np.empty(length, np.int8)
            arrays |= {"scores": full, "reasons": codes}
            given["score_metric"] = length
            scores, reasons = full[:, : len(words)], codes[: len(words)]
        given |= {name: array.ctypes.data for name, array in arrays.items()}
        arguments = np.asarray([given.get(name, 0) for name in SEGMENT_ARGUMENTS], np.int64)
        self._sorted().functions["segments"](arguments.ctypes.data)
        return Heights(highest, counts, scores, reasons)

    def batches(self, values: np.ndarray, filling: np.ndarray) -> Batches:
        """The batch-level inputs, [input, batch], filled up to whole runs."""
        lanes, count = self.of_tiles.lanes, values.shape[1]
        vectors = min(-(-count // lanes), most_vectors(self.of_tiles))
        stretch = vectors * lanes
        length = RUN if stretch > RUN else stretch
        full = np.empty((values.shape[0], -(-count // stretch) * stretch), self.real)
        full[:, :count] = values
        full[:, count:] = filling[:, None]
        return Batches(full, vectors, full.shape[1] // length, stretch // length, length)

    def _tiles(self, name: str, shared: Shared, batches: Batches, given: dict[str, int], keep: tuple[Any, ...]) -> None:
        common = {
            "given": self.given.ctypes.data,
            "live": shared.live.ctypes.data,
            "chunk_live": shared.chunk_live.ctypes.data,
            "chunks": shared.chunks,
            "batch_values": batches.values.ctypes.data,
            "vectors": batches.vectors,
        }
        everything = dict.fromkeys(TILE_ARGUMENTS, 0) | common | given
        arguments = np.asarray([*(everything[name] for name in TILE_ARGUMENTS), batches.values.shape[1]], np.int64)
        self.library.functions[name](arguments.ctypes.data)
        del keep

    def block(self, shared: Shared, batches: Batches, everything: bool = False) -> Heights:
        """All configurations of some rows: the highest scores of their runs, counts by code, and `everything` where it
        is asked for."""
        shape = (self.scores, shared.rows, shared.chunks, batches.runs)
        highest = np.empty(shape, self.real)
        counts = np.zeros(REASONS, np.int64)
        given = {
            "heights": highest.ctypes.data,
            "height_metric": int(np.prod(shape[1:])),
            "counts": counts.ctypes.data,
            "rows": shared.rows,
            "stretches": batches.runs // batches.per_stretch,
            "runs": batches.runs,
            "changes": shared.changes.ctypes.data,
        }
        scores = reasons = None
        if everything:
            full = (*shape[:3], batches.values.shape[1])
            scores, reasons = np.empty(full, self.real), np.empty(full[1:], np.int8)
            given |= {
                "scores": scores.ctypes.data,
                "score_metric": int(np.prod(full[1:])),
                "reasons": reasons.ctypes.data,
            }
        self._tiles("tiles", shared, batches, given, (highest, counts, scores, reasons))
        return Heights(highest, counts, scores, reasons)

    def listed(
        self, shared: Shared, batches: Batches, row: np.ndarray, chunk: np.ndarray, run: np.ndarray
    ) -> np.ndarray:
        """All scores of some runs, [score, run, batch of the run]."""
        stretch, part = np.divmod(run, batches.per_stretch)
        listed = [np.ascontiguousarray(each, np.int64) for each in (row, chunk, stretch)]
        count, length = len(listed[0]), batches.per_stretch * batches.length
        scores, reasons = np.empty((self.scores, count, length), self.real), np.empty((count, length), np.int8)
        heights, counts = np.empty((self.scores, count, batches.per_stretch), self.real), np.zeros(REASONS, np.int64)
        given = {
            "heights": heights.ctypes.data,
            "height_metric": count * batches.per_stretch,
            "counts": counts.ctypes.data,
            "scores": scores.ctypes.data,
            "score_metric": count * length,
            "reasons": reasons.ctypes.data,
            "rows": count,
            "listed_rows": listed[0].ctypes.data,
            "listed_chunks": listed[1].ctypes.data,
            "listed_stretches": listed[2].ctypes.data,
        }
        self._tiles("listed", shared, batches, given, (listed, heights, counts, scores, reasons))
        if batches.per_stretch == 1:
            return scores
        return scores.reshape(self.scores, count, -1, batches.length)[:, np.arange(count), part]


def _sorted_library(wanted: Wanted, effort: int) -> Library:
    """The code for sorted words: made when it is first asked for."""
    declared: set[str] = set()
    body = segments_function(wanted, target(wanted.graph.real), declared)
    return library("\n".join([body, *sorted(declared), ATTRIBUTES, ""]), ("segments",), effort)
