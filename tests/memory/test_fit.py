"""What fits: batches, contexts, paging, offloading. Whole configurations through `evaluate`."""

from __future__ import annotations

import copy
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equinox import tree_at
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxperf.compiling import quick
from jaxperf.load import deployment, load_model, load_system
from jaxperf.ops import EXACT
from jaxperf.phases.end_to_end import REASONS, Metrics
from jaxperf.spec.deployment import Engine, Placement
from jaxperf.spec.library import find, validate
from jaxperf.spec.model import as_arrays
from jaxperf.spec.system import System, build_system
from jaxperf.stages.memory import layer_kv_bytes

from ..physics import specs

OUT = REASONS.index("out of memory")
model_of, system_of = functools.cache(load_model), functools.cache(load_system)


def _deployed(name: str, engine: Engine | None = None, **layout):
    chosen = deployment(name, efficiency="ideal", **layout)
    engine = Engine(chunk=256.0) if engine is None else engine
    return tree_at(lambda d: d.engine, chosen, as_arrays(engine))


def _priced(
    name: str,
    machine: System,
    engine: Engine | None = None,
    isl: float = 1024,
    osl: float = 128,
    batch: float = 1,
    **layout: Any,
) -> Metrics:
    return specs.priced(model_of(name), machine, _deployed(name, engine, **layout), specs.workload(isl, osl, batch))


def with_host(name: str, capacity_GB: float = 2000.0, bandwidth_GBps: float = 55.0) -> System:
    """A shipped system whose devices reach host memory, too."""
    described = copy.deepcopy(find("system", name).document)
    described["device"]["memory"]["host"] = dict(
        kind="host", capacity_GB=capacity_GB, bandwidth_GBps=bandwidth_GBps, sustained_share=None
    )
    described["sources"]["device.memory.host"] = dict(source="an example of the tests", date="2026", estimate=True)
    return as_arrays(build_system(validate(described, "host.json").document))


MODELS = ["llama-3.1-8b", "gemma-2-9b", "gpt-oss-20b", "deepseek-v2-lite", "qwen3-30b-a3b"]
ENGINES = st.builds(
    Engine,
    chunk=st.just(256.0),
    memory_utilisation=st.sampled_from([0.5, 0.9]),
    reserve=st.sampled_from([0.0, 1.5e9]),
    contiguous_tokens=st.sampled_from([0.0, 4096.0]),
    placement=st.builds(
        Placement,
        weights_in=st.sampled_from([-1.0, 0.0, 3.0]),
        kv_cache_in=st.sampled_from([-1.0, 0.0, 3.0]),
        kv_first=st.sampled_from([0.0, 1.0]),
        offload_weights=st.sampled_from([0.0, 1.0]),
        offload_kv_cache=st.sampled_from([0.0, 1.0]),
    ),
)
LAYOUTS = st.sampled_from([{}, dict(tp=2), dict(tp=2, pp=3), dict(tp=2, attention_dp=2), dict(cp=2)])
SYSTEMS = st.sampled_from(["h100-sxm-8", "d-matrix-corsair-8", "h100 and host"])


def _machine(name: str) -> System:
    return with_host("h100-sxm-8") if name == "h100 and host" else system_of(name)


def _consistent(metrics: Metrics, batch: float, one_sequence: bool) -> None:
    """Out of memory, bytes that are over, pressure above 1 and a batch above the largest say the same."""
    memory = metrics.memory
    over = float(memory.overflow) > 0
    assert (int(metrics.reason) == OUT) == over
    assert (batch > float(metrics.max_batch)) == over
    assert (float(memory.kv_pressure) > 1) == over
    assert (float(memory.max_context) < (1152 if one_sequence else 0)) == (over and one_sequence)
    assert np.isfinite([float(leaf) for leaf in (metrics.tpot, metrics.ttft, memory.total, memory.overflow)]).all()


