"""Fit the `default` efficiency: class values over all systems with measured kernels, and host times from end to end.

    python benchmarks/fit_default_efficiency.py DATA_FOLDER [--out specs/calibrations/default.json]

DATA_FOLDER holds `ops/` (NVIDIA aiconfigurator's kernel tables, one CSV a system, engine and operator) and `e2e/`
(collected public benchmarks). Kernels are priced by jaxperf's own operator functions; factors that no table holds are
set by hand, and the file's sources say so. Every system is left out once, for the error on hardware not seen.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxperf
from jaxperf.calibrate.fit import least_squares, robust, with_jacobian
from jaxperf.calibrate.measurements import read_table
from jaxperf.calibrate.parameters import FACTORS, at_bound, spreads, to_document, to_efficiency, to_unbounded
from jaxperf.calibrate.report import errors
from jaxperf.calibrate.rows import distinct, predicted_times, row_time, stack
from jaxperf.compiling import quick
from jaxperf.ops import EXACT
from jaxperf.spec.deployment import Efficiency, Parallelism, build_efficiency
from jaxperf.spec.library import save
from jaxperf.spec.model import stack_groups
from jaxperf.stages.latency import operator_timing
from jaxperf.stages.operators import AttentionCore, Gemm
from jaxperf.stages.plan import make_links, make_plan
from jaxperf.stages.shapes import AttentionShape, Pass

sys.path.insert(0, str(Path(__file__).parent))
from kernel_tables import CLASSES, LATENT, SCORED_ONLY, Kernel, percent, read_kernels

KERNEL_NOISE = 0.2
"""Scale of log residuals of kernels: class values cannot follow tiles and kernel choices closer than that."""

HOST_NOISE = 0.1
HOST_FACTORS = ("host_step_us", "host_sequence_us")
LATENT_FACTORS = ("latent_decode_compute",)
"""Fitted to kernels over a latent cache with all other factors held, which stay those of the other kernels."""

PRIOR = {
    "gemm_compute": 0.7, "gemm_memory": 0.8, "gemm_rows_half": 16, "gemm_columns_half": 64, "gemm_depth_half": 128,
    "attention_prefill_compute": 0.5, "attention_decode_compute": 0.2, "latent_decode_compute": 0.5,
    "attention_memory": 0.7,
    "elementwise_memory": 0.75, "memory_bytes_half": 1e6, "operator_us": 3.0, "attention_us": 3.0,
    "collective_latency_scale": 1.5, "collective_bandwidth": 0.8, "collective_us": 6.0,
    "host_step_us": 1000.0, "host_sequence_us": 10.0, "host_token_us": 0.01,
}  # fmt: skip
"""Centre of the priors, by hand: with thousands of kernels they only matter where no kernel speaks."""


def kernel_time(kernel: Kernel, systems: Any, context: tuple[Any, Any], efficiency: Efficiency) -> Any:
    """Seconds of one kernel by jaxperf's operator functions; traceable, of scalars."""
    model, deployment = context
    system = jax.tree.map(lambda leaf: leaf[kernel.system], systems)
    deployment = eqx.tree_at(lambda d: d.efficiency, deployment, efficiency)
    plan = make_plan(model, stack_groups(model), system, deployment, EXACT)
    a, b, c, d, e = kernel.sizes
    width = kernel.width
    peak = jnp.where(width < 1.5, system.device.peak[3], system.device.peak[1])

    def work(rows: Any, sequences: Any, tokens: Any, prior: Any, decode: bool) -> Pass:
        return Pass(rows, rows, sequences, tokens, prior, 1.0, sequences, decode)

    gemm = Gemm(1.0, 1.0, a, b, c, width, width, 2.0, peak)
    zero = 0.0 * a
    # attention: sizes are sequences, tokens (prompt or context), query heads, key/value heads, head size
    shape = AttentionShape(zero, zero, zero, zero, zero, zero, c, e, e, 2 * d * e, zero, zero, zero)
    core = AttentionCore(1.0, shape, jnp.inf, width, 2.0, 1.0, 0.5, system.device.peak[1])
    latent = AttentionShape(zero, zero, zero, zero, zero, zero, c, d, e, d, zero, zero, zero, absorbed=1.0)
    latent_core = eqx.tree_at(lambda of: of.shape, core, latent)
    prefill, decode = work(a * b, a, b, 0.0, False), work(a, a, 1.0, b - 1, True)
    links = make_links(Parallelism(tp=b), system.fabric, efficiency, EXACT)
    reduced = links.tp_reduce.time(2.0 * a, EXACT)
    times = (
        operator_timing(gemm, plan, work(a, a, 1.0, 0.0, True), EXACT).time,
        operator_timing(core, plan, prefill, EXACT).time,
        operator_timing(core, plan, decode, EXACT).time,
        reduced,
        operator_timing(latent_core, plan, decode, EXACT).time,
    )
    return jnp.select([kernel.kind == index for index in range(len(times))], times)


