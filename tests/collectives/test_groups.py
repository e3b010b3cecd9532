"""Groups on grids, chains of tiers by parallel axis, groups of one rank, gradients, relaxation, one program."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equinox import tree_at
from hypothesis import given
from hypothesis import strategies as st

from jaxperf.collectives.steps import alignment
from jaxperf.collectives.topology import (
    collective_time,
    exchange_envelope,
    gather_line,
    hop_line,
    reduce_envelope,
)
from jaxperf.compiling import quick
from jaxperf.load import load_system
from jaxperf.ops import EXACT, Smooth
from jaxperf.phases.end_to_end import REASONS
from jaxperf.spec.deployment import Engine

from ..conftest import X64
from ..physics import specs
from .fabrics import GIGA, KINDS, MICRO, all_times, fabric, ideal, tier, times

SLACK = 1 + (1e-9 if X64 else 1e-5)
SIZES = st.sampled_from([1.0, 1e3, 1e5, 1e6, 1e9])
FABRICS = {
    "node and network": [
        tier("node", 8, algorithms=["direct", "double-tree"], in_network="multicast", switch_alpha_us=0.5),
        tier("net", 64, bandwidth_GBps=25.0, alpha_us=5.0, algorithms=["double-tree"]),
    ],
    "torus": [tier(topology="torus", dims=[4, 4, 4], devices=64, ports=6)],
    "mesh": [tier(topology="mesh", dims=[2, 8], devices=16, ports=4)],
    "full mesh": [tier(topology="full-mesh", ports=7, algorithms=["direct", "bruck", "halving-doubling"])],
    "three tiers": [
        tier("pair", 2, bandwidth_GBps=400.0),
        tier("node", 8, algorithms=["hardware-exchange", "direct"]),
        tier("torus", 128, topology="torus", dims=[4, 4], ports=4, bandwidth_GBps=12.5),
    ],
}


def _aligned(links, *groups: tuple[float, float]) -> float:
    return float(alignment([(g, s, "tp") for g, s in groups], links, ideal(), EXACT))


def test_whole_dimensions_line_up():
    """On 4 x 4 x 4, first dimension fastest: whole axes and planes, and every fourth or sixteenth chip."""
    links = fabric(tier(topology="torus", dims=[4, 4, 4], devices=64, ports=6))
    for group in [(1, 1), (4, 1), (16, 1), (64, 1), (4, 4), (4, 16), (16, 4), (1, 2)]:
        assert _aligned(links, group) == 1.0, group
    for group in [(2, 1), (8, 1), (32, 1), (2, 2), (2, 4), (8, 4), (3, 1), (5, 1), (2, 32)]:
        assert _aligned(links, group) == 0.0, group
    assert _aligned(links, (4, 1), (2, 4)) == 0.0
    assert _aligned(fabric(tier()), (3, 1), (5, 1)) == 1.0


@given(
    SIZES,
    st.sampled_from([([4, 4], 8, [[8], [4, 2]]), ([4, 4, 4], 32, [[4, 8], [4, 4, 2]]), ([4, 4], 2, [[2]])]),
    st.sampled_from(["torus", "mesh"]),
)
def test_a_misaligned_group_is_never_cheaper_than_an_aligned_one(size, case, topology):
    """Eight of a 4 x 4 torus against eight that are a torus of their own."""
    dims, ranks, own = case
    loose = fabric(tier(topology=topology, dims=dims, devices=math.prod(dims), ports=6))
    assert _aligned(loose, (ranks, 1)) == 0.0
    found = times(loose, size, ranks)
    for sides in own:
        whole = fabric(tier(topology=topology, dims=sides, devices=ranks, ports=6))
        assert _aligned(whole, (ranks, 1)) == 1.0
        best = times(whole, size, ranks)
        for kind in KINDS:
            assert found[kind] * SLACK >= best[kind], (kind, sides)


@pytest.mark.parametrize(("system", "tp", "expected"), [("tpu-v5p-pod", 16, 1), ("tpu-v5p-pod", 8, 0)])
def test_metrics_say_whether_groups_line_up(system: str, tp: int, expected: int):
    model = specs.model(specs.group(8, specs.attention(16, 16), specs.dense()))
    metrics = specs.priced(model, specs.system(system), specs.deployment(tp=tp), specs.workload())
    assert float(metrics.aligned) == expected
    assert REASONS[int(metrics.reason)] == "feasible"
    on_a_switch = specs.priced(model, specs.system(), specs.deployment(tp=4), specs.workload())
    assert float(on_a_switch.aligned) == 1.0


def _fast_and_far(fast_axes: list[str], far_axes: list[str]):
    return fabric(
        tier("fast", 8, bandwidth_GBps=400.0, alpha_us=1.0, axes=fast_axes, algorithms=["direct"]),
        tier("far", 64, bandwidth_GBps=25.0, alpha_us=9.0, axes=far_axes, algorithms=["double-tree"]),
    )


@given(SIZES, st.sampled_from([2, 4, 8]))
def test_an_axis_is_priced_at_the_tiers_that_serve_it(size, ranks):
    """Tensor parallel ranks on the fast tier alone, and pipeline stages on the far one although neighbours are near."""
    links = _fast_and_far(["tp", "cp", "ep"], ["pp"])
    fast = fabric(tier("fast", 8, bandwidth_GBps=400.0, alpha_us=1.0, algorithms=["direct"]))
    far = fabric(tier("far", 64, bandwidth_GBps=25.0, alpha_us=9.0, algorithms=["double-tree"]))
    assert times(links, size, ranks, 1, "tp") == pytest.approx(times(fast, size, ranks))
    assert times(links, size, ranks, 1, "pp") == pytest.approx(times(far, size, ranks))
    for stages in (2, 3, 8):
        hop = 9 * MICRO + size / (25 * GIGA)
        line = hop_line(jnp.asarray(float(stages)), jnp.asarray(1.0), links, ideal(), EXACT, "pp")
        assert float(line.time(size)) == pytest.approx((stages - 1) * hop)


@given(SIZES, st.sampled_from([2, 4, 8, 16, 64]))
def test_tiers_that_serve_every_axis_form_the_usual_hierarchy(size, ranks):
    everything = ["tp", "cp", "ep", "pp"]
    links = _fast_and_far(everything, everything)
    found = [times(links, size, ranks, 1, axis) for axis in ("tp", "cp", "ep", "pp")]
    assert all(other == found[0] for other in found)
    inner_only = times(_fast_and_far(["tp", "cp", "ep"], everything), size, ranks, 1, "tp")
    assert inner_only == pytest.approx(found[0])


def test_a_group_wider_than_its_tiers_is_infeasible():
    """tp = 16 where only a tier of 8 serves it."""
    document = dict(specs.find("system", "h100-sxm-8").document)
    document["fabric"] = [dict(document["fabric"][0], axes=["tp", "cp", "ep"]), document["fabric"][1]]
    model = specs.model(specs.group(4, specs.attention(16, 16), specs.dense()))
    for axes, reason in ((["pp"], "too many devices"), (["tp", "pp"], "feasible")):
        document["fabric"][1] = dict(document["fabric"][1], axes=axes)
        machine = specs.as_arrays(specs.build_system(specs.validate(document, "chain.json").document))
        metrics = specs.priced(model, machine, specs.deployment(tp=16), specs.workload(64, 4, 1))
        assert REASONS[int(metrics.reason)] == reason


@quick
@jax.grad
def _slopes(inputs, ops):
    """Slopes of the sum of all collectives and hops."""
    size, ranks, tiers = inputs
    every = [collective_time(kind, size, ranks, 1.0, tiers, ideal(), ops) for kind in KINDS]
    return sum(every) + hop_line(ranks, 1.0, tiers, ideal(), ops).time(size)


@pytest.mark.parametrize("name", FABRICS)
def test_one_rank_is_free_and_differentiable(name: str):
    """Exactly 0 seconds, and finite slopes towards a second rank, more bytes, and every figure of the links."""
    links = fabric(*FABRICS[name])
    assert all(time == 0.0 for stride in (1, 4) for time in times(links, 1e6, 1, stride).values())
    for ops in (EXACT, Smooth(jnp.asarray(0.1))):
        slopes = _slopes((jnp.asarray(1e6), jnp.asarray(1.0), links), ops)
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(slopes))
        assert float(slopes[1]) > 0


def _scaled(links, ranks, logs):
    """Logarithm of the sum of all collectives, of the logarithms of size, bandwidths and latencies."""
    size, bandwidth, alpha = (jnp.exp(log) for log in logs)
    scaled = tuple(
        tree_at(
            lambda t: (t.bandwidth, t.alpha, t.switch_alpha),
            t,
            (t.bandwidth * bandwidth, t.alpha * alpha, t.switch_alpha * alpha),
        )
        for t in links
    )
    every = [collective_time(kind, size, ranks, 1.0, scaled, ideal(), EXACT) for kind in KINDS]
    return jnp.log(sum(every))


@quick
def _scaled_with_slopes(links, ranks, logs):
    """Its value, and its slopes in reverse and in forward mode."""
    total = functools.partial(_scaled, links, ranks)
    return total(logs), jax.grad(total)(logs), jax.jacfwd(total)(logs)


@pytest.mark.float64
@pytest.mark.parametrize("name", FABRICS)
@pytest.mark.parametrize(("ranks", "size"), [(2, 3e4), (8, 1e4), (8, 2e7)])
def test_gradients_are_those_of_finite_differences(name: str, ranks: int, size: float):
    total = functools.partial(_scaled_with_slopes, fabric(*FABRICS[name]), jnp.asarray(float(ranks)))
    logs, step = np.asarray([math.log(size), 0.0, 0.0]), 1e-6
    _, reverse, forward = total(logs)
    differences = [float(total(logs + d)[0] - total(logs - d)[0]) / (2 * step) for d in step * np.eye(3)]
    np.testing.assert_allclose(reverse, differences, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(forward, differences, rtol=1e-5, atol=1e-8)


@quick
def _hard_and_soft(links, size, ranks, temperature):
    """For envelopes of an all-reduce and an exchange: time, time relaxed, and the number of lines."""
    group = (ranks, 1.0, links, ideal(), EXACT)
    envelopes = reduce_envelope(*group), exchange_envelope(*group)
    return [(each.time(size, EXACT), each.time(size, Smooth(temperature)), len(each.lines)) for each in envelopes]


@pytest.mark.float64
@pytest.mark.parametrize("name", FABRICS)
@given(SIZES, st.sampled_from([2, 4, 8, 16]), st.floats(0.01, 1.0))
def test_the_relaxed_choice_is_bounded(name, size, ranks, temperature):
    """hard ≤ soft ≤ hard·n^τ for the cheapest of n lines."""
    numbers = [jnp.asarray(float(number)) for number in (size, ranks, temperature)]
    for hard, relaxed, lines in _hard_and_soft(fabric(*FABRICS[name]), *numbers):
        assert hard / SLACK <= relaxed <= hard * int(lines) ** temperature * SLACK


@pytest.mark.parametrize("name", FABRICS)
@given(SIZES, st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([1, 2]))
def test_the_relaxation_tends_to_the_truth(name, size, ranks, stride):
    links = fabric(*FABRICS[name])
    hard = times(links, size, ranks, stride)
    for temperature, error in ((0.03, 0.1), (0.001, 0.004)):
        soft = times(links, size, ranks, stride, ops=Smooth(jnp.asarray(temperature)))
        assert soft == pytest.approx(hard, rel=error, abs=1e-20)


@given(SIZES, st.sampled_from(list(FABRICS)), st.sampled_from([1.1, 1.4, 1.9, 3.3, 6.0]))
def test_relaxed_degrees_are_not_free(size, name, ranks):
    """Between whole degrees a search must not find a group that costs less than its bytes."""
    links = fabric(*FABRICS[name])
    found = times(links, size, ranks)
    fastest = max(float(t.bandwidth * t.ports) for t in links)
    for kind in ("all-gather", "reduce-scatter"):
        assert found[kind] * SLACK >= (ranks - 1) / ranks * size / fastest
    assert found["all-to-all"] * SLACK >= 0.5 * (ranks - 1) / ranks * size / fastest
    assert found["all-reduce"] * SLACK >= (ranks - 1) / ranks * size / fastest


def test_one_program_prices_every_fabric():
    """Tiers, topologies, algorithms and axes are numbers: none of them compiles anew."""
    numbers = [jnp.asarray(x) for x in (1e6, 8.0, 1.0)]
    all_times.cache_clear()
    shipped = [load_system(name).fabric for name in ("h100-sxm-8", "tpu-v5p-pod", "d-matrix-corsair-8", "mi300x-8")]
    for links in [fabric(*tiers) for tiers in FABRICS.values()] + shipped:
        assert all(float(time) > 0 for time in all_times("tp")(*numbers, links, ideal(), EXACT))
    assert len(all_times("tp").programs) == 1


def test_gather_and_reduce_agree_on_what_moves():
    """An all-reduce of long vectors is its two halves."""
    for tiers in FABRICS.values():
        bare = fabric(*[t | dict(in_network="none") for t in tiers])
        group = (jnp.asarray(8.0), jnp.asarray(1.0), bare, ideal(), EXACT)
        half, whole = gather_line(*group), reduce_envelope(*group)
        size = jnp.asarray(1e12)
        assert float(whole.time(size, EXACT)) == pytest.approx(2 * float(half.time(size)), rel=1e-9)


def test_a_serving_engine_pays_for_its_chain():
    """A whole model: tensor parallel over a far tier alone is slower than over the near one."""
    document = dict(specs.find("system", "h100-sxm-8").document)
    near, far = document["fabric"]
    model = specs.model(specs.group(8, specs.attention(16, 16), specs.dense()))
    found = []
    for axes in (["tp", "cp", "ep", "pp"], ["cp", "ep", "pp"]):
        document["fabric"] = [dict(near, axes=axes), far]
        machine = specs.as_arrays(specs.build_system(specs.validate(document, "chain.json").document))
        deployed = specs.deployment(tp=8, engine=Engine(overlap=0.0))
        found.append(specs.priced(model, machine, deployed, specs.workload(512, 16, 4)))
    assert float(found[1].decode.network) > 2 * float(found[0].decode.network)
    assert float(found[1].ttft) > float(found[0].ttft)
    alone = times(fabric(dict(far, algorithms=["double-tree"])), 4 * 512 * 2, 8)["all-reduce"]
    # 8 layers with two all-reduces each and the embedding's; the logits are gathered besides.
    logits = times(fabric(dict(far, algorithms=["double-tree"])), 4 * 32000 * 2, 8)["all-gather"]
    assert float(found[1].decode.network) == pytest.approx(17 * alone + logits)
