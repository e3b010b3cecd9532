"""Malformed files and command lines: exit 2, one clear line on stderr, no traceback, nothing on stdout."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from jaxperf.cli.layout import check_layout
from jaxperf.errors import InputError
from jaxperf.spec.library import find

from ..commands import ROOT, Call

MODEL = json.loads((ROOT / "specs" / "models" / "llama-3.1-8b.json").read_text())
SYSTEM = json.loads((ROOT / "specs" / "systems" / "h100-sxm-8.json").read_text())
DELETE = object()


def changed(document: dict, path: str, value: Any) -> str:
    """The JSON text of a document with one field set, or deleted."""
    document = copy.deepcopy(document)
    node, *keys = document, *path.split("/")
    for key in keys[:-1]:
        node = node[int(key)] if isinstance(node, list) else node[key]
    if value is DELETE:
        del node[keys[-1]]
    else:
        node[keys[-1]] = value
    return json.dumps(document)


ATTENTION, FEED_FORWARD = "layer_groups/0/attention", "layer_groups/0/feed_forward"
TEXT = json.dumps(MODEL)
SPECS = {
    "truncated": [
        (TEXT[:200], "not valid JSON"),
        (TEXT[:-1], "not valid JSON"),
        (TEXT + "}", "not valid JSON"),
        ("", "not valid JSON"),
        ("{'kind': 'model'}", "not valid JSON"),
    ],
    "wrong type": [
        (changed(MODEL, "hidden_size", "4096"), "hidden_size: '4096' is no number"),
        (changed(MODEL, "tied_embeddings", 1), "tied_embeddings: 1 is neither true nor false"),
        (changed(MODEL, "layer_groups", {}), "layer_groups: expected a list"),
        (changed(MODEL, "name", 7), "name: 7 is no text"),
        (changed(SYSTEM, "devices", 7.5), "devices: 7.5 is no whole number"),
        ("[]", "expected a JSON object, got list"),
        ("3", "expected a JSON object, got int"),
    ],
    "unknown key": [
        (changed(MODEL, "hiden_size", 4096), "did you mean 'hidden_size'"),
        (changed(MODEL, f"{ATTENTION}/kv_head", 8), "did you mean 'kv_heads'"),
        (changed(MODEL, f"{FEED_FORWARD}/widht", 8), "did you mean 'width'"),
        (changed(SYSTEM, "device/peak_TFLOPS/fp64", 34), "unknown key 'fp64'"),
        (changed(SYSTEM, "fabric/0/latency", 1), "unknown key 'latency'"),
    ],
    "wrong unit": [
        (changed(SYSTEM, "device/memory/hbm/bandwidth_TBps", 3.35), "bandwidth_GBps"),
        (changed(SYSTEM, "device/memory/hbm/capacity_GiB", 80), "capacity_GB"),
        (changed(SYSTEM, "device/tdp_kW", 0.7), "tdp_W"),
        (changed(SYSTEM, "fabric/0/alpha_ms", 1), "alpha_us"),
        (changed(SYSTEM, "fabric/0/bandwidth_Gbps", 400), "bandwidth_GBps"),
        (changed(MODEL, "max_context", 8192), "max_context_tokens"),
    ],
    "out of range": [
        (changed(MODEL, "hidden_size", -1), "hidden_size: -1 is out of range"),
        (changed(MODEL, "layer_groups/0/count", 0), "count: 0 is out of range"),
        (changed(SYSTEM, "device/memory/hbm/capacity_GB", -80), "capacity_GB: -80 is out of range"),
        (changed(SYSTEM, "device/memory/hbm/bandwidth_GBps", 0), "bandwidth_GBps: 0 is out of range"),
        (changed(SYSTEM, "devices", 0), "devices: 0 is out of range"),
        (changed(MODEL, "hidden_size", 10**400), "hidden_size: a number of 401 digits is out of range"),
        (TEXT.replace('"hidden_size": 4096', '"hidden_size": ' + "9" * 5000), "a number has too many digits"),
    ],
    "missing field": [
        (changed(MODEL, "kind", DELETE), "kind: None is not one of"),
        (changed(MODEL, "layer_groups", DELETE), "'layer_groups' is missing"),
        (changed(MODEL, "sources", DELETE), "'sources' is missing"),
        (changed(MODEL, f"{ATTENTION}/kind", DELETE), "'kind' is missing"),
        (changed(SYSTEM, "device/memory/hbm/bandwidth_GBps", DELETE), "'bandwidth_GBps' is missing"),
        (changed(SYSTEM, "fabric", []), "expected 1 to 3"),
    ],
    "not a number": [
        (TEXT.replace('"hidden_size": 4096', '"hidden_size": NaN'), "NaN is no JSON number"),
        (TEXT.replace('"hidden_size": 4096', '"hidden_size": Infinity'), "Infinity is no JSON number"),
        (TEXT.replace('"hidden_size": 4096', '"hidden_size": 1e999'), "hidden_size: inf is not finite"),
        (TEXT.replace('"hidden_size": 4096', '"hidden_size": null'), "hidden_size: None is no number"),
        (TEXT.replace('"hidden_size": 4096', '"hidden_size": true'), "hidden_size: True is no number"),
    ],
    "duplicate key": [
        (TEXT.replace('"hidden_size"', '"hidden_size": 1, "hidden_size"', 1), "'hidden_size' stands twice"),
        (TEXT.replace('"kind"', '"kind": "model", "kind"', 1), "'kind' stands twice"),
    ],
    "contradiction": [
        (changed(MODEL, f"{ATTENTION}/kv_heads", 7), "7 does not divide query_heads 32"),
        (changed(MODEL, f"{ATTENTION}/kv_heads", 0), "kv_heads: 0 is out of range"),
        (changed(MODEL, f"{FEED_FORWARD}/experts_per_token", 2), "2 is more than the 0 experts"),
        (changed(MODEL, "layer_groups/0/first", 5), "reaches layer"),
        (changed(SYSTEM, "device/main_memory", "sram"), "'sram' is no tier of memory"),
        (changed(SYSTEM, "devices", 4096), "more than the 2048 that the fabric reaches"),
    ],
}
SPEC_CASES = [(f"{kind}-{i}", text, words) for kind, cases in SPECS.items() for i, (text, words) in enumerate(cases)]


def one_line(done: Any, words: str) -> None:
    """What every refusal looks like."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("jaxperf: error: ") and done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("text", "words"), [case[1:] for case in SPEC_CASES], ids=[case[0] for case in SPEC_CASES])
