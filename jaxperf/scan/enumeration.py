"""The outer points of a space, never listed: hardware variants, layouts that can exist, formats that differ.

A row is one (hardware, layout, format); rows are numbered, and any run of numbers is decoded to arrays when its block
comes. Their order is a fixed stride through the product, a few neighbours at a time: good and bad layouts mix in every
block, and what rows of a layout share can be computed once for these neighbours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..constants import BLANKET_CLASSES
from ..errors import InputError
from ..native.product import TOGETHER
from ..spec.documents.engine import redundant_experts
from ..spec.library import Spec, find, set_path
from .sampling import draw
from .space import DEGREES, Space

MOST_ROWS = 2**31 - 1


def layouts(
    model: dict, degrees: Sequence[Sequence[int]], most_devices: int, redundant: int = 0
) -> Iterator[tuple[int, int, int, int, int]]:
    """The layouts (tp, pp, ep, cp, attention_dp) that can exist: degrees that divide what they split, no more stages
    than layers, expert parallelism only where there are experts.

    **Arguments:** the `model`'s document; choices for each of the five `degrees`; how many devices an instance may
    have, at most; `redundant` copies of experts.
    """
    groups = model["layer_groups"]
    depth = sum(group["count"] for group in groups)
    experts = [g["feed_forward"]["experts"] + redundant for g in groups if g["feed_forward"]["experts"]]
    heads = [
        g["attention"]["state_value_heads"] or g["attention"]["query_heads"]
        for g in groups
        if g["attention"]["kind"] != "none"
    ]
    for tp, pp, ep, cp, dpa in itertools.product(*degrees):
        ranks = tp * cp * dpa
        if ranks * pp > most_devices or pp > depth or any(count % tp for count in heads):
            continue
        if ep > 1 and (not experts or ranks % ep or any(count % ep for count in experts)):
            continue
        yield tp, pp, ep, cp, dpa


def precisions(space: Space, model: Spec) -> list[tuple[str | None, str | None]]:
    """The (weights, kv) pairs of a space that differ for this model."""
    seen: dict[tuple, tuple[str | None, str | None]] = {}
    own = model.document["precision"]
    for weights, kv in itertools.product(space.weights, space.kv):
        classes = tuple(weights or own[name] for name in BLANKET_CLASSES)
        seen.setdefault((classes, kv or own["kv_cache"]), (weights, kv))
    return list(seen.values())


def chunks(space: Space, isl: int) -> list[int]:
    """The chunk sizes of a space that differ for a prompt of that length [tokens]; the whole prompt is one chunk."""
    return sorted({isl if chunk is None else min(chunk, isl) for chunk in space.chunk})


@dataclass(frozen=True)
class Hardware:
    """The systems of a space and the variants of each: every combination of listed fields with every sample."""

    names: tuple[str, ...]
    documents: tuple[dict, ...]
    paths: tuple[str, ...]
    listed: tuple[np.ndarray, ...]
    samples: np.ndarray

    @property
    def variants(self) -> int:
        """Variants of each system."""
        return math.prod(len(values) for values in self.listed) * len(self.samples)

    def split(self, variant: np.ndarray) -> list[np.ndarray]:
        """For every listed field the index of its value, and last the sample's."""
        indices: list[np.ndarray] = []
        for size in (len(self.samples), *(len(values) for values in reversed(self.listed))):
            variant, index = np.divmod(variant, size)
            indices.append(index)
        return [*indices[:0:-1], indices[0]]

    def values(self, variant: np.ndarray) -> np.ndarray:
        """The fields' values, [variant, path]."""
        *indices, sample = self.split(variant)
        columns = [values[index] for values, index in zip(self.listed, indices, strict=True)]
        return np.column_stack([*columns, self.samples[sample]]) if self.paths else np.zeros((len(variant), 0))

    def document(self, system: int, variant: np.ndarray) -> dict:
        """The document of a system whose fields hold arrays, one entry a variant."""
        changed = self.documents[system]
        for path, column in zip(self.paths, self.values(variant).T, strict=True):
            changed = set_path(changed, path, column)
        return changed


