"""How well predictions match measurements: absolute percentage errors, by metric and by side of the split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .fit import Fit
from .measurements import Measurement
from .parameters import FACTORS, at_bound

Report = dict[str, dict[str, float | None]]


def errors(measurements: Sequence[Measurement], predicted: Sequence[float]) -> dict[str, dict[str, float]]:
    """By metric and `all`: `rows`, `configurations`, `mape` (mean absolute percentage error, every row counts once),
    `median_ape`, `bias` (mean signed error); errors in percent."""
    metrics = sorted({measured.metric for measured in measurements})
    found = {}
    for metric in [*metrics, "all"]:
        pairs = [(m, p) for m, p in zip(measurements, predicted, strict=True) if metric in (m.metric, "all")]
        if not pairs:
            continue
        signed = np.asarray([100 * (p / m.value - 1) for m, p in pairs])
        found[metric] = {
            "rows": len(pairs),
            "configurations": len({m.configuration for m, _ in pairs}),
            "mape": float(np.mean(np.abs(signed))),
            "median_ape": float(np.median(np.abs(signed))),
            "bias": float(np.mean(signed)),
        }
    return found


def flatten(side: str, when: str, found: dict[str, dict[str, float]]) -> Report:
    """Errors as entries of a calibration's `report`: `{side}_{when}_{metric}: {mape, …}`."""
    return {
        f"{side}_{when}_{metric}": {key: _round(value) for key, value in row.items()} for metric, row in found.items()
    }


def fit_section(fit: Fit, impossible: int) -> Report:
    """What the fit says about itself: convergence, factors at a bound, how much the data say, and how many rows are
    faster than the physical bound (`impossible`: wrong measurements or a wrong description; no factor explains them).

    `singular_values`: of the data's Jacobian in units of the priors' standard deviations, largest first; the count
    above 1 is how many combinations of factors the data determine more sharply than the priors.
    """
    edge = at_bound(fit.efficiency)
    return {
        "fit": {
            "converged": float(fit.converged),
            "factors": float(len(FACTORS)),
            "factors_at_bound": float(len(edge)),
            "combinations_that_the_data_determine": float(sum(value > 1 for value in fit.singular_values)),
            "rows_faster_than_the_physical_bound": float(impossible),
        },
        "at_bound": {name: _round(fit.efficiency[name]) for name in edge},
        "singular_values": {f"{index:02d}": _round(value) for index, value in enumerate(fit.singular_values)},
    }


def _round(value: float) -> float:
    """Five significant digits: what a report is good for."""
    return float(f"{value:.5g}")
