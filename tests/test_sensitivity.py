"""Elasticities: shares that sum to 1, and the same as scaling the hardware by hand."""

from __future__ import annotations

import jax
import pytest

import jaxperf
from jaxperf.errors import InputError
from jaxperf.search import elasticities
from jaxperf.search.sensitivity import _measure
from jaxperf.spec.library import find, get_path, save, set_path

CASES = [
    ("llama-3.1-70b", "h100-sxm-8", {"tp": 8, "batch": 64}),
    ("llama-3.1-8b", "rtx-4090-1", {}),
    ("llama-3.1-405b", "b200-8", {"tp": 8, "pp": 4, "batch": 30, "weights": "fp8"}),
    ("qwen3-235b-a22b", "gb200-nvl72", {"tp": 4, "attention_dp": 4, "ep": 16, "pp": 2, "batch": 128, "weights": "fp8"}),
    ("deepseek-v3", "h200-8", {"tp": 8, "cp": 2, "ep": 16, "batch": 7, "chunk": 300}),
    ("gpt-oss-120b", "mi300x-8", {"tp": 2, "ep": 2, "batch": 3, "chunk": 128}),
]


def tolerance() -> float:
    return 1e-9 if jax.config.jax_enable_x64 else 2e-5  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("efficiency", ["default", "ideal"])
@pytest.mark.parametrize(("model", "system", "layout"), CASES)
def test_latency_is_homogeneous_in_all_times(model: str, system: str, layout: dict, efficiency: str) -> None:
    found = elasticities(model, system, isl=1000, osl=300, efficiency=efficiency, **layout)
    assert sum(found.ttft_s.values()) == pytest.approx(1.0, abs=tolerance())
    assert sum(found.tpot_s.values()) == pytest.approx(1.0, abs=tolerance())
    assert sum(found.output_tokens_per_s.values()) == pytest.approx(-1.0, abs=tolerance())
    assert min(found.tpot_s.values()) > -1e-6
    assert len(_measure.programs) == 1


def test_metrics_are_those_of_estimate() -> None:
    found = elasticities("llama-3.1-70b", "h100-sxm-8", tp=8, batch=64)
    metrics = jaxperf.estimate("llama-3.1-70b", "h100-sxm-8", tp=8, batch=64)
    assert found.values["tpot_s"] == pytest.approx(float(metrics.tpot), rel=1e-5)
    assert found.values["ttft_s"] == pytest.approx(float(metrics.ttft), rel=1e-5)


@pytest.mark.parametrize(
    "path", ["device.memory.hbm.bandwidth_GBps", "device.peak_TFLOPS.bf16", "fabric.nvlink4.alpha_us"]
)
def test_elasticity_is_the_slope_of_a_changed_spec(path: str, tmp_path: object) -> None:
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        pytest.skip("differences need float64")
    document = find("system", "h100-sxm-8").document
    value, step, times = get_path(document, path), 1e-4, []
    for scale in (1 + step, 1 - step):
        file = f"{tmp_path}/system.json"
        save(set_path(document, path, value * scale), file)
        times.append(float(jaxperf.estimate("llama-3.1-70b", file, tp=4, batch=32, isl=2048).e2e))
    found = elasticities("llama-3.1-70b", "h100-sxm-8", tp=4, batch=32, isl=2048)
    ttft, tpot = found.values["ttft_s"], found.values["tpot_s"]
    sign = 1 if path.endswith("_us") else -1
    slope = sign * (found.ttft_s[path] * ttft + found.tpot_s.get(path, 0.0) * tpot * 1023) / (ttft + 1023 * tpot)
    assert slope == pytest.approx((times[0] - times[1]) / (2 * step) / sum(times) * 2, rel=1e-3, abs=1e-6)


def test_a_bandwidth_bound_step_belongs_to_memory() -> None:
    found = elasticities("llama-3.1-8b", "h100-sxm-8", efficiency="ideal", batch=1)
    assert found.tpot_s["device.memory.hbm.bandwidth_GBps"] == pytest.approx(1.0, abs=1e-3)
    assert found.fields[0] == "device.memory.hbm.bandwidth_GBps"


def test_unknown_names_are_explained() -> None:
    with pytest.raises(InputError, match="did you mean"):
        elasticities("llama-3.1-70bb", "h100-sxm-8")
