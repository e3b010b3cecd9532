"""Where weights and KV cache lie among the memories of a device, against a greedy fill in plain Python."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equinox import tree_at
from hypothesis import assume, given
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxperf.ops import EXACT
from jaxperf.spec.deployment import IDEAL, build_efficiency, build_engine
from jaxperf.spec.library import validate
from jaxperf.spec.model import as_arrays
from jaxperf.spec.system import build_system
from jaxperf.stages.placement import place, read_time, rooms, slowdown

from ..collectives.fabrics import document, tier

SHARES = {"sram": 1.0, "hbm": 0.92, "gddr": 0.92, "lpddr": 0.85, "ddr": 0.85, "host": 0.85, "ssd": 0.85}
SLACK = 1 + 1e-12
SIZES = st.sampled_from([0.0, 1e6, 1e9, 7e9, 5e10, 3e11])


def memory(*tiers: tuple[str, float, float], main: int = 0):
    """A device's memories (kind, GB, GB/s), fastest first, as the loader builds them."""
    described = document(tier(), devices=8)
    described["device"]["memory"] = {
        f"{kind}{index}": dict(kind=kind, capacity_GB=capacity, bandwidth_GBps=bandwidth)
        for index, (kind, capacity, bandwidth) in enumerate(tiers)
    }
    described["device"]["main_memory"] = f"{tiers[main][0]}{main}"
    return as_arrays(build_system(validate(described, "memory.json").document)).device.memory


def engine(**fields):
    """An engine from its document."""
    described = dict(kind="engine", name="example", sources={"memory_utilisation": {"source": "tests"}}) | fields
    return as_arrays(build_engine(validate(described, "engine.json").document))


def efficiency(share: float = 1.0):
    """Kernels that reach a share of memory bandwidth."""
    return as_arrays(build_efficiency({**IDEAL, "gemm_memory": share, "attention_memory": share}))


@jax.jit
def _placed(weights, kv_cache, busy, memories, chosen, factors):
    room = rooms(memories, chosen, busy, EXACT)
    found = place(weights, kv_cache, room, chosen, EXACT)
    times = (
        read_time(found.weights, memories, factors.gemm_memory),
        read_time(found.kv_cache, memories, factors.attention_memory),
    )
    return room, found, slowdown(found, memories, factors), times


def placed(weights, kv_cache, busy, memories, chosen, share=1.0):
    """Rooms, residency, slowdown and reading times."""
    numbers = [jnp.asarray(float(x)) for x in (weights, kv_cache, busy)]
    return _placed(*numbers, memories, chosen, efficiency(share))


@st.composite
def devices(draw: st.DrawFn) -> tuple[list[tuple[str, float, float]], int]:
    """One to four memories of falling bandwidth, host and SSD last, and which of them is the main one."""
    kinds = ["sram", "hbm", "lpddr", "host", "ssd"]
    chosen = [kind for kind in kinds if draw(st.booleans())][:4]
    assume(any(kind in ("sram", "hbm", "lpddr") for kind in chosen))
    speeds = sorted((draw(st.floats(1.0, 1e5)) for _ in chosen), reverse=True)
    tiers = [
        (kind, draw(st.sampled_from([0.5, 2.0, 24.0, 80.0, 500.0])), speed)
        for kind, speed in zip(chosen, speeds, strict=True)
    ]
    own = [index for index, kind in enumerate(chosen) if kind not in ("host", "ssd")]
    return tiers, draw(st.sampled_from(own))


KINDS = st.sampled_from([None, "sram", "hbm", "lpddr", "host"])
ENGINES = st.fixed_dictionaries(
    {
        "placement": st.fixed_dictionaries(
            {"weights": KINDS, "kv_cache": KINDS, "order": st.sampled_from(["weights-first", "kv-cache-first"])}
        ),
        "offload": st.lists(st.sampled_from(["weights", "kv-cache"]), unique=True),
        "memory_utilisation": st.sampled_from([0.5, 0.9, 1.0]),
    }
)


def _free(tiers, main: int, busy: float, share: float) -> list[float]:
    """Room of every tier when activations and reserve fill the main one and then the slower ones of the device."""
    free, left = [], busy
    for index, (kind, capacity, _) in enumerate(tiers):
        room = share * capacity * 1e9
        taken = min(left, room) if index >= main and kind not in ("host", "ssd") else 0.0
        free.append(room - taken)
        left -= taken
    return free


def _admitted(tiers, pinned: str | None, spills: bool) -> list[bool]:
    if pinned is not None:
        return [kind == pinned for kind, _, _ in tiers]
    return [spills or kind not in ("host", "ssd") for kind, _, _ in tiers]


