"""`evaluate` against the model written a second time in plain Python (see `plain_model`)."""

from __future__ import annotations

import math
import random

import pytest

from jaxperf.phases.end_to_end import REASONS
from jaxperf.spec.deployment import Engine
from jaxperf.spec.model import Model
from jaxperf.stages.routing import normal_score, slowest_rank_experts, slowest_rank_tokens

from . import plain_model as plain
from . import specs
from .plain_model import Case, Layer


def _load(tokens: int, layer: Layer, ep: int) -> float:
    args = (float(tokens), float(layer.experts), float(layer.chosen), float(ep))
    return float(slowest_rank_tokens(*args, normal_score(float(ep))))


def _awake(tokens: int, layer: Layer, ep: int) -> float:
    args = (float(tokens), float(layer.experts), float(layer.chosen), float(ep))
    return float(slowest_rank_experts(*args, normal_score(float(ep))))


def _document(layer: Layer, count: int, **place: int) -> dict:
    window = {} if math.isinf(layer.window) else {"window_tokens": int(layer.window)}
    attention = specs.attention(layer.query_heads, layer.kv_heads, layer.head_size, **window)
    kind = "gated" if layer.gated else "plain"
    feed_forward = dict(
        kind=kind,
        width=layer.width,
        experts=layer.experts,
        experts_per_token=layer.chosen,
        expert_width=layer.expert_width,
        shared_width=layer.shared_width,
    )
    return specs.group(count, attention, feed_forward, **place)


def _build(case: Case) -> Model:
    """The same model as groups: runs of equal layers, or two kinds that alternate."""
    kinds = list(dict.fromkeys(case.layers))
    groups = []
    for kind in kinds:
        places = [index for index, layer in enumerate(case.layers) if layer == kind]
        period = places[1] - places[0] if len(places) > 1 else 1
        groups.append(_document(kind, len(places), first=places[0], period=period))
    return specs.model(*groups, hidden=case.hidden, vocabulary=case.vocabulary, tied=case.tied)


def _random_case(seed: int) -> Case:
    """Dense, expert, windowed and mixed models on layouts up to 64 devices; later seeds visit every layout feature."""
    pick = random.Random(seed)
    head_size, kv_heads = pick.choice([64, 96, 128]), pick.choice([1, 2, 4, 8])
    query_heads = kv_heads * pick.choice([8, 16]) if kv_heads < 8 else pick.choice([8, 32, 64])
    hidden = pick.choice([1024, 2048, 5120, 8192])
    common = Layer(query_heads, kv_heads, head_size, gated=pick.random() < 0.8)
    dense = plain.replace(common, width=pick.choice([4096, 14336, 28672]))
    sparse = plain.replace(
        common,
        experts=pick.choice([16, 64, 128]),
        chosen=pick.choice([2, 4, 8]),
        expert_width=pick.choice([512, 1536]),
        shared_width=pick.choice([0, 2048]),
    )
    count = pick.randint(7, 33)
    local = plain.replace(dense, window=pick.choice([100, 512, 1000]))
    shape = seed % 4
    if shape == 0:
        layers = (dense,) * count
    elif shape == 1:
        layers = (dense,) * pick.randint(1, 3) + (sparse,) * count
    elif shape == 2:
        layers = (local, dense) * count
    else:
        layers = (sparse,) * count
    has_experts = any(layer.experts for layer in layers)
    tp, cp, dpa = pick.choice([(1, 1, 1), (2, 1, 1), (8, 1, 1), (4, 1, 2), (2, 2, 1), (2, 1, 4), (1, 1, 8), (4, 2, 2)])
    ranks = tp * cp * dpa
    divisors = [n for n in (1, 2, 4, 8, 16) if ranks % n == 0]
    return Case(
        hidden=hidden,
        vocabulary=pick.choice([32000, 128256]),
        tied=pick.random() < 0.3,
        layers=layers,
        tp=tp,
        cp=cp,
        dpa=dpa,
        pp=pick.choice([1, 2, 3, 5]),
        ep=pick.choice([divisors[-1], pick.choice(divisors)]) if has_experts else 1,
        isl=pick.choice([1, 777, 2048, 6000]),
        osl=pick.choice([1, 2, 300]),
        batch=pick.choice([1, 3, 16, 100]),
        chunk=pick.choice([math.inf, 256, 500, 2048]),
        capacity=pick.choice([80e9, 192e9]),
        load=_load,
        awake=_awake,
        **pick.choice(
            [
                {},
                dict(weight_bytes=1.0, input_bytes=1.0, peak=1979e12),
                dict(weight_bytes=0.5 + 2.5 / 128, kv_bytes=1.0),
                dict(causal_work=1.0, peak=60e12, core_peak=60e12, bandwidth=5e11),
            ]
        ),
    )


