"""Measurements as arrays: rows that `evaluate` is mapped over, padded so that few shapes are compiled."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..compiling import mapped
from ..phases.end_to_end import evaluate
from ..spec.deployment import (
    Deployment,
    Efficiency,
    Engine,
    Parallelism,
    Precision,
    build_engine,
    build_precision,
    precision_document,
)
from ..spec.library import find
from ..spec.model import Model, as_arrays, build_model
from ..spec.options import Options
from ..spec.system import System, build_system
from ..spec.workload import Workload
from .measurements import METRICS, Measurement

LEAST_ROWS = 128
"""Rows are padded to this number times a power of two."""

SMALL_TABLE = 2048
QUICK = {"xla_backend_optimization_level": 0}
"""Options under which XLA compiles in half the time; a program of few rows gains nothing from better code."""

PATIENCE = 3e-3
"""About what compiling takes under them for each instruction [s]."""


class Row(eqx.Module):
    """One measurement: what to evaluate, the index of its metric, log seconds, weight (0 = padding)."""

    model: Model
    system: System
    parallelism: Parallelism
    precision: Precision
    engine: Engine
    workload: Workload
    metric: Any
    log_value: Any
    weight: Any


@functools.lru_cache(maxsize=256)
def _model(name: str) -> Any:
    return build_model(find("model", name).document)


@functools.lru_cache(maxsize=256)
def _system(name: str) -> Any:
    return build_system(find("system", name).document)


@functools.lru_cache(maxsize=1024)
def _precision(model: str, weights: str | None, kv: str | None) -> Any:
    document = find("model", model).document
    return build_precision(precision_document(document["precision"], weights, kv, document["layer_groups"]))


@functools.lru_cache(maxsize=1024)
def _engine(name: str | None, chunk: int | None) -> Any:
    return build_engine(None if name is None else find("engine", name).document, chunk)


def _row(measured: Measurement) -> Row:
    prompts = measured.batch if measured.prefill_batch is None else measured.prefill_batch
    return Row(
        model=_model(measured.model),
        system=_system(measured.system),
        parallelism=Parallelism(measured.tp, measured.pp, measured.ep, measured.cp, measured.attention_dp),
        precision=_precision(measured.model, measured.weights, measured.kv),
        engine=_engine(measured.engine, measured.chunk),
        workload=Workload(measured.isl, measured.osl, measured.batch, prompts),
        metric=np.asarray(list(METRICS).index(measured.metric), np.int32),
        log_value=math.log(measured.value),
        weight=1.0,
    )


def distinct(measurements: Sequence[Measurement]) -> list[Measurement]:
    """One row for all repeats of a configuration, output length and metric: their geometric mean. So a configuration
    that was measured often does not count more."""
    repeats: dict[Measurement, list[Measurement]] = {}
    for measured in measurements:
        repeats.setdefault(replace(measured, value=1.0, line=0), []).append(measured)
    return [
        replace(same[0], value=math.exp(sum(math.log(m.value) for m in same) / len(same))) for same in repeats.values()
    ]


def _alike(rows: list[Row]) -> list[Row]:
    """The rows with engine options in all of them where one has any, so that they stack."""
    if all(row.engine.options is None for row in rows):
        return rows
    return [replace(row, engine=replace(row.engine, options=row.engine.options or Options())) for row in rows]


def stack(measurements: Sequence[Measurement]) -> Row:
    """Rows with a leading axis, padded with copies of weight 0."""
    rows = _alike([_row(measured) for measured in measurements])
    size = LEAST_ROWS * 2 ** max(0, math.ceil(math.log2(len(rows) / LEAST_ROWS)))
    rows += [eqx.tree_at(lambda row: row.weight, rows[0], 0.0)] * (size - len(rows))

    def together(*leaves: Any) -> Any:
        values = np.asarray(leaves)
        return jnp.asarray(values) if values.dtype == np.int32 else as_arrays(values)

    host = [jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, row) for row in rows]
    return jax.tree.map(together, *host)


def row_time(row: Row, efficiency: Efficiency) -> Any:
    """Predicted seconds of one row's metric."""
    deployment = Deployment(row.parallelism, row.precision, row.engine, efficiency)
    metrics = evaluate(row.model, row.system, deployment, row.workload)
    times = [getattr(metrics, field) for field in METRICS.values()]
    return jnp.select([row.metric == index for index in range(len(times))], times)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of stacked rows and more, compiled: fast to compile for a small table, fast to run for a large one."""
    hasty, thorough = jax.jit(function, compiler_options=QUICK), jax.jit(function)

    def choose(rows: Row, *others: Any) -> Any:
        return (hasty if rows.weight.size <= SMALL_TABLE else thorough)(rows, *others)

    return choose


_times = mapped(row_time, (0, None), compile_=compiled, patience=PATIENCE)


def predicted_times(measurements: Sequence[Measurement], efficiency: Efficiency) -> np.ndarray:
    """Predicted seconds of every measurement at one efficiency (plain numbers or arrays), in float64."""
    if not measurements:
        return np.zeros(0)
    asked = [replace(m, value=1.0, line=0, deployment=None) for m in measurements]
    places = {question: index for index, question in enumerate(dict.fromkeys(asked))}
    with jax.enable_x64(True):
        times = np.asarray(_times(stack(list(places)), as_arrays(efficiency)))
    return times[[places[question] for question in asked]]
