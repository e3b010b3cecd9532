"""Work of the host: kernel launches, tokenising, scheduling, detokenising."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxperf.spec.deployment import Engine

from ..physics import specs

MICRO = 1e-6
WORK = st.builds(
    specs.workload, isl=st.sampled_from([1, 100, 1000]), osl=st.sampled_from([2, 50]), batch=st.sampled_from([1, 8])
)
LAYOUTS = st.sampled_from([{}, dict(tp=4), dict(tp=2, cp=2), dict(attention_dp=2), dict(tp=2, pp=2)])
LAYERS = 12
MODEL = specs.group(LAYERS, specs.attention(16, 16), specs.dense())


def _priced(engine: Engine, layout: dict, work):
    return specs.priced(specs.model(MODEL), specs.system(), specs.deployment(engine=engine, **layout), work)


@pytest.mark.float64
@given(WORK, LAYOUTS, st.sampled_from([float("inf"), 64.0]))
def test_launches_add_their_time_to_every_pass(work, layout, chunk):
    """τ·L·(kernels of a layer + two collectives', where a stage has several ranks) for each step and chunk."""
    launch, layer, collective = 4 * MICRO, 10.0, 3.0
    bare = Engine(chunk=chunk)
    busy = dataclasses.replace(bare, kernel_launch=launch, kernels_per_layer=layer, kernels_per_collective=collective)
    before, after = _priced(bare, layout, work), _priced(busy, layout, work)
    ranks = layout.get("tp", 1) * layout.get("cp", 1) * layout.get("attention_dp", 1)
    once = launch * LAYERS * (layer + (2 * collective if ranks > 1 else 0))
    chunks = -(-float(work.isl) // min(chunk, float(work.isl)))
    assert float(after.ttft) - float(before.ttft) == pytest.approx(chunks * once)
    groups = min(float(work.batch), layout.get("pp", 1))
    if groups == 1:
        assert float(after.tpot) - float(before.tpot) == pytest.approx(once)
    else:
        assert 0 < float(after.tpot) - float(before.tpot) <= once * (1 + 1e-9)
    assert float(after.decode.overhead) - float(before.decode.overhead) == pytest.approx(once)


@given(WORK, LAYOUTS, st.floats(0, 20), st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0]))
def test_graphs_are_never_slower_than_eager(work, layout, eager, share, overlap):
    def priced(launch: float):
        engine = Engine(kernel_launch=launch * MICRO, kernels_per_layer=12.0, host_overlap=overlap)
        return _priced(engine, layout, work)

    graph, one_by_one = priced(eager * share), priced(eager)
    for name in ("ttft", "tpot", "e2e"):
        assert float(getattr(graph, name)) <= float(getattr(one_by_one, name)) * (1 + 1e-12)


@given(WORK)
def test_hidden_launches_cost_the_longer_of_the_two(work):
    """With full overlap a step takes what takes longer, the host or the device."""
    for launch in (0.01 * MICRO, 500 * MICRO):
        shared = dict(kernel_launch=launch, kernels_per_layer=10.0)
        alone = _priced(Engine(), {}, work)
        hidden = _priced(Engine(host_overlap=1.0, **shared), {}, work)
        assert float(hidden.tpot) == pytest.approx(max(float(alone.tpot), launch * 10 * LAYERS))


@given(WORK, LAYOUTS)
def test_the_frontend_is_in_ttft_and_the_end(work, layout):
    """Tokenising and scheduling come before the first token; detokenising goes with every output token."""
    bare = _priced(Engine(), layout, work)
    engine = Engine(tokenise=2 * MICRO, schedule=300 * MICRO, detokenise=7 * MICRO)
    busy = _priced(engine, layout, work)
    before = 2 * MICRO * float(work.isl) + 300 * MICRO
    assert float(busy.ttft) - float(bare.ttft) == pytest.approx(before)
    assert float(busy.tpot) == float(bare.tpot)
    assert float(busy.e2e) - float(bare.e2e) == pytest.approx(before + 7 * MICRO * float(work.osl))
