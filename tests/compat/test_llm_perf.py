"""The bridge to llm_perf returns what that tool returned, and says clearly what is wrong with its input."""

from __future__ import annotations

import copy
import gzip
import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.parity_llm_perf import compared, measure, read_cases
from jaxperf.compat.llm_perf import evaluate, evaluate_cases, load_inputs, load_spec, resolve_algorithms, run
from jaxperf.compat.llm_perf.documents import KINDS
from jaxperf.errors import InputError
from jaxperf.spec.schema import Listing, Number, Section, Table

from . import plain_llm_perf as plain

ROOT = Path(__file__).resolve().parents[2]
EXACT = 1e-9


def switch(ports: int, bandwidth: float, alpha: float, **more: object) -> dict:
    return {"ports": ports, "bw_per_port_GBps": bandwidth, "alpha_us": alpha, **more}


def device(capacity: float, bandwidth: float, peak: float, **more: object) -> dict:
    return {"hbm_capacity_GB": capacity, "hbm_bandwidth_GBps": bandwidth, "peak_flops_TF": peak, **more}


def case(**changes: dict) -> dict:
    """A small dense model on eight devices, changed document by document."""
    chains = changes.pop("chains", {"link": [switch(8, 400.0, 1.0)]})
    inputs: dict = {
        "model": {
            "L": 32,
            "H": 4096,
            "n_q": 32,
            "n_kv": 8,
            "I_dense": 14336,
            "vocab_size": 128256,
            "max_seq_len": 8192,
            "bytes_per_param": 2.0,
        },
        "system": {
            "num_devices": 8,
            "device": device(80.0, 3350.0, 989.0),
            "fabrics": {name: {"tiers": tiers} for name, tiers in chains.items()},
            "collective_fabrics": {axis: list(chains) for axis in ("TP", "EP", "SP", "PP")},
        },
        "partition": {"PP": 1, "TP": 8, "EP": 1, "SP": 1},
        "tuner": {"S_decode": 2048, "B_decode": 16, "S_input": 1024},
        "overhead": {},
        "disagg": {},
        "paging": {},
    }
    for kind, change in changes.items():
        inputs[kind] = {**inputs[kind], **change}
    return inputs


R1 = {
    "L": 61,
    "H": 7168,
    "n_q": 128,
    "n_kv": 5,
    "I_dense": 18432,
    "vocab_size": 152064,
    "max_seq_len": 163840,
    "bytes_per_param": 1.0,
    "moe": {"n_experts": 256, "k_active": 9, "I_moe": 2048, "n_moe_layers": 60},
}
CURVE = {"1": 0.05, "16": 0.4, "64": 0.8, "256": 1.0}


def mixture_on_a_switch() -> dict:
    link = switch(8, 441.0876931042779, 0.9267501107847541, eta_alpha=1.2009802948409807, eta_beta=0.7386183572409977)
    inputs = case(
        chains={"nvlink4": [link]},
        model=R1,
        overhead={"t_sched_us": 499.562553160985, "t_tok_us": 137.00650407132048, "t_detok_us": 32.37481791721911},
        disagg={
            "disaggregated": True,
            "inter_alpha_us": 46.632157204403576,
            "inter_bandwidth_GBps": 25.0,
            "N_WR": 640,
            "tau_WR_us": 0.9919417787684917,
            "overlap_rho_KV": 0.8,
            "repack_GBps": 900.0,
            "repack_eta": 1.5492332343613802,
        },
        paging={"block_size": 32, "system_overhead_GB": 0.0},
        tuner={
            "S_decode": 1,
            "tp_algorithm_decode": "tree_pipelined",
            "n_TP_collectives": 1,
            "overlap_factor": 1.0,
            "B_decode": 2,
            "S_input": 1024,
            "chunk_size": 1000,
            "kernels_per_layer_compute": 6,
            "kernels_per_collective_call": 1,
            "kernel_launch_us": 7.0,
            "sw_overlap_factor": 0.5,
        },
    )
    inputs["system"]["device"] = device(80.0, 3277.1707686586324, 1090.7761108502925)
    return inputs


