"""One workload priced side by side, in one run: jaxperf and whichever peers are found; evaluations a second of each.

Llama-3.1-70B in 16 bits on one node of eight H100 SXM, 1,024 tokens in and 1,024 out, every batch from 1 to 64 at
tensor parallelism 4 and 8. A peer's evaluation is one configuration priced for prefill and decode by its public API,
with what it can build once (models, databases) built once, and one untimed evaluation of each layout before. jaxperf is
measured twice: a compiled `evaluate` called for one configuration at a time, and its scan of a larger space of the same
model and system, compile time apart, all cores.

    python benchmarks/peers.py [--llm-perf PATH] [--peer-python PYTHON ...] [--seconds S] [--json FILE]

Peers are imported in a process of their own each: from this Python, or from the first `--peer-python` that has them
(their dependencies seldom agree with each other's). A peer that is absent or fails is a line, not an error.

What is compared is speed alone, and not like for like in what an evaluation contains: llm_perf prices five stages and
end to end; aiconfigurator interpolates measured tables (and again by its pure roofline); llm-analysis has no topology;
GenZ builds a table of operators for each phase. Latencies of one configuration stand beside the rates as a check that
the same thing was priced.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

MARK = "measured: "
ISL, OSL, DEGREES, BATCHES = 1024, 1024, (4, 8), range(1, 65)
SHOWN = (8, 64)
"""Layout and batch whose latencies are shown."""

SPACE = {
    "models": ["llama-3.1-70b"],
    "systems": ["h100-sxm-8"],
    "workloads": [[ISL, OSL], [2048, 512], [4096, 256]],
    "tp": [1, 2, 4, 8],
    "pp": [1, 2, 4, 8],
    "attention_dp": [1, 2, 4, 8],
    "batch": {"from": 1, "to": 512},
    "chunk": [128, 256, 512, 1024, 2048, 4096],
    "weights": ["bf16", "fp8"],
    "kv": ["bf16", "fp8"],
    "fields": {"device.memory.hbm.bandwidth_GBps": list(range(2000, 9001, 20))},
    "max_devices": 8,
}
"""What jaxperf's scan runs over: the same model and system, with more batches, layouts, formats and bandwidths, so many
that the scan takes a few tenths of a second: what it does once would else be half of what is measured."""

Price = Callable[[int, int], tuple[float, float]]
"""Tensor parallelism and batch → TTFT and TPOT [s]."""


def llm_perf(path: str) -> tuple[Price, dict[str, Any]]:
    """llm_perf from a checkout: decode, prefill and end to end."""
    import dataclasses

    sys.path.insert(0, path)
    from llm_perf import DisaggSpec, InferenceCalculator, OverheadSpec, PartitionSpec  # pyright: ignore
    from llm_perf.calculators.e2e_calculator import E2ECalculator  # pyright: ignore
    from llm_perf.calculators.prefill_calculator import PrefillCalculator  # pyright: ignore
    from llm_perf.io import load_model_from_db, load_system_from_db, load_tuner_from_db  # pyright: ignore

    model, system = load_model_from_db("llama3.1_70b"), load_system_from_db("h100.8gpu")
    base, overhead, apart = load_tuner_from_db("example.tuner"), OverheadSpec(), DisaggSpec()

    def price(tp: int, batch: int) -> tuple[float, float]:
        partition = PartitionSpec(PP=1, TP=tp, EP=1, SP=1)
        tuner = dataclasses.replace(base, S_decode=ISL + OSL // 2, B_decode=batch, S_input=ISL, B_prefill=1)
        decode = InferenceCalculator(model, system, partition, tuner).run()
        prefill = PrefillCalculator(model, system, partition, tuner).run()
        whole = E2ECalculator(decode, prefill, overhead, apart, model, system, partition, tuner).run()
        return whole.TTFT, whole.TPOT

    head = subprocess.run(["git", "-C", path, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return price, {"version": head.stdout.strip()[:7] or "unknown"}


def aiconfigurator(mode: str) -> tuple[Price, dict[str, Any]]:
    """aiconfigurator's session of a static batch, on its measured tables (SILICON) or its roofline (SOL)."""
    import logging
    from importlib.metadata import version

    logging.disable(logging.WARNING)
    from aiconfigurator.sdk import config, models, perf_database  # pyright: ignore
    from aiconfigurator.sdk.backends.factory import get_backend  # pyright: ignore
    from aiconfigurator.sdk.inference_session import InferenceSession  # pyright: ignore

    system, engine = "h100_sxm", "trtllm"
    latest = perf_database.get_latest_database_version(system, engine)
    tables = perf_database.get_database_view(system, engine, latest, database_mode=mode)
    sessions = {
        tp: InferenceSession(
            models.get_model("meta-llama/Meta-Llama-3.1-70B", config.ModelConfig(tp_size=tp), engine),
            tables,
            get_backend(engine),
        )
        for tp in DEGREES
    }

    def price(tp: int, batch: int) -> tuple[float, float]:
        asked = config.RuntimeConfig(batch_size=batch, isl=ISL, osl=OSL)
        row: Any = sessions[tp].run_static(asked, "static").get_result_dict()  # its own sweep's way: no table a row
        return row["ttft"] / 1e3, row["tpot"] / 1e3

    return price, {"version": version("aiconfigurator"), "note": f"{engine} {latest}; TTFT is of the whole batch"}


