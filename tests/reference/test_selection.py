"""Published numbers typed here with their source: what the suite says where the reference table is absent."""

from __future__ import annotations

import pytest

from jaxperf import closed_form as cf
from jaxperf.load import deployment, load_model, load_system
from jaxperf.ops import EXACT
from jaxperf.spec.library import find
from jaxperf.spec.model import build_model
from jaxperf.stages.flops import flops
from jaxperf.stages.memory import parameters
from jaxperf.stages.operators import Gemm
from jaxperf.stages.routing import active_experts, distinct_ranks, normal_score, slowest_rank_tokens
from jaxperf.stages.shapes import Pass, attention_shape

# Parameters of the safetensors files on Hugging Face.
TOTALS = {
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-405b": 405_853_388_800,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-235b-a22b": 235_093_634_560,
    "gemma-2-9b": 9_241_705_984,
    "phi-4": 14_659_507_200,
    "deepseek-v2-lite": 15_706_484_224,
    "gpt-oss-120b": 116_829_156_672,
}

# Bytes a token and model of a bf16 cache: arXiv:2505.09343, Table 1, and 2·L·Hkv·dk·2.
CACHES = {
    "deepseek-v3": 70_272,
    "qwen2.5-72b": 327_680,
    "llama-3.1-405b": 516_096,
    "llama-2-7b": 524_288,
    "mixtral-8x7b": 131_072,
    "qwen3-30b-a3b": 98_304,
    "falcon-7b": 8_192,
}

# LLaMA-2-13B on 8 TPU v5e at context 8192, bf16, of 26e9 B weights [ms]: scaling book, inference, table.
STEPS = [(1, 6.7e9, 4.98), (16, 6.7e9, 20.3), (240, 6.7e9, 249.09), (1, 1.34e9, 4.17), (64, 1.34e9, 17.04)]

# GFLOP of LLaMA-2-70B's operations for a dense batch of 2048: NanoFlow, arXiv:2408.12757v2, Table 2.
NANOFLOW = {"KQV": 27487.8, "O": 21990.2, "UG": 153931.6, "D": 76965.8}

# Largest of 200 simulated loads of an expert, uniform routing (tokens, experts, k, load).
LOADS = [(64, 128, 8, 9.69), (256, 128, 8, 26.69), (32, 256, 8, 4.71)]


@pytest.mark.parametrize("name", TOTALS)
def test_parameter_totals(name: str):
    assert parameters(build_model(find("model", name).document)).total == TOTALS[name]


@pytest.mark.parametrize("name", CACHES)
def test_cache_bytes_per_token(name: str):
    assert cf.kv_bytes_per_token(build_model(find("model", name).document), 2) == CACHES[name]


@pytest.mark.parametrize("batch, cache, milliseconds", STEPS)
def test_scaling_book_steps(batch: int, cache: float, milliseconds: float):
    assert 1e3 * cf.decode_step_time(26e9, batch, cache, 6.56e12) == pytest.approx(milliseconds, rel=0.005)


@pytest.mark.parametrize("name", NANOFLOW)
def test_nanoflow_operations(name: str):
    model = load_model("llama-2-70b")
    group, hidden = model.groups[0], model.hidden_size
    shape = attention_shape(group.attention, hidden, 1.0, 0.0, EXACT)
    width = group.feed_forward.width
    n, k = {
        "KQV": (shape.qkv_n, hidden),
        "O": (hidden, shape.out_k),
        "UG": (2 * width, hidden),
        "D": (hidden, width),
    }[name]
    work = Pass(2048.0, 2048.0, 1.0, 2048.0, 0.0, 1.0, 2048.0, False)
    counted = flops(Gemm(1.0, group.count, 2048.0, n, k, 2.0, 2.0, 2.0, 1.0), work, EXACT)
    assert float(counted) / 1e9 == pytest.approx(NANOFLOW[name], rel=1e-5)


@pytest.mark.parametrize("tokens, experts, chosen, load", LOADS)
def test_fullest_expert(tokens: int, experts: int, chosen: int, load: float):
    ep = float(experts)
    found = slowest_rank_tokens(float(tokens), ep, float(chosen), ep, normal_score(ep))
    assert float(found) == pytest.approx(load, rel=0.025)


def test_experts_and_ranks_that_tokens_reach():
    assert float(active_experts(32.0, 256.0, 8.0)) == pytest.approx(163.7, rel=0.005)  # own simulation
    assert float(distinct_ranks(256.0, 8.0, 8.0)) == pytest.approx(5.29, rel=0.01)  # DeepSeek-V3 over 8 nodes


def test_roofline_and_closed_forms():
    assert cf.ridge_point(312e12, 1.5e12) == pytest.approx(208, rel=0.001)  # kipply, A100
    assert cf.critical_batch(cf.ridge_point(197e12, 820e9), 2) == pytest.approx(240, rel=0.01)  # scaling book, v5e
    assert cf.critical_batch(240, 2, 16, 2) == 1920  # scaling book, 2 of 16 experts
    assert cf.optimal_throughput(70e9, 260e12) == pytest.approx(1857, rel=0.001)  # NanoFlow
    assert cf.network_bytes(8, 2048, 8192, 80, 2) == pytest.approx(75.2e9, rel=0.001)  # NanoFlow, Table 2
    assert cf.compute_time(260e9, 512, 16 * 312e12) == pytest.approx(0.053, rel=0.01)  # kipply
    assert cf.memory_time(540e9, 64 * 1.2e12) == pytest.approx(0.00703, rel=0.001)  # Pope et al., int8 weights


def test_turning_batch_is_where_both_times_meet():
    weights, peak, per_token, bandwidth, cache = 140e9, 8 * 312e12, 140e9, 16e12, 2e5
    batch = cf.turning_batch(weights, peak, per_token, bandwidth, cache)
    assert batch * per_token / peak == pytest.approx(cf.decode_step_time(weights, batch, cache, bandwidth))
    assert cf.turning_batch(weights, peak, per_token, bandwidth, 1e12) == float("inf")


def test_sequence_of_operators():
    operators = [(1.0, 2.0, 0.5), (4.0, 1.0, 0.0), (0.0, 0.0, 3.0)]
    assert cf.sequential_time(operators) == 9.0
    assert cf.overlapped_time(operators) == 5.0


def test_iteration_classifies_nanoflow_deployment():
    found = cf.iteration(
        load_model("llama-2-70b"),
        load_system("a100-80gb-8"),
        deployment("llama-2-70b", tp=8, efficiency="ideal"),
        2048.0,
    )
    assert found.classification == "compute"
    assert float(found.network_over_compute) == pytest.approx(0.273 * 70 / 68.98, rel=0.01)  # NanoFlow, figure 2