@given(st.sampled_from(MODELS), SYSTEMS, ENGINES, LAYOUTS)
def test_feasible_is_a_batch_within_the_largest(name, machine, engine, layout):
    """At the largest batch it fits, and with one sequence a replica more it does not (at the same activations)."""
    system, replicas = _machine(machine), layout.get("attention_dp", 1)
    first = _priced(name, system, engine, batch=replicas, **layout)
    _consistent(first, replicas, one_sequence=True)
    most = float(first.max_batch)
    if 0 < most < 20000 * replicas:
        for batch in (most, most + 1):
            metrics = _priced(name, system, engine, batch=batch, **layout)
            if float(metrics.memory.activations) == float(first.memory.activations):
                _consistent(metrics, batch, one_sequence=False)
                assert (float(metrics.memory.overflow) > 0) == (batch > most)


@pytest.mark.parametrize(
    ("name", "machine", "capacity", "batch", "layout"),
    [
        ("llama-3.1-8b", "h100-sxm-8", 1.0, 1, dict(pp=2)),
        ("llama-3.1-8b", "h100-sxm-8", 0.3, 4, {}),
        ("gemma-2-9b", "h100-sxm-8", 0.31, 1, {}),
        ("gemma-2-9b", "h100-sxm-8", 0.31, 8, {}),
        ("gemma-2-9b", "h100-sxm-8", 0.4, 3, dict(pp=3)),
        ("gpt-oss-20b", "h100-sxm-8", 1.0, 64, {}),
        ("gpt-oss-20b", "h100-sxm-8", 0.25, 1, dict(tp=2)),
        ("deepseek-v2-lite", "h100-sxm-8", 0.6, 16, dict(cp=2)),
        ("qwen3.5-397b-a17b", "h200-8", 1.0, 8, dict(tp=8)),
        ("llama-3.1-8b", "d-matrix-corsair-8", 1.0, 32, dict(tp=8)),
    ],
)
def test_the_longest_context_fits_and_one_block_more_does_not(name, machine, capacity, batch, layout):
    """Windowed, latent and hybrid models too; chunked, so that activations stay the same."""
    engine = Engine(chunk=256.0, block_tokens=16.0)
    system = specs.system(machine, capacity=capacity)
    longest = float(_priced(name, system, engine, batch=batch, **layout).memory.max_context)
    assert longest > 256
    assert longest % 16 == 0
    for tokens, fits in ((longest, True), (longest + 16, False)):
        memory = _priced(name, system, engine, isl=tokens - 8, osl=8, batch=batch, **layout).memory
        assert (float(memory.overflow) == 0) == fits
        assert float(memory.max_context) == longest


def test_a_window_that_ends_inside_a_block():
    """Layers with a window of 100 tokens hold whole blocks, 112 tokens: the longest context counts them."""
    local, whole = (specs.attention(8, 8, 64, window_tokens=w) for w in (100, None))
    model = specs.model(
        specs.group(8, local, specs.dense(), period=2), specs.group(8, whole, specs.dense(), first=1, period=2)
    )
    for capacity in (0.0101, 0.0123, 0.017):
        system, deployed = specs.system(capacity=capacity), specs.deployment(engine=Engine(chunk=64.0))
        longest = float(specs.priced(model, system, deployed, specs.workload(64, 16, 4)).memory.max_context)
        assert longest > 0
        for tokens, fits in ((longest, True), (longest + 16, False)):
            found = specs.priced(model, system, deployed, specs.workload(tokens - 4, 4, 4)).memory
            assert (float(found.overflow) == 0) == fits


def test_a_compressed_cache_with_its_recent_tokens():
    """DeepSeek-V4 keeps the last tokens whole beside the compressed ones."""
    system, engine = specs.system("b200-8"), Engine(chunk=256.0)
    layout = dict(tp=8, ep=8)
    longest = float(_priced("deepseek-v4-flash", system, engine, batch=2000, **layout).memory.max_context)
    for tokens, fits in ((longest, True), (longest + 64, False)):
        memory = _priced("deepseek-v4-flash", system, engine, isl=tokens - 8, osl=8, batch=2000, **layout).memory
        assert (float(memory.overflow) == 0) == fits


