"""Bounds that every result obeys, on drawn configurations. One compiled program prices all of them."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equinox import tree_at
from hypothesis import given
from hypothesis import strategies as st

from jaxperf.compiling import quick
from jaxperf.ops import EXACT, Smooth
from jaxperf.phases.end_to_end import evaluate
from jaxperf.spec.deployment import Engine

from . import specs

SLACK = 1 + 2e-5
"""Room for rounding when two results of float32 kernels are compared."""

POWERS = st.sampled_from([1, 2, 4, 8])
LAYOUTS = st.fixed_dictionaries(
    {
        "tp": POWERS,
        "pp": st.sampled_from([1, 2, 3, 4]),
        "cp": st.sampled_from([1, 2]),
        "attention_dp": st.sampled_from([1, 2, 4]),
    }
)
WORKLOADS = st.builds(
    specs.workload,
    isl=st.sampled_from([1, 100, 2000, 20000]),
    osl=st.sampled_from([1, 2, 500]),
    batch=st.sampled_from([1, 3, 16, 200]),
    prefill_batch=st.sampled_from([1, 2, 5]),
)
ENGINES = st.builds(
    Engine, chunk=st.sampled_from([float("inf"), 128.0, 1000.0]), overlap=st.sampled_from([0.0, 0.5, 1.0])
)


@st.composite
def models(draw: st.DrawFn, latent: bool = True) -> dict:
    """Figures of one kind of layer: grouped-query with or without a window, or latent; dense or experts."""
    feed_forward = draw(
        st.sampled_from(
            [specs.dense(2048), specs.dense(3072, "plain"), specs.experts(), specs.experts(64, 8, 256, 512)]
        )
    )
    kv_heads = draw(st.sampled_from([1, 2, 8, 16]))
    window = draw(st.sampled_from([None, 64, 1000]))
    attention = specs.attention(16, kv_heads, 64, window_tokens=window)
    if latent and draw(st.booleans()):
        attention = specs.latent(16, q_rank=draw(st.sampled_from([0, 256])))
    return dict(attention=attention, feed_forward=feed_forward, count=draw(st.integers(4, 40)))


def _model(figures: dict, **changes):
    figures = figures | changes
    return specs.model(specs.group(figures["count"], figures["attention"], figures["feed_forward"]), hidden=1024)


def _layout(layout: dict, figures: dict) -> dict:
    """The layout with experts over all ranks of a stage, where the model has experts."""
    ranks = layout["tp"] * layout["cp"] * layout["attention_dp"]
    return layout | {"ep": min(ranks, 16) if figures["feed_forward"].get("experts") else 1}


CONFIGURATIONS = st.tuples(models(), LAYOUTS, WORKLOADS, ENGINES)


@given(CONFIGURATIONS)
def test_results_are_finite_and_positive(drawn):
    figures, layout, work, engine = drawn
    metrics = specs.priced(
        _model(figures), specs.system(), specs.deployment(engine=engine, **_layout(layout, figures)), work
    )
    times = [metrics.ttft, metrics.tpot, metrics.e2e, metrics.output_tokens_per_s, metrics.memory.total]
    assert all(np.isfinite(float(time)) and float(time) > 0 for time in times)
    assert 0 < float(metrics.mfu) <= SLACK
    assert 0 < float(metrics.mbu) <= SLACK


@given(models(latent=False), LAYOUTS, WORKLOADS)
def test_decode_reads_weights_and_cache(figures, layout, work):
    """A step takes at least the bytes of weights and KV cache that a rank holds for it over its bandwidth."""
    layout = layout | {"cp": 1}
    machine, count, attention = specs.system(), figures["count"], figures["attention"]
    figures = figures | dict(feed_forward=specs.dense(2048))
    metrics = specs.priced(_model(figures), machine, specs.deployment(**layout), work)
    query, kv = 2 * 16 * 64 * 1024, 2 * attention["kv_heads"] * 64 * 1024
    weights = count * (query + kv + 3 * 1024 * 2048) * 2 / layout["tp"]
    groups = min(float(work.batch), layout["pp"])
    sequences = float(work.batch) / groups / layout["attention_dp"]
    context = min(float(work.isl + work.osl / 2), attention["window_tokens"] or float("inf"))
    cache = sequences * count * context * 2 * attention["kv_heads"] * 64 * 2 / layout["tp"]
    assert float(metrics.tpot) * SLACK >= (weights + cache) / float(machine.device.memory.bandwidth)


@given(CONFIGURATIONS)
def test_prefill_computes_every_causal_product(drawn):
    """A prompt takes at least its matrix products and causal scores over the peak of all ranks that work on it."""
    figures, layout, work, engine = drawn
    figures = figures | dict(attention=specs.attention(16, 8, 64), feed_forward=specs.dense(2048))
    machine = specs.system()
    metrics = specs.priced(_model(figures), machine, specs.deployment(engine=engine, **layout), work)
    tokens = float(work.isl)
    per_layer = 2 * tokens * 1024 * (16 * 64 * 2 + 2 * 8 * 64 + 3 * 2048) + 2 * tokens * (tokens + 1) / 2 * 128 * 16
    ranks = layout["tp"] * layout["cp"] * layout["pp"]
    bound = figures["count"] * per_layer / (ranks * float(machine.device.peak[1]))
    assert float(metrics.ttft) * SLACK >= bound


@pytest.mark.parametrize(
    "better", [dict(bandwidth=2.0), dict(compute=2.0), dict(alpha=0.25), dict(link=2.0), dict(capacity=2.0)]
)
@given(CONFIGURATIONS)
def test_a_better_machine_never_hurts(better, drawn):
    figures, layout, work, engine = drawn
    args = _model(figures), specs.deployment(engine=engine, **_layout(layout, figures)), work
    before = specs.priced(args[0], specs.system(), *args[1:])
    after = specs.priced(args[0], specs.system(**better), *args[1:])
    for name in ("ttft", "tpot", "e2e"):
        assert float(getattr(after, name)) <= float(getattr(before, name)) * SLACK
    assert float(after.max_batch) >= float(before.max_batch)


@given(CONFIGURATIONS)
def test_time_is_homogeneous(drawn):
    """Twice the bandwidths and peaks at half the latencies: half of every time (ideal efficiency has no overheads)."""
    figures, layout, work, engine = drawn
    args = _model(figures), specs.deployment(engine=engine, **_layout(layout, figures)), work
    before = specs.priced(args[0], specs.system(), *args[1:])
    after = specs.priced(args[0], specs.system(bandwidth=2.0, compute=2.0, link=2.0, alpha=0.5), *args[1:])
    for name in ("ttft", "tpot", "e2e"):
        assert 2 * float(getattr(after, name)) == pytest.approx(float(getattr(before, name)), rel=1e-4)


@given(models(latent=False), LAYOUTS, WORKLOADS)
def test_grouped_queries_never_read_more(figures, layout, work):
    attention = figures["attention"] | {"kv_heads": 16}
    layout = _layout(layout, figures)
    grouped = specs.priced(_model(figures), specs.system(), specs.deployment(**layout), work)
    every = specs.priced(_model(figures, attention=attention), specs.system(), specs.deployment(**layout), work)
    assert float(grouped.decode.needed_bytes) <= float(every.decode.needed_bytes) * SLACK
    assert float(grouped.tpot) <= float(every.tpot) * SLACK
    assert float(grouped.memory.kv_cache) <= float(every.memory.kv_cache) * SLACK


@given(models(latent=False), LAYOUTS, WORKLOADS, ENGINES)
def test_a_window_never_costs_more(figures, layout, work, engine):
    deployed = specs.deployment(engine=engine, **_layout(layout, figures))
    full = _model(figures, attention=figures["attention"] | {"window_tokens": None})
    narrow, wide = (
        specs.priced(_model(figures), specs.system(), deployed, work),
        specs.priced(full, specs.system(), deployed, work),
    )
    for name in ("ttft", "tpot"):
        assert float(getattr(narrow, name)) <= float(getattr(wide, name)) * SLACK
    assert float(narrow.memory.kv_cache) <= float(wide.memory.kv_cache) * SLACK


@given(CONFIGURATIONS)
def test_doubling_layers_doubles_layer_time(drawn):
    """On one stage: what three times the layers add to twice of them is what one times adds to none."""
    figures, layout, work, engine = drawn
    deployed = specs.deployment(engine=engine, **(_layout(layout, figures) | {"pp": 1}))
    count = figures["count"]
    one, two, three = (
        specs.priced(_model(figures, count=n * count), specs.system(), deployed, work) for n in (1, 2, 3)
    )
    for name in ("ttft", "tpot"):
        first, second, third = (float(getattr(metrics, name)) for metrics in (one, two, three))
        assert third - second == pytest.approx(second - first, rel=2e-3, abs=1e-5 * third)
        assert second > first


@given(models(latent=False), WORKLOADS, st.sampled_from([1, 2, 8, 16]))
def test_cache_capacity_grows_with_tp_until_the_heads_run_out(figures, work, kv_heads):
    attention = specs.attention(16, kv_heads, 64, window_tokens=None)
    caches = [
        float(
            specs.priced(
                _model(figures, attention=attention), specs.system(), specs.deployment(tp=tp), work
            ).memory.kv_cache
        )
        for tp in (1, 2, 4, 8, 16)
    ]
    for tp, smaller, larger in zip((2, 4, 8, 16), caches[1:], caches[:-1], strict=True):
        assert larger / smaller == pytest.approx(2.0 if tp <= kv_heads else 1.0, rel=1e-5)


@given(WORKLOADS, models())
def test_latent_cache_does_not_shard(work, figures):
    attention = specs.latent(16)
    caches = [
        float(
            specs.priced(
                _model(figures, attention=attention), specs.system(), specs.deployment(tp=tp), work
            ).memory.kv_cache
        )
        for tp in (1, 8)
    ]
    assert caches[0] == pytest.approx(caches[1], rel=1e-6)


@given(CONFIGURATIONS)
def test_one_device_does_not_communicate(drawn):
    figures, _, work, engine = drawn
    metrics = specs.priced(_model(figures), specs.system(), specs.deployment(engine=engine), work)
    assert float(metrics.prefill.network) == 0.0
    assert float(metrics.decode.network) == 0.0


@given(CONFIGURATIONS)
def test_memory_grows_with_batch_and_context(drawn):
    figures, layout, _, engine = drawn
    deployed = specs.deployment(engine=engine, **_layout(layout, figures))

    def held(isl: float, batch: float) -> float:
        work = specs.workload(isl, 100, batch)
        return float(specs.priced(_model(figures), specs.system(), deployed, work).memory.total)

    totals = [held(isl, 8) for isl in (1, 50, 500, 5000)] + [held(5000, batch) for batch in (9, 64, 300)]
    assert all(later >= earlier / SLACK for earlier, later in itertools.pairwise(totals))


@given(CONFIGURATIONS)
def test_time_grows_with_batch_and_context(drawn):
    figures, layout, _, engine = drawn
    deployed = specs.deployment(engine=engine, **_layout(layout, figures))
    found = [
        specs.priced(_model(figures), specs.system(), deployed, specs.workload(isl, 100, batch))
        for isl, batch in ((100, 8), (1000, 8), (10000, 8), (10000, 64), (10000, 512))
    ]
    for earlier, later in itertools.pairwise(found):
        assert float(later.tpot) * SLACK >= float(earlier.tpot)
        assert float(later.ttft) * SLACK >= float(earlier.ttft)


@given(CONFIGURATIONS)
def test_the_relaxation_tends_to_the_truth_from_above(drawn):
    figures, layout, work, engine = drawn
    args = _model(figures), specs.system(), specs.deployment(engine=engine, **_layout(layout, figures)), work
    hard = specs.priced(*args)
    previous = None
    for temperature in (0.3, 0.1, 0.03, 0.003):
        soft = specs.evaluate_smooth(*args, jnp.asarray(temperature))
        gaps = [float(getattr(soft, name)) / float(getattr(hard, name)) - 1 for name in ("ttft", "tpot")]
        if previous is not None:
            assert all(abs(gap) <= abs(before) + 1e-3 for gap, before in zip(gaps, previous, strict=True))
        previous = gaps
    assert previous == pytest.approx([0.0, 0.0], abs=0.02)


CORNERS = {
    "one device": (dict(), specs.workload(1, 1, 1)),
    "everything": (dict(tp=2, pp=2, cp=2, attention_dp=2), specs.workload(100, 10, 4)),
}


@pytest.mark.slow
@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("relaxed", [False, True])
@pytest.mark.parametrize(
    "figures",
    [
        dict(attention=specs.attention(), feed_forward=specs.dense()),
        dict(attention=specs.attention(window_tokens=10), feed_forward=specs.experts(shared=512)),
        dict(attention=specs.latent(), feed_forward=specs.experts()),
    ],
    ids=["dense", "windowed experts", "latent experts"],
)
def test_gradients_are_finite(corner: str, relaxed: bool, figures: dict):
    degrees, work = CORNERS[corner]
    described, machine = _model(figures | {"count": 6}), specs.system()
    degrees = degrees | {
        "ep": np.prod([*degrees.values()]) / degrees.get("pp", 1) if "experts" in figures["feed_forward"] else 1
    }
    deployed = specs.deployment(engine=Engine(chunk=64.0), **degrees)
    result = (_relaxed_gradients if relaxed else _gradients)(described, machine, deployed, work)
    for leaf in jax.tree.leaves(result):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            assert np.isfinite(np.asarray(leaf)).all()


def _objective_slopes(described, machine, deployed, work, ops=EXACT):
    """Gradients of three metrics with respect to device, fabric, degrees, efficiency and workload."""

    def objective(inputs):
        parallelism, efficiency, device, fabric, isl, osl, batch = inputs
        laid_out = tree_at(lambda d: (d.parallelism, d.efficiency), deployed, (parallelism, efficiency))
        built = tree_at(lambda s: (s.device.memory, s.device.peak, s.fabric), machine, (*device, fabric))
        asked = tree_at(lambda w: (w.isl, w.osl, w.batch), work, (isl, osl, batch))
        metrics = evaluate(described, built, laid_out, asked, ops)
        return metrics.e2e + metrics.output_tokens_per_s + metrics.memory.total

    device = (machine.device.memory, machine.device.peak)
    inputs = (deployed.parallelism, deployed.efficiency, device, machine.fabric, work.isl, work.osl, work.batch)
    return jax.grad(objective)(inputs)


_gradients = quick(_objective_slopes)


@quick
def _relaxed_gradients(described, machine, deployed, work):
    return _objective_slopes(described, machine, deployed, work, Smooth(jnp.asarray(0.1)))
