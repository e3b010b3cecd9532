"""What the features that a model lacks cost in a scan: one program for every model, against one for that model alone.

    python benchmarks/unused_features.py [--models llama-3.1-70b,...] [--repeats 12] [--out FILE.json]

The scan's step (all five stages, exact Pareto frontier, counts) is compiled twice: as the scan does, with the model as
an argument, and with everything that the model has none of as a constant (each figure of it that is 0 or infinite:
experts, latent attention, windows, recurrent layers, further groups of layers), so that XLA leaves that out. The same
block goes through both in turn; the ratio of the medians is the cost.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from jaxperf.scan import Keep, load_space
from jaxperf.scan.engine import program
from jaxperf.scan.inputs import block_arguments, group_inputs
from jaxperf.scan.keep import reductions
from jaxperf.scan.plan import block_shape, prepare


def compiled_both(name: str) -> tuple[Any, list[tuple[str, Any]]]:
    """Configurations of a block, and the step compiled in both ways for it."""
    space = replace(load_space(None), models=(name,))
    prepared = prepare(space)
    shape, kept = block_shape(prepared, width=4), reductions(prepared, Keep())
    group = prepared.groups[0]
    model, inputs = group_inputs(prepared, 0)
    arguments = jax.device_put(block_arguments(prepared, group, group.part(0, shape), shape))
    states = jax.device_put(tuple(reduction.init() for reduction in kept))
    step = program(kept, (), shape, (jax.local_devices()[0],))
    has = jax.tree.map(lambda leaf: bool(np.isfinite(leaf).all() and np.any(leaf != 0)), model)
    present, absent = eqx.partition(model, has)

    def alone(present: Any, inputs: Any, arguments: Any, states: Any) -> Any:
        return step.__wrapped__(eqx.combine(present, absent), inputs, arguments, states)

    options = {"xla_disable_hlo_passes": "tree_reduction_rewriter"}
    every = step.lower(model, inputs, arguments, states).compile()
    one = jax.jit(alone, compiler_options=options).lower(present, inputs, arguments, states).compile()
    return shape.size, [
        ("every model", lambda: every(model, inputs, arguments, states)),
        ("what it has", lambda: one(present, inputs, arguments, states)),
    ]


def measure(name: str, repeats: int) -> dict[str, Any]:
    """CPU nanoseconds a configuration of both programs, in turn, and what the general one costs more [%]."""
    size, programs = compiled_both(name)
    times: dict[str, list[float]] = {label: [] for label, _ in programs}
    found = {label: jax.device_get(run()) for label, run in programs}
    same = jax.tree.map(lambda a, b: bool(np.allclose(a, b, rtol=1e-5, equal_nan=True)), *found.values())
    for _ in range(repeats):
        for label, run in programs:
            begun = time.process_time()
            jax.block_until_ready(run())
            times[label].append((time.process_time() - begun) / size * 1e9)
    general, alone = (statistics.median(times[label]) for label, _ in programs)
    return {
        "model": name,
        "configurations": size,
        "cpu_ns_every_model": round(general, 3),
        "cpu_ns_what_it_has": round(alone, 3),
        "cost_percent": round(100 * (general / alone - 1), 1),
        "same_results": all(jax.tree.leaves(same)),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="llama-3.1-70b,qwen3-235b-a22b,gpt-oss-120b,deepseek-v3,gemma-2-27b")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models.split(","):
        row = measure(name, arguments.repeats)
        rows.append(row)
        print(
            f"{row['model']:20s} {row['cpu_ns_every_model']:8.2f} cpu-ns with all features, "
            f"{row['cpu_ns_what_it_has']:8.2f} with its own: {row['cost_percent']:+.1f} %"
            f"{'' if row['same_results'] else '  RESULTS DIFFER'}"
        )
    if arguments.out is not None:
        about = {"jax": jax.__version__, "numpy": np.__version__, "device": str(jax.devices()[0])}
        partial = arguments.out.with_suffix(".part")
        partial.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n", encoding="utf-8")
        partial.replace(arguments.out)


if __name__ == "__main__":
    main()
