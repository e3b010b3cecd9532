"""Calibration: measured latencies in, an `Efficiency` for each system and engine out, with its held-out error."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..callable_module import make_callable
from ..errors import InputError
from ..load import efficiency_document_of
from ..spec.deployment import IDEAL, build_efficiency
from ..spec.library import find, save, validate
from . import report
from .fit import fit
from .measurements import COLUMNS, Measurement, read_table
from .rows import predicted_times

__all__ = ["COLUMNS", "Calibration", "Measurement", "calibrate", "predict", "read_table", "split"]

GROUPS = ("system", "engine")
"""What a calibration's groups may differ in."""

LEAST_CONFIGURATIONS = 3
"""Configurations of a group below which none is held out."""


@dataclass(frozen=True)
class Calibration:
    """A calibration in its JSON form; `held_out` are the measurements that took no part in the fit."""

    document: dict[str, Any]
    held_out: list[Measurement]

    def __repr__(self) -> str:
        lines = []
        for group in self.document["groups"]:
            after = {k: v["mape"] for k, v in group["report"].items() if k.startswith("held_out_after_")}
            said = ", ".join(f"{k.removeprefix('held_out_after_')} {v:.1f} %" for k, v in after.items())
            lines.append(f"  {group['system']} with {group['engine']}: held-out MAPE {said or 'not measured'}")
        return "Calibration(\n" + "\n".join(lines) + "\n)"

    def save(self, path: str | os.PathLike) -> None:
        """Write the JSON file, whole or not at all."""
        save(self.document, path)


def calibrate(
    table: str | os.PathLike | Sequence[Measurement],
    *,
    group_by: Sequence[str] = GROUPS,
    holdout: float = 0.2,
    seed: int = 0,
    start: str = "default",
    name: str = "calibration",
    source: str | None = None,
) -> Calibration:
    """Fit one `Efficiency` to each group of a table of measurements.

    **Arguments:**

    - `table`: a CSV file (see `COLUMNS`) or measurements.
    - `group_by`: which of system and engine have factors of their own.
    - `holdout`: share of the configurations of each group that take no part in the fit, 0 to 0.9; `seed` picks them.
    - `start`: the efficiency at which fit and priors begin.
    - `name` of the calibration; `source`: which rows of a public collection to take.

    **Returns:** a `Calibration` whose groups report the errors before and after, train and held out. The factors are
    those of the train side, so that the held-out errors are theirs.

    **Raises** `InputError` for a bad table or argument.
    """
    for key in group_by:
        if key not in GROUPS:
            raise InputError(f"group-by: '{key}' is no column to group by; choose among {', '.join(GROUPS)}")
    if not 0 <= holdout <= 0.9:
        raise InputError(f"holdout: {holdout} is out of range; choose a share from 0 to 0.9")
    given = isinstance(table, (str, os.PathLike))
    measurements = read_table(table, source) if given else list(table)
    if not measurements:
        raise InputError("calibrate: the table holds no measurement")
    origin = Path(table).name if given else f"{len(measurements)} measurements"
    if source is not None:
        origin += f", rows of {source}"

    groups, held_out = [], []
    for key, members in sorted(_grouped(measurements, group_by).items(), key=str):
        train, held = split(members, holdout, seed)
        system, engine = key
        groups.append(_fit_group(system, engine, train, held, start))
        held_out += held
    document = {
        "kind": "calibration",
        "name": name,
        "groups": groups,
        "note": f"{holdout:g} of the configurations held out, seed {seed}; errors in percent; start: {start}.",
        "sources": {"groups": {"source": f"fitted by jaxperf calibrate to {origin}"}},
    }
    validate(document, f"{name}.json", "calibration")
    return Calibration(document, held_out)


