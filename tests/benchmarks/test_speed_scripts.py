"""The scripts that measure speed: what they refuse, a tiny run of each, and that both forms price the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPACE = """
models = ["llama-3.1-8b"]
systems = ["h100-sxm-8", "b200-8"]
workloads = [[1024, 256], [3000, 100]]
tp = [1, 2, 4]
batch = [1, 2, 4, 8, 16, 64, 1024]
chunk = [256, 512]
weights = ["bf16", "fp8"]
"""
WHOLE = 2 * 2 * 3 * 7 * 2 * 2


def script(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs a script of the folder with the checkout's own package."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "benchmarks" / name), *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--only", "product-mix"], "product-max"),
        (["--models", "0"], "--models"),
        (["--widths", "16"], "--widths: '16'"),
        (["--cores", "100000"], "--cores"),
    ],
)
def test_scan_speed_names_what_is_wrong(options: list[str], said: str):
    done = script("scan_speed.py", *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_help_of_both_scripts():
    assert "--only" in script("scan_speed.py", "--help").stdout
    assert "--llm-perf" in script("peers.py", "--help").stdout


def test_peers_refuses_no_time():
    done = script("peers.py", "--seconds", "0")
    assert done.returncode == 2
    assert "--seconds" in done.stderr


def test_flops_are_counted_as_often_as_a_loop_runs():
    program = (
        "import jax, jax.numpy as jnp\n"
        "from speed.hlo import count\n"
        "body = lambda i, x: jnp.sin(x) * 2.5 + x\n"
        "run = lambda x: jax.lax.fori_loop(0, 7, body, x)\n"
        "found = count(jax.jit(run).lower(jnp.ones(100, 'float32')).compile().as_text())\n"
        "print(found.flops, found.flops_once, found.loops, found.open_loops)\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    flops, once, loops, open_loops = map(int, done.stdout.split())
    assert (loops, open_loops) == (1, 0)
    assert flops == 7 * once == 7 * 300


@pytest.mark.slow
def test_both_forms_find_the_same_best(tmp_path: Path):
    space, out = tmp_path / "space.toml", tmp_path / "out.json"
    space.write_text(SPACE)
    sizes = ["--repeats", "1", "--flat", str(WHOLE), "--widths", "32", "--cores", "1"]
    parts = ["product-max,flat-max", "alone,flat-pareto"]
    for only in parts:
        done = script("scan_speed.py", "--space", str(space), "--only", only, *sizes, "--merge", "--json", str(out))
        assert done.returncode == 0, done.stdout + done.stderr
    found = {case["case"]: case for case in json.loads(out.read_text())["cases"]}
    product, *lists = (found[name] for only in parts for name in only.split(","))
    flat = lists[0]
    for each in lists:
        assert product["configurations"] == each["configurations"] == WHOLE
        assert 0 < product["feasible"] == each["feasible"] < WHOLE
        assert each["best"] == product["best"]
    assert flat["work"] == product["work"]
    assert found["machine"]["vector_peak_flops_per_s"] > 0
    assert flat["flops_per_configuration"] > 0
    assert product["flops_per_configuration"] > 0


STUB = """
class _Any:
    def __init__(self, *a, **k): self.__dict__.update(k)
    def run(self): return self
    TTFT, TPOT = 0.5, 0.02
InferenceCalculator = PartitionSpec = OverheadSpec = DisaggSpec = _Any
"""
LOADERS = """
import dataclasses
@dataclasses.dataclass
class Tuner:
    S_decode: int = 1
    B_decode: int = 1
    S_input: int = 1
    B_prefill: int = 1
load_tuner_from_db = lambda name: Tuner()
load_model_from_db = load_system_from_db = lambda name: None
"""


@pytest.mark.slow
def test_peers_prices_a_checkout_and_goes_on_without_others(tmp_path: Path):
    package = tmp_path / "llm_perf"
    (package / "calculators").mkdir(parents=True)
    (package / "__init__.py").write_text(STUB)
    (package / "io.py").write_text(LOADERS)
    for name, kind in (("e2e_calculator", "E2ECalculator"), ("prefill_calculator", "PrefillCalculator")):
        (package / "calculators" / f"{name}.py").write_text(f"from llm_perf import _Any as {kind}\n")
    out = tmp_path / "out.json"
    done = script("peers.py", "--llm-perf", str(tmp_path), "--seconds", "0.2", "--json", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    found = {result["name"]: result for result in json.loads(out.read_text())["results"]}
    assert found["llm_perf"]["ttft_s"] == 0.5
    assert found["llm_perf"]["evaluations_per_s"] > 0
    assert found["jaxperf scan"]["evaluations_per_s"] > found["jaxperf evaluate"]["evaluations_per_s"]
    assert all("absent" in found[n] or "evaluations_per_s" in found[n] or "failed" in found[n] for n in found)
