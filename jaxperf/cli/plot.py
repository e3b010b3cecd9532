"""`jaxperf plot`: a figure of a result that an earlier command printed as JSON or wrote as CSV."""

from __future__ import annotations

import argparse
import csv
import json
import math
from pathlib import Path
from typing import Any

from ..errors import InputError, nearest
from ..spec.library import read_json

KINDS = {
    "roofline": "operators of an 'estimate --json' on the roofline of their device",
    "pareto": "frontiers of a 'scan --json', or its frontier.csv",
}
"""What can be drawn, and from what."""

SUFFIXES = (".png", ".svg", ".pdf")

ROW = ("flops", "bytes", "time_s", "share")
"""Numbers of a row of a breakdown that a roofline shows."""

AXES = ("output_tokens_per_s_per_device", "output_tokens_per_s_per_user")
"""Objectives of a frontier.csv, which does not name its own."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    kinds = "; ".join(f"{kind}: {text}" for kind, text in KINDS.items())
    parser.add_argument("kind", metavar="KIND", help=kinds)
    parser.add_argument("result", metavar="RESULT", help="the file that holds the result")
    parser.add_argument("--out", required=True, metavar="FILE", help=f"the figure, {', '.join(SUFFIXES)}")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout that names what was written")


def run(arguments: argparse.Namespace) -> int:
    """Draw and write the figure.

    **Raises** `InputError` for a kind or a suffix that is not known, for a result that is not what the kind draws, and
    where the figure cannot be written.
    """
    if arguments.kind not in KINDS:
        raise InputError(f"plot: no kind is called '{arguments.kind}'; {nearest(arguments.kind, KINDS)}")
    out = Path(arguments.out)
    if out.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out: '{arguments.out}' ends in none of {', '.join(SUFFIXES)}")
    if arguments.kind == "roofline":
        document = check_estimate(read_json(arguments.result), arguments.result)
        from ..plots import roofline_figure as draw
    else:
        document = read_frontiers(arguments.result)
        from ..plots import draw_frontiers as draw
    draw(document, out)
    print(json.dumps({"kind": arguments.kind, "written": str(out)}) if arguments.json else f"Wrote {out}")
    return 0


def _get(document: Any, key: str, kind: type, path: str, where: str = "", hint: str = "") -> Any:
    """A key of an object, checked. **Raises** `InputError` that names file, key and what is expected."""
    words = {dict: "an object", list: "a list", str: "text", float: "a number"}
    place = f"{path}: {where}{key}"
    if not isinstance(document, dict):
        raise InputError(f"{path}: {where.rstrip('.') or 'the result'} is no JSON object{hint}")
    if key not in document:
        raise InputError(f"{place}: missing{hint}")
    value = document[key]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) if kind is float else isinstance(value, kind)):
        raise InputError(f"{place}: expected {words[kind]}, got {type(value).__name__}{hint}")
    return value


def check_estimate(document: Any, path: str) -> dict:
    """The document of an `estimate --json`, checked for what a roofline shows. **Raises** `InputError`."""
    hint = "; a roofline draws what 'jaxperf estimate ... --json' prints"
    for key in ("model", "system"):
        _get(document, key, str, path, hint=hint)
    for key, word in (("deployment", "precision"), ("device", "peak_flops_per_s")):
        _get(_get(document, key, dict, path, hint=hint), word, dict, path, f"{key}.", hint)
    device = document["device"]
    main = _get(device, "main_memory", str, path, "device.", hint)
    rates = _get(device, "memory_bandwidth_bytes_per_s", dict, path, "device.", hint)
    _get(rates, main, float, path, "device.memory_bandwidth_bytes_per_s.", hint)
    for name in ("peak_flops_per_s", "memory_bandwidth_bytes_per_s"):
        if not device[name]:
            raise InputError(f"{path}: device.{name}: empty{hint}")
        for key in device[name]:
            if _get(device[name], key, float, path, f"device.{name}.") <= 0:
                raise InputError(f"{path}: device.{name}.{key}: {device[name][key]} is out of range; expected above 0")
    rows = _get(document, "breakdown", list, path, hint=hint)
    if not rows:
        raise InputError(f"{path}: breakdown: empty{hint}")
    for index, row in enumerate(rows):
        where = f"breakdown[{index}]."
        for key in ("phase", "operator", "bound"):
            _get(row, key, str, path, where, hint)
        for key in ROW:
            if _get(row, key, float, path, where, hint) < 0:
                raise InputError(f"{path}: {where}{key}: {row[key]} is out of range; expected 0 or more")
    return document


def read_frontiers(path: str) -> dict:
    """The document of a `scan --json`, or what a `frontier.csv` holds in the same form. **Raises** `InputError`."""
    hint = "; a Pareto plot draws what 'jaxperf scan ... --json' prints, or its frontier.csv"
    document = _from_csv(path) if path.lower().endswith(".csv") else read_json(path)
    objectives = _get(document, "objectives", list, path, hint=hint)
    if len(objectives) != 2 or not all(isinstance(name, str) for name in objectives):
        raise InputError(f"{path}: objectives: {objectives} are not two names")
    from ..plots import column

    for index, group in enumerate(_get(document, "groups", list, path, hint=hint)):
        where = f"groups[{index}]."
        _get(group, "model", str, path, where, hint)
        for key in ("isl", "osl"):
            _get(group, key, float, path, where, hint)
        for number, row in enumerate(_get(group, "frontier", list, path, where, hint)):
            for name in objectives:
                _get(row, column(name), float, path, f"{where}frontier[{number}].", hint)
    if not any(group["frontier"] for group in document["groups"]):
        raise InputError(f"{path}: no frontier holds a point")
    return document


def _from_csv(path: str) -> dict:
    """A frontier.csv, a row a configuration, as groups of one model and workload each."""
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            rows, columns = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    for name in ("model", "isl", "osl", *AXES):
        if name not in columns:
            raise InputError(f"{path}: the column '{name}' is missing; a Pareto plot draws a scan's frontier.csv")
    groups: dict[tuple, dict] = {}
    for line, row in enumerate(rows, 2):
        try:
            isl, osl = int(row["isl"]), int(row["osl"])
            point = {name: float(row[name]) for name in AXES}
        except (TypeError, ValueError):
            raise InputError(f"{path}: line {line}: not a number where one is expected") from None
        key = (row["model"], isl, osl)
        groups.setdefault(key, {"model": row["model"], "isl": isl, "osl": osl, "frontier": []})["frontier"].append(
            point
        )
    return {"objectives": list(AXES), "groups": list(groups.values())}
