"""How well predictions match measurements: absolute percentage errors, by metric and by side of the split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    return {f"{side}_{when}_{metric}": {key: _round(value) for key, value in row.items()} for metric, row in found.items()}


def fit_section(fit: Fit) -> Report:
    """What the fit says about itself: convergence, factors at a bound, and how much the data say.

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
        },
        "at_bound": {name: _round(fit.efficiency[name]) for name in edge},
        "singular_values": {f"{index:02d}": _round(value) for index, value in enumerate(fit.singular_values)},
    }


def show(reports: Iterable[tuple[str, Report]]) -> None:
    """Print the errors of every group as a table, before and after, train and held out."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="absolute percentage error (mean / median)", title_justify="left")
    for column in ("group", "metric", "rows", "configurations", "train before", "train after", "held out before", "held out after"):
        table.add_column(column, justify="left" if column in ("group", "metric") else "right")
    notes = []
    for name, report in reports:
        for metric in [key.removeprefix("train_after_") for key in report if key.startswith("train_after_")]:
            sides = [report.get(f"{s}_{w}_{metric}", {}) for s in ("train", "held_out") for w in ("before", "after")]
            cells = [f"{s['mape']:.1f} % / {s['median_ape']:.1f} %" if s else "-" for s in sides]
            counts = [f"{sides[1].get(key, 0):.0f} + {sides[3].get(key, 0):.0f}" for key in ("rows", "configurations")]
            table.add_row(name, metric, *counts, *cells)
        about = report["fit"]
        notes.append(
            f"{name}: the data determine {about['combinations_that_the_data_determine']:.0f} combinations of "
            f"{about['factors']:.0f} factors, the rest follows the priors; at a bound: "
            + (", ".join(report["at_bound"]) or "none")
            + ("" if about["converged"] else "; the solver did not converge")
        )
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)


def _round(value: float) -> float:
    """Five significant digits: what a report is good for."""
    return float(f"{value:.5g}")