def mixture_in_the_network() -> dict:
    tiers = {
        "nvlink5": [
            switch(
                72,
                705.0915761330913,
                0.38015049335753254,
                eta_alpha=1.8232606795923818,
                eta_beta=0.6994113654545521,
                inc="nvls",
                inc_alpha_us=0.2,
            )
        ],
        "ib": [switch(8, 539.0986225077954, 2.2046224567806147, inc="sharp", inc_alpha_us=0.4)],
    }
    inputs = case(
        chains=tiers,
        model={
            "vocab_size": 152064,
            "bytes_per_param": 1.0,
            "moe": {"n_experts": 64, "k_active": 4, "I_moe": 8192, "n_moe_layers": 16},
        },
        system={"num_devices": 576},
        partition={"PP": 4, "TP": 8, "EP": 2, "SP": 2},
        tuner={
            "S_decode": 131072,
            "tp_algorithm_decode": "tree_pipelined",
            "tp_algorithm_prefill": "tree",
            "overlap_factor": 0.5,
            "S_input": 0,
            "B_prefill": 2,
            "chunk_size": 4096,
            "placement": {"auto_priority": "kv"},
            "kernels_per_layer_compute": 14,
            "kernels_per_pp_hop": 1,
            "sw_overlap_factor": 0.0,
            "tensor_core_efficiency": CURVE,
        },
        paging={"block_size": 64},
    )
    inputs["system"]["device"] = device(192.0, 9501.323888417639, 2938.361449867533)
    return inputs


def two_memories() -> dict:
    tiers = {
        "package": [
            {
                "topology": "mesh",
                "full": True,
                "dims": [4],
                "bw_per_port_GBps": 134.79186134824002,
                "alpha_us": 0.14576063483848467,
            }
        ],
        "bridge": [
            switch(4, 78.52197813882549, 0.4817402026911086, eta_alpha=1.5021730603062693, eta_beta=0.9348058036721204)
        ],
        "server": [switch(2, 49.90352497721789, 0.505111418458479), switch(2, 54.039804610052876, 0.5358678652782959)],
    }
    return case(
        chains=tiers,
        model={
            "L": 61,
            "H": 7168,
            "n_q": 128,
            "n_kv": 128,
            "I_dense": 18432,
            "vocab_size": 129280,
            "bytes_per_param": 0.5,
        },
        system={
            "num_devices": 64,
            "device": device(
                32.0, 68.55888093084239, 142.90856078455718, sram_capacity_MB=256.0, sram_bandwidth_TBps=18.75
            ),
        },
        partition={"TP": 16},
        tuner={
            "S_decode": 1,
            "tp_algorithm": "tree_pipelined",
            "n_TP_collectives": 1,
            "overlap_factor": 1.0,
            "B_decode": 7,
            "S_input": 100000,
            "B_prefill": 2,
            "chunk_size": 4096,
            "placement": {"auto_priority": "kv"},
            "kernels_per_collective_call": 1,
            "kernel_launch_us": 7.0,
            "sw_overlap_factor": 0.5,
            "tensor_core_efficiency": CURVE,
        },
        paging={"block_size": 64, "system_overhead_GB": 0.0},
    )


def mixture_on_a_torus() -> dict:
    ici = {
        "topology": "torus",
        "dims": [16, 16, 16],
        "bw_per_port_GBps": 134.40738798601228,
        "alpha_us": 1.0037084925758013,
    }
    inputs = case(
        chains={"ici": [ici]},
        model=R1,
        system={"num_devices": 4096},
        partition={"TP": 16, "EP": 16},
        tuner={
            "S_decode": 8192,
            "tp_algorithm_decode": "tree",
            "n_TP_collectives": 1,
            "overlap_factor": 1.0,
            "B_decode": 8,
            "S_input": 2048,
            "chunk_size": 2048,
            "kernels_per_collective_call": 1,
            "sw_overlap_factor": 0.5,
        },
        paging={"system_overhead_GB": 4.0},
    )
    inputs["system"]["device"] = device(95.0, 3530.657260173993, 427.4295425569743)
    return inputs


