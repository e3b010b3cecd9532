"""Local devices: two units on one memory, and layers split over a GPU and a CPU."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxperf.compiling import quick
from jaxperf.load import deployment, load_model, load_system, workload
from jaxperf.phases.hybrid import Sharing, hybrid
from jaxperf.phases.split import Bus, layer_split
from jaxperf.spec.model import as_arrays

from . import specs

HYBRID = quick(hybrid)
SPLIT = quick(layer_split)
BUS = as_arrays(Bus(1e-5, 25e9))


def _deployed(model: str = "llama-2-7b", weights: str | None = None, efficiency: str = "ideal", **more):
    return deployment(model, weights=weights, efficiency=efficiency, **more)


def _on_chip(weights: str, sharing: Sharing | None = None, kv: str | None = None):
    how = _deployed(weights=weights, kv=kv)
    units = load_system("ryzen-ai-npu"), load_system("ryzen-ai-igpu")
    shared = as_arrays(Sharing() if sharing is None else sharing)
    return HYBRID(load_model("llama-2-7b"), *units, how, how, workload(1024, 128), shared)


def _alone(system: str, weights: str):
    return specs.evaluate_jit(
        load_model("llama-2-7b"), load_system(system), _deployed(weights=weights), workload(1024, 128)
    )


@pytest.mark.parametrize("weights", ["bf16", "int4", "q4_k_m", "q8_0"])
def test_each_phase_runs_on_its_unit(weights):
    both, npu, igpu = _on_chip(weights), _alone("ryzen-ai-npu", weights), _alone("ryzen-ai-igpu", weights)
    assert float(both.ttft) == pytest.approx(float(npu.ttft), rel=1e-6)
    assert float(both.tpot) == pytest.approx(float(igpu.tpot), rel=1e-6)
    assert float(both.e2e) == pytest.approx(float(npu.ttft) + 127 * float(igpu.tpot), rel=1e-6)
    assert float(both.total) == pytest.approx(float(igpu.memory.total), rel=1e-6)


def test_variants_of_a_7b_model_on_a_chip():
    """int4 decodes 3 to 4 times as fast as bf16; a 4-bit cache faster still."""
    speeds = [float(_on_chip(*chosen).output_tokens_per_s_per_user) for chosen in [("bf16",), ("int4",)]]
    narrow = float(_on_chip("int4", kv="int4").output_tokens_per_s_per_user)
    assert 3 < speeds[1] / speeds[0] < 4
    assert narrow > speeds[1]


def test_sharing_bandwidth_slows_and_copies_take_room():
    alone, shared = _on_chip("int4"), _on_chip("int4", Sharing(0.5, 0.5, 2.0))
    assert float(shared.tpot) == pytest.approx(2 * float(alone.tpot), rel=0.01)
    assert float(shared.ttft) >= float(alone.ttft)
    more = float(shared.total) - float(alone.total)
    assert more == pytest.approx(float(alone.prefill.memory.weights), rel=1e-6)


def test_two_copies_that_do_not_fit_are_infeasible():
    how = _deployed("llama-3.1-70b", weights="int8")
    units = load_system("ryzen-ai-npu"), load_system("ryzen-ai-igpu")
    one, two = [
        HYBRID(load_model("llama-3.1-70b"), *units, how, how, workload(1024, 128), as_arrays(Sharing(copies=copies)))
        for copies in (1.0, 2.0)
    ]
    assert float(one.feasible) == 1
    assert float(two.feasible) == 0
    assert np.isfinite(float(two.tpot))


def _split(layers: float, model: str = "llama-2-7b", weights: str = "q4_k_m", gpu: str = "rtx-4090-1"):
    how = _deployed(model, weights)
    return SPLIT(
        load_model(model),
        load_system(gpu),
        load_system("ryzen-ai-cpu"),
        how,
        how,
        workload(256, 64),
        jnp.asarray(layers, float),
        BUS,
    )


def test_a_split_ends_are_the_devices_alone():
    """No layer on the GPU is the CPU; all of them are the GPU, but for the embedding's hop."""
    cpu, gpu = [
        specs.evaluate_jit(load_model("llama-2-7b"), load_system(name), _deployed(weights="q4_k_m"), workload(256, 64))
        for name in ("ryzen-ai-cpu", "rtx-4090-1")
    ]
    none, every = _split(0.0), _split(32.0)
    assert float(none.tpot) == pytest.approx(float(cpu.tpot), rel=1e-5)
    assert float(none.ttft) == pytest.approx(float(cpu.ttft), rel=1e-5)
    assert float(every.tpot) == pytest.approx(float(gpu.tpot) + 1e-5 + 4096 * 2 / 25e9, rel=1e-3)
    assert float(every.gpu_bytes + every.cpu_bytes) > float(gpu.memory.weights)


def test_more_layers_on_the_gpu_are_faster_and_fill_it():
    splits = [_split(float(layers)) for layers in (0, 8, 16, 24, 32)]
    times = [float(split.tpot) for split in splits]
    assert times == sorted(times, reverse=True)
    held = [float(split.gpu_bytes) for split in splits]
    assert held == sorted(held)
    between = times[1] - times[2], times[2] - times[3]
    assert between[0] == pytest.approx(between[1], rel=1e-6)  # a layer takes as long wherever it stands


def test_a_model_that_a_gpu_cannot_hold_is_split():
    """llama-3.1-70b in Q4_K_M has 42 GB: not on 24 GB whole, but 40 of its 80 layers are."""
    whole = _split(80.0, "llama-3.1-70b")
    assert float(whole.feasible) == 0
    half = _split(40.0, "llama-3.1-70b")
    assert float(half.gpu_bytes) < 24e9 * 0.9
    assert float(half.gpu_bytes + half.cpu_bytes) == pytest.approx(43e9, rel=0.08)


def test_gradients_of_both():
    how = _deployed(weights="int4")

    def decode_time(scale):
        system = load_system("ryzen-ai-igpu")
        peak = tuple(value * scale for value in system.device.peak)
        fast = eqx.tree_at(lambda s: s.device.peak, system, peak)
        model, work = load_model("llama-2-7b"), workload(256, 64)
        first = hybrid(model, fast, fast, how, how, work).ttft
        return first + layer_split(model, fast, system, how, how, work, jnp.asarray(7.0, float), BUS).ttft

    gradient = float(quick(jax.grad(decode_time))(jnp.ones(())))
    assert np.isfinite(gradient)
    assert gradient < 0


@pytest.mark.parametrize(
    "name", ["ryzen-ai-cpu", "ryzen-ai-npu", "ryzen-ai-igpu", "m2-ultra-1", "gb10-1", "rtx-4090-1"]
)
def test_local_systems_run_a_7b_model(name):
    """Decode reads 3.9 GB of weights a token: no faster than that, and no slower than half of it."""
    metrics = _alone(name, "int4")
    floor = float(metrics.memory.weights - 32000 * 4096 * 2) / float(load_system(name).device.memory.bandwidth)
    assert floor <= float(metrics.tpot) < 2 * floor
    assert float(metrics.feasible) == 1