@settings(max_examples=15)
@given(st.sampled_from(MODELS), st.sampled_from([64, 500, 3000]), st.sampled_from([1.0, 700.0, 4096.0, 20000.0]))
def test_reserving_whole_sequences_never_fits_more(name, isl, tokens):
    """Contiguous allocation keeps room for the longest sequence; pages are filled as they are needed."""
    system = system_of("h100-sxm-8")
    paged = _priced(name, system, Engine(chunk=256.0), isl=isl, batch=8)
    contiguous = _priced(name, system, Engine(chunk=256.0, contiguous_tokens=tokens), isl=isl, batch=8)
    assert float(contiguous.max_batch) <= float(paged.max_batch)
    assert float(contiguous.memory.kv_cache) >= float(paged.memory.kv_cache)
    assert float(contiguous.memory.max_context) <= float(paged.memory.max_context)
    if tokens <= isl:
        assert float(contiguous.memory.kv_cache) == float(paged.memory.kv_cache)


def test_contiguous_allocation_uses_the_share_that_is_filled():
    """Sequences of 1024 tokens in buffers of 8192: an eighth of the batch (full attention)."""
    paged, contiguous = (
        _priced("llama-3.1-8b", system_of("h100-sxm-8"), Engine(chunk=256.0, contiguous_tokens=tokens), 1000, 24, 4)
        for tokens in (0.0, 8192.0)
    )
    assert float(contiguous.memory.kv_cache) == 8 * float(paged.memory.kv_cache)
    assert float(contiguous.max_batch) == pytest.approx(float(paged.max_batch) / 8, abs=1)
    assert float(contiguous.memory.kv_cache) == 4 * 8192 * 131072  # 131,072 bytes a token of LLaMA-3.1-8B


@pytest.mark.float64
@pytest.mark.parametrize("block", [1, 16, 64])
def test_pages_waste_half_a_block(block: int):
    """Mean inflation over all lengths near S: φ = 1 + block/(2S)."""
    group, engine = model_of("llama-3.1-8b").groups[0], Engine(block_tokens=float(block))
    deployed = _deployed("llama-3.1-8b", engine)
    lengths = jnp.arange(1000.0, 1000.0 + 64 * 16)
    held = jax.vmap(lambda tokens: layer_kv_bytes(group, tokens, deployed, EXACT))(lengths)
    used = lengths * 2 * 8 * 128 * 2
    inflation = float(jnp.sum(held) / jnp.sum(used))
    assert inflation == pytest.approx(1 + (block - 1) / (2 * float(lengths.mean())), rel=1e-12)
    assert inflation == pytest.approx(1 + block / (2 * float(lengths.mean())), abs=0.6 / float(lengths.mean()))


def test_weights_in_host_memory_make_it_fit_and_slow():
    """LLaMA-3.1-405B in bf16 on eight H100 of 80 GB: 101 GB a device, of which the last 30 wait behind PCIe."""
    host = with_host("h100-sxm-8", capacity_GB=250.0, bandwidth_GBps=50.0)
    asked = dict(tp=8, batch=4)
    alone = _priced("llama-3.1-405b", system_of("h100-sxm-8"), **asked)
    unused = _priced("llama-3.1-405b", host, **asked)
    offloaded = _priced("llama-3.1-405b", host, Engine(chunk=256.0, placement=Placement(offload_weights=1.0)), **asked)
    assert REASONS[int(alone.reason)] == REASONS[int(unused.reason)] == "out of memory"
    assert float(unused.tpot) == float(alone.tpot)
    assert REASONS[int(offloaded.reason)] == "feasible"
    assert float(offloaded.residency.weights[0]) == pytest.approx(
        float(offloaded.memory.rooms.free[0]) - float(offloaded.residency.kv_cache[0])
    )
    assert float(jnp.sum(offloaded.residency.weights)) == pytest.approx(float(offloaded.memory.weights))
    # What lies beyond the device is read once a step at 50 GB/s in place of 3.35 TB/s, all but its share of the
    # embedding table, which is gathered.
    beyond = float(offloaded.residency.weights[1])
    assert beyond > 25e9
    read = 1 - 128256 * 16384 * 2 / 8 / float(offloaded.memory.weights)
    longer = beyond * read * (1 / 50e9 - 1 / 3.35e12)
    assert float(offloaded.tpot) - float(alone.tpot) == pytest.approx(longer, rel=1e-3)
    assert float(offloaded.ttft) > float(alone.ttft)


