"""The few configurations that a scan keeps, evaluated once more in full: one dict a row, every column with its unit."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np

from ..phases.end_to_end import BOUNDS, evaluate
from .engine import Group, Point, Prepared, Shape, configuration, group_inputs
from .space import DEGREES

METRICS = {
    "ttft_s": "ttft",
    "tpot_s": "tpot",
    "e2e_s": "e2e",
    "output_tokens_per_s": "output_tokens_per_s",
    "output_tokens_per_s_per_device": "output_tokens_per_s_per_device",
    "output_tokens_per_s_per_user": "output_tokens_per_s_per_user",
    "decode_tokens_per_s": "decode_tokens_per_s",
    "requests_per_s": "requests_per_s",
    "mfu": "mfu",
    "mbu": "mbu",
    "max_batch": "max_batch",
    "price_per_million_tokens_USD": "price_per_million_tokens",
    "joules_per_token": "joules_per_token",
}
"""Columns of a row and the fields of `Metrics` that they show."""

_SLICE = 256


@eqx.filter_jit
def _metrics(model: Any, inputs: Any, points: Point, batch: Any, chunk: Any) -> Any:
    def one(point: Point, batch: Any, chunk: Any) -> Any:
        system, deployment, workload = configuration(inputs, point, batch, chunk)
        return evaluate(model, system, deployment, workload)

    return jax.vmap(one)(points, batch, chunk)


def configuration_rows(prepared: Prepared, group: Group, shape: Shape, places: list[tuple[int, int]]) -> list[dict]:
    """Rows for places (block, index in the block) of a group, in order."""
    if not places:
        return []
    model, inputs = group_inputs(prepared, group)
    real = np.dtype(inputs.isl.dtype)
    decoded = []
    for number, index in places:
        rows_of_block, chunks_of_block = group.part(number, shape)
        point, inner = divmod(index, shape.chunks * len(group.batch))
        chunk, batch = divmod(inner, len(group.batch))
        decoded.append((rows_of_block[point], chunks_of_block[chunk], group.batch[batch]))
    rows: list[dict] = []
    for start in range(0, len(decoded), _SLICE):
        part = decoded[start : start + _SLICE]
        full = part + [part[-1]] * (_SLICE - len(part))
        points = Point(
            system=np.asarray([row[0] for row, _, _ in full], np.int32),
            precision=np.asarray([row[1] for row, _, _ in full], np.int32),
            degrees=np.asarray([row[2] for row, _, _ in full], real),
            real=np.ones(_SLICE, bool),
        )
        batches = np.asarray([batch for _, _, batch in full], real)
        sizes = np.asarray([chunk for _, chunk, _ in full], real)
        metrics = jax.tree.map(np.asarray, _metrics(model, inputs, points, batches, sizes))
        rows += [_row(prepared, group, row, chunk, batch, metrics, i) for i, (row, chunk, batch) in enumerate(part)]
    return rows


def _row(
    prepared: Prepared,
    group: Group,
    row: tuple[int, int, tuple[int, ...]],
    chunk: int,
    batch: int,
    metrics: Any,
    i: int,
) -> dict:
    point = prepared.points[row[0]]
    weights, kv = prepared.precisions[group.model][row[1]]
    own = prepared.models[group.model].document["precision"]

    def number(value: Any) -> float | None:
        return float(value[i]) if np.isfinite(value[i]) else None

    return {
        "model": group.model,
        "system": point.name,
        **dict(point.values),
        "isl": group.isl,
        "osl": group.osl,
        **dict(zip(DEGREES, row[2], strict=True)),
        "devices": int(metrics.devices[i]),
        "batch": batch,
        "chunk": chunk,
        "weights": weights or own["feed_forward"],
        "kv": kv or own["kv_cache"],
        **{column: number(getattr(metrics, name)) for column, name in METRICS.items()},
        "memory_bytes": number(metrics.memory.total),
        "prefill_bound": BOUNDS[int(metrics.prefill_bound[i])],
        "decode_bound": BOUNDS[int(metrics.decode_bound[i])],
    }
