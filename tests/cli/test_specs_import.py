"""`jaxperf specs import` as a program: what it prints and writes, what it refuses, and that its result has a price."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jaxperf.spec.library import read_json, validate

from ..commands import Call
from ..spec.configs import LLAMA, MIXTRAL, NEMOTRON, published, written

QUANT = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}


def test_the_spec_is_printed_and_the_assumptions_stand_beside_it(call: Call, tmp_path: Path) -> None:
    done = call("specs", "import", written(tmp_path, LLAMA, "Maker--Small-1B_config.json", model_type="novel"))
    assert done.returncode == 0
    made = validate(json.loads(done.stdout), "printed", "model")
    assert made.name == "small-1b"
    assert made.document["aliases"] == ["Maker/Small-1B"]
    assert "assumed: model_type 'novel' is not known" in done.stderr


def test_json_holds_the_spec_its_counts_and_what_was_assumed(call: Call, tmp_path: Path) -> None:
    config = written(tmp_path, LLAMA, "Llama-FP8_config.json")
    done = call("specs", "import", config, "--json", "--name", "mine")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    counts = ("parameters_total", "parameters_active", "kv_bytes_per_token")
    assert set(found) == {"model", *counts, "assumptions", "warnings"}
    attention = 512 * (8 + 2 * 2) * 64 + 8 * 64 * 512
    layer = attention + 3 * 512 * 1024 + 2 * 512
    assert found["parameters_total"] == found["parameters_active"] == 4 * layer + 2 * 1000 * 512 + 512
    assert found["kv_bytes_per_token"] == 4 * 2 * 2 * 64 * 2
    assert found["model"]["name"] == "mine"
    assert "the name says FP8" in found["warnings"][0]
    assert done.stderr.startswith("jaxperf: warning: Llama-FP8_config.json: the name says FP8")


def test_a_file_is_written_once_unless_forced(call: Call, tmp_path: Path) -> None:
    config, out = written(tmp_path, LLAMA), tmp_path / "out" / "mine.json"
    first = call("specs", "import", config, "--name", "mine", "--out", out)
    assert (first.returncode, first.stdout) == (0, f"{out}: model 'mine'\n")
    before = out.read_text()
    again = call("specs", "import", config, "--name", "other", "--out", out)
    assert again.returncode == 2
    assert again.stderr == f"jaxperf: error: --out: '{out}' exists; choose another path, or --force to overwrite it\n"
    assert out.read_text() == before
    assert call("specs", "import", config, "--name", "other", "--out", out, "--force").returncode == 0
    assert read_json(out)["name"] == "other"
    assert [path.name for path in out.parent.iterdir()] == ["mine.json"]


def test_the_written_spec_can_be_priced(call: Call, tmp_path: Path) -> None:
    """A hybrid with experts in a latent, exactly priced."""
    out = tmp_path / "hybrid.json"
    quant = written(tmp_path, QUANT, "quant.json")
    made = call("specs", "import", written(tmp_path, NEMOTRON), "--name", "hybrid", "--quant", quant, "--out", out)
    assert made.returncode == 0
    command = ("estimate", "--model", out, "--system", "h100-sxm-8", "--tp", 2, "--batch", 8, "--isl", 512, "--json")
    priced = json.loads(call(*command).stdout)
    assert priced["feasible"] is True
    assert 0 < priced["metrics"]["tpot_s"] < 0.1
    # One attention layer keeps keys and values of 2 heads of 64 (one a rank), fp8, in whole blocks; four Mamba-2 layers
    # a state of 16 x 32 x 64 and three inputs of the convolution each, halved by tp.
    state = 4 * (16 * 32 * 64 * 4 + 3 * (16 * 32 + 2 * 4 * 64) * 2) / 2
    assert priced["memory"]["kv_cache_bytes"] == pytest.approx(8 * ((512 + 1024) * 2 * 64 + state), rel=1e-5)
    shown = call("specs", "show", out)
    assert "priced exactly" in shown.stdout


def test_a_published_checkpoint_through_the_command(call: Call) -> None:
    done = call("specs", "import", published("nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-FP8"), "--json")
    found = json.loads(done.stdout)
    assert found["parameters_total"] == pytest.approx(120.6e9, rel=5e-3)
    assert found["kv_bytes_per_token"] == 8 * 2 * 2 * 128
    assert found["model"]["precision"]["routed_experts"] == "fp8"


BAD = [
    (json.dumps(LLAMA)[:80], "not valid JSON"),
    ("", "not valid JSON"),
    ("[1, 2]", "expected a JSON object, got list"),
    (json.dumps({**LLAMA, "hidden_size": None}), "the key 'hidden_size' is missing"),
    (json.dumps({**LLAMA, "hidden_size": -1}), "hidden_size: -1 is out of range"),
    ('{"hidden_size": 1, "hidden_size": 2}', "the key 'hidden_size' stands twice"),
    (json.dumps({**MIXTRAL, "num_experts_per_tok": 9}), "9 is more than the 8 experts"),
    (json.dumps({**LLAMA, "model_type": "mistral", "sliding_window": -1}), "-1 is no window"),
    (json.dumps({**LLAMA, "model_type": "mistral", "sliding_window": 0}), "0 is no window"),
    (json.dumps({**LLAMA, "model_type": "rwkv"}), "'rwkv' is not imported"),
    ('{"hidden_size": ' + "9" * 5000 + "}", "a number has too many digits"),
    (json.dumps(QUANT), "the key 'hidden_size' is missing"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_configs_end_with_one_line(call: Call, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    done = call("specs", "import", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("jaxperf: error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("missing/config.json",), "no such file"),
        ((".",), "a folder, not a file; give its config.json"),
        (("config.json", "--quant", "config.json"), "no 'quantization' object; expected an hf_quant_config.json"),
        (("config.json", "--quant", "absent.json"), "no such file"),
        (("config.json", "--out", "model.yaml"), "does not end in .json"),
        (("config.json", "--name", " "), "--name: the name is empty"),
        ((), "CONFIG_JSON"),
    ],
)
def test_bad_options_end_with_one_line(call: Call, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    written(tmp_path, LLAMA)
    words = [tmp_path / word if index in (0, 2) and "." in word else word for index, word in enumerate(options)]
    done = call("specs", "import", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