def llm_analysis() -> tuple[Price, dict[str, Any]]:
    """llm-analysis: `LLMAnalysis.inference` of a model with Llama's dimensions."""
    import logging
    from importlib.metadata import version

    from llm_analysis import analysis, config  # pyright: ignore

    analysis.logger.setLevel(logging.ERROR)
    model = config.ModelConfig(
        name="llama-3.1-70b",
        num_layers=80,
        n_head=64,
        hidden_dim=8192,
        vocab_size=128256,
        max_seq_len=131072,
        num_key_value_heads=8,
        ffn_embed_dim=28672,
        expansion_ratio=3.5,
        model_type="llama",
    )
    gpu, types = config.get_gpu_config_by_name("h100-sxm-80gb"), config.get_dtype_config_by_name("w16a16e16")
    built = {
        tp: analysis.LLMAnalysis(
            model, gpu, types, config.ParallelismConfig(tp_size=tp), flops_efficiency=1.0, hbm_memory_efficiency=1.0
        )
        for tp in DEGREES
    }

    def price(tp: int, batch: int) -> tuple[float, float]:
        found = built[tp].inference(batch_size_per_gpu=batch, seq_len=ISL, num_tokens_to_generate=OSL)
        return found["prefill_latency"], found["decode_latency"]

    return price, {"version": version("llm-analysis"), "note": "TTFT is of the whole batch"}