def arrays(kernels: list[Kernel], names: list[str]) -> Kernel:
    """Kernels with a leading axis; the system becomes its index."""
    return Kernel(
        system=jnp.asarray([names.index(k.system) for k in kernels]),
        name=None,
        kind=jnp.asarray([k.kind for k in kernels]),
        sizes=jnp.asarray([k.sizes for k in kernels], float),
        width=jnp.asarray([k.width for k in kernels], float),
        seconds=jnp.asarray([k.seconds for k in kernels], float),
    )


def per_class_weights(kernels: list[Kernel], keep: list[bool]) -> np.ndarray:
    """Weights by which every class and system counts alike; 0 for those left out."""
    counts: dict[tuple, int] = {}
    for kernel, kept in zip(kernels, keep, strict=True):
        counts[(kernel.name, kernel.system)] = counts.get((kernel.name, kernel.system), 0) + kept
    weights = [kept / counts[(k.name, k.system)] if kept else 0.0 for k, kept in zip(kernels, keep, strict=True)]
    return np.sqrt(np.asarray(weights) * 100)


def only(factors: tuple[str, ...]) -> Any:
    """Standard deviations by which these factors move and the others stay [factors]."""
    return np.where([name in factors for name in FACTORS], 2.0, 1e-6)


def fit_kernels(kernels: list[Kernel]) -> tuple[Any, dict[str, Any]]:
    """Unbounded factors from all kernels, and the errors: on what was fitted, and on each system left out in turn."""
    names = sorted({kernel.system for kernel in kernels})
    systems = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[jaxperf.load_system(name) for name in names])
    context = (jaxperf.load_model("llama-3.1-8b"), jaxperf.deployment("llama-3.1-8b", efficiency="ideal"))
    rows, centre = arrays(kernels, names), to_unbounded(PRIOR)

    def times(unbounded: Any) -> Any:
        efficiency = to_efficiency(unbounded)
        return jax.vmap(lambda kernel: kernel_time(kernel, systems, context, efficiency))(rows)

    @jax.jit
    def measured(weights: Any, point: Any) -> tuple[Any, Any]:
        return with_jacobian(lambda u: weights * robust(jnp.log(times(u) / rows.seconds) / KERNEL_NOISE))(point)

    def solve(weights: Any, centre: Any, spread: Any) -> tuple[Any, bool]:
        return least_squares(functools.partial(measured, weights), centre, spread)[:2]

    def both(without: str | None) -> tuple[Any, Any]:
        """All factors but those of latent attention, then these with the others held."""
        latent, other = (
            per_class_weights(kernels, [k.system != without and k.name in chosen for k in kernels])
            for chosen in ((LATENT,), set(CLASSES) - {LATENT, *SCORED_ONLY})
        )
        found, converged = solve(other, centre, spreads())
        found, also = solve(latent, found, only(LATENT_FACTORS))
        return found, converged and also

    priced = jax.jit(times)
    fitted = [kernel.name not in SCORED_ONLY for kernel in kernels]
    found, converged = both(None)
    ideal = priced(jnp.full(len(FACTORS), 40.0).at[jnp.asarray([f.log for f in FACTORS.values()])].set(-40.0))
    report: dict[str, Any] = {
        "kernels": {
            "rows": len(kernels),
            "converged": float(converged),
            "percent_measured_below_the_ideal": round(100 * float(np.mean(np.asarray(ideal) > rows.seconds)), 1),
        }
    }
    report |= {f"train {name}": row for name, row in percent(kernels, np.asarray(priced(found)), fitted).items()}
    held = np.zeros(len(kernels))
    for name in names:
        out = [kernel.system == name for kernel in kernels]
        held[out] = np.asarray(priced(both(name)[0]))[out]
        report |= {f"held-out {name} {k}": row for k, row in percent(kernels, held, out).items()}
    report |= {f"held-out systems {k}": row for k, row in percent(kernels, held, [True] * len(kernels)).items()}
    return found, report


