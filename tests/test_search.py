"""Gradient search against exhaustive search, its relaxation, its compile counts, and hardware under a budget."""

from __future__ import annotations

import itertools
import math

import jax
import numpy as np
import pytest

from jaxperf.errors import InfeasibleError, InputError
from jaxperf.search import Problem, balance, define, exhaustive, search, solve
from jaxperf.search.parse import parse_constraint, parse_free
from jaxperf.search.relax import LAYOUT, log_metrics
from jaxperf.search.round import WIDTH
from jaxperf.search.run import bounds, measure
from jaxperf.search.solve import SIZE, _directional, _scores, _slopes, slopes

EVERYTHING = ("tp", "pp", "ep", "cp", "attention_dp", "batch")
HBM, BF16 = "device.memory.hbm.bandwidth_GBps", "device.peak_TFLOPS.bf16"
EXACT_TOLERANCE = 1e-6
FEW = {"restarts": 16, "steps": 40}
"""A harder search than the default one of 64 restarts and 120 steps, and a quicker."""


def layout_problem(model: str, system: str, **question: object) -> Problem:
    return define(model, system, **{"free": EVERYTHING, **question})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("model", "system", "question"),
    [
        ("llama-3.1-70b", "h100-sxm-8", {"constraints": ["tpot_s<0.03"], "max_devices": 8}),
        ("qwen2.5-14b", "h100-sxm-8", {"objective": "ttft_s", "isl": 32000, "osl": 128, "max_devices": 6}),
        ("qwen3-235b-a22b", "h200-8", {"constraints": ["tpot_s<0.03"], "max_devices": 8}),
        ("mixtral-8x7b", "mi300x-8", {"objective": "tpot", "max_devices": 6}),
    ],
)
def test_search_finds_the_exhaustive_optimum(model: str, system: str, question: dict) -> None:
    problem = layout_problem(model, system, **question)
    result = solve(problem, **FEW)
    optimum, _, points = exhaustive(problem)
    assert result.best.value == pytest.approx(optimum, rel=EXACT_TOLERANCE)
    assert result.evaluations < points / 5


def test_the_answer_obeys_its_limits_and_bounds() -> None:
    result = search(
        "llama-3.1-70b", "h100-sxm-8", constraints=["tpot_s<0.02"], free=["tp=2:8", "batch=1:40"], max_devices=8, **FEW
    )
    best = result.best
    assert best.metrics["tpot_s"] <= 0.02
    assert best.metrics["memory_bytes"] <= 0.9 * best.metrics["capacity_bytes"]
    assert 2 <= best.layout["tp"] <= 8
    assert best.layout["batch"] <= 40
    assert best.layout["pp"] == best.layout["cp"] == 1
    found = [best, *result.runners_up]
    layouts = {tuple(value for name, value in answer.layout.items() if name != "batch") for answer in found}
    assert len(layouts) == len(found) > 1
    assert sorted(found, key=lambda answer: -answer.value) == found


@pytest.mark.slow
def test_one_program_serves_every_problem_and_temperature() -> None:
    solve(layout_problem("llama-3.1-8b", "h100-sxm-8", max_devices=2), **FEW)
    before = len(_directional.programs), len(_scores.programs)
    question = {"max_devices": 4, "objective": "tpot_s", "free": ["tp", "ep"]}
    solve(layout_problem("qwen3-30b-a3b", "gb200-nvl72", **question), **FEW)
    solve(layout_problem("llama-3.1-8b", "a100-80gb-8", free=["batch", HBM], constraints=["ttft_s<1"]), **FEW)
    assert (len(_directional.programs), len(_scores.programs)) == before


def test_hardware_under_a_budget_spends_all_of_it() -> None:
    costs = {HBM: 0.5 / 3350, BF16: 0.5 / 989.5}
    result = search(
        "llama-3.1-8b", "h100-sxm-8", free=["tp", "batch=1:64", *costs], budget=1.0, costs=costs, max_devices=2, **FEW
    )
    spent = sum(costs[path] * value for path, value in result.best.hardware.items())
    assert spent == pytest.approx(1.0, rel=1e-4)
    today = search("llama-3.1-8b", "h100-sxm-8", free=["tp", "batch=1:64"], max_devices=2, **FEW)
    assert result.best.value > today.best.value


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout", [{"batch": 128, "tp": 8, "osl": 2048}, {"batch": 16, "tp": 4, "efficiency": "ideal"}]
)
def test_balance_equalises_marginal_values_and_matches_a_grid(layout: dict) -> None:
    found = balance("llama-3.1-70b", "h100-sxm-8", **layout)
    left, right = found.marginals.values()
    assert left > 0
    assert left == pytest.approx(right, rel=1e-3)
    assert sum(found.shares.values()) == pytest.approx(1.0)
    share = found.shares[HBM]
    assert share == pytest.approx(found.grid_share, abs=0.02)
    assert found.found.value == pytest.approx(found.grid_value, rel=2e-3)
    assert found.found.value > found.today
    for path, value in found.elasticities.items():
        assert value == pytest.approx(found.marginals[path] * found.shares[path])


