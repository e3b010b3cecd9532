"""The relaxed objective: one differentiable scalar of a point in logarithmic coordinates.

Every problem is a `Case` of arrays of the same shape, whatever is free, constrained or sought, so one compiled program
serves all of them."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..ops import EXACT, Ops, Scalar, Smooth
from ..phases.end_to_end import Metrics, evaluate
from ..spec.deployment import Deployment, Parallelism
from ..spec.model import Model
from ..spec.system import System
from ..spec.workload import Workload
from .factors import scaled

LAYOUT = ("tp", "pp", "ep", "cp", "attention_dp", "batch", "chunk")
"""The discrete variables, in the order of every array of values."""

METRICS = {
    "ttft_s": ("ttft", 1),
    "tpot_s": ("tpot", 1),
    "e2e_s": ("e2e", 1),
    "prefill_s": ("ttft", 1),
    "decode_step_s": ("tpot", 1),
    "output_tokens_per_s": ("output_tokens_per_s", -1),
    "output_tokens_per_s_per_device": ("output_tokens_per_s_per_device", -1),
    "output_tokens_per_s_per_user": ("output_tokens_per_s_per_user", -1),
    "decode_tokens_per_s": ("decode_tokens_per_s", -1),
    "requests_per_s": ("requests_per_s", -1),
    "price_per_million_tokens": ("price_per_million_tokens", 1),
    "joules_per_token": ("joules_per_token", 1),
    "devices": ("devices", 1),
    "mfu": ("mfu", -1),
    "mbu": ("mbu", -1),
    "max_batch": ("max_batch", -1),
}
"""Metrics by their name in results: the field of `Metrics`, and 1 where less is better, −1 where more is."""

UNLIMITED = 80.0  # logarithm of a limit that no metric reaches


class Case(eqx.Module):
    """A problem as arrays. `objective` [metrics] is one-hot with the sign of what is minimised; `upper` and `lower`
    [metrics] are logarithms of limits; `devices` the limit; `exponents` as in `factors.powers`; `budgeted` [slots] is 1
    for hardware fields that share the budget, `full` [slots] the logarithm of the multiple that the whole budget buys.
    """

    model: Model
    system: System
    exponents: Any
    deployment: Deployment
    workload: Workload
    objective: Scalar
    upper: Scalar
    lower: Scalar
    devices: Scalar
    budgeted: Scalar
    full: Scalar


def metrics_at(case: Case, values: Scalar, logs: Scalar, ops: Ops = EXACT) -> Metrics:
    """`Metrics` of a point: `values` [len(LAYOUT)] of the layout, `logs` [slots] of the hardware's multiples."""
    tp, pp, ep, cp, attention_dp, batch, chunk = [values[index] for index in range(len(LAYOUT))]
    layout = Parallelism(tp, pp, ep, cp, attention_dp, case.deployment.parallelism.replicas)
    deployment = eqx.tree_at(lambda d: (d.parallelism, d.engine.chunk), case.deployment, (layout, chunk))
    workload = eqx.tree_at(lambda w: w.batch, case.workload, batch)
    return evaluate(case.model, scaled(case.system, case.exponents, logs), deployment, workload, ops)


def log_metrics(metrics: Metrics) -> Scalar:
    """[metrics] logarithms in the order of `METRICS`; 0 for what the system does not state (a price)."""
    values = jnp.stack([getattr(metrics, field) for field, _ in METRICS.values()])
    known = jnp.isfinite(values)
    return jnp.where(known, jnp.log(jnp.maximum(jnp.where(known, values, 1.0), 1e-30)), 0.0)


def excesses(case: Case, metrics: Metrics, logs: Scalar) -> Scalar:
    """Logarithms of how far every limit is exceeded, ≤ 0 where it holds: memory, devices, reach, targets, metrics."""
    slo = case.workload.slo
    ratios = jnp.stack(
        [
            metrics.memory.total / metrics.memory.usable,
            metrics.devices / case.devices,
            metrics.devices / case.system.reach,
            metrics.ttft / slo.ttft,
            metrics.tpot / slo.tpot,
        ]
    )
    return jnp.concatenate([jnp.log(jnp.maximum(ratios, 1e-30)), logs - case.upper, case.lower - logs])


def hardware_logs(case: Case, free: Scalar) -> Scalar:
    """Multiples [slots] from the free coordinates: themselves, or a softmax split of the budget."""
    shares = jax.nn.log_softmax(jnp.where(case.budgeted > 0, free, -1e6))
    return jnp.where(case.budgeted > 0, case.full + shares, free)


def relaxed(case: Case, point: Scalar, temperature: Scalar, weight: Scalar) -> Scalar:
    """The relaxed objective: sign·log metric + weight·Σ τ·softplus(excess/τ).

    **Arguments:** `point` [len(LAYOUT) + slots]: log2 of the layout's values, then the hardware's coordinates; the
    `temperature` τ of `Smooth` and of the penalty; the penalty's `weight`. ep is held to the ranks of a stage.
    """
    values = jnp.exp2(point[: len(LAYOUT)])
    ranks = values[0] * values[3] * values[4]
    values = jnp.concatenate([values[:2], jnp.minimum(values[2:3], ranks[None]), values[3:]])
    metrics = metrics_at(case, values, hardware_logs(case, point[len(LAYOUT) :]), Smooth(temperature))
    logs = log_metrics(metrics)
    over = temperature * jax.nn.softplus(excesses(case, metrics, logs) / temperature)
    return jnp.sum(case.objective * logs) + weight * jnp.sum(over)


def relaxed_logs(case: Case, point: Scalar, temperature: Scalar) -> Scalar:
    """Logarithms of the relaxed metrics, then of the excesses over limits, at log2 of the layout's values and
    logarithms of the hardware's multiples (the objective without its penalty, and what the penalty acts on)."""
    metrics = metrics_at(case, jnp.exp2(point[: len(LAYOUT)]), point[len(LAYOUT) :], Smooth(temperature))
    logs = log_metrics(metrics)
    return jnp.concatenate([logs, excesses(case, metrics, logs)])


def scored(case: Case, values: Scalar, logs: Scalar) -> tuple[Scalar, Scalar]:
    """The exact objective (sign·log metric) of a point, and how far it is from feasible (0 where it is)."""
    metrics = metrics_at(case, values, logs)
    of_metrics = log_metrics(metrics)
    over = jnp.sum(jnp.maximum(excesses(case, metrics, of_metrics), 0.0))
    structural = (metrics.reason >= 1) & (metrics.reason <= 5)
    over = jnp.where(metrics.reason > 0, jnp.maximum(over, 1e-6), over) + jnp.where(structural, 100.0, 0.0)
    return jnp.sum(case.objective * of_metrics), over