def test_malformed_spec(call: Call, tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "spec.json"
    path.write_text(text)
    done = call("specs", "validate", path)
    one_line(done, words)
    assert str(path) in done.stderr


GOOD = ["--model", "llama-3.1-70b", "--system", "h100-sxm-8"]
MOE = ["--model", "deepseek-v3", "--system", "h200-8"]
LINES = {
    "verb": [
        ([], "no verb given"),
        (["estimat"], "did you mean 'estimate'"),
        (["Scan"], "did you mean 'scan'"),
        (["estimate --model x"], "no verb is called"),
        (["--verbose"], "unknown option '--verbose'"),
        (["specs", "shw"], "did you mean 'show'"),
        (["specs"], "required: ACTION"),
    ],
    "option": [
        (["estimate", *GOOD, "--bach", "8"], "did you mean '--batch'"),
        (["estimate", *GOOD, "--batc=8"], "did you mean '--batch'"),
        (["estimate", *GOOD, "--dp", "8"], "unknown option '--dp'"),
        (["estimate", *GOOD, "extra"], "unexpected argument 'extra'"),
        (["estimate", *GOOD, "--tp"], "--tp: expected one argument"),
        (["estimate", "--model", "llama-3.1-70b"], "required: --system"),
        (["specs", "list", "--jsn"], "did you mean '--json'"),
        (["estimate", *GOOD, "--efficiency", "ideal", "--calibration", "auto"], "exclude each other"),
    ],
    "name": [
        (["estimate", "--model", "llama-3.1-70", "--system", "h100-sxm-8"], "did you mean 'llama-3.1-70b'"),
        (["estimate", "--model", "", "--system", "h100-sxm-8"], "no model is called ''"),
        (["estimate", "--model", "llama-3.1-70b", "--system", "h100-sxm-9"], "did you mean 'h100-sxm-8'"),
        (["estimate", *GOOD, "--engine", "vlm"], "did you mean 'vllm'"),
        (["estimate", *GOOD, "--workload", "chatt"], "no workload is called 'chatt'"),
        (["estimate", *GOOD, "--efficiency", "idael"], "no calibration is called 'idael'"),
        (["specs", "show", "h100-sxm-9"], "did you mean 'h100-sxm-8'"),
        (["specs", "list", "modles"], "no kind of spec is called 'modles'"),
    ],
    "number": [
        (["estimate", *GOOD, "--batch", "0"], "--batch: 0 is out of range; expected a whole number from 1"),
        (["estimate", *GOOD, "--batch", "-3"], "--batch: -3 is out of range"),
        (["estimate", *GOOD, "--tp", "1.5"], "--tp: 1.5 is no whole number"),
        (["estimate", *GOOD, "--isl", "nan"], "--isl: 'nan' is no finite number"),
        (["estimate", *GOOD, "--isl", "inf"], "--isl: 'inf' is no finite number"),
        (["estimate", *GOOD, "--osl", "1e400"], "--osl: 1e400 is out of range"),
        (["estimate", *GOOD, "--tp", "eight"], "--tp: 'eight' is no number"),
        (["estimate", *GOOD, "--chunk", ""], "--chunk: '' is no number"),
        (["estimate", *GOOD, "--slo-ttft", "-1"], "--slo-ttft: -1 is out of range"),
        (["estimate", *GOOD, "--slo-tpot", "fast"], "--slo-tpot: 'fast' is no number"),
        (["estimate", *GOOD, "--replicas", "9" * 5000], "is out of range"),
    ],
    "layout": [
        (
            ["estimate", *GOOD, "--tp", "3"],
            "tp: 3 does not divide the 64 query heads of llama-3.1-70b; choose one of 1, 2, 4, 8, 16, 32, 64",
        ),
        (["estimate", *GOOD, "--tp", "128"], "tp: 128 does not divide"),
        (["estimate", *GOOD, "--ep", "2"], "llama-3.1-70b has none; choose 1"),
        (["estimate", *MOE, "--tp", "8", "--ep", "3"], "ep: 3 does not divide the 256 experts"),
        (["estimate", *MOE, "--tp", "4", "--ep", "8"], "ep: 8 does not divide the 4 ranks"),
        (["estimate", *GOOD, "--pp", "81"], "pp: 81 is more than the 80 layers"),
        (["estimate", *GOOD, "--tp", "64", "--dp-attention", "64"], "4096 devices, but the fabric of h100-sxm-8"),
    ],
    "format": [
        (["estimate", *GOOD, "--weights", "fp9"], "no weight format is called 'fp9'; did you mean"),
        (["estimate", *GOOD, "--weights", "bf15"], "did you mean 'bf16'"),
        (["estimate", *GOOD, "--kv", "mxfp4"], "no KV format is called 'mxfp4'"),
        (["estimate", *GOOD, "--kv", "8"], "no KV format is called '8'"),
        (["estimate", *GOOD, "--weights", ""], "no weight format is called ''"),
    ],
    "path": [
        (["estimate", "--model", "nowhere.json", "--system", "h100-sxm-8"], "nowhere.json: no such file"),
        (["estimate", "--model", "llama-3.1-70b", "--system", "/nowhere/x.json"], "/nowhere/x.json: no such file"),
        (["estimate", *GOOD, "--calibration", "nowhere.json"], "nowhere.json: no such file"),
        (["estimate", *GOOD, "--engine", str(ROOT / "specs" / "models" / "gpt2.json")], "kind: this is a model"),
        (["specs", "validate", str(ROOT / "specs")], "a folder, not a file"),
        (["specs", "show", "nowhere.json"], "no such file"),
    ],
}
LINE_CASES = [(f"{kind}-{i}", line, words) for kind, cases in LINES.items() for i, (line, words) in enumerate(cases)]


@pytest.mark.parametrize(("line", "words"), [case[1:] for case in LINE_CASES], ids=[case[0] for case in LINE_CASES])
def test_malformed_command_line(call: Call, line: list[str], words: str) -> None:
    one_line(call(*line), words)


def test_a_control_character_in_a_name_stays_on_one_line(call: Call) -> None:
    one_line(call("estimate", "--model", "a\nb", "--system", "h100-sxm-8"), "no model is called")


def test_layout_names_the_nearest_values_of_many() -> None:
    layout = {"tp": 64, "attention_dp": 4, "ep": 96}
    with pytest.raises(InputError, match="choose one of") as caught:
        check_layout(find("model", "deepseek-v3"), find("system", "gb200-nvl72"), layout)
    assert "64" in str(caught.value)
