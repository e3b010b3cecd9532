"""The few configurations that a scan keeps, evaluated once more in full: one dict a row, every column with its unit."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..compiling import quick
from ..phases.end_to_end import BOUNDS
from .engine import Point, hardware_of, priced
from .enumeration import Points
from .inputs import group_inputs, point_of
from .native import FIELDS
from .plan import Group, Prepared
from .reduce import sign
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

COLUMN = {metric: column for column, metric in METRICS.items()} | {"devices": "devices"}
"""The column that shows a metric."""

_SLICE = 1024


def _metrics(model: Any, inputs: Any, points: Point, batch: Any, chunk: Any) -> Any:
    def one(point: Point, batch: Any, chunk: Any) -> Any:
        lengths = inputs.isl, inputs.osl, inputs.slo
        metrics = priced(model, hardware_of(inputs, point), inputs.engine, lengths, batch, chunk)
        return {name: attrgetter(name)(metrics) for name in FIELDS}

    return jax.vmap(one)(points, batch, chunk)


_evaluate = quick(_metrics)


def configuration_rows(
    prepared: Prepared, index: int, row: np.ndarray, inner: np.ndarray, scores: dict[str, np.ndarray]
) -> list[dict]:
    """Rows for configurations of a group, by row number and number within the row, in order.

    **Arguments:** the group's `index`; `scores` of these configurations as the scan saw them, which are shown in place
    of those computed again (the two may differ in the last bits).
    """
    found: list[dict] = []
    for start in range(0, len(row), _SLICE):
        part = slice(start, start + _SLICE)
        found += _slice(prepared, index, row[part], inner[part])
    for metric, values in scores.items():
        for shown, value in zip(found, values, strict=True):
            shown[COLUMN[metric]] = type(shown[COLUMN[metric]] or 0.0)(sign(metric) * value)
    return found


def _slice(prepared: Prepared, index: int, row: np.ndarray, inner: np.ndarray) -> list[dict]:
    group, real, count = prepared.groups[index], np.dtype(jnp.result_type(float)), len(row)
    chunk, batch = np.divmod(inner, len(group.batch))
    full = np.minimum(np.arange(_SLICE), count - 1)
    points = group.rows.take(row[full])
    batches = np.asarray(group.batch)[batch[full]].astype(real)
    sizes = np.asarray(group.chunk)[chunk[full]].astype(real)
    if prepared.kernels is not None:
        metrics = prepared.kernels.metrics(index, row, batches[:count], sizes[:count])
    else:
        model, inputs = group_inputs(prepared, index)
        metrics = _evaluate(model, inputs, point_of(prepared, points, np.ones(_SLICE, bool)), batches, sizes)
        metrics = jax.tree.map(np.asarray, metrics)
    values = prepared.hardware.values(points.variant)
    return [_row(prepared, group, points, i, int(sizes[i]), int(batches[i]), values[i], metrics) for i in range(count)]


def _row(
    prepared: Prepared,
    group: Group,
    points: Points,
    i: int,
    chunk: int,
    batch: int,
    values: np.ndarray,
    metrics: Any,
) -> dict:
    weights, kv = prepared.precisions[group.model][points.precision[i]]
    own = prepared.models[group.model].document["precision"]

    def number(value: Any) -> float | None:
        return float(value[i]) if np.isfinite(value[i]) else None

    return {
        "model": group.model,
        "system": prepared.hardware.names[points.system[i]],
        **dict(zip(prepared.hardware.paths, values.tolist(), strict=True)),
        "isl": group.isl,
        "osl": group.osl,
        **{name: int(degree) for name, degree in zip(DEGREES, points.degrees[i], strict=True)},
        "devices": int(metrics["devices"][i]),
        "batch": batch,
        "chunk": chunk,
        "weights": weights or own["feed_forward"],
        "kv": kv or own["kv_cache"],
        **{column: number(metrics[name]) for column, name in METRICS.items()},
        "memory_bytes": number(metrics["memory.total"]),
        "prefill_bound": BOUNDS[int(metrics["prefill_bound"][i])],
        "decode_bound": BOUNDS[int(metrics["decode_bound"][i])],
    }