RETURNED = {
    "mixture on a switch": (
        mixture_on_a_switch,
        {
            "decode.memory.M_total_device": 85557185980.0,
            "decode.memory.fits_in_HBM": False,
            "decode.comm.t_TP": 6.722054795455687e-06,
            "decode.latency.TPOT": 0.02610710203515553,
            "decode.latency.B_star": 7206.613530172965,
            "prefill.latency.t_prefill": 0.026108387252282535,
            "prefill.latency.t_prefill_chunked": 0.052178999125514366,
            "prefill.flops.F_attn_kv_prefill": 30064771072,
            "e2e.TTFT": 0.05285205834467037,
            "e2e.t_handoff": 0.0,
            "e2e.t_repack": 6.021325628960398e-05,
            "kv_paging.phi_avg": 17.0,
        },
    ),
    "mixture in the network": (
        mixture_in_the_network,
        {
            "decode.flops.F_token_device": 1537212416.0,
            "decode.comm.t_PP": 2.219818192139559e-06,
            "decode.comm.t_TP": 8.621971536153939e-07,
            "decode.comm.t_EP": 9.588992104233163e-07,
            "decode.comm.t_SP": 0.0005450585480363322,
            "decode.latency.eta_TC": 0.12,
            "decode.latency.TPOT": 0.004862714301009736,
            "decode.latency.B_star": math.inf,
            "decode.latency.TTPS": 13161.373676983343,
            "prefill.latency.t_pipeline_warmup": 0.0013460979866937956,
            "prefill.latency.n_chunks": 0,
            "kv_paging.max_sequences": 1405,
        },
    ),
    "two memories": (
        two_memories,
        {
            "decode.memory.M_resident_per_tier": [256150528.0, 920488768.0],
            "decode.latency.t_mem": 0.01301751272974495,
            "decode.comm.t_TP": 4.133824753481469e-06,
            "decode.latency.B_star": 7.622992220175022,
            "prefill.latency.t_prefill_batched": 5.430241322439257,
            "prefill.latency.t_prefill_chunked": 1.864802430798972,
            "prefill.latency.n_chunks": 25,
            "kv_paging.max_sequences": 534,
        },
    ),
    "mixture on a torus": (
        mixture_on_a_torus,
        {
            "decode.comm.t_TP": 3.091121080358406e-05,
            "decode.comm.t_EP": 1.5709245793182636e-05,
            "decode.latency.t_SW": 0.0011865,
            "decode.latency.TPOT": 0.0037903330923258413,
            "prefill.comm.t_EP_prefill": 0.001974001598200121,
            "prefill.latency.t_prefill": 0.25122842988320276,
            "kv_paging.S_max": 41110850.0887389,
        },
    ),
}
"""Inputs, and what llm_perf returned for them at commit fdc49cc (a few of its figures)."""


def at(outputs: dict, path: str) -> object:
    for key in path.split("."):
        outputs = outputs[key]
    return outputs


@pytest.mark.parametrize("name", RETURNED)
def test_returns_what_the_tool_returned(name):
    build, expected = RETURNED[name]
    outputs = evaluate(build())
    for path, value in expected.items():
        found = at(outputs, path)
        assert type(found) is type(value), path
        assert found == pytest.approx(value, rel=EXACT), path


def test_every_field_of_the_reference_cases(reference):
    result = measure(read_cases(str(reference / "llm_perf" / "cases.jsonl.gz")))
    assert result["cases"] == 2000
    assert len(result["fields"]) == 87
    assert not result["failed"]
    assert result["worst"] < 1e-12


FABRICS = {
    "star": [switch(512, 900.0, 0.5)],
    "switch that reduces and exchanges": [switch(512, 900.0, 0.5, inc="hw_a2a")],
    "torus": [{"topology": "torus", "dims": [8, 8, 8], "bw_per_port_GBps": 900.0, "alpha_us": 0.5}],
    "mesh": [{"topology": "mesh", "dims": [8, 8, 8], "bw_per_port_GBps": 900.0, "alpha_us": 0.5}],
}
PUBLISHED = [
    ("TP", "star", 546.49),
    ("TP", "switch that reduces and exchanges", 18.78),
    ("TP", "torus", 56.49),
    ("SP", "star", 273.24),
    ("SP", "switch that reduces and exchanges", 18.74),
    ("SP", "torus", 28.24),
    ("EP", "star", 273.24),
    ("EP", "switch that reduces and exchanges", 18.24),
    ("EP", "torus", 23.78),
    ("EP", "mesh", 46.06),
]
"""Microseconds for 16 MB over 512 ranks, α 0.5 µs, 900 GB/s, from code/CHANGES.md §7 of
github.com/spiceMonkey/collective-comm (commit 9c2fbc4), which llm_perf takes its collectives from."""