def _greedy(size: float, free: list[float], admitted: list[bool], first_free: list[float]) -> list[float]:
    """Fastest first; what is left over is put on the slowest memory that had any room for the class."""
    result = []
    for room, may in zip(free, admitted, strict=True):
        result.append(min(size, room) if may else 0.0)
        size -= result[-1]
    open_ = [index for index, may in enumerate(admitted) if may and first_free[index] > 0]
    if open_:
        result[open_[-1]] += size
    return result


@given(devices(), ENGINES, SIZES, SIZES, st.sampled_from([0.0, 1e8, 3e9]))
def test_placement_is_the_greedy_fill(device, fields, weights, kv_cache, busy):
    tiers, main = device
    chosen, spills = fields["placement"], fields["offload"]
    room, found, _, _ = placed(weights, kv_cache, busy, memory(*tiers, main=main), engine(**fields))
    first_free = _free(tiers, main, busy, fields["memory_utilisation"])
    admitted = {
        "weights": _admitted(tiers, chosen["weights"], "weights" in spills),
        "kv_cache": _admitted(tiers, chosen["kv_cache"], "kv-cache" in spills),
    }
    used = len(tiers)
    np.testing.assert_allclose(room.free[:used], first_free, atol=1.0)
    assert not np.any(np.asarray(room.free[used:]))
    sizes = {"weights": weights, "kv_cache": kv_cache}

    def strictness(name: str, other: str) -> int:
        bound = int(chosen[name] is not None)
        dashed = {"weights": "weights", "kv_cache": "kv-cache"}
        return bound + int(dashed[name] not in spills and dashed[other] in spills)

    order = ["weights", "kv_cache"]
    ranks = strictness("weights", "kv_cache"), strictness("kv_cache", "weights")
    if ranks[1] > ranks[0] or (ranks[0] == ranks[1] and chosen["order"] == "kv-cache-first"):
        order.reverse()
    free = list(first_free)
    for name in order:
        expected = _greedy(sizes[name], free, admitted[name], first_free)
        mine = np.asarray(getattr(found, name))[:used]
        np.testing.assert_allclose(mine, expected, atol=16.0, err_msg=name)
        free = [max(0.0, left - taken) for left, taken in zip(free, expected, strict=True)]
        if any(may and left > 0 for may, left in zip(admitted[name], first_free, strict=True)):
            assert float(jnp.sum(getattr(found, name))) == pytest.approx(sizes[name])


@given(devices(), ENGINES, SIZES, SIZES)
def test_what_can_fit_does(device, fields, weights, kv_cache):
    """Each class within its own rooms, and both within all: then no memory holds more than it has (Hall)."""
    tiers, main = device
    room, found, _, _ = placed(weights, kv_cache, 1e8, memory(*tiers, main=main), engine(**fields))
    can = (
        weights <= float(jnp.sum(room.weights))
        and kv_cache <= float(jnp.sum(room.kv_cache))
        and weights + kv_cache <= float(room.either)
    )
    held = np.asarray(found.weights) + np.asarray(found.kv_cache)
    fits = bool(np.all(held <= np.asarray(room.free) + 16.0)) and np.isclose(held.sum(), weights + kv_cache)
    assert fits == can


@given(devices(), st.sampled_from([1.0, 0.92, 0.7]), SIZES, SIZES)
def test_reading_takes_each_memory_in_turn(device, share, weights, kv_cache):
    """t = Σ bytes/(bandwidth·e): e is 1 at the physical bound, and each memory's own sustained share at HBM's 0.92;
    below, kernels lose a further share/0.92 of what the device itself reads."""
    tiers, main = device
    fields = dict(offload=["weights", "kv-cache"])
    _, found, slow, times = placed(weights, kv_cache, 0.0, memory(*tiers, main=main), engine(**fields), share)

    def rate(kind: str, bandwidth: float) -> float:
        sustained = 1.0 if share == 1.0 else SHARES[kind]
        kernels = 1.0 if share == 1.0 or kind in ("host", "ssd") else share / 0.92
        return bandwidth * 1e9 * sustained * kernels

    rates = [rate(kind, bandwidth) for kind, _, bandwidth in tiers]
    for sizes, time, factor in ((found.weights, times[0], slow.weights), (found.kv_cache, times[1], slow.kv_cache)):
        expected = sum(float(size) / r for size, r in zip(sizes, rates, strict=False))
        assert float(time) == pytest.approx(expected)
        total = float(jnp.sum(sizes))
        if total > 1:
            assert float(factor) * total / rates[main] == pytest.approx(expected)
        else:
            assert float(factor) == 1.0


@given(devices(), ENGINES, SIZES, SIZES, st.integers(0, 3))
def test_a_faster_memory_never_hurts(device, fields, weights, kv_cache, which):
    tiers, main = device
    memories, chosen = memory(*tiers, main=main), engine(**fields)
    quicker = tree_at(
        lambda m: m.tiers,
        memories,
        tuple(
            tree_at(lambda t: t.bandwidth, t, t.bandwidth * (2.0 if index == which else 1.0))
            for index, t in enumerate(memories.tiers)
        ),
    )
    before, after = (placed(weights, kv_cache, 1e8, m, chosen)[3] for m in (memories, quicker))
    for slow, fast in zip(before, after, strict=True):
        assert float(fast) <= float(slow) * SLACK