def _price(case: Case):
    machine = specs.system(
        "h100-sxm-8",
        bandwidth=case.bandwidth / 3.35e12,
        capacity=case.capacity / 80e9,
        compute=case.core_peak / 989.5e12,
    )
    formats = {1.0: "fp8", 2.0: None, 0.5 + 2.5 / 128: "int4"}
    engine = Engine(chunk=case.chunk, reserve=case.reserve, causal_work=case.causal_work)
    deployed = specs.deployment(
        weights=formats[case.weight_bytes],
        kv={1.0: "fp8", 2.0: "bf16"}[case.kv_bytes],
        engine=engine,
        tp=case.tp,
        pp=case.pp,
        ep=case.ep,
        cp=case.cp,
        attention_dp=case.dpa,
    )
    return specs.priced(_build(case), machine, deployed, specs.workload(case.isl, case.osl, case.batch))


def _slack(case: Case, rtol: float) -> float:
    """Two closed forms of the kernels are approximate: how many ranks a token reaches (1 % of the binomial
    coefficients) and the context ring, which takes the mean context of the chunks."""
    if any(layer.experts for layer in case.layers) and case.ep == case.ranks > 1 and case.dpa * case.cp > 1:
        return 0.01
    return 0.003 if case.cp > 1 and case.chunk < case.isl else rtol


@pytest.mark.parametrize("seed", range(24))
def test_evaluate_is_the_plain_model(seed: int, rtol: float):
    case = _random_case(seed)
    metrics = _price(case)
    expected = plain.memory(case)
    for name in ("weights", "kv_cache", "activations", "total"):
        assert float(getattr(metrics.memory, name)) == pytest.approx(expected[name], rel=rtol), name
    one_more = case.dpa if rtol > 1e-4 else 0
    assert float(metrics.max_batch) == pytest.approx(expected["max_batch"], rel=rtol, abs=one_more)
    block = case.block if rtol > 1e-4 else 0
    assert float(metrics.memory.max_context) == pytest.approx(expected["max_context"], rel=rtol, abs=block)
    if math.isfinite(expected["kv_pressure"]):
        assert float(metrics.memory.kv_pressure) == pytest.approx(expected["kv_pressure"], rel=100 * rtol)
    assert (float(metrics.memory.kv_pressure) > 1) == (expected["kv_pressure"] > 1)
    assert float(metrics.memory.overflow) == pytest.approx(expected["overflow"], rel=rtol, abs=rtol * expected["total"])
    assert (REASONS[int(metrics.reason)] == "out of memory") == (expected["overflow"] > 0)
    slack = _slack(case, rtol)
    assert float(metrics.tpot) == pytest.approx(plain.decode_step(case), rel=slack)
    assert float(metrics.ttft) == pytest.approx(plain.prefill(case), rel=slack)
    assert float(metrics.e2e) == pytest.approx(float(metrics.ttft) + (case.osl - 1) * float(metrics.tpot), rel=rtol)


@pytest.mark.parametrize("chunk", [64, 100, 1000, 4096, math.inf])
@pytest.mark.parametrize("window", [50, 512, math.inf])
def test_sum_over_chunks_is_the_loop(chunk: float, window: float, rtol: float):
    """A machine so short of bandwidth that attention's bound changes along the prompt."""
    layer = Layer(8, 8, 64, window=window, width=512)
    for compute in (1e12, 8e12, 60e12):
        case = Case(
            512, 1000, True, (layer,) * 3, isl=4001, chunk=chunk, pp=2, peak=compute, core_peak=compute, bandwidth=1e11
        )
        assert float(_price(case).ttft) == pytest.approx(plain.prefill(case), rel=rtol)
