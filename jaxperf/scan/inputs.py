"""What the scan's program is called with: specs as stacked arrays, and the rows of a block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..constants import SPILL_KINDS
from ..load import efficiency_document_of
from ..spec.deployment import build_efficiency, build_engine, build_precision, precision_document
from ..spec.documents.engine import OFFLOADED
from ..spec.library import find
from ..spec.model import Model, build_model, without_places
from ..spec.system import build_system, trimmed
from ..spec.workload import Slo
from .engine import Arguments, Inputs, Point, Values
from .enumeration import Points
from .plan import Group, Part, Prepared, Shape
from .reduce import Place
from .space import DEGREES

MOST_STACKED = 1024
"""System variants that all blocks share as one stack; where there are more, rows carry their own."""


def on_host(tree: Any) -> Any:
    """The same pytree with NumPy leaves: floats of the default width, integers as they are."""
    real = np.dtype(jnp.result_type(float))

    def convert(leaf: Any) -> Any:
        array = np.asarray(leaf)
        return array if array.dtype == np.int32 else array.astype(real)

    return jax.tree.map(convert, tree)


def stack(trees: list[Any]) -> Any:
    """Pytrees of equal structure as one with a leading axis, on the host; the last is repeated to a power of two, so
    that spaces of nearly the same size share a program."""
    trees = trees + trees[-1:] * ((1 << (len(trees) - 1).bit_length()) - len(trees))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *[on_host(tree) for tree in trees])


def _engine(prepared: Prepared) -> dict | None:
    name = prepared.space.engine
    return None if name is None else find("engine", name).document


def systems_of(prepared: Prepared, system: np.ndarray, variant: np.ndarray) -> Any:
    """The systems of these variants as one pytree with a leading axis, on the host."""
    settings = _engine(prepared)
    pins = () if settings is None else (*settings["placement"].values(), *settings["offload"])
    spills = any(pin in (*SPILL_KINDS, *OFFLOADED) for pin in pins)
    built = []
    for index in range(len(prepared.hardware.names)):
        mine = variant[system == index] if np.any(system == index) else np.zeros(1, np.int64)
        built.append(build_system(prepared.hardware.document(index, mine)))
    whole: Any = None
    for index, tree in enumerate(trimmed(built, spills)):
        at = system == index
        leaves = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (np.size(leaf),)), on_host(tree))
        if whole is None:
            whole = jax.tree.map(lambda leaf: np.zeros(len(system), leaf.dtype), leaves)
        if np.any(at):
            whole = jax.tree.map(lambda into, leaf, at=at: _put(into, at, leaf), whole, leaves)
    return whole


def _put(into: np.ndarray, at: np.ndarray, values: np.ndarray) -> np.ndarray:
    into[at] = values
    return into


def group_inputs(prepared: Prepared, index: int) -> tuple[Model, Inputs]:
    """The model and shared inputs of a group, on the host; built once."""
    if index not in prepared.inputs:
        prepared.inputs[index] = _group_inputs(prepared, prepared.groups[index])
    return prepared.inputs[index]


def _group_inputs(prepared: Prepared, group: Group) -> tuple[Model, Inputs]:
    """Groups share what they have in common with those that are there: all systems, a model its formats, too."""
    real, space, model = np.dtype(jnp.result_type(float)), prepared.space, prepared.models[group.model]
    lengths = {"isl": np.asarray(group.isl, real), "osl": np.asarray(group.osl, real)}
    known = {prepared.groups[other].model: both for other, both in list(prepared.inputs.items())}
    if group.model in known:
        found, inputs = known[group.model]
        return found, replace(inputs, **lengths)
    kinds = [
        build_precision(precision_document(model.document["precision"], weights, kv, model.document["layer_groups"]))
        for weights, kv in prepared.precisions[group.model]
    ]
    if known:
        inputs = replace(next(iter(known.values()))[1], precisions=stack(kinds), **lengths)
    else:
        names = prepared.hardware.names
        efficiencies = [efficiency_document_of(space.efficiency, name, space.engine) for name in names]
        inputs = Inputs(
            systems=_stacked_systems(prepared),
            efficiencies=stack([build_efficiency(document) for document in efficiencies]),
            precisions=stack(kinds),
            engine=on_host(build_engine(_engine(prepared))),
            slo=on_host(Slo(space.slo_ttft, space.slo_tpot)),
            **lengths,
        )
    documents = [spec.document for spec in prepared.models.values()]
    slots = max(len(document["layer_groups"]) for document in documents)
    built = without_places(build_model(model.document), documents)
    return on_host(eqx.tree_at(lambda m: m.groups, built, built.groups[:slots])), inputs


def _stacked_systems(prepared: Prepared) -> Any:
    """All systems, variant by variant, or None where there are too many."""
    systems, variants = len(prepared.hardware.names), prepared.hardware.variants
    if systems * variants > MOST_STACKED:
        return None
    count = 1 << (systems * variants - 1).bit_length()
    number = np.minimum(np.arange(count), systems * variants - 1)
    return systems_of(prepared, number // variants, number % variants)


def point_of(prepared: Prepared, rows: Points, real: np.ndarray, axes: Any = None) -> Point:
    """Decoded rows as the program takes them."""
    variants = prepared.hardware.variants
    if len(prepared.hardware.names) * variants > MOST_STACKED:
        system = systems_of(prepared, rows.system, rows.variant)
    else:
        system = (rows.system * variants + rows.variant).astype(np.int32)
    return Point(
        system=system,
        efficiency=rows.system.astype(np.int32),
        precision=rows.precision.astype(np.int32),
        degrees=rows.degrees.astype(np.dtype(jnp.result_type(float))),
        real=real,
        axes=axes,
    )


def _values(choices: tuple[int, ...], part: tuple[int, int], slots: int, whole: bool) -> Values:
    """Values of an axis, filled up with repeats that are not real; `whole` where no block has any."""
    at = np.minimum(part[0] + np.arange(slots), len(choices) - 1)
    size = np.asarray(choices)[at].astype(np.dtype(jnp.result_type(float)))
    return Values(size, None if whole else np.arange(slots) < part[1])


def block_arguments(prepared: Prepared, group: Group, part: Part, shape: Shape, axes: bool = False) -> Arguments:
    """The arguments of one block, filled up with repeats that are not real; `axes` where a reduction asks for them."""
    first, count = part.row
    numbers = np.minimum(first + np.arange(shape.points), len(group.rows) - 1)
    rows = group.rows.take(numbers)
    return Arguments(
        points=point_of(
            prepared, rows, np.arange(shape.points) < count, axis_indices(prepared, rows) if axes else None
        ),
        chunks=_values(group.chunk, part.chunk, shape.chunks, whole=False),
        batches=_values(group.batch, part.batch, shape.batches, whole=len(group.batch) % shape.batches == 0),
        place=Place(*(np.int32(n) for n in (first, part.chunk[0], part.batch[0], len(group.batch)))),
    )


def axis_sizes(prepared: Prepared) -> tuple[tuple[str, int], ...]:
    """The axes of a space and how many values each has: chunk, batch, then those of the rows."""
    hard, space = prepared.hardware, prepared.space
    return (
        ("chunk", max(len(group.chunk) for group in prepared.groups)),
        ("batch", len(space.batch)),
        ("system", len(hard.names)),
        ("precision", max(len(found) for found in prepared.precisions.values())),
        *((name, len(getattr(space, name))) for name in DEGREES),
        *((path, len(values)) for path, values in zip(hard.paths, hard.listed, strict=False)),
    )


def axis_indices(prepared: Prepared, rows: Points) -> np.ndarray:
    """Indices of rows' values along the axes of the rows (the third of `axis_sizes` and on), int32 [row, axis]."""
    columns = [rows.system, rows.precision]
    for column, name in enumerate(DEGREES):
        choices = np.asarray(getattr(prepared.space, name))
        order = np.argsort(choices)
        columns.append(order[np.searchsorted(choices[order], rows.degrees[:, column])])
    columns += prepared.hardware.split(rows.variant)[:-1]
    return np.stack(columns, axis=1).astype(np.int32)


def axis_labels(prepared: Prepared, group: Group) -> dict[str, list[Any]]:
    """What the values of each axis are called in a group."""
    hard, space = prepared.hardware, prepared.space
    own = prepared.models[group.model].document["precision"]
    formats = [(w or own["feed_forward"], kv or own["kv_cache"]) for w, kv in prepared.precisions[group.model]]
    return {
        "chunk": list(group.chunk),
        "batch": list(group.batch),
        "system": list(hard.names),
        "precision": [f"{weights}/{kv}" for weights, kv in formats],
        **{name: list(getattr(space, name)) for name in DEGREES},
        **{path: values.tolist() for path, values in zip(hard.paths, hard.listed, strict=False)},
    }


__all__ = [
    "MOST_STACKED",
    "axis_indices",
    "axis_labels",
    "axis_sizes",
    "block_arguments",
    "group_inputs",
    "on_host",
    "point_of",
    "stack",
    "systems_of",
]