def hardware(space: Space) -> Hardware:
    """The hardware axis of a space."""
    specs = [find("system", name) for name in space.systems]
    return Hardware(
        names=tuple(spec.name for spec in specs),
        documents=tuple(spec.document for spec in specs),
        paths=(*(path for path, _ in space.fields), *(drawn.path for drawn in space.sampling.fields)),
        listed=tuple(np.asarray(values) for _, values in space.fields),
        samples=draw(space.sampling),
    )


@dataclass(frozen=True)
class Points:
    """Decoded rows: index of the system, variant and precision, degrees [row, 5] and their indices in the space."""

    system: np.ndarray
    variant: np.ndarray
    precision: np.ndarray
    degrees: np.ndarray


@dataclass(frozen=True)
class Rows:
    """The rows of one model: of each layout the precisions × the systems that have it × their variants. By number,
    `TOGETHER` of them follow each other as they do there."""

    layouts: tuple[np.ndarray, ...]
    variants: int
    precisions: int

    def __len__(self) -> int:
        return sum(self.variants * len(table) * self.precisions for table in self.layouts)

    @cached_property
    def _all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The layouts of all systems, each once; the systems of each, its own first; where its rows begin, and end."""
        found, which = np.unique(np.concatenate(self.layouts), axis=0, return_inverse=True)
        has = np.zeros((len(found), len(self.layouts)), bool)
        has[which.ravel(), np.repeat(np.arange(len(self.layouts)), [len(table) for table in self.layouts])] = True
        sizes = has.sum(axis=1) * self.variants * self.precisions
        return found, np.argsort(~has, axis=1, kind="stable"), np.concatenate([[0], np.cumsum(sizes)])

    def stride(self) -> int:
        """A step near the golden section of the number of runs of rows and without a common factor with it."""
        count = max(len(self) // TOGETHER, 1)
        step = max(int(count * 0.6180339887498949), 1)
        while math.gcd(step, count) != 1:
            step += 1
        return step

    def take(self, numbers: np.ndarray) -> Points:
        """The rows of these numbers, decoded."""
        layouts, systems, starts = self._all
        runs = len(self) // TOGETHER
        run, rest = np.divmod(numbers.astype(np.int64), TOGETHER)
        place = np.where(run < runs, run * self.stride() % max(runs, 1), run) * TOGETHER + rest
        layout = np.searchsorted(starts, place, side="right") - 1
        rest, variant = np.divmod(place - starts[layout], self.variants)
        has = np.diff(starts)[layout] // (self.variants * self.precisions)
        precision, system = np.divmod(rest, has)
        return Points(systems[layout, system], variant, precision, layouts[layout])


def rows(space: Space, model: Spec, hard: Hardware, formats: int) -> Rows:
    """The rows of a model. **Raises** `InputError` where there are more than 2^31."""
    degrees = [getattr(space, name) for name in DEGREES]
    copies = 0 if space.engine is None else redundant_experts(find("engine", space.engine).document)
    tables = []
    for system in range(len(hard.names)):
        reach = max(np.max(tier["devices"]) for tier in _fabric(hard, system))
        found = list(layouts(model.document, degrees, min(space.max_devices, int(reach)), copies))
        tables.append(np.asarray(found, np.int64).reshape(-1, len(DEGREES)))
    made = Rows(tuple(tables), hard.variants, formats)
    if len(made) > MOST_ROWS:
        raise InputError(f"{space.name}: {model.name} has {len(made):,} layouts and variants; at most {MOST_ROWS:,}")
    return made


def _fabric(hard: Hardware, system: int) -> list[dict]:
    """The fabric of a system; where a tier's reach is itself an axis, with the array of its values."""
    changed = hard.documents[system]
    for path, values in zip(hard.paths, [*hard.listed, *hard.samples.T], strict=True):
        if path.startswith("fabric."):
            changed = set_path(changed, path, values)
    return changed["fabric"]
