"""Held-out accuracy of a calibration on phase-split measurements (Splitwise, Llama-2-70B, A100-80GB and H100).

    python benchmarks/accuracy.py PUBLIC_BENCHMARKS.csv.gz [--seeds 20] [--out benchmarks/results/accuracy.json]

Prefill (TTFT) and decode (TPOT) of static batches up to 8192 prompt tokens, fitted jointly: one set of factors for each
system. 20 % of the configurations are held out; all repeats, output lengths and both phases of a configuration fall on
one side. Seed 0 is the result; the other seeds show its spread and pick nothing. Batches of more prompt tokens, where
this software behaved differently, take no part in the fit and are reported apart.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxperf.calibrate import Calibration, Measurement, calibrate, predict, read_table
from jaxperf.calibrate.parameters import at_bound
from jaxperf.calibrate.report import errors
from jaxperf.spec.library import write_text

MOST_TOKENS = 8192
METRICS = ("ttft_s", "tpot_s")
TARGET = 15.0


def phase_split(path: str) -> tuple[list[Measurement], list[Measurement]]:
    """Rows of one phase, up to `MOST_TOKENS` prompt tokens and above."""
    rows = [m for m in read_table(path, "splitwise") if m.metric in METRICS]
    return [m for m in rows if m.isl * m.batch <= MOST_TOKENS], [m for m in rows if m.isl * m.batch > MOST_TOKENS]


def compare(rows: Sequence[Measurement], calibration: Calibration) -> dict[str, Any]:
    """Errors before (default efficiency) and after, by metric."""
    return {
        "before": errors(rows, list(predict(rows, "default"))),
        "after": errors(rows, list(predict(rows, calibration))),
    }


def one_seed(rows: list[Measurement], seed: int) -> tuple[Calibration, dict[str, Any]]:
    """A calibration and its errors, pooled over both systems and for each."""
    found = calibrate(rows, holdout=0.2, seed=seed, name="splitwise")
    held = set(found.held_out)
    train = [m for m in rows if m not in held]
    result = {"train": compare(train, found), "held_out": compare(found.held_out, found)}
    for system in sorted({m.system for m in rows}):
        result[f"held_out {system}"] = compare([m for m in found.held_out if m.system == system], found)
    return found, result


def measure(path: str, seeds: int) -> dict[str, Any]:
    """The whole result, as it is written."""
    below, above = phase_split(path)
    runs = [one_seed(below, seed) for seed in range(seeds)]
    calibration, result = runs[0]
    fastest = predict(above, "ideal")
    possible = [m for m, time in zip(above, fastest, strict=True) if m.value >= time]
    result["above_8192_tokens"] = compare(above, calibration)
    result["above_8192, possible"] = compare(possible, calibration)
    result["impossible"] = {
        "rows": len(above) - len(possible),
        "why": "measured faster than the physical bound: batches that did not run as described",
        "configurations": sorted({str(m.configuration) for m in set(above) - set(possible)}),
    }
    groups = calibration.document["groups"]
    result["factors"] = {g["system"]: g["efficiency"] for g in groups}
    result["fit"] = {g["system"]: g["report"]["fit"] for g in groups}
    result["at_bound"] = {
        f"seed {seed}": [name for group in found.document["groups"] for name in at_bound(group["efficiency"])]
        for seed, (found, _) in enumerate(runs)
    }
    result["seeds"] = {}
    for metric in METRICS:
        mapes = np.asarray([run["held_out"]["after"][metric]["mape"] for _, run in runs])
        result["seeds"][metric] = {
            "seeds": seeds,
            "mean": float(mapes.mean()),
            "least": float(mapes.min()),
            "most": float(mapes.max()),
            "share_within_target": float(np.mean(mapes <= TARGET)),
        }
    return result


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="the collected public benchmarks")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", default=str(Path(__file__).parent / "results" / "accuracy.json"))
    arguments = parser.parse_args()
    result = measure(arguments.table, arguments.seeds)
    print(f"{'mean absolute percentage error':34s} metric    rows conf.  before   after")
    for part, sides in result.items():
        for metric in METRICS if "after" in sides else ():
            before, after = sides["before"][metric], sides["after"][metric]
            counts = f"{after['rows']:5d} {after['configurations']:5d}"
            print(f"{part:34s} {metric:8s} {counts} {before['mape']:7.1f} {after['mape']:7.1f}")
    for metric, spread in result["seeds"].items():
        print(
            f"held out, {spread['seeds']} seeds, {metric}: mean {spread['mean']:.1f} %, {spread['least']:.1f} to "
            f"{spread['most']:.1f} %, within {TARGET:g} %: {100 * spread['share_within_target']:.0f} % of the seeds"
        )
    print("factors at a bound:", sorted({name for names in result["at_bound"].values() for name in names}) or "none")
    write_text(arguments.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