def fit_host(unbounded: Any, table: Path) -> tuple[Any, dict[str, Any]]:
    """Host times from static batches of current engines (LLM-Inference-Bench: vLLM and TensorRT-LLM on H100 and A100,
    end to end), all other factors held; and the errors before and after."""
    rows = [
        m
        for m in read_table(table, "argonne")
        if m.engine in ("vllm", "tensorrt-llm") and m.system in ("h100-sxm-8", "a100-40gb-8") and m.batch <= 32
    ]
    rows = distinct(rows)
    stacked = stack(rows)

    @quick
    def measured(stacked: Any, point: Any) -> tuple[Any, Any]:
        def residuals(point: Any) -> Any:
            efficiency = to_efficiency(point)
            times = jax.vmap(lambda row: row_time(row, efficiency))(stacked)
            return stacked.weight * robust((jnp.log(times) - stacked.log_value) / HOST_NOISE)

        return with_jacobian(residuals)(point)

    before = predicted_times(rows, to_efficiency(unbounded))
    found = least_squares(functools.partial(measured, stacked), unbounded, only(HOST_FACTORS))[0]
    after = predicted_times(rows, to_efficiency(found))
    report = {}
    for when, times in (("before", before), ("after", after)):
        row = errors(rows, list(times))["all"]
        report[f"end to end {when} host times"] = {key: round(value, 1) for key, value in row.items()}
    return found, report


def main() -> None:
    """Fit, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with ops/ and e2e/")
    parser.add_argument("--out", default="specs/calibrations/default.json")
    parser.add_argument("--rows", type=int, default=150, help="kernels of each table and type (default 150)")
    arguments = parser.parse_args()
    with jax.enable_x64(True):
        unbounded, report = fit_kernels(read_kernels(arguments.data / "ops", arguments.rows))
        unbounded, end_to_end = fit_host(unbounded, arguments.data / "e2e" / "public_benchmarks.csv.gz")
        values = {name: float(f"{float(value):.4g}") for name, value in to_document(unbounded).items()}
    values["elementwise_memory"] = values["gemm_memory"]
    values["host_token_us"] = 0.0
    build_efficiency(values)
    tables = "NVIDIA aiconfigurator kernel tables (github.com/ai-dynamo/aiconfigurator, commit 095f58a5, Apache-2.0)"
    latent = f"{tables}: TensorRT-LLM 1.3 on H100 and B200 in bf16, all other factors held"
    bench = "LLM-Inference-Bench (github.com/argonne-lcf/LLM-Inference-Bench, commit 4211f5d4, BSD-3-Clause)"
    host = {"source": f"fitted by jaxperf to {bench}: vLLM and TensorRT-LLM on H100 and A100", "date": "2024"}
    estimate = {"date": "2026-11", "estimate": True}
    where = "groups[0].efficiency"
    document = {
        "kind": "calibration",
        "name": "default",
        "groups": [{"system": None, "engine": None, "efficiency": values, "report": report | end_to_end}],
        "note": "Class values over A100, H100, H200, B200, L40S and NVLink systems' all-reduces; errors in percent; "
        "'held-out SYSTEM' was predicted from the others; latent decode over an fp8 cache and on A100 is in no fit. "
        "Written by benchmarks/fit_default_efficiency.py.",
        "sources": {
            "groups": {"source": f"fitted by jaxperf to {tables}", "date": "2026-11"},
            f"{where}.latent_decode_compute": {"source": f"fitted by jaxperf to {latent}", "date": "2026-11"},
            f"{where}.host_step_us": host,
            f"{where}.host_sequence_us": host,
            f"{where}.elementwise_memory": estimate | {"source": "taken as of GEMMs: no table holds such kernels"},
            f"{where}.host_token_us": estimate | {"source": "none: the data do not tell it apart"},
        },
    }
    for name, value in values.items():
        print(f"{name:28s} {value}")
    for name, row in document["groups"][0]["report"].items():
        print(f"{name:45s} {row}")
    print("at a bound:", ", ".join(at_bound({**values, "host_token_us": PRIOR["host_token_us"]})) or "none")
    save(document, arguments.out)


if __name__ == "__main__":
    main()