@pytest.mark.parametrize("axis, fabric, microseconds", PUBLISHED)
def test_published_collective_times(axis, fabric, microseconds):
    sixteen_megabytes = {"H": 16000, "n_q": 2, "n_kv": 1, "bytes_per_param": 1.0}
    experts = {"moe": {"n_experts": 512, "k_active": 1, "I_moe": 64}}
    inputs = case(
        chains={"link": FABRICS[fabric]},
        model={**sixteen_megabytes, **experts},
        system={"num_devices": 512},
        partition={"TP": 1, axis: 512},
        tuner={"B_decode": 1000, "S_decode": 1},
    )
    comm = evaluate(inputs)["decode"]["comm"]
    assert comm[f"msg_{axis}_bytes"] == 16e6
    assert comm[f"t_{axis}"] * 1e6 == pytest.approx(microseconds, abs=0.006)


def random_case(draw: random.Random) -> dict:
    """A case with any fabrics, memories, placements, degrees; the tool's own branches that its examples leave out."""
    memories = [
        {"name": name, "capacity_GB": draw.uniform(1, 30), "bandwidth_GBps": draw.uniform(50, 9000), "eta_beta": eta}
        for name, eta in [("sram", 1.0), ("hbm", 0.92), ("lpddr5", 0.85)][draw.randint(0, 2) :]
    ]
    memories[-1]["capacity_GB"] = 400.0
    pins = ["auto", "auto", memories[-1]["name"]]
    experts = {"n_experts": draw.choice([4, 8]), "k_active": 2, "I_moe": 512, "n_moe_layers": draw.choice([None, 5])}
    inputs = case(
        model={"moe": draw.choice([None, experts]), "bytes_per_param": draw.choice([0.5, 1.0, 2.0])},
        system={"num_devices": 4096},
        partition={
            "PP": draw.choice([1, 3]),
            "TP": draw.choice([1, 2, 4, 6, 8, 32]),
            "EP": draw.choice([1, 2, 4, 8, 16]),
            "SP": draw.choice([1, 2, 8]),
        },
        tuner={
            "S_decode": draw.choice([1, 777, 40000]),
            "B_decode": draw.choice([1, 7, 64]),
            "S_input": draw.choice([0, 100, 5000]),
            "B_prefill": draw.choice([1, 3]),
            "tp_algorithm_decode": draw.choice(["ring", "tree", "tree_pipelined", "auto"]),
            "tp_algorithm_prefill": draw.choice(["ring", "tree", "tree_pipelined", "auto"]),
            "ep_algorithm": draw.choice(["ring", "auto"]),
            "inc_enabled": draw.random() < 0.7,
            "placement": {
                "weights_tier": draw.choice(pins),
                "kv_tier": draw.choice(pins),
                "auto_priority": draw.choice(["weights", "kv"]),
            },
        },
    )
    chains = {axis: plain.random_chain(draw) for axis in ("TP", "EP", "SP", "PP")}
    inputs["system"] |= {
        "device": {**device(80.0, 3350.0, 989.0), "tiers": memories},
        "fabrics": {axis: {"tiers": chain} for axis, chain in chains.items()},
        "collective_fabrics": {axis: [axis] for axis in chains},
    }
    return inputs


def plain_outputs(inputs: dict) -> dict[str, object]:
    """What plain rules say about communication and placement of a case."""
    model, layout, tuner, system = (inputs[key] for key in ("model", "partition", "tuner", "system"))
    width, kv_width = model["bytes_per_param"], model["n_kv"] * model["H"] / model["n_q"]
    moe = model["moe"]
    ep = min(layout["EP"], moe["n_experts"]) if moe else 1
    chosen = moe["k_active"] if moe else 1
    allowed, found = tuner["inc_enabled"], {}
    chains = {axis: plain.tiers_of(system, axis) for axis in layout}
    for phase, rows, gathered, batch in [
        ("decode", tuner["B_decode"], tuner["B_decode"] * tuner["S_decode"], 1),
        ("prefill", tuner["S_input"], tuner["S_input"], tuner["B_prefill"]),
    ]:
        end = "" if phase == "decode" else "_prefill"
        row = rows * model["H"] * width
        reduce, exchange = tuner[f"tp_algorithm_{phase}"], tuner["ep_algorithm"]
        if reduce == "auto":
            reduce = plain.chosen(chains["TP"], "reduce", batch * row, layout["TP"], allowed)
        if exchange == "auto":
            exchange = plain.chosen(chains["EP"], "exchange", row, layout["EP"], allowed)
        found[f"algorithms.tp_algorithm_{phase}"], found[f"algorithms.ep_algorithm_{phase}"] = reduce, exchange
        found[f"{phase}.comm.t_TP{end}"] = plain.cost(chains["TP"], "reduce", row, layout["TP"], reduce, allowed)
        found[f"{phase}.comm.t_EP{end}"] = plain.cost(chains["EP"], "exchange", chosen * row, ep, exchange, allowed)
        cached = gathered * 2 * kv_width / layout["TP"] * width
        found[f"{phase}.comm.t_SP{end}"] = plain.cost(chains["SP"], "gather", cached, layout["SP"], "ring", allowed)
        replica = math.prod(layout.values())
        hop = plain.hop(chains["PP"], row / layout["TP"], replica) if layout["PP"] > 1 else 0.0
        found[f"{phase}.comm.t_PP{end}"] = hop
    return found


