"""The command line as a program: output, exit codes, and what it does not import."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxperf
from jaxperf.cli import VERBS, main
from jaxperf.compiling import quick
from jaxperf.load import deployment, evaluate, load_model, load_system, workload
from jaxperf.phases.breakdown import breakdown, breakdown_columns, split

from ..commands import ROOT, Call

CONFIGURATION = ("--model", "llama-3.1-70b", "--system", "h100-sxm-8", "--tp", 8, "--batch", 64)
METRICS = {
    *("ttft_s", "tpot_s", "e2e_s", "prefill_s", "decode_step_s", "mfu", "mbu", "max_batch"),
    *("output_tokens_per_s", "output_tokens_per_s_per_device", "output_tokens_per_s_per_user"),
}
ROW = {
    *("phase", "operator", "count", "flops", "bytes", "weights_bytes", "kv_cache_bytes", "activations_bytes"),
    *("time_s", "share", "intensity", "bound"),
}


_COMPILED: dict = {}


def compiled(function: Callable, *pytrees: Any) -> Any:
    """What a function returns when it is compiled as `estimate` compiles it, once for all tests."""
    if function not in _COMPILED:
        _COMPILED[function] = quick(function)
    return jax.device_get(_COMPILED[function](*pytrees))


@pytest.fixture(scope="module")
def estimated(call: Call) -> dict:
    done = call("estimate", *CONFIGURATION, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_json_has_the_keys_of_the_contract(estimated: dict) -> None:
    assert {"model", "system", "feasible", "reason", "deployment", "workload"} <= set(estimated)
    assert estimated["feasible"] is True and estimated["reason"] is None
    assert METRICS.issubset(estimated["metrics"])
    memory = estimated["memory"]
    classes = [memory[f"{name}_bytes"] for name in ("weights", "kv_cache", "activations", "reserve")]
    assert math.isclose(sum(classes), memory["total_bytes"], rel_tol=1e-6)
    assert memory["capacity_bytes"] == 80e9
    bounds = {"compute", "memory", "network", "overhead"}
    assert set(estimated["bound"].values()) <= bounds
    for row in estimated["breakdown"]:
        assert set(row) == ROW
        assert row["phase"] in ("prefill", "decode") and row["bound"] in bounds and row["count"] > 0


def test_json_is_what_the_library_says(estimated: dict) -> None:
    layout = deployment("llama-3.1-70b", tp=8, system="h100-sxm-8")
    pytrees = (load_model("llama-3.1-70b"), load_system("h100-sxm-8"), layout, workload(1024, 1024, 64))
    metrics = compiled(evaluate, *pytrees)
    assert math.isclose(estimated["metrics"]["ttft_s"], float(metrics.ttft), rel_tol=1e-5)
    assert math.isclose(estimated["metrics"]["tpot_s"], float(metrics.tpot), rel_tol=1e-5)


def test_breakdown_in_json_adds_up_to_the_phases(estimated: dict) -> None:
    for phase, metric in (("prefill", "prefill_s"), ("decode", "decode_step_s")):
        times = [row["time_s"] for row in estimated["breakdown"] if row["phase"] == phase]
        assert math.isclose(sum(times), estimated["metrics"][metric], rel_tol=1e-5)


@pytest.mark.parametrize(
    ("model", "layout", "lengths"),
    [
        ("llama-3.1-70b", {"tp": 8, "chunk": 300}, (1000, 100, 64, 2)),
        ("deepseek-v3", {"tp": 2, "attention_dp": 4, "ep": 8, "chunk": 256}, (1000, 100, 64, 8)),
        ("gpt-oss-120b", {"tp": 2, "cp": 2, "ep": 4}, (3000, 100, 7, 1)),
        ("qwen3.5-397b-a17b", {"tp": 4, "chunk": 512}, (3000, 100, 16, 1)),
    ],
)
def test_rows_of_a_phase_add_up(model: str, layout: dict, lengths: tuple) -> None:
    pytrees = (load_model(model), load_system("h100-sxm-8"), deployment(model, **layout), workload(*lengths))
    metrics, columns = compiled(evaluate, *pytrees), compiled(breakdown_columns, *pytrees)
    for phase, cost in (("prefill", metrics.prefill), ("decode", metrics.decode)):
        rows = split(columns[phase])
        for field in ("time", "flops", "compute", "memory", "network", "overhead"):
            total = sum(float(getattr(row, field)) for row in rows.values())
            assert math.isclose(total, float(getattr(cost, field)), rel_tol=1e-5), (phase, field)


def test_breakdown_gives_rows_by_name() -> None:
    pytrees = (load_model("gpt2"), load_system("h100-sxm-8"), deployment("gpt2"), workload(128, 8))
    shapes = jax.eval_shape(breakdown, *pytrees)
    rows = split(compiled(breakdown_columns, *pytrees)["decode"])
    assert set(shapes) == {"prefill", "decode"} and set(shapes["decode"]) == set(rows)
    assert next(iter(rows)) == "embedding" and list(rows)[-1] == "host"
    assert float(rows["ffn gate, up"].count) == 12
    assert float(rows["router"].count) == 0 and float(rows["attention collective"].count) == 0


def test_compiling_fast_changes_no_number() -> None:
    pytrees = (
        load_model("deepseek-v3"),
        load_system("h200-8"),
        deployment("deepseek-v3", tp=8, ep=8, chunk=512),
        workload(5000, 300, 32),
    )
    for fast, plain in zip(
        jax.tree.leaves(compiled(evaluate, *pytrees)), jax.tree.leaves(jax.jit(evaluate)(*pytrees)), strict=True
    ):
        assert np.allclose(np.asarray(fast), np.asarray(plain), rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("columns", ["60", "120"])
def test_tables_fit_the_terminal(call: Call, columns: str) -> None:
    done = call("estimate", *CONFIGURATION, "--breakdown", COLUMNS=columns)
    assert done.returncode == 0 and done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= int(columns)
    for word in ("time to first token", "KV cache", "qkv projection", "efficiency default"):
        assert word in done.stdout
    assert "…" not in done.stdout
    assert " ".join(done.stdout.split()).count("beside these activations") == 2  # largest batch, longest context


def test_an_approximation_is_announced(call: Call) -> None:
    done = call("estimate", "--model", "gpt-3-175b", "--system", "h200-8", "--tp", 8)
    assert done.returncode == 0 and "Approximate" in done.stdout and "undisclosed width" in done.stdout


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--model", "llama-3.1-70b", "--system", "h100-sxm-8", "--tp", 1), "out of memory"),
        ((*CONFIGURATION, "--batch", 5000), "may be filled; beside these activations a batch of 6"),
        (("--model", "gpt2", "--system", "h100-sxm-8", "--isl", 5000), "isl + osl is 6024 tokens"),
        (
            ("--model", "gpt2", "--system", "h100-sxm-8", "--isl", 9, "--osl", 9, "--slo-tpot", 0.001),
            "TPOT above its target",
        ),
        (
            ("--model", "gpt2", "--system", "h100-sxm-8", "--isl", 9, "--osl", 9, "--slo-ttft", 0.001),
            "TTFT above its target",
        ),
    ],
)
def test_infeasible_says_why_and_exits_1(call: Call, words: tuple, reason: str) -> None:
    done = call("estimate", *words, "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert found["feasible"] is False and reason in found["reason"]


def test_specs_list_names_every_kind(call: Call) -> None:
    found = json.loads(call("specs", "list", "--json").stdout)
    assert set(found) == {"model", "system", "engine", "workload", "calibration"}
    assert "llama-3.1-70b" in found["model"]
    assert call("specs", "list", "model").stdout.split() == found["model"]
    assert call("specs", "list", "models").stdout.split() == found["model"]


def test_specs_show_derives_counts_and_peaks(call: Call) -> None:
    model = json.loads(call("specs", "show", "meta-llama/Llama-3.1-70B", "--json").stdout)
    assert model["parameters_total"] == model["parameters_active"] == 70553706496
    assert model["kv_bytes_per_token"] == 2 * 80 * 8 * 128 * 2 and model["sources"]
    system = json.loads(call("specs", "show", "h100", "--json").stdout)
    assert system["peak_flops_per_s"]["bf16"] == 989.5e12
    assert system["memory_bandwidth_bytes_per_s"] == {"hbm": 3350e9, "host": 63e9}
    text = call("specs", "show", "gpt-3-175b", "--sources").stdout
    assert "approximate" in text and "arXiv" in text


def test_specs_validate_reports_every_file(call: Call, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"kind": "model"')
    good = ROOT / "specs" / "models" / "gpt2.json"
    done = call("specs", "validate", bad, good)
    assert done.returncode == 2 and "is valid" in done.stdout
    assert done.stderr.count("\n") == 1 and str(bad) in done.stderr
    done = call("specs", "validate", bad, good, "--json")
    assert done.returncode == 2
    assert [entry["valid"] for entry in json.loads(done.stdout)["files"]] == [False, True]
    assert call("specs", "validate", good).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["specs", "list"],
        ["estimate", "--help"],
        ["plot", "--help"],
        ["specs", "validate", "--help"],
    ],
)
def test_help_and_lists_do_not_import_jax(words: list[str]) -> None:
    code = (
        "import sys; from jaxperf.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(3 if {'jax', 'numpy', 'rich'} & set(sys.modules) else code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout


def test_overview_names_every_verb(call: Call) -> None:
    text = call("--help").stdout
    assert all(verb in text for verb in VERBS)
    assert call("--version").stdout.strip() == f"jaxperf {jaxperf.__version__}"


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m jaxperf specs list | head -1; echo ${{PIPESTATUS[0]}}"
    show = f"{sys.executable} -m jaxperf specs show h100 --sources | true; echo ${{PIPESTATUS[0]}}"
    price = (
        f"{sys.executable} -m jaxperf estimate --model gpt2 --system rtx-4090-1 --isl 9 --osl 9 | true; "
        "echo ${PIPESTATUS[0]}"
    )
    for line in (command, show, price):
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.stdout.split()[-1] == "0" and done.stderr == ""


def test_a_full_disk_is_one_line() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "jaxperf", "specs", "list"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_an_unwritable_cache_is_passed_over(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = call("estimate", *CONFIGURATION, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert (done.returncode, done.stderr) == (0, "")


def test_faults_and_interrupts_have_their_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import jaxperf.cli.specs as verb

    for error, code, text in (
        (RuntimeError("odd"), 70, "internal error: RuntimeError: odd; please report"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (jaxperf.InfeasibleError("nothing fits"), 1, "infeasible: nothing fits"),
    ):

        def fail(_: object, error: BaseException = error) -> int:
            raise error

        monkeypatch.setattr(verb, "run", fail)
        assert main(["specs", "list"]) == code
        found = capsys.readouterr()
        assert found.out == "" and text in found.err and "Traceback" not in found.err


@pytest.mark.parametrize("words", [("specs", "list", "models"), ("estimate", "--model", "gpt2", "--system", "nothing")])
def test_a_process_started_anew_says_the_same(call: Call, words: tuple[str, ...]) -> None:
    """The other tests fork theirs from one that has imported everything."""
    forked, started = call(*words), call(*words, anew=True)
    assert (forked.returncode, forked.stdout, forked.stderr) == (started.returncode, started.stdout, started.stderr)