def genz() -> tuple[Price, dict[str, Any]]:
    """GenZ: `prefill_moddeling` of one prompt and `decode_moddeling` of the batch."""
    import warnings
    from importlib.metadata import version

    warnings.simplefilter("ignore")
    from GenZ import decode_moddeling, prefill_moddeling  # pyright: ignore

    system = {"Flops": 989, "Memory_size": 80, "Memory_BW": 3350, "ICN": 450, "real_values": True}

    def price(tp: int, batch: int) -> tuple[float, float]:
        same = dict(
            model="meta-llama/Llama-3.1-70B",
            system_name=system,
            bits="bf16",
            tensor_parallel=tp,
            parallelism_heirarchy=f"TP{{{tp}}}_EP{{1}}_PP{{1}}",
        )
        prefill = prefill_moddeling(batch_size=1, input_tokens=ISL, **same)
        decode = decode_moddeling(batch_size=batch, input_tokens=ISL, output_tokens=OSL // 2, Bb=1, **same)
        return prefill["Latency"] / 1e3, decode["Latency"] / 1e3

    return price, {"version": version("genz-llm")}


def jaxperf_single() -> tuple[Price, dict[str, Any]]:
    """jaxperf: the compiled `evaluate`, one configuration at a time, specs built once."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    import jaxperf

    model, system = jaxperf.load_model("llama-3.1-70b"), jaxperf.load_system("h100-sxm-8")
    layouts = {tp: jaxperf.deployment("llama-3.1-70b", system="h100-sxm-8", tp=tp) for tp in DEGREES}
    work = jaxperf.workload(ISL, OSL, 1)

    @jax.jit
    def both(model: Any, system: Any, layout: Any, work: Any, batch: Any) -> Any:
        metrics = jaxperf.evaluate(model, system, layout, eqx.tree_at(lambda w: w.batch, work, batch))
        return jnp.stack([metrics.ttft, metrics.tpot])

    def price(tp: int, batch: int) -> tuple[float, float]:
        ttft, tpot = jax.device_get(both(model, system, layouts[tp], work, jnp.asarray(float(batch))))
        return float(ttft), float(tpot)

    return price, {"version": jaxperf.__version__, "note": "one call a configuration; the scan is for many"}


def jaxperf_scan(seconds: float) -> dict[str, Any]:
    """jaxperf's scan, keeping the best of two objectives: again and again until `seconds` are spent. What the first
    one compiles is not among them, all else is."""
    from jaxperf.cli.scan import wide_vectors

    wide_vectors()
    import jaxperf
    from jaxperf.scan import Keep, build_space, scan

    space, keep = build_space(SPACE, "peers"), Keep(frontier=False)
    first = scan(space, keep=keep)
    walls: list[float] = []
    while sum(walls) < seconds:
        walls.append(scan(space, keep=keep).wall_s)
    return {
        "version": jaxperf.__version__,
        "space": first.configurations,
        "evaluations": first.configurations * len(walls),
        "wall_s": sum(walls),
        "compile_s": first.compile_s,
        "evaluations_per_s": first.configurations * len(walls) / sum(walls),
        "fastest_evaluations_per_s": first.configurations / min(walls),
    }


def measure(build: Callable[[], tuple[Price, dict[str, Any]]], seconds: float) -> dict[str, Any]:
    """Rate of a price: all configurations, again and again, until `seconds` are spent, four at least."""
    price, about = build()
    for tp in DEGREES:
        price(tp, 1)
    ttft, tpot = price(*SHOWN)
    configurations = [(tp, batch) for batch in BATCHES for tp in DEGREES]
    done, started, elapsed = 0, time.perf_counter(), 0.0
    while elapsed < seconds or done < 4:
        price(*configurations[done % len(configurations)])
        done += 1
        elapsed = time.perf_counter() - started
    rates = {"evaluations": done, "wall_s": elapsed, "evaluations_per_s": done / elapsed}
    return about | rates | {"ttft_s": float(ttft), "tpot_s": float(tpot)}


def measured(name: str, path: str | None, seconds: float) -> dict[str, Any]:
    """One peer's figures, in this process."""
    builders: dict[str, Callable[[], tuple[Price, dict[str, Any]]]] = {
        "llm_perf": lambda: llm_perf(path or ""),
        "aiconfigurator": lambda: aiconfigurator("SILICON"),
        "aiconfigurator roofline": lambda: aiconfigurator("SOL"),
        "llm-analysis": llm_analysis,
        "GenZ": genz,
        "jaxperf evaluate": jaxperf_single,
    }
    return jaxperf_scan(seconds) if name == "jaxperf scan" else measure(builders[name], seconds)


MODULES = {
    "llm_perf": "llm_perf",
    "aiconfigurator": "aiconfigurator",
    "aiconfigurator roofline": "aiconfigurator",
    "llm-analysis": "llm_analysis",
    "GenZ": "GenZ",
}
"""The peers and the modules that they come as."""

OURS = ("jaxperf evaluate", "jaxperf scan")


def python_with(module: str, pythons: list[str]) -> str | None:
    """The first Python that has a module, None where none has."""
    find = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    for python in pythons:
        try:
            if subprocess.run([python, "-c", find], capture_output=True, check=False).returncode == 0:
                return python
        except OSError:
            continue
    return None


def apart(name: str, python: str, path: str | None, seconds: float) -> dict[str, Any]:
    """One peer's figures from a process of its own, or why there are none."""
    load = os.getloadavg()[0]
    one = json.dumps([name, path, seconds])
    try:
        done = subprocess.run(
            [python, __file__, "--one", one], capture_output=True, text=True, check=False, timeout=600 + 2 * seconds
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"name": name, "failed": str(error)[-300:]}
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not lines:
        said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return {"name": name, "failed": f"exit {done.returncode}: {said[-300:]}"}
    return {"name": name, "load_before": load} | json.loads(lines[-1].removeprefix(MARK))


def line(found: dict[str, Any], scan: float | None) -> str:
    """One peer as a line."""
    if "failed" in found:
        return f"{found['name']:24s} failed: {found['failed']}"
    if "absent" in found:
        return f"{found['name']:24s} absent: {found['absent']}"
    text = f"{found['name']:24s} {found['version']:>8s} {found['evaluations_per_s']:15,.1f} evaluations/s"
    if "ttft_s" in found:
        text += f", TTFT {1e3 * found['ttft_s']:8.1f} ms, TPOT {1e3 * found['tpot_s']:6.2f} ms"
    if "note" in found:
        text += f" ({found['note']})"
    if scan and found["name"] != "jaxperf scan":
        text += f"; jaxperf's scan is {scan / found['evaluations_per_s']:,.0f} × as fast"
    return text


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All figures, ours first, each printed as it comes."""
    results: list[dict[str, Any]] = []
    scan = None
    for name in reversed(OURS):
        results.append(apart(name, sys.executable, None, arguments.seconds))
        if name == "jaxperf scan":
            scan = results[-1].get("evaluations_per_s")
        print(line(results[-1], scan), flush=True)
    for name, module in MODULES.items():
        if name == "llm_perf":
            path = arguments.llm_perf
            found = path is not None and (Path(path) / "llm_perf").is_dir()
            python = sys.executable if found else None
            why = "give --llm-perf PATH, a checkout" if path is None else f"{path} is no checkout of it"
        else:
            path, python = None, python_with(module, [sys.executable, *arguments.peer_python])
            why = f"no Python here imports {module}; see --peer-python"
        if python is None:
            results.append({"name": name, "absent": why})
        else:
            results.append(apart(name, python, path, arguments.seconds))
            rate = results[-1].get("evaluations_per_s")
            if rate and scan:
                results[-1]["jaxperf_scan_over_it"] = scan / rate
        print(line(results[-1], scan), flush=True)
    return results


def main() -> int:
    """Reads the options, measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm-perf", metavar="PATH", help="a checkout of llm_perf")
    parser.add_argument(
        "--peer-python", action="append", default=[], metavar="PYTHON", help="a Python that has peers (repeatable)"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        try:
            found = measured(*json.loads(arguments.one))
        except Exception as error:  # whatever a peer raises is its line
            found = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]}
        print("\n" + MARK + json.dumps(found))
        return 0
    if not arguments.seconds > 0:
        print(f"peers: --seconds: {arguments.seconds} is not above 0", file=sys.stderr)
        return 2
    results = compare(arguments)
    if arguments.json:
        from jaxperf.spec.library import write_text

        workload = {"model": "llama-3.1-70b", "system": "h100-sxm-8", "isl": ISL, "osl": OSL, "tp": DEGREES}
        document = {
            "date": str(date.today()),
            "device": f"{os.cpu_count()} cores",
            "workload": workload | {"batch": [min(BATCHES), max(BATCHES)], "latencies_at": SHOWN, "scan": SPACE},
            "load_after": os.getloadavg()[0],
            "results": results,
        }
        write_text(arguments.json, json.dumps(document, indent=2) + "\n")
    return 1 if any("failed" in found for found in results if found["name"] in OURS) else 0


if __name__ == "__main__":
    sys.exit(main())