def plain_memory(inputs: dict, outputs: dict) -> dict[str, object]:
    """Placement and read time from the sizes that the outputs state."""
    memories, placement = inputs["system"]["device"]["tiers"], inputs["tuner"]["placement"]
    usage, moved = outputs["decode"]["memory"], outputs["decode"]["traffic"]
    held = plain.lay_out(memories, placement, usage["M_theta_device"], usage["M_kv_device"])
    read = plain.lay_out(memories, placement, moved["T_theta"], moved["T_step_eff"] - moved["T_theta"])
    assert read is not None
    if held is not None:
        held[0] += usage["M_act_device"]
    fits = held is not None and all(h <= m["capacity_GB"] * 1e9 for h, m in zip(held, memories, strict=True))
    return {
        "decode.memory.M_resident_per_tier": held or [0.0] * len(memories),
        "decode.memory.fits_in_HBM": fits,
        "decode.latency.t_mem": plain.read_time(memories, read),
    }


def test_every_branch_agrees_with_plain_rules():
    draw = random.Random(5)
    cases = [random_case(draw) for _ in range(400)]
    seen: dict[str, int] = {}
    checked = 0
    for inputs in cases:
        try:
            outputs, algorithms = run.evaluate_with_algorithms([inputs])[0]
        except InputError:
            continue
        checked += 1
        found = {**outputs, "algorithms": algorithms}
        for path, value in {**plain_outputs(inputs), **plain_memory(inputs, outputs)}.items():
            expected = value if isinstance(value, (str, bool)) else pytest.approx(value, rel=EXACT)
            assert at(found, path) == expected, (path, inputs)
        for name in algorithms.values():
            seen[name] = seen.get(name, 0) + 1
    assert checked > 300
    assert {"ring", "tree", "tree_pipelined", "inc", "torus-dim-ring"} <= set(seen)


def test_pinned_weights_and_cache():
    memory = {"sram_capacity_MB": 300.0, "sram_bandwidth_TBps": 20.0}
    inputs = case(system={"device": device(80.0, 3350.0, 989.0, **memory)})
    inputs["tuner"]["placement"] = {"weights_tier": "hbm", "kv_tier": "auto"}
    outputs = evaluate(inputs)
    usage, moved = outputs["decode"]["memory"], outputs["decode"]["traffic"]
    cache = moved["T_step_eff"] - moved["T_theta"]
    spilled = max(0.0, cache - 300e6)
    expected = (cache - spilled) / 20e12 + (moved["T_theta"] + spilled) / 3350e9
    assert spilled > 0
    assert outputs["decode"]["latency"]["t_mem"] == pytest.approx(expected, rel=EXACT)
    assert usage["M_resident_per_tier"][1] == pytest.approx(usage["M_theta_device"] + spilled, rel=EXACT)
    assert not usage["fits_in_HBM"]  # the activations find no room beside the cache


def test_weights_that_fit_without_the_embedding_are_reported_unplaced():
    inputs = case()
    traffic = evaluate(inputs)["decode"]["traffic"]
    inputs["system"]["device"]["hbm_capacity_GB"] = traffic["T_theta"] / 1e9 + 1e-3
    inputs["tuner"]["placement"] = {"weights_tier": "hbm"}
    usage = evaluate(inputs)["decode"]["memory"]
    assert usage["M_resident_per_tier"] == [0.0]
    assert usage["fits_in_HBM"] is False


def test_no_efficiency_at_all_takes_for_ever():
    latency = evaluate(case(tuner={"tensor_core_efficiency": {"1": 0.0, "1000": 1.0}, "B_decode": 1}))["decode"][
        "latency"
    ]
    assert latency["t_compute_eff"] == latency["TPOT"] == math.inf
    assert latency["TPS_single"] == 0.0