def test_kv_cache_in_host_memory_slows_decode_with_context():
    host = with_host("h100-sxm-8")
    engine = Engine(chunk=256.0, placement=Placement(kv_cache_in=5.0, offload_kv_cache=1.0))
    near, far = (
        [_priced("llama-3.1-8b", host, chosen, isl=isl, batch=16) for isl in (1000, 8000)]
        for chosen in (Engine(chunk=256.0), engine)
    )
    assert float(far[0].residency.weights[0]) == float(far[0].memory.weights)
    assert float(far[0].residency.kv_cache[1]) == float(far[0].memory.kv_cache)
    grown = 16 * 7000 * 131072
    assert float(far[1].tpot) - float(far[0].tpot) == pytest.approx(grown / 55e9, rel=0.01)
    assert float(near[1].tpot) - float(near[0].tpot) == pytest.approx(grown / 3.35e12, rel=0.01)


def test_a_device_of_sram_and_lpddr():
    """d-Matrix Corsair, 2 GB at 150 TB/s and 256 GB at 400 GB/s: LLaMA-3.1-8B fits into the SRAM of no card alone."""
    corsair = system_of("d-matrix-corsair-8")
    one = _priced("llama-3.1-8b", corsair, batch=1)
    assert REASONS[int(one.reason)] == "feasible"
    placed = one.residency
    assert float(placed.weights[0]) == pytest.approx(0.9 * 2e9 - float(one.memory.activations))
    assert float(placed.kv_cache[0]) == 0.0
    assert float(placed.weights[1]) > 14e9
    # A step reads all but the gathered embedding table (128256 x 4096 x 2 B), in proportion from both memories.
    read = (float(one.memory.weights) - 128256 * 4096 * 2) / float(one.memory.weights)
    parts = [float(size) * read for size in placed.weights[:2]]
    bound = parts[0] / 150e12 + parts[1] / 400e9 + float(placed.kv_cache[1]) / 400e9
    assert float(one.tpot) == pytest.approx(bound, rel=0.02)
    first = Engine(chunk=256.0, placement=Placement(kv_first=1.0))
    swapped = _priced("llama-3.1-8b", corsair, first, batch=1)
    assert float(swapped.residency.kv_cache[0]) == pytest.approx(float(swapped.memory.kv_cache))
    spread = _priced("llama-3.1-8b", corsair, batch=1, tp=8)
    assert float(spread.tpot) < float(one.tpot) / 8


def test_gradients_reach_the_memories():
    """Slopes of time and fit with respect to every memory are finite, and have the sign that physics gives them."""
    machine, model = with_host("d-matrix-corsair-8"), model_of("llama-3.1-8b")
    deployed, work = _deployed("llama-3.1-8b", tp=4), specs.workload(512, 64, 8)

    @quick
    @jax.grad
    def slopes(tiers):
        system = tree_at(lambda s: s.device.memory.tiers, machine, tiers)
        return jnp.log(specs.evaluate_jit(model, system, deployed, work).tpot)

    found = slopes(machine.device.memory.tiers)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(found))
    sram, lpddr, host, _ = found
    assert float(sram.bandwidth) < 0
    assert float(lpddr.bandwidth) < 0
    assert float(sram.capacity) < 0
    assert float(host.bandwidth) == float(host.capacity) == 0.0
    elasticity = float(lpddr.bandwidth * machine.device.memory.tiers[1].bandwidth)
    faster = tree_at(
        lambda s: s.device.memory.tiers[1].bandwidth, machine, machine.device.memory.tiers[1].bandwidth * 1.0001
    )
    before, after = (float(specs.priced(model, m, deployed, work).tpot) for m in (machine, faster))
    assert (after / before - 1) / 0.0001 == pytest.approx(elasticity, rel=1e-2)
