"""`jaxperf calibrate`: fit efficiencies to a table of measurements."""

from __future__ import annotations

import argparse
import math

from ..errors import InputError
from .output import compile_cache, print_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.add_argument("table", metavar="TABLE.csv", help="measured latencies: one row, one metric of one configuration")
    parser.add_argument("--out", required=True, metavar="FILE.json", help="where the calibration goes")
    parser.add_argument("--group-by", default="system,engine", metavar="COLUMNS", help="who has factors of its own: system, engine, both")
    parser.add_argument("--holdout", type=_share, default=0.2, metavar="SHARE", help="share of the configurations that take no part (default 0.2)")
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="which configurations are held out (default 0)")
    parser.add_argument("--source", metavar="NAME", help="rows of a public collection to take, such as splitwise")
    parser.add_argument("--start", default="default", metavar="NAME", help="efficiency at which fit and priors begin (default: default)")
    parser.add_argument("--json", action="store_true", help="print the calibration, with its report, as one JSON object")


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 0.9:
        raise argparse.ArgumentTypeError(f"'{text}' is out of range; choose a share from 0 to 0.9")
    return value


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"'{text}' is no seed; choose a whole number from 0")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Fit, write the file, print the errors."""
    if not arguments.out.lower().endswith(".json"):
        raise InputError(f"out: '{arguments.out}' must end in .json, so that --calibration takes it")
    group_by = [word.strip() for word in arguments.group_by.split(",") if word.strip()]
    compile_cache()
    from ..calibrate import calibrate, report

    found = calibrate(
        arguments.table,
        group_by=group_by,
        holdout=arguments.holdout,
        seed=arguments.seed,
        start=arguments.start,
        source=arguments.source,
    )
    found.save(arguments.out)
    if arguments.json:
        print_json(found.document)
    else:
        groups = found.document["groups"]
        report.show((f"{g['system'] or 'any system'}, {g['engine'] or 'any engine'}", g["report"]) for g in groups)
        print(f"written to {arguments.out}")
    return 0