def test_curve_keys_may_be_numbers():
    numbered = {int(key): share for key, share in CURVE.items()}
    by_number, by_text = (case(tuner={"tensor_core_efficiency": curve}) for curve in (numbered, CURVE))
    assert evaluate(by_number) == evaluate(by_text)
    assert evaluate(by_text)["decode"]["latency"]["eta_TC"] == pytest.approx(0.4)


def test_counts_stay_whole_beyond_double_precision():
    flops = evaluate(case(tuner={"S_input": 3_000_001, "chunk_size": 1_000_000}))["prefill"]["flops"]
    assert flops["F_attn_kv_prefill"] == 4 * 3_000_001**2 * 4096
    assert isinstance(flops["F_attn_kv_prefill"], int)


def test_cases_of_one_structure_share_one_program(monkeypatch):
    traces = []

    def counted(built):
        traces.append(built)
        return run_figures(built)

    run_figures = run.figures
    monkeypatch.setattr(run, "figures", counted)
    run._program.cache_clear()
    draw = random.Random(9)
    cases = [build() for build, _ in RETURNED.values()]
    cases += [
        case(partition={"TP": draw.choice([1, 2, 8])}, tuner={"B_decode": draw.randint(1, 99)}) for _ in range(28)
    ]
    alone = evaluate(cases[2])
    together = evaluate_cases(cases)
    again = evaluate_cases(cases[::-1])[::-1]
    run._program.cache_clear()
    assert len(traces) == 2  # one program for a single case, one for a block of them
    assert together == again
    for path, error in compared(together[2], alone):
        assert error < 1e-12, path


def test_a_longer_chain_gets_a_program_of_its_own():
    chain = {f"level{index}": [switch(2, 100.0 - index, 1.0 + index)] for index in range(9)}
    inputs = case(chains=chain, system={"num_devices": 512}, partition={"TP": 512})
    alpha = sum(1.0 + index for index in range(1, 9)) * 1e-6
    size = 16 * 4096 * 2.0
    expected = 2 * (1e-6 + 0.5 * size / 100e9) + plain.software(size / 2, 256, alpha, 92e9, "ring")
    assert evaluate(inputs)["decode"]["comm"]["t_TP"] == pytest.approx(expected, rel=EXACT)


def write(folder: Path, kind: str, document: object) -> Path:
    path = folder / f"{kind}.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def files_of(folder: Path, inputs: dict) -> dict[str, Path]:
    return {kind: write(folder, kind, {"schema": f"llm_perf.{kind}", **inputs[kind]}) for kind in inputs}


@pytest.mark.parametrize("name", RETURNED)
def test_spec_files_give_the_same_as_the_case(tmp_path, name):
    inputs = RETURNED[name][0]()
    inputs["model"]["_comment"] = "ignored, as by the tool"
    assert evaluate(load_inputs(**files_of(tmp_path, inputs))) == evaluate(RETURNED[name][0]())


def test_the_loader_derives_what_the_tool_derives(tmp_path):
    link = switch(8, 400.0, 1.0, eta_beta=0.9, oversubscription=2.0, inc="SHARP")
    tiers = [{"name": name, "capacity_GB": 1.0, "bandwidth_GBps": 1.0} for name in ("SRAM", "hbm", "lpddr5", "other")]
    system = case()["system"] | {"device": {**device(1.0, 1.0, 1.0), "tiers": tiers}}
    system["fabrics"] = {"link": {"tiers": [link]}}
    loaded = load_spec("system", write(tmp_path, "system", system))
    assert loaded["fabrics"]["link"]["tiers"][0]["eta_beta"] == 0.5
    assert loaded["fabrics"]["link"]["tiers"][0]["inc"] == "sharp_class"
    assert [tier["eta_beta"] for tier in loaded["device"]["memory_tiers"]] == [1.0, 0.92, 0.85, 1.0]


def changed(path: str, value: object) -> dict:
    inputs = copy.deepcopy(case())
    *keys, last = path.split(".")
    node = inputs
    for key in keys:
        node = node[int(key)] if isinstance(node, list) else node[key]
    node[int(last) if isinstance(node, list) else last] = value
    return inputs


