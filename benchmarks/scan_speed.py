"""How many configurations a second: the embedded default space, all five stages, reduced on the device.

Compile time apart, float32. Every configuration passes prefill, decode, end to end, memory and feasibility; the
reductions are the best of two objectives, the exact Pareto frontier, and counts by reason. Prints and writes JSON.

    python benchmarks/scan_speed.py [--models N] [--out benchmarks/results/scan_speed.json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import resource
import time
from datetime import date
from pathlib import Path

from jaxperf.cli.scan import wide_vectors


def measure(models: int, repeats: int) -> dict:
    """Scans the default space (or its first models) `repeats` times; the best run counts, all are reported."""
    import equinox
    import jax

    import jaxperf
    from jaxperf.scan import load_space, scan

    space = load_space()
    space = dataclasses.replace(space, models=space.models[:models])
    runs = []
    for _ in range(repeats):
        cpu = time.process_time()
        result = scan(space)
        cpu = time.process_time() - cpu
        runs.append(
            {
                "compile_s": result.compile_s,
                "wall_s": result.wall_s,
                "configurations_per_s": result.configurations_per_s,
                "cpu_ns_per_configuration": 1e9 * cpu / result.configurations,
            }
        )
        print(
            f"{result.configurations:,} configurations, {result.feasible:,} feasible: {result.wall_s:.2f} s, "
            f"{result.configurations_per_s / 1e6:.1f} M/s, compiled in {result.compile_s:.1f} s, "
            f"{runs[-1]['cpu_ns_per_configuration']:.1f} cpu-ns each",
            flush=True,
        )
    best = max(runs, key=lambda run: run["configurations_per_s"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"best {best['configurations_per_s'] / 1e6:.1f} M/s, peak memory {peak / 2**30:.2f} GiB")
    return {
        "date": str(date.today()),
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}",
        "versions": {"jaxperf": jaxperf.__version__, "jax": jax.__version__, "equinox": equinox.__version__},
        "dtype": "float32",
        "configurations": result.configurations,
        "reductions": ["counts by reason", "exact Pareto frontier with the best of two objectives at its ends"],
        "configurations_per_s": best["configurations_per_s"],
        "peak_memory_bytes": peak,
        "runs": runs,
    }


def main() -> None:
    """Reads the options, measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=6, help="how many models of the default space (6 = all)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    wide_vectors()
    result = measure(arguments.models, arguments.repeats)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