@given(st.sampled_from(["sram", "hbm", "lpddr"]), st.floats(0.5, 1e4), SIZES, SIZES, st.sampled_from([1.0, 0.7]))
def test_one_memory_is_no_slower_than_itself(kind, capacity, weights, kv_cache, share):
    _, _, slow, _ = placed(weights, kv_cache, 1e8, memory((kind, capacity, 1000.0)), engine(), share)
    assert float(slow.weights) == 1.0
    assert float(slow.kv_cache) == 1.0


def test_the_order_decides_who_gets_the_fast_memory():
    """2 GB of SRAM over 256 GB of LPDDR (d-Matrix Corsair): 1.5 GB of weights, 1 GB of KV cache."""
    memories = memory(("sram", 2.0, 150000.0), ("lpddr", 256.0, 400.0))
    shares = dict(memory_utilisation=1.0)
    found = placed(1.5e9, 1e9, 0.0, memories, engine(**shares))[1]
    assert found.weights[:2].tolist() == [1.5e9, 0.0]
    assert found.kv_cache[:2].tolist() == [0.5e9, 0.5e9]
    order = dict(placement=dict(order="kv-cache-first"))
    found = placed(1.5e9, 1e9, 0.0, memories, engine(**shares, **order))[1]
    assert found.weights[:2].tolist() == [1e9, 0.5e9]
    assert found.kv_cache[:2].tolist() == [1e9, 0.0]
    pinned = dict(placement=dict(kv_cache="lpddr", order="kv-cache-first"))
    found = placed(1.5e9, 1e9, 0.0, memories, engine(**shares, **pinned))[1]
    assert found.weights[:2].tolist() == [1.5e9, 0.0]
    assert found.kv_cache[:2].tolist() == [0.0, 1e9]


def test_activations_that_outgrow_the_main_memory_take_the_next():
    memories = memory(("sram", 2.0, 150000.0), ("lpddr", 256.0, 400.0))
    room, found, _, _ = placed(1e9, 1e9, 5e9, memories, engine(memory_utilisation=1.0))
    assert room.free[:2].tolist() == pytest.approx([0.0, 253e9], rel=1e-6)
    assert float(room.unplaced) == 0.0
    assert found.weights[:2].tolist() == [0.0, 1e9]
    room = placed(1e9, 1e9, 300e9, memories, engine(memory_utilisation=1.0))[0]
    assert float(room.unplaced) == pytest.approx(42e9, rel=1e-6)


@pytest.mark.float64
@pytest.mark.parametrize("fields", [{}, dict(offload=["weights"]), dict(placement=dict(order="kv-cache-first"))])
def test_gradients_through_placement(fields: dict):
    """Reading times with respect to sizes, capacities and bandwidths, by finite differences."""
    memories, chosen = (
        memory(("sram", 2.0, 9000.0), ("hbm", 30.0, 3000.0), ("host", 500.0, 50.0), main=1),
        engine(**fields),
    )
    factors = efficiency(0.8)

    def total(logs):
        weights, kv_cache, speed, space = (jnp.exp(log) for log in logs)
        tiers = tuple(
            tree_at(lambda t: (t.bandwidth, t.capacity), t, (t.bandwidth * speed**index, t.capacity * space))
            for index, t in enumerate(memories.tiers)
        )
        _, _, slow, times = _placed(
            weights, kv_cache, jnp.asarray(1e9), tree_at(lambda m: m.tiers, memories, tiers), chosen, factors
        )
        return sum(times) + slow.weights + slow.kv_cache

    for weights, kv_cache in ((20e9, 3e9), (1e9, 10e9), (100e9, 1e9)):
        point = [jnp.log(weights), jnp.log(kv_cache), jnp.zeros(()), jnp.zeros(())]
        check_grads(total, (point,), order=1, modes=["rev"], rtol=1e-5, eps=1e-6)


def test_any_number_of_memories_is_one_program():
    """Tiers, kinds and placements are numbers: none of them compiles anew."""
    _placed.clear_cache()
    every = [("sram", 2.0, 9000.0), ("hbm", 80.0, 3000.0), ("host", 500.0, 50.0), ("ssd", 4000.0, 7.0)]
    for count in (1, 2, 3, 4):
        for fields in ({}, dict(offload=["weights"]), dict(placement=dict(weights="sram"))):
            found = placed(1e9, 1e9, 1e6, memory(*every[:count]), engine(**fields))[1]
            assert float(jnp.sum(found.weights)) == 1e9
    assert _placed._cache_size() == 1
