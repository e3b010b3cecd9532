"""`jaxperf calibrate`: fit efficiencies to a table of measurements."""

from __future__ import annotations

import argparse
import math

from ..constants import TABLE_COLUMNS
from ..errors import InputError
from .output import compile_cache, console, print_json, table


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    columns = "\n".join(f"  {name:<14} {text}" for name, text in TABLE_COLUMNS.items())
    parser.epilog = f"columns of TABLE.csv:\n{columns}"
    add = parser.add_argument
    add("table", metavar="TABLE.csv", help="measured latencies: one row, one metric of one configuration")
    add("--out", required=True, metavar="FILE.json", help="where the calibration goes")
    add("--group-by", default="system,engine", metavar="COLUMNS", help="who has factors of its own: system, engine")
    add("--holdout", type=_share, default=0.2, metavar="SHARE", help="share of the configurations held out (0.2)")
    add("--seed", type=_seed, default=0, metavar="N", help="which configurations are held out (0)")
    add("--source", metavar="NAME", help="rows of a public collection to take, such as splitwise")
    add("--start", default="default", metavar="NAME", help="efficiency at which fit and priors begin (default)")
    add("--json", action="store_true", help="print the calibration, with its report, as one JSON object")


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
    from ..calibrate import calibrate

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
        show(found.document)
        print(f"written to {arguments.out}")
    return 0


def show(document: dict) -> None:
    """Print mean absolute errors of every group and metric, before and after, and what the fit says about itself."""
    columns = ("group", "metric", "rows", "configurations", "train", "held out")
    made = table(*columns, title="mean absolute error, before > after", left=2)
    notes = []
    for group in document["groups"]:
        name, report = f"{group['system'] or 'any system'}, {group['engine'] or 'any engine'}", group["report"]
        for metric in [key.removeprefix("train_after_") for key in report if key.startswith("train_after_")]:
            train = [report[f"train_{when}_{metric}"] for when in ("before", "after")]
            held = [report.get(f"held_out_{when}_{metric}") for when in ("before", "after")]
            counts = [f"{train[1][k]:.0f} + {held[1][k] if held[1] else 0:.0f}" for k in ("rows", "configurations")]
            errors = [f"{b['mape']:.1f} > {a['mape']:.1f} %" if b and a else "-" for b, a in (train, held)]
            made.add_row(name, metric, *counts, *errors)
        notes.append(f"{name}: {_about(report)}")
    console().print(made)
    for note in notes:
        console().print(note)


def _about(report: dict) -> str:
    """What a fit says about itself, in words."""
    fit, impossible = report["fit"], report["fit"]["rows_faster_than_the_physical_bound"]
    text = (
        f"the data determine {fit['combinations_that_the_data_determine']:.0f} combinations of {fit['factors']:.0f} "
        f"factors, priors the rest; at a bound: {', '.join(report['at_bound']) or 'none'}"
    )
    if impossible:
        text += f"; {impossible:.0f} rows are faster than the physical bound"
    return text if fit["converged"] else text + "; the solver did not converge"
