"""`estimate --decode` and `estimate --gpu-layers`: the figures of the physics, terminals, exit codes, bad input."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator

import jax
import pytest

import jaxperf
from jaxperf.cli import main
from jaxperf.compiling import quick
from jaxperf.load import evaluate_quick
from jaxperf.phases.handoff import Link, disaggregated, handoff
from jaxperf.phases.hybrid import Sharing, hybrid
from jaxperf.phases.pools import decoding, filling
from jaxperf.phases.split import Bus, layer_split
from jaxperf.spec.model import as_arrays

from ..commands import Call

Price = Callable[..., dict]

CHIP = ("--model", "llama-3.1-8b", "--system", "ryzen-ai-npu", "--weights", "int4", "--decode", "system=ryzen-ai-igpu")
LONG = ("--isl", 4096, "--osl", 512)
POOLS = ("--model", "llama-3.1-70b", "--system", "h100-sxm-8", "--tp", 8, "--batch", 32, *LONG)
AWAY = "system=h200-8 tp=4 weights=fp8 kv=fp8"
LOCAL = ("--model", "llama-3.1-8b", "--system", "rtx-4090-1", "--weights", "q4_k_m", "--isl", 256, "--osl", 64)
SPLIT = (*LOCAL, "--host", "ryzen-ai-cpu")


SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
"""What the command line sets in JAX, set back for the tests after these."""


@pytest.fixture(scope="module", autouse=True)
def tapes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Programs are kept where the tests that call the command line as a program keep theirs."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp().parent / "jaxperf-cli-cache"))
        yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def price(capsys: pytest.CaptureFixture[str]) -> Price:
    """`price(*words)` is what `estimate … --json` prints; `code` is what it must return."""

    def run(*words: object, code: int = 0) -> dict:
        found = main(["estimate", *map(str, words), "--json"])
        out, err = capsys.readouterr()
        assert (found, err) == (code, ""), err
        return json.loads(out)

    return run


def test_two_pools_are_what_the_physics_says_of_them(price: Price) -> None:
    found = price(*POOLS, "--decode", AWAY, "--prefill-instances", 3, "--decode-instances", 2, "--link-overlap", 0.5)
    model, work = jaxperf.load_model("llama-3.1-70b"), jaxperf.workload(4096, 512, 32, 1)
    names = "h100-sxm-8", "h200-8"
    systems = [jaxperf.load_system(name) for name in names]
    layouts = {"tp": 8}, {"tp": 4, "weights": "fp8", "kv": "fp8"}
    hows = [jaxperf.deployment("llama-3.1-70b", system=n, **w) for n, w in zip(names, layouts, strict=True)]
    served = as_arrays((filling(work), decoding(work)))
    sides = [evaluate_quick(model, *side) for side in zip(systems, hows, served, strict=True)]
    link = Link(2.8e-6, 50e9, 4.0, 0.0, 0.5)  # the InfiniBand of both; four devices of the decode side
    moved = quick(handoff)(model, *hows, systems[1].device.memory, work, sides[0].prefill.time, as_arrays(link))
    both = disaggregated(*sides, moved, work, 8.0, 4.0, 3.0, 2.0, 2.0)
    for key in ("ttft", "tpot", "e2e"):
        assert found["metrics"][f"{key}_s"] == pytest.approx(float(getattr(both, key)), rel=1e-5)
    for key in ("requests_per_s", "output_tokens_per_s", "output_tokens_per_s_per_device"):
        assert found["metrics"][key] == pytest.approx(float(getattr(both, key)), rel=1e-5)
    assert found["pools"]["prefill_instances_per_decode_instance"] == pytest.approx(float(both.ratio), rel=1e-5)
    assert found["pools"]["devices"] == 3 * 8 + 2 * 4
    assert found["handoff"]["bytes"] == pytest.approx(4096 * 80 * 8 * 2 * 128 * 2)
    assert found["handoff"]["time_s"] == pytest.approx(float(moved.time), rel=1e-5)
    assert "assumed: infiniband-ndr" in found["link"]["origin"]


def test_each_pool_does_what_it_does_alone(price: Price) -> None:
    pair = price(*POOLS, "--decode", AWAY, "--link-latency-us", 100, "--link-GBps", 20)
    here = price(*POOLS)
    away = price(*POOLS, "--system", "h200-8", "--tp", 4, "--weights", "fp8", "--kv", "fp8")
    m, moved = pair["metrics"], pair["handoff"]
    assert m["tpot_s"] == pytest.approx(away["metrics"]["tpot_s"], rel=1e-6)
    assert m["ttft_s"] == pytest.approx(here["metrics"]["ttft_s"] + moved["time_s"], rel=1e-5)
    assert m["e2e_s"] == pytest.approx(m["ttft_s"] + 511 * m["tpot_s"], rel=1e-5)
    assert moved["time_s"] == pytest.approx(1e-4 + moved["bytes"] / (4 * 20e9) + moved["repack_s"], rel=1e-5)
    assert (pair["bound"]["prefill"], pair["bound"]["decode"]) == (here["bound"]["prefill"], away["bound"]["decode"])
    alone = (("prefill", here), ("decode", away))
    rows = [row for phase, side in alone for row in side["breakdown"] if row["phase"] == phase]
    assert [(r["phase"], r["operator"]) for r in pair["breakdown"]] == [(r["phase"], r["operator"]) for r in rows]
    assert [r["time_s"] for r in pair["breakdown"]] == pytest.approx([r["time_s"] for r in rows], rel=1e-5)
    # A prefill instance keeps the cache of its prompt and one token, in blocks of 16; a decode instance the batch's,
    # without the activations of prefill.
    kv = [side["memory"]["kv_cache_bytes"] for side in (pair["prefill"], pair["decode"], here, away)]
    assert kv[0] == pytest.approx(kv[2] * 4112 / (32 * 4608), rel=1e-6) and kv[1] == pytest.approx(kv[3], rel=1e-6)
    assert pair["decode"]["memory"]["activations_bytes"] < away["memory"]["activations_bytes"]


def test_pools_at_their_ratio_are_equally_busy(price: Price) -> None:
    words = (*POOLS, "--decode", "tp=8")
    ratio = price(*words)["pools"]["prefill_instances_per_decode_instance"]
    many = price(*words, "--prefill-instances", round(ratio * 1000), "--decode-instances", 1000, "--link-GBps", 50)
    busy = many["pools"]["prefill_busy"], many["pools"]["decode_busy"]
    assert max(busy) == pytest.approx(1, rel=1e-6) and min(busy) > 0.999
    assert price(*words)["pools"]["decode_busy"] == pytest.approx(min(1 / ratio, 1), rel=1e-4)


def test_a_slow_link_carries_what_it_can(price: Price) -> None:
    words = (*POOLS, "--prefill-instances", 3, "--decode", "tp=4 dp-attention=2 weights=fp8", "--link-GBps", 0.5)
    found = price(*words)
    one = found["handoff"]["bytes"] / (4 * 0.5e9)  # a prompt over four pairs; two replicas take one each
    assert found["metrics"]["requests_per_s"] == pytest.approx(2 / one, rel=1e-5)
    assert found["pools"]["link_busy"] == pytest.approx(1, rel=1e-6)
    assert max(found["pools"]["prefill_busy"], found["pools"]["decode_busy"]) < 0.9


def test_units_of_one_chip_hand_over_in_their_memory(price: Price) -> None:
    found = price(*CHIP)
    npu, igpu = price(*CHIP[:6]), price(*CHIP[:2], "--system", "ryzen-ai-igpu", *CHIP[4:6])
    assert found["link"]["shared_memory"] and found["link"]["bandwidth_bytes_per_s"] is None
    assert found["handoff"]["time_s"] == 0 and "pools" not in found
    assert found["metrics"]["ttft_s"] == pytest.approx(npu["metrics"]["ttft_s"], rel=1e-6)
    assert found["metrics"]["tpot_s"] == pytest.approx(igpu["metrics"]["tpot_s"], rel=1e-6)
    assert found["shared_memory"]["total_bytes"] == pytest.approx(igpu["memory"]["total_bytes"], rel=1e-4)
    lifetime = found["metrics"]["prefill_s"] + 1023 * found["metrics"]["tpot_s"]
    assert found["metrics"]["requests_per_s"] == pytest.approx(1 / lifetime, rel=1e-5)


def test_an_infinite_link_takes_its_latency_and_a_repack(price: Price) -> None:
    found = price(*CHIP[:-1], "system=ryzen-ai-igpu kv=fp8 weights=int8", "--link-latency-us", 70)
    model, systems = jaxperf.load_model("llama-3.1-8b"), [jaxperf.load_system(f"ryzen-ai-{n}") for n in ("npu", "igpu")]
    hows = [jaxperf.deployment("llama-3.1-8b", weights=w, kv=kv) for w, kv in (("int4", None), ("int8", "fp8"))]
    work = jaxperf.workload(1024, 1024)
    both = quick(hybrid)(model, *systems, *hows, work, as_arrays(Sharing(copies=2.0, alpha=70e-6)))
    moved = found["handoff"]
    assert moved["transfer_s"] == 0 and moved["repack_s"] > 0
    assert moved["time_s"] == pytest.approx(70e-6 + moved["repack_s"], rel=1e-6)
    assert found["metrics"]["e2e_s"] == pytest.approx(float(both.e2e), rel=1e-5)
    assert found["shared_memory"]["total_bytes"] == pytest.approx(float(both.total), rel=1e-5)
    assert found["shared_memory"]["weights_copies"] == 2
    assert price(*CHIP, "--link-GBps", 10)["handoff"]["transfer_s"] == pytest.approx(134217728 / 10e9, rel=1e-5)


def test_a_split_is_what_the_physics_says_of_it(price: Price) -> None:
    found = price(*SPLIT, "--gpu-layers", "0,12,32", "--efficiency", "ideal")
    model, systems = (
        jaxperf.load_model("llama-3.1-8b"),
        [jaxperf.load_system(n) for n in ("rtx-4090-1", "ryzen-ai-cpu")],
    )
    how, work = jaxperf.deployment("llama-3.1-8b", weights="q4_k_m", efficiency="ideal"), jaxperf.workload(256, 64)
    program, bus = quick(layer_split), as_arrays(Bus(1e-6, 32e9))
    for split in found["splits"]:
        direct = program(model, *systems, how, how, work, as_arrays(split["gpu_layers"]), bus)
        for key, value in split["metrics"].items():
            assert value == pytest.approx(float(getattr(direct, key.removesuffix("_s"))), rel=1e-5)
        for phase, metric in (("prefill", "ttft_s"), ("decode", "tpot_s")):
            assert sum(split["parts"][phase].values()) == pytest.approx(split["metrics"][metric], rel=1e-5)
        assert split["memory"]["gpu_bytes"] == pytest.approx(float(direct.gpu_bytes), rel=1e-6)
    assert found["bus"]["origin"] == "pcie-gen4 of rtx-4090-1"
    none, _, every = found["splits"]
    cpu, gpu = [price(*LOCAL, "--system", name, "--efficiency", "ideal") for name in ("ryzen-ai-cpu", "rtx-4090-1")]
    assert none["metrics"]["tpot_s"] == pytest.approx(cpu["metrics"]["tpot_s"], rel=1e-5)
    assert none["metrics"]["ttft_s"] == pytest.approx(cpu["metrics"]["ttft_s"], rel=1e-5)
    hop = 1e-6 + 4096 * 2 / 32e9
    assert every["metrics"]["tpot_s"] == pytest.approx(gpu["metrics"]["tpot_s"] + hop, rel=1e-3)
    assert (none["bound"]["decode"], every["bound"]["decode"]) == ("cpu", "gpu")


def test_a_split_gains_from_layers_and_from_a_faster_bus(price: Price) -> None:
    splits = price(*SPLIT, "--gpu-layers", "0,8,16,24,32")["splits"]
    times = [split["metrics"]["tpot_s"] for split in splits]
    assert times == sorted(times, reverse=True)
    slow = [price(*SPLIT, "--gpu-layers", 16, "--bus-GBps", rate)["splits"][0]["metrics"] for rate in (0.1, 1, 64)]
    for key in ("ttft_s", "tpot_s"):
        assert slow[0][key] > slow[1][key] > slow[2][key]
    late = price(*SPLIT, "--gpu-layers", 16, "--bus-GBps", 64, "--bus-latency-us", 500)["splits"][0]
    assert late["metrics"]["tpot_s"] == pytest.approx(slow[2]["tpot_s"] + 2 * (500e-6 - 1e-6), rel=1e-4)


def test_the_host_has_no_factors_of_gpu_kernels_unless_they_are_named(price: Price) -> None:
    bare, named = (price(*SPLIT, "--gpu-layers", 16, *more) for more in ((), ("--efficiency", "default")))
    assert bare["deployment"]["efficiency"] == {"gpu": "default", "host": "ideal"}
    assert named["deployment"]["efficiency"] == {"gpu": "default", "host": "default"}
    assert any("physical bound" in text for text in bare["approximations"])
    assert bare["splits"][0]["parts"]["decode"]["cpu_s"] < named["splits"][0]["parts"]["decode"]["cpu_s"]


def test_what_does_not_fit_exits_1_and_names_the_side(price: Price) -> None:
    full = price(*POOLS, "--decode", "system=rtx-4090-1 tp=2", "--link-GBps", 10, code=1)
    assert full["reason"].startswith("decode side: out of memory") and full["prefill"]["feasible"]
    full = price(*POOLS[:4], "--decode", "system=h200-8 tp=8", *LONG, code=1)
    assert full["reason"].startswith("prefill side: out of memory") and full["decode"]["feasible"]
    late = price(*POOLS, "--decode", AWAY, "--slo-ttft", 1, code=1)
    assert late["reason"].startswith("TTFT above its target") and late["prefill"]["feasible"]
    large = ("--model", "llama-3.1-70b", *CHIP[2:4], "--weights", "int8", "--decode")
    assert price(*large, "system=ryzen-ai-igpu")["feasible"]
    twice = price(*large, "system=ryzen-ai-igpu weights=fp8", code=1)
    assert "in the shared memory" in twice["reason"] and "2 times" in twice["reason"]
    split = ("--model", "llama-3.1-70b", *SPLIT[2:])
    assert "put fewer layers there" in price(*split, "--gpu-layers", 80, code=1)["reason"]
    assert "put more layers on the GPU" in price(*split, "--gpu-layers", 0, code=1)["reason"]
    assert [one["feasible"] for one in price(*split, "--gpu-layers", "0,40,80")["splits"]] == [False, True, False]


def test_the_cache_that_is_sent_is_the_one_that_is_kept(price: Price) -> None:
    whole, kept = (price(*POOLS, "--decode", "tp=8", *more)["handoff"] for more in ((), ("--kv-kept", 0.5)))
    assert kept["bytes"] == pytest.approx(whole["bytes"] / 2) and (whole["repack_s"], kept["repack_s"]) == (0, 0)
    assert price(*POOLS, "--decode", "kv-rank=0.5")["handoff"]["repack_s"] > 0


@pytest.mark.parametrize("words", [CHIP, (*POOLS, "--decode", AWAY, "--breakdown"), (*SPLIT, "--gpu-layers", "8,16")])
@pytest.mark.parametrize("columns", [60, 120])
def test_tables_fit_the_terminal(
    words: tuple, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["estimate", *map(str, words)]) == 0
    out, err = capsys.readouterr()
    assert err == "" and max(map(len, out.splitlines())) <= columns
    assert not any(text in out for text in ("nan", "inf ", "…"))


DECODE = (*POOLS, "--decode", AWAY)
HALF = (*SPLIT, "--gpu-layers", 16)
BAD = [
    ((*POOLS, "--decode", ""), "no options"),
    ((*POOLS, "--decode", "tp=3"), "--decode 'tp=3': tp: 3 does not divide the 64 query heads"),
    ((*POOLS, "--decode", "wieghts=int4"), "did you mean '--weights'"),
    ((*POOLS, "--decode", "system=h300"), "no system is called 'h300'"),
    ((*POOLS, "--decode", "'tp=4"), "no closing quotation"),
    ((*POOLS, "--decode", "isl=100"), "--isl is for both sides; give it outside"),
    ((*POOLS, "--decode", "json"), "--json is for both sides; give it outside"),
    ((*POOLS, "--decode", "jsn"), "unexpected argument 'jsn'"),
    ((*POOLS, "--decode", "chunk=100"), "--chunk is for the prefill side"),
    ((*POOLS, "--decode", "replicas=2"), "give --decode-instances"),
    ((*POOLS, "--decode", "--decode tp=2"), "--decode is for both sides"),
    ((*POOLS, "--decode", "draft=llama-3.1-8b"), "--draft is for both sides"),
    ((*POOLS, "--decode", "system=ryzen-ai-igpu"), "needs 8 devices, but the fabric of ryzen-ai-igpu reaches 1"),
    ((*POOLS, "--decode", "system=m2-ultra-1 tp=1"), "no tier of m2-ultra-1's fabric joins it with another system"),
    ((*POOLS, "--decode", "system=rtx-4090-1 tp=2"), "give --link-GBps"),
    ((*LOCAL, "--tp", 2, "--decode", "tp=2"), "joins the 4 devices of both pools; give --link-GBps"),
    ((*DECODE, "--replicas", 2), "give --prefill-instances and --decode-instances"),
    ((*DECODE, "--compare", "tp=4"), "--decode and --compare exclude each other"),
    ((*DECODE, "--closed-form"), "--decode and --closed-form exclude each other"),
    ((*DECODE, "--gpu-layers", 8, "--host", "ryzen-ai-cpu"), "--decode and --gpu-layers exclude each other"),
    ((*DECODE, "--draft", "llama-3.1-8b", "--acceptance", 0.8), "does not price speculative decoding"),
    ((*DECODE, "--link-GBps", -5), "--link-GBps: -5 is out of range; expected a number from 1e-06 to 1e+07"),
    ((*DECODE, "--link-GBps", "nan"), "out of range"),
    ((*DECODE, "--link-GBps", "fast"), "'fast' is no number"),
    ((*DECODE, "--link-latency-us", -1), "-1 is out of range"),
    ((*DECODE, "--link-overlap", 1.5), "expected a number from 0 to 1"),
    ((*DECODE, "--link-streams", 8), "8 is more than the 4 devices"),
    ((*DECODE, "--link-streams", 0), "0 is out of range"),
    ((*DECODE, "--decode-instances", 0), "0 is out of range"),
    ((*POOLS, "--link-GBps", 50), "--link-GBps is for two sides; give --decode, too"),
    ((*POOLS, "--prefill-instances", 2), "give --decode, too"),
    ((*CHIP, "--decode-instances", 2), "share the memory of one chip"),
    ((*CHIP, "--link-overlap", 0.5), "share the memory of one chip"),
    ((*POOLS, "--compare", "decode=tp"), "--decode cannot be compared"),
    ((*LOCAL, "--gpu-layers", 8), "--host is missing"),
    ((*LOCAL, "--host", "ryzen-ai-cpu"), "give --gpu-layers, too"),
    ((*LOCAL, "--bus-GBps", 8), "give --gpu-layers, too"),
    ((*SPLIT, "--gpu-layers", 33), "33 is more than the layers of llama-3.1-8b; choose 0 to 32"),
    ((*SPLIT, "--gpu-layers", "8,-1"), "-1 is out of range"),
    ((*SPLIT, "--gpu-layers", "8,,9"), "'' is no number"),
    ((*SPLIT, "--gpu-layers", 2.5), "2.5 is no whole number"),
    ((*LOCAL, "--gpu-layers", 8, "--host", "pentium"), "--host: no system is called 'pentium'"),
    ((*HALF, "--tp", 2), "--tp: 2, but --gpu-layers splits over one GPU and its host; choose 1"),
    ((*HALF, "--replicas", 2), "--replicas: 2, but"),
    ((*HALF, "--bus-GBps", 0), "0 is out of range"),
    ((*HALF, "--bus-latency-us", "inf"), "inf is out of range"),
    ((*HALF, "--compare", "tp=1"), "--gpu-layers and --compare exclude each other"),
    ((*HALF, "--kv-kept", 0.5), "--gpu-layers does not price --kv-kept"),
    ((*HALF, "--breakdown"), "--gpu-layers does not price --breakdown"),
    ((*HALF, "--mtp", 1), "does not price speculative decoding"),
    ((*HALF, "--system", "gb10-1"), "gb10-1 states no link to a host in its spec; give --bus-GBps"),
    ((*HALF, "--system", "ryzen-ai-npu", "--host", "ryzen-ai-igpu"), "share the memory of one chip"),
]


@pytest.mark.parametrize(("words", "said"), BAD)
def test_mistakes_are_one_line_and_exit_2(words: tuple, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["estimate", *map(str, words)])
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), err
    assert err.startswith("jaxperf: error: ") and err.count("\n") == 1 and said in err


def test_as_a_program(call: Call) -> None:
    done = call("estimate", *CHIP, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert math.isfinite(found["metrics"]["e2e_s"]) and found["system"] == "ryzen-ai-npu + ryzen-ai-igpu"
