"""`estimate --breakdown` by class of bytes, and `estimate --compare`: contents, syntax, terminals, bad input."""

from __future__ import annotations

import json
import math
from argparse import Namespace

import pytest

from jaxperf.cli.estimate_compare import operators, ratio, ratios, replaced
from jaxperf.errors import InputError

from ..commands import Call

BASE = ("--model", "llama-3.1-70b", "--system", "h100-sxm-8", "--tp", 8, "--batch", 64)
INT4 = "--weights int4 --tp 4"
LATENT = "model=deepseek-v3, system=h200-8"


@pytest.fixture(scope="module")
def compared(call: Call) -> dict:
    done = call("estimate", *BASE, "--compare", INT4, "--compare", LATENT, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def rows(side: dict, phase: str) -> dict[str, dict]:
    return {row["operator"]: row for row in side["breakdown"] if row["phase"] == phase}


def test_classes_add_up_and_are_where_they_belong(compared: dict) -> None:
    for side in (compared["base"], compared["other"], compared["further"][0]["other"]):
        for row in side["breakdown"]:
            classes = [row[f"{name}_bytes"] for name in ("weights", "kv_cache", "activations")]
            assert math.isclose(sum(classes), row["bytes"], rel_tol=1e-5)
            assert (row["kv_cache_bytes"] > 0) == (row["operator"] == "attention")
            if row["operator"] in ("attention", "sampling", "embedding", "activation", "host"):
                assert row["weights_bytes"] == 0
            if row["bytes"] > 0:
                assert math.isclose(row["intensity"], row["flops"] / row["bytes"], rel_tol=1e-5)


def test_a_decode_step_reads_the_weights_once_and_the_cache_of_the_batch(compared: dict) -> None:
    base = compared["base"]
    decode = rows(base, "decode")
    read = sum(row["weights_bytes"] for row in decode.values())
    held = base["memory"]["weights_bytes"]
    table = 128256 * 8192 * 2 / 8  # the embedding's table is held but not read; layer norms are held, too, and small
    assert math.isclose(read, held - table, rel_tol=2e-3)
    keys_and_values = 2 * 80 * 8 * 128 * 2 / 8 * 64
    assert math.isclose(decode["attention"]["kv_cache_bytes"], keys_and_values * (1024 + 512), rel_tol=5e-3)


def test_times_and_shares_add_up_to_the_phase(compared: dict) -> None:
    for side in (compared["base"], compared["other"]):
        assert side["deployment"]["pp"] == 1
        for phase, metric in (("prefill", "prefill_s"), ("decode", "decode_step_s")):
            found = rows(side, phase).values()
            assert math.isclose(sum(row["time_s"] for row in found), side["metrics"][metric], rel_tol=1e-5)
            assert math.isclose(sum(row["share"] for row in found), 1.0, rel_tol=1e-5)


def test_json_holds_the_device_of_each_side(compared: dict) -> None:
    device = compared["base"]["device"]
    assert device["peak_flops_per_s"]["bf16"] == 989.5e12 and device["peak_flops_per_s"]["fp8"] == 1979e12
    assert device["memory_bandwidth_bytes_per_s"][device["main_memory"]] == 3350e9
    assert compared["further"][0]["other"]["device"]["memory_bandwidth_bytes_per_s"]["hbm"] == 4800e9


def test_the_other_side_is_what_estimate_says_of_it(call: Call, compared: dict) -> None:
    alone = json.loads(call("estimate", *BASE, "--tp", 4, "--weights", "int4", "--json").stdout)
    assert compared["other"] == alone
    assert compared["options"] == INT4 and compared["further"][0]["options"] == LATENT


def test_ratios_are_other_over_base(compared: dict) -> None:
    base, other, found = compared["base"], compared["other"], compared["ratio"]
    for section in ("metrics", "memory"):
        for key, value in found[section].items():
            if value is not None:
                assert math.isclose(value * base[section][key], other[section][key], rel_tol=1e-6)
    assert found["metrics"]["ttft_s"] > 1 and found["memory"]["kv_cache_bytes"] == pytest.approx(2, rel=1e-3)
    for row in found["breakdown"]:
        mine, its = (rows(side, row["phase"])[row["operator"]] for side in (base, other))
        assert (row["base_time_s"], row["other_time_s"]) == (mine["time_s"], its["time_s"])
        assert math.isclose(row["time"] * mine["time_s"], its["time_s"], rel_tol=1e-6)
    # int4 on half the devices: a quarter of the bytes an element (scales apart), twice the elements.
    gate = next(r for r in found["breakdown"] if (r["phase"], r["operator"]) == ("decode", "ffn gate, up"))
    assert 0.5 < gate["bytes"] < 0.6 and gate["flops"] == pytest.approx(2, rel=1e-6)


def test_what_one_side_lacks_is_shown_as_such(compared: dict) -> None:
    found = compared["further"][0]["ratio"]["breakdown"]
    lacking = {row["operator"]: row for row in found if row["phase"] == "decode" and row["base_time_s"] is None}
    assert {"down projections", "router", "expert gate, up"} <= set(lacking)
    assert all(row["time"] is None and row["other_time_s"] > 0 for row in lacking.values())
    order = [row["operator"] for row in found if row["phase"] == "decode"]
    assert order.index("norm, rope, quantise") < order.index("down projections") < order.index("qkv projection")


@pytest.mark.slow
def test_drafted_tokens_beside_none(call: Call) -> None:
    drafted = ("--draft", "llama-3.1-8b", "--acceptance", 0.8)
    done = call("estimate", *BASE, "--compare", "draft=llama-3.1-8b acceptance=0.8", "--json")
    found = json.loads(done.stdout)
    assert found["other"] == json.loads(call("estimate", *BASE, *drafted, "--json").stdout)
    assert found["base"]["metrics"]["tpot_s"] > found["other"]["metrics"]["tpot_s"]
    lone = [row for row in found["ratio"]["breakdown"] if row["phase"] == "draft"]
    assert lone and all(row["base_time_s"] is None for row in lone)


def test_a_cached_prefix_beside_none(call: Call) -> None:
    done = call("estimate", *BASE, "--compare", "prefix-hit=512", "--json")
    found = json.loads(done.stdout)
    assert found["other"]["prefix"] and "prefix" not in found["base"] and found["ratio"]["metrics"]["ttft_s"] < 1


@pytest.mark.parametrize("columns", ["60", "120"])
def test_comparisons_fit_the_terminal(call: Call, columns: str) -> None:
    done = call("estimate", *BASE, "--compare", INT4, "--compare", LATENT, COLUMNS=columns)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= int(columns)
    for word in ("B/A", "C/A", "only C", "time per output token", "weights bf16/int4", "ffn collective"):
        assert word in done.stdout
    assert "…" not in done.stdout
    assert ("B bytes" in done.stdout) == (columns == "120")


def test_a_wide_breakdown_shows_bytes_by_class(call: Call) -> None:
    wide = call("estimate", *BASE, "--breakdown", COLUMNS="120").stdout
    head = next(line for line in wide.splitlines() if line.startswith("decode ") and "FLOP/B" in line)
    assert head.split()[-1] == "bound"
    for word in ("time", "share", "runs", "FLOP", "weights", "KV cache", "activations"):
        assert word in head
    assert "activations" not in call("estimate", *BASE, "--breakdown", COLUMNS="60").stdout.split("prefill  ")[-1]


def test_feasible_on_either_side_is_enough(call: Call) -> None:
    one = ("--model", "llama-3.1-70b", "--system", "h100-sxm-8", "--json")
    done = call("estimate", *one, "--compare", "tp=8")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and (found["base"]["feasible"], found["other"]["feasible"]) == (False, True)
    assert call("estimate", *one, "--compare", "batch=2").returncode == 1
    text = call("estimate", *one[:-1], "--compare", "batch=2").stdout
    assert text.count("Infeasible: out of memory") == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--tp 3", "tp: 3 does not divide the 64 query heads"),
        ("--tp=0", "0 is out of range"),
        ("--wieghts int4", "did you mean '--weights'"),
        ("weights=int5", "no weight format is called 'int5'"),
        ("", "no options"),
        ("--weights 'int4", "no closing quotation"),
        ("--json", "--json is for both sides"),
        ("int4", "unexpected argument 'int4'"),
        ("model=llama-9", "no model is called 'llama-9'"),
    ],
)
def test_bad_options_of_the_other_side_are_one_line(call: Call, options: str, said: str) -> None:
    done = call("estimate", *BASE, "--compare", options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "--compare" in done.stderr and said in done.stderr


def test_compare_excludes_the_closed_forms(call: Call) -> None:
    done = call("estimate", *BASE, "--compare", "tp=4", "--closed-form")
    assert done.returncode == 2 and "exclude each other" in done.stderr
    assert call("estimate", *BASE, "--compare").returncode == 2


def test_options_replace_those_of_the_base_and_what_they_exclude() -> None:
    base = Namespace(
        model="a", tp=8, weights=None, calibration="auto", efficiency=None, isl=100, osl=None, workload=None
    )
    for options in ("--tp 4 --weights int4", "tp=4 weights=int4", "--tp=4,weights=int4", "--weights=int4 --tp 4"):
        found = replaced(base, options)
        assert (found.model, found.tp, found.weights, found.isl) == ("a", 4, "int4", 100)
    found = replaced(base, "efficiency=ideal workload=chat")
    assert (found.efficiency, found.calibration, found.workload, found.isl) == ("ideal", None, "chat", None)
    assert base.tp == 8 and base.calibration == "auto"
    with pytest.raises(InputError, match="no options"):
        replaced(base, "  ")


def test_ratios_of_what_is_missing() -> None:
    assert ratio(2, 3) == 1.5 and ratio(2.0, 0.0) == 0
    assert [ratio(*pair) for pair in ((0, 1), (None, 1), (1, None), (math.nan, 1), (1, math.inf))] == [None] * 5
    row = {"phase": "decode", "operator": "x", "time_s": 2.0, "flops": 4.0, "bytes": 0.0}
    side = {"metrics": {"mfu": 0.5}, "memory": {"total_bytes": 3.0, "tiers": []}}
    found = ratios({**side, "breakdown": [row]}, {**side, "breakdown": [{**row, "operator": "y"}]})
    assert found["metrics"] == {"mfu": 1.0} and found["memory"] == {"total_bytes": 1.0}
    assert [(r["operator"], r["base_time_s"], r["other_time_s"], r["time"]) for r in found["breakdown"]] == [
        ("y", None, 2.0, None),
        ("x", 2.0, None, None),
    ]


def test_operators_of_both_keep_the_order_of_execution() -> None:
    def side(names: str) -> list[dict]:
        return [{"phase": "decode", "operator": name} for name in names]

    assert "".join(name for _, name in operators(side("acef"), side("abcdf"))) == "abcdef"
    assert "".join(name for _, name in operators(side("c"), side("abc"))) == "abc"