TORUS = {"topology": "torus", "dims": [4, 4], "bw_per_port_GBps": 50.0, "alpha_us": 1.0}
LINK = "system.fabrics.link.tiers"
WRONG = [
    ("tuner.placement", {"weights_tier": "hbn"}, ["tuner.json", "weights_tier", "'hbn'", "hbm"]),
    (f"{LINK}.0.bw_per_port_GBps", 0.0, ["system.json", "bw_per_port_GBps", "0.0", "above 0"]),
    ("system.device.hbm_bandwidth_GBps", 0, ["system.json", "hbm_bandwidth_GBps", "above 0"]),
    (LINK, [TORUS], ["system.json", "dims", "[4, 4]", "16", "num_devices is 8"]),
    (LINK, [{**TORUS, "ports": 15}], ["system.json", "dims", "[4, 4]", "16", "15"]),
    (LINK, [{**TORUS, "topology": "mesh", "full": True}], ["system.json", "dims", "full mesh"]),
    (LINK, [{**TORUS, "topology": "ring"}], ["system.json", "topology", "'ring'", "torus"]),
    ("system.collective_fabrics.TP", ["link", "link"], ["system.json", "TP", "cycle", "link → link"]),
    ("system.collective_fabrics.EP", ["lnik"], ["system.json", "EP", "'lnik'", "did you mean 'link'"]),
    (f"{LINK}.0.inc", "shrap", ["system.json", "inc", "'shrap'", "sharp_class"]),
    (f"{LINK}.0.eta_alpha", 0.5, ["system.json", "eta_alpha", "0.5", "from 1"]),
    ("system.device.sram_capacity_MB", 256.0, ["system.json", "sram_bandwidth_TBps", "together"]),
    ("model.L", 0, ["model.json", "L", "0", "from 1"]),
    ("model.bytes_per_param", "2", ["model.json", "bytes_per_param", "'2'", "number"]),
    ("model.moe", {"n_experts": 8, "k_active": 9, "I_moe": 64}, ["model.json", "k_active", "9", "8"]),
    ("partition.TP", 2.5, ["partition.json", "TP", "2.5", "whole number"]),
    ("tuner.overlap_factor", 1.5, ["tuner.json", "overlap_factor", "1.5", "to 1"]),
    ("tuner.tp_algorithm_decode", "tere", ["tuner.json", "tp_algorithm_decode", "'tere'", "tree"]),
    ("tuner.chunck_size", 5, ["tuner.json", "chunck_size", "did you mean 'chunk_size'"]),
    ("tuner.tensor_core_efficiency", {"one": 0.5}, ["tuner.json", "tensor_core_efficiency", "'one'"]),
    ("overhead.schema", "llm_perf.model", ["overhead.json", "schema", "llm_perf.overhead"]),
]


@pytest.mark.parametrize("path, value, words", WRONG, ids=[f"{path}={value}"[:60] for path, value, _ in WRONG])
def test_bad_specs_say_what_and_where(tmp_path, path, value, words):
    inputs = changed(path, value)
    with pytest.raises(InputError) as error:
        load_inputs(**files_of(tmp_path, inputs))
    for word in words:
        assert word in str(error.value)


def test_truncated_and_missing_files(tmp_path):
    files = files_of(tmp_path, case())
    files["system"].write_text(files["system"].read_text()[:100])
    with pytest.raises(InputError, match=r"system\.json: line 1, column \d+: not valid JSON"):
        load_inputs(**files)
    with pytest.raises(InputError, match=r"nowhere\.json: no such file"):
        load_spec("model", tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    "inputs, words",
    [
        (changed("tuner.placement", {"kv_tier": "sram"}), ["inputs.tuner", "kv_tier", "'sram'", "hbm"]),
        ({key: value for key, value in case().items() if key != "model"}, ["inputs", "'model' is missing"]),
        ({**case(), "tunner": {}}, ["inputs", "'tunner'", "did you mean 'tuner'"]),
        ([], ["inputs", "expected an object"]),
        (changed("tuner.tp_algorithm_decode", "inc"), ["tp_algorithm_decode", "'inc'", "fabric"]),
        (case(model={"L": 9999}, tuner={"placement": {"weights_tier": "hbm"}}), ["weights_tier hbm", "does not fit"]),
    ],
)
def test_bad_inputs_say_what_and_where(inputs, words):
    with pytest.raises(InputError) as error:
        evaluate(inputs)
    for word in words:
        assert word in str(error.value)