def split(
    measurements: Sequence[Measurement], holdout: float, seed: int
) -> tuple[list[Measurement], list[Measurement]]:
    """Train and held-out measurements: a share of the configurations, never of the rows, picked by a seed.

    All rows of a configuration (every metric, output length and repeat) fall on one side. Groups of fewer than
    `LEAST_CONFIGURATIONS` hold out none, others at least one. The order of the rows does not matter.
    """
    configurations = sorted({m.configuration for m in measurements}, key=repr)
    count = 0 if holdout == 0 else max(1, round(holdout * len(configurations)))
    if len(configurations) < LEAST_CONFIGURATIONS:
        count = 0
    order = np.random.default_rng(seed).permutation(len(configurations))
    chosen = {configurations[index] for index in order[:count]}
    train = [m for m in measurements if m.configuration not in chosen]
    return train, [m for m in measurements if m.configuration in chosen]


def predict(
    table: str | os.PathLike | Sequence[Measurement],
    calibration: Calibration | dict[str, Any] | str | os.PathLike = "default",
    source: str | None = None,
) -> np.ndarray:
    """Predicted seconds of every row of a table [rows].

    **Arguments:** the `table`, as in `calibrate`; the `calibration`: a `Calibration`, its JSON form, or the name or
    path of one (`default` and `ideal`, too).

    **Raises** `InputError` where the calibration has no factors for a system and engine of the table.
    """
    measurements = read_table(table, source) if isinstance(table, (str, os.PathLike)) else list(table)
    if isinstance(calibration, Calibration):
        calibration = calibration.document
    elif not isinstance(calibration, dict) and os.fspath(calibration) != "ideal":
        calibration = find("calibration", calibration).document
    result = np.zeros(len(measurements))
    places = _grouped(list(range(len(measurements))), GROUPS, lambda index: measurements[index])
    for (system, engine), indices in places.items():
        if isinstance(calibration, dict):
            efficiency = _factors(calibration, system, engine)
        else:
            efficiency = efficiency_document_of(calibration)
        result[indices] = predicted_times([measurements[i] for i in indices], build_efficiency(efficiency))
    return result


def _grouped(items: Sequence[Any], group_by: Sequence[str], of: Any = lambda item: item) -> dict[tuple, list[Any]]:
    """Items by (system, engine); what does not group is None."""
    groups: dict[tuple, list[Any]] = {}
    for item in items:
        key = tuple(getattr(of(item), column) if column in group_by else None for column in GROUPS)
        groups.setdefault(key, []).append(item)
    return groups


def _factors(document: dict[str, Any], system: str, engine: str | None) -> dict[str, Any]:
    """The efficiency of the closest group: one that names both system and engine before one that names fewer."""

    def canonical(kind: str, name: str | None) -> str | None:
        return None if name is None else find(kind, name).name

    wanted = (canonical("system", system), canonical("engine", engine))
    fitting = []
    for group in document["groups"]:
        mine = (canonical("system", group["system"]), canonical("engine", group["engine"]))
        if all(own is None or own == want for own, want in zip(mine, wanted, strict=True)):
            fitting.append((sum(own is not None for own in mine), group["efficiency"]))
    if not fitting:
        known = ", ".join(f"{g['system']} with {g['engine']}" for g in document["groups"])
        raise InputError(f"calibration {document['name']}: no factors for {system} with {engine}; it holds {known}")
    return max(fitting, key=lambda pair: pair[0])[1]


def _fit_group(
    system: str | None, engine: str | None, train: list[Measurement], held: list[Measurement], start: str
) -> dict[str, Any]:
    """One group of a calibration, with its report."""
    before = efficiency_document_of(start, system, engine)
    found = fit(train, before)
    members = train + held
    entries: report.Report = {}
    for when, factors in (("before", before), ("after", found.efficiency)):
        times = predicted_times(members, build_efficiency(factors))
        sides = {"train": slice(0, len(train)), "held_out": slice(len(train), None)}
        for side, part in sides.items():
            if members[part]:
                entries |= report.flatten(side, when, report.errors(members[part], list(times[part])))
    fastest = predicted_times(members, build_efficiency(IDEAL))
    impossible = sum(m.value < time for m, time in zip(members, fastest, strict=True))
    efficiency = found.efficiency | {"sharpness": None}
    entries |= report.fit_section(found, impossible)
    return {"system": system, "engine": engine, "efficiency": efficiency, "report": entries}


make_callable(__name__, calibrate)
