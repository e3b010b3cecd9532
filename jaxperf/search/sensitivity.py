"""What limits a configuration: elasticities of latency and throughput to everything that takes time."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..compiling import quick
from ..errors import InputError
from ..load import Name, deployment, efficiency_document_of, engine_document, workload
from ..ops import Scalar
from ..phases.end_to_end import Metrics, evaluate
from ..spec.deployment import Deployment, build_efficiency, build_engine
from ..spec.library import find
from ..spec.model import Model, as_arrays, build_model
from ..spec.system import System, build_system
from ..spec.workload import Workload
from .factors import powers, scaled
from .solve import compiled, value_and_slopes

FACTORS = 32
"""Fields that one call can take the elasticity of; unused slots move nothing."""

MEASURED = ("ttft", "tpot", "output_tokens_per_s")


@dataclass(frozen=True)
class Elasticities:
    """Elasticities d log metric / d log time, by the path of the field that sets the time.

    For a bandwidth or a peak the time is its inverse; for an α or an overhead it is the field itself. `ttft_s` and
    `tpot_s` are homogeneous of degree 1 in all times, so each column sums to 1 and is the share of the latency that the
    field is responsible for; `output_tokens_per_s` sums to −1. `values` are the metrics themselves.
    """

    ttft_s: dict[str, float]
    tpot_s: dict[str, float]
    output_tokens_per_s: dict[str, float]
    values: dict[str, float]

    @property
    def fields(self) -> list[str]:
        """Paths that matter to any metric, the most important to TPOT first."""
        return sorted(self.tpot_s, key=lambda path: (-abs(self.tpot_s[path]), -abs(self.ttft_s[path])))


class _Setting(eqx.Module):
    """A configuration with the powers of every field (see `factors.powers`)."""

    model: Model
    system: System
    system_powers: Any
    deployment: Deployment
    efficiency_powers: Any
    engine_powers: Any
    workload: Workload


def time_fields(document: dict, efficiency: dict) -> tuple[list[str], list[str], np.ndarray]:
    """Fields that set times: paths of the system, paths of the efficiency, and [fields] the sign of the time (−1 where
    the field is a rate)."""
    device = document["device"]
    rates = [f"device.memory.{name}.bandwidth_GBps" for name in device["memory"]]
    rates += [f"device.peak_TFLOPS.{dtype}" for dtype, value in device["peak_TFLOPS"].items() if value]
    rates += [f"fabric.{tier['name']}.bandwidth_GBps" for tier in document["fabric"]]
    alphas = [f"fabric.{tier['name']}.alpha_us" for tier in document["fabric"]]
    times = [name for name in efficiency if name.endswith("_us")]
    return rates + alphas, times, np.array([-1.0] * len(rates) + [1.0] * (len(alphas) + len(times)))


def elasticities(
    model: Name,
    system: Name,
    *,
    isl: float = 1024,
    osl: float = 1024,
    batch: float = 1,
    efficiency: Name = "default",
    engine: Name | None = None,
    **layout: Any,
) -> Elasticities:
    """`Elasticities` of TTFT, TPOT and output tokens per second, through the exact model.

    **Arguments:** names or paths of `model` and `system`, lengths [tokens], `batch`, an `efficiency` by name, further
    arguments as in `jaxperf.deployment`.

    **Raises** `InputError` for names and values that make no sense.
    """
    document = find("system", system).document
    factors = efficiency_document_of(efficiency, os.fspath(system), None if engine is None else os.fspath(engine))
    in_system, in_efficiency, signs = time_fields(document, factors)
    settings = engine_document(engine)
    in_engine = [name for name, value in settings.items() if name.endswith("_us") and value]
    signs = np.concatenate([signs, np.ones(len(in_engine))])
    paths = in_system + [f"efficiency.{name}" for name in in_efficiency] + [f"engine.{name}" for name in in_engine]
    if len(paths) > FACTORS:
        raise InputError(f"{len(paths)} fields set times, but at most {FACTORS} can be measured")
    setting = as_arrays(
        _Setting(
            model=build_model(find("model", model).document),
            system=build_system(document),
            system_powers=powers(document, build_system, tuple(in_system), FACTORS),
            deployment=deployment(model, efficiency=efficiency, engine=engine, system=os.fspath(system), **layout),
            efficiency_powers=_later_powers(factors, build_efficiency, in_efficiency, len(in_system)),
            engine_powers=_later_powers(settings, build_engine, in_engine, len(in_system) + len(in_efficiency)),
            workload=workload(isl, osl, batch),
        )
    )
    values, slopes = _measure(setting)
    table = np.asarray(slopes, float)[: len(paths)] * signs[:, None]
    columns = [dict(zip(paths, map(float, table[:, i]), strict=True)) for i in range(len(MEASURED))]
    kept = [path for path in paths if any(abs(column[path]) > 1e-9 for column in columns)]
    ttft, tpot, tokens = ({path: column[path] for path in kept} for column in columns)
    names = ("ttft_s", "tpot_s", "output_tokens_per_s")
    return Elasticities(ttft, tpot, tokens, dict(zip(names, map(float, np.exp(np.asarray(values))), strict=True)))


def _later_powers(document: dict, build: Callable[[dict], Any], names: list[str], offset: int) -> Any:
    """Powers of a document's fields in the slots from `offset` on, after those of others."""
    tree = powers(document, build, tuple(names), FACTORS - offset)
    return jax.tree.map(lambda row: np.concatenate([np.zeros(offset, np.float32), row]), tree)


def _log_metrics(setting: _Setting, logs: Scalar) -> Scalar:
    deployment = eqx.tree_at(
        lambda d: (d.efficiency, d.engine),
        setting.deployment,
        (
            scaled(setting.deployment.efficiency, setting.efficiency_powers, logs),
            scaled(setting.deployment.engine, setting.engine_powers, logs),
        ),
    )
    metrics: Metrics = evaluate(
        setting.model, scaled(setting.system, setting.system_powers, logs), deployment, setting.workload
    )
    return jnp.log(jnp.stack([getattr(metrics, name) for name in MEASURED]))


@functools.partial(quick, compile_=compiled)
def _measure(setting: _Setting) -> tuple[Scalar, Scalar]:
    logs = jnp.zeros(FACTORS, jnp.result_type(float))
    return value_and_slopes(lambda point: _log_metrics(setting, point), logs)