ABSURD = [
    ("tuner.S_input", 1e300, ["tuner.S_input", "1e+300", "from 0 to 1e+09"]),
    ("tuner.S_input", 10**400, ["tuner.S_input", "401 digits", "from 0 to 1e+09"]),
    ("tuner.S_input", 10**5000, ["tuner.S_input", "5001 digits", "from 0 to 1e+09"]),
    ("tuner.chunk_size", 10**300, ["tuner.chunk_size", "301 digits", "from 0 to 1e+09"]),
    ("tuner", {"S_input": 10**9, "chunk_size": 16}, ["tuner.chunk_size", "16", "1000000000", "1000 to 1e+09"]),
    ("tuner.tensor_core_efficiency", {"9" * 400: 0.5}, ["tensor_core_efficiency", "'99", "from 1 to 1e+09"]),
    ("tuner.tensor_core_efficiency", {"²": 0.5}, ["tensor_core_efficiency", "'²'", "from 1 to 1e+09"]),
    ("model.L", 1e300, ["model.L", "1e+300", "from 1 to 1e+09"]),
    ("model.bytes_per_param", 1e-320, ["model.bytes_per_param", "from 0.001 to 1000"]),
    ("partition.TP", 10**300, ["partition.TP", "301 digits", "from 1 to 1e+09"]),
    ("system.device.peak_flops_TF", 1e300, ["peak_flops_TF", "1e+300", "to 1e+12"]),
    (LINK, [{**TORUS, "dims": [10**6, 10**6]}], ["dims", "1e+12", "at most 1e+09"]),
]


@pytest.mark.parametrize("path, value, words", ABSURD, ids=range(len(ABSURD)))
def test_absurd_figures_say_what_and_where(path, value, words):
    with pytest.raises(InputError) as error:
        evaluate(changed(path, value))
    for word in words:
        assert word in str(error.value)
    assert len(str(error.value)) < 300


def numbers(kind: object, path: str) -> Iterator[tuple[str, Number]]:
    if isinstance(kind, Number):
        yield path, kind
    for name, inner in kind.fields.items() if isinstance(kind, Section) else ():
        yield from numbers(inner, f"{path}.{name}")
    if isinstance(kind, (Listing, Table)):
        yield from numbers(kind.value, path)


def test_every_figure_has_a_range_whose_ends_can_be_computed():
    every = [found for name, kind in KINDS.items() for found in numbers(kind, name)]
    assert len(every) > 50
    assert [path for path, number in every if not math.isfinite(number.high)] == []
    for path, number in every:
        if path.count(".") == 1 and path != "tuner.tensor_core_efficiency":
            assert "decode" in evaluate(changed(path, number.high)), path


def test_auto_prefers_the_first_of_equals_and_the_network():
    two = case(partition={"TP": 2}, tuner={"tp_algorithm": "auto"})
    assert resolve_algorithms(two)["tp_algorithm_decode"] == "ring"
    eight = case(tuner={"tp_algorithm": "auto"})
    assert resolve_algorithms(eight)["tp_algorithm_decode"] == "tree_pipelined"
    switched = case(chains={"link": [switch(8, 400.0, 1.0, inc="sharp", inc_alpha_us=50.0)]}, tuner=eight["tuner"])
    assert resolve_algorithms(switched)["tp_algorithm_decode"] == "inc"


def benchmark(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks" / "parity_llm_perf.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_benchmark_finds_what_is_off(tmp_path):
    inputs = mixture_on_a_torus()
    outputs = evaluate(inputs)
    outputs["decode"]["latency"]["B_star"] = "inf"  # as JSON has to write it
    good, bad = tmp_path / "good.jsonl.gz", tmp_path / "bad.jsonl.gz"
    good.write_bytes(gzip.compress(json.dumps({"inputs": inputs, "outputs": outputs}).encode()))
    done = benchmark(good, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failed"] == []

    outputs["prefill"]["latency"]["t_prefill"] *= 1 + 3e-6
    outputs["kv_paging"]["max_sequences"] += 1
    bad.write_bytes(gzip.compress(json.dumps({"inputs": inputs, "outputs": outputs}).encode()))
    done = benchmark(bad)
    assert done.returncode == 1
    marked = [line.split()[0] for line in done.stdout.splitlines() if "above the tolerance" in line]
    assert marked == ["prefill.latency.t_prefill", "kv_paging.max_sequences"]

    (tmp_path / "cut.jsonl.gz").write_bytes(good.read_bytes()[:200])
    done = benchmark(tmp_path / "cut.jsonl.gz")
    assert done.returncode == 2
    assert "cut.jsonl.gz" in done.stderr and "Traceback" not in done.stderr