def _point(**degrees: float) -> np.ndarray:
    point = np.zeros(SIZE)
    point[LAYOUT.index("chunk")] = math.log2(degrees.pop("chunk", 1024))
    for name, value in degrees.items():
        point[LAYOUT.index(name)] = math.log2(value)
    return point


CASES = [
    ("llama-3.1-70b", "h100-sxm-8", {"tp": 8, "batch": 64}),
    ("llama-3.1-8b", "rtx-4090-1", {}),
    ("qwen3-235b-a22b", "gb200-nvl72", {"tp": 2, "attention_dp": 8, "ep": 16, "pp": 2, "batch": 256, "chunk": 300}),
    ("mixtral-8x7b", "a100-80gb-8", {}),
    ("gpt-oss-120b", "b200-8", {"tp": 2, "cp": 2, "ep": 4, "batch": 7, "chunk": 100}),
    ("deepseek-v3", "h200-8", {"tp": 8, "ep": 8, "batch": 3}),
]


@pytest.mark.parametrize(("model", "system", "layout"), CASES)
def test_smooth_tends_to_exact(model: str, system: str, layout: dict) -> None:
    problem = layout_problem(model, system)
    point = _point(**layout)
    exact = np.asarray(log_metrics(measure(problem, np.exp2(point).round())))
    errors = [
        np.abs(slopes(problem.case, point, temperature)[0][: len(exact)] - exact)[:6].max()
        for temperature in (0.3, 0.03, 0.003, 0.0003)
    ]
    assert errors[-1] < 2e-3
    assert all(later <= earlier + 1e-5 for earlier, later in itertools.pairwise(errors))
    assert len(_slopes.programs) == 1


@pytest.mark.parametrize(("model", "system", "layout"), CASES)
@pytest.mark.parametrize("temperature", [0.3, 0.02])
def test_gradients_are_finite_at_corners(model: str, system: str, layout: dict, temperature: float) -> None:
    case = layout_problem(model, system, slo_tpot=0.05).case
    for point in (_point(), _point(**layout), _point(chunk=1), _point(batch=512, pp=2)):
        values, jacobian = slopes(case, point, temperature)
        assert np.isfinite(values).all()
        assert np.isfinite(jacobian).all()


def test_relaxed_slopes_match_differences_in_hardware() -> None:
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        pytest.skip("differences need float64")
    fields = [HBM, BF16, "fabric.nvlink4.bandwidth_GBps", "fabric.nvlink4.alpha_us"]
    case = layout_problem("qwen3-235b-a22b", "h200-8", free=fields, slo_tpot=0.01).case
    point = _point(tp=2, attention_dp=4, ep=8, batch=96, chunk=300)
    point[WIDTH:] = (0.1, -0.2, 0.05, -0.1)
    jacobian, step = slopes(case, point, 0.1)[1], 1e-5
    for slot in range(WIDTH, SIZE):
        ahead, behind = point.copy(), point.copy()
        ahead[slot] += step
        behind[slot] -= step
        difference = slopes(case, ahead, 0.1)[0] - slopes(case, behind, 0.1)[0]
        np.testing.assert_allclose(jacobian[slot], difference / (2 * step), rtol=1e-5, atol=1e-7)


def test_bounds_cover_the_choices() -> None:
    problem = layout_problem("llama-3.1-70b", "h100-sxm-8", max_devices=12, free=["tp", "pp", "batch=4:32", HBM])
    low, high = bounds(problem)
    assert problem.choices["tp"] == (1, 2, 4, 8)
    assert high[LAYOUT.index("batch")] == pytest.approx(5.0)
    assert low[LAYOUT.index("batch")] == pytest.approx(2.0)
    assert high[WIDTH] == pytest.approx(math.log(4))
    assert np.all(low <= high)


@pytest.mark.parametrize(
    ("text", "words"),
    [("tpot_s=3", "no constraint"), ("tpott_s<3", "tpot_s"), ("tpot_s<-1", "above 0"), ("tpot_s<x", "no constraint")],
)
def test_bad_constraints_are_explained(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_constraint(text)


def test_bad_questions_are_explained() -> None:
    with pytest.raises(InputError, match="LOW <= HIGH"):
        parse_free("batch=5:2")
    with pytest.raises(InputError, match="cannot be free"):
        define("llama-3.1-8b", "h100-sxm-8", free=["tpp"])
    with pytest.raises(InputError, match="hbm"):
        define("llama-3.1-8b", "h100-sxm-8", free=["device.memory.hbn.bandwidth_GBps"])
    with pytest.raises(InputError, match="no price"):
        define("llama-3.1-8b", "gb200-nvl72", objective="price")
    with pytest.raises(InputError, match="needs the cost"):
        define("llama-3.1-8b", "h100-sxm-8", free=[HBM], budget=3.0)
    with pytest.raises(InfeasibleError, match="out of memory"):
        solve(layout_problem("llama-3.1-405b", "h100-sxm-8", max_devices=8), **FEW)
