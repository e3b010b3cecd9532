"""What a group pays: the cheapest algorithm that its tiers admit, tier by tier."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..conftest import X64
from .fabrics import GIGA, KINDS, MICRO, fabric, tier, times

SLACK = 1 + (1e-9 if X64 else 1e-5)
ALGORITHMS = ["ring", "double-tree", "halving-doubling", "direct", "bruck", "hardware-exchange"]
RANKS = st.sampled_from([2, 3, 4, 5, 8, 12, 16, 64, 100])
SIZES = st.sampled_from([1.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e9])
BANDWIDTHS = st.floats(1.0, 1000.0)
LATENCIES = st.floats(0.1, 20.0)
CHOICES = st.lists(st.sampled_from(ALGORITHMS), unique=True)
SWITCHES = st.sampled_from(["none", "reduction", "multicast"])
GRIDS = st.sampled_from([[4], [8], [2, 2], [4, 4], [2, 8], [4, 2, 2], [5, 3]])


@st.composite
def links(draw: st.DrawFn, most: int = 3, **fixed) -> list[dict]:
    """Switched tiers of growing reach, as documents."""
    tiers, reach = [], 1
    for index in range(draw(st.integers(1, most))):
        reach *= draw(st.sampled_from([2, 3, 4, 8, 9]))
        figures = dict(
            bandwidth_GBps=draw(BANDWIDTHS),
            alpha_us=draw(LATENCIES),
            topology=draw(st.sampled_from(["crossbar", "full-mesh"])),
            ports=draw(st.sampled_from([1, 7])),
            algorithms=draw(CHOICES),
            in_network=draw(SWITCHES),
            switch_alpha_us=draw(st.sampled_from([None, 0.3])),
        )
        tiers.append(tier(f"tier{index}", reach, **(figures | fixed)))
    return tiers


def _software_ways(size: float, ranks: int, alpha: float, beta: float) -> dict[str, float]:
    """All-reduces in one tier, each from its own formula."""
    rounds, part = math.ceil(math.log2(ranks)), (ranks - 1) / ranks * size * beta
    return {
        "ring": 2 * (ranks - 1) * alpha + 2 * part,
        "double-tree": 2 * rounds * alpha + 2 * size * beta,
        "halving-doubling": 2 * rounds * alpha + 2 * part,
        "one-shot": alpha + (ranks - 1) * size * beta,
        "two-shot": 2 * alpha + 2 * part,
    }


@given(SIZES, RANKS, BANDWIDTHS, LATENCIES, CHOICES, SWITCHES)
def test_the_cheapest_admissible(size, ranks, bandwidth, alpha, chosen, switch):
    """At most every admissible algorithm, and equal to one of them: of all kinds of collectives."""
    described = tier(
        devices=128, bandwidth_GBps=bandwidth, alpha_us=alpha, algorithms=chosen, in_network=switch, switch_alpha_us=0.3
    )
    found = times(fabric(described), size, ranks)
    a, s, beta = alpha * MICRO, 0.3 * MICRO, 1 / (bandwidth * GIGA)
    rounds, part = math.ceil(math.log2(ranks)), (ranks - 1) / ranks * size * beta
    every = _software_ways(size, ranks, a, beta)
    reduces = [every["ring"]] + [every[name] for name in chosen if name in every]
    gathers, exchanges = [(ranks - 1) * a + part], [(ranks - 1) * a + part]
    broadcasts = [(ranks - 1) * a + size * beta, rounds * (a + size * beta)]
    if "direct" in chosen:
        reduces += [every["one-shot"], every["two-shot"]]
        gathers.append(a + part)
        exchanges.append(a + part)
    if "halving-doubling" in chosen:
        gathers.append(rounds * a + part)
    if "bruck" in chosen:
        exchanges.append(rounds * (a + size / 2 * beta))
    if "hardware-exchange" in chosen:
        exchanges.append(s + part)
    if switch != "none":
        moved = (ranks + 1) / ranks if switch == "multicast" else 1.0
        reduces += [2 * s + moved * size * beta, 2 * (2 * s + part)]
        gathers.append(2 * s + part)
        broadcasts.append(2 * s + size * beta)
    assert found["all-reduce"] == pytest.approx(min(reduces))
    assert found["all-gather"] == pytest.approx(min(gathers))
    assert found["reduce-scatter"] == found["all-gather"]
    assert found["all-to-all"] == pytest.approx(min(exchanges))
    assert found["broadcast"] == pytest.approx(min(broadcasts))


@given(SIZES, links(in_network="none"), RANKS)
def test_no_software_all_reduce_beats_the_bound(size, tiers, ranks):
    """2(G−1)/G·M over the bandwidth of all ports of the fastest tier, and at every tier the share that reaches it."""
    ranks = min(ranks, tiers[-1]["devices"])
    found = times(fabric(*tiers), size, ranks)["all-reduce"]
    bandwidths = [t["bandwidth_GBps"] * GIGA * t["ports"] for t in tiers]
    assert found * SLACK >= 2 * (ranks - 1) / ranks * size / max(bandwidths)
    bounds = [
        2 * (here - 1) / here * size / inside / bandwidth
        for here, inside, bandwidth in zip(*_evenly(tiers, ranks), bandwidths, strict=True)
    ]
    assert found * SLACK >= max(bounds)
    assert found * SLACK >= sum(bounds)


def _evenly(tiers: list[dict], ranks: int) -> tuple[list[float], list[int]]:
    """What each tier joins of a group, and how many ranks the emptiest of these has: as few racks as hold the group,
    filled alike, and as few nodes of each rack."""
    joined, inside, share, fullest = [], [], ranks, ranks
    for within in [*(t["devices"] for t in reversed(tiers[:-1])), 1]:
        parts = math.ceil(fullest / within)
        below = 1 if within == 1 else max(1, share // parts)
        joined.append(share / below)
        inside.append(below)
        share, fullest = below, math.ceil(fullest / parts)
    return joined[::-1], inside[::-1]


@given(SIZES, links(in_network="none"), RANKS, st.sampled_from([1, 2, 3, 8, 24]))
def test_the_emptiest_rack_takes_in_what_the_others_have(size, tiers, ranks, stride):
    """However a group lies in its racks, one of them has no more than ⌊G/n⌋ ranks, n ≥ ⌈G/reach⌉: (G − k)/G of what is
    gathered comes in over k devices' links, and of what is summed at least all. For every cut of every fabric."""
    ranks = max(1, min(ranks, tiers[-1]["devices"] // stride))
    found = times(fabric(*tiers), size, ranks, stride)
    for index, inner in enumerate(tiers[:-1]):
        racks = math.ceil(ranks / max(1, inner["devices"] // stride))
        if racks > 1:
            fewest = max(1, ranks // racks)
            rate = fewest * max(t["bandwidth_GBps"] * t["ports"] for t in tiers[index + 1 :]) * GIGA
            assert found["all-gather"] * SLACK >= (ranks - fewest) / ranks * size / rate
            assert found["all-reduce"] * SLACK >= size / rate
    assert all(time >= 0 for time in found.values())


@given(SIZES, links(in_network="reduction"), RANKS)
def test_only_the_switch_reaches_one_vector(size, tiers, ranks):
    """With reduction in the network, Mβ of the outermost tier that is crossed is still the least."""
    ranks = min(ranks, tiers[-1]["devices"])
    found = times(fabric(*tiers), size, ranks)["all-reduce"]
    crossed = next(index for index, t in enumerate(tiers) if t["devices"] >= ranks)
    joined, inside = (values[crossed] for values in _evenly(tiers, ranks))
    outer = tiers[crossed]
    assert found * SLACK >= min(1.0, 2 * (joined - 1) / joined) * size / inside / (
        outer["bandwidth_GBps"] * GIGA * outer["ports"]
    )


def test_a_group_that_fills_no_whole_racks():
    """128 ranks over racks of 72 are two racks of 64: as many links carry a vector out of each, 16 MB a rank; 100 ranks
    over racks of 72 with nodes of 8 are two racks of 50, on seven nodes each, the emptiest with seven."""
    rack, far = (
        tier("rack", 72, bandwidth_GBps=900.0, alpha_us=0.0),
        tier("far", 576, bandwidth_GBps=50.0, alpha_us=0.0),
    )
    found = times(fabric(rack, far), 1e9, 128)
    assert found["all-reduce"] == pytest.approx(2 * 63 / 64 * 1e9 / 900e9 + 1e9 / 64 / 50e9)
    assert found["all-to-all"] == pytest.approx(63 / 128 * 1e9 / 900e9 + 64 / 128 * 1e9 / 50e9)
    node = tier("node", 8, bandwidth_GBps=1800.0, alpha_us=0.0)
    found = times(fabric(node, rack, far), 1e9, 100)["all-gather"]
    near = 6 / 7 * 1e9 / 1800e9 + 43 / 50 * 1e9 / 7 / 900e9
    assert found == pytest.approx(near + 1 / 2 * 1e9 / 50 / 50e9)


def test_ranks_that_share_no_card_leave_cards_out():
    """Three ranks four apart on cards of two: each alone on its card, whose links cost nothing, however slow."""
    tiers = [tier("card", 2, bandwidth_GBps=1.0), tier("node", 8, bandwidth_GBps=200.0), tier("far", 64)]
    assert times(fabric(*tiers), 1e8, 3, 4) == pytest.approx(times(fabric(*tiers[1:]), 1e8, 3, 4))
    assert times(fabric(*tiers), 1e8, 5, 2) == pytest.approx(times(fabric(*tiers[1:]), 1e8, 5, 2))


def test_a_rack_joins_no_more_nodes_than_it_has():
    """21 ranks three apart: two to a node of 8, sixteen to a rack of 64, so two racks of ten and eleven."""
    tiers = [tier("node", 8, alpha_us=0.0), tier("rack", 64, alpha_us=0.0), tier("far", 512, alpha_us=0.0)]
    found = times(fabric(*tiers), 1e9, 21, 3)["all-gather"]
    nodes = math.ceil(11 / 2)
    inside = 10 // nodes
    expected = (inside - 1) / inside + (10 - inside) / 10 / inside + 11 / 21 / 10
    assert found == pytest.approx(expected * 1e9 / 100e9)


def test_the_switch_adds_up():
    """8 ranks, 1 GB, 100 GB/s: 10 ms in the network, 11.25 ms by multicast, 17.5 ms by the best software."""
    found = [
        times(fabric(tier(alpha_us=0.0, algorithms=ALGORITHMS, in_network=way)), 1e9, 8)["all-reduce"]
        for way in ("reduction", "multicast", "none")
    ]
    assert found == pytest.approx([10e-3, 11.25e-3, 17.5e-3])
    slow = tier(alpha_us=1.0, in_network="reduction", switch_alpha_us=5.0)
    assert times(fabric(slow), 1e9, 8)["all-reduce"] == pytest.approx(10e-3 + 10 * MICRO)


def test_a_double_tree_moves_two_vectors():
    """64 ranks, 10 µs: 12 messages deep in place of 126 round the ring; 2 M over each link."""
    tree = fabric(tier(devices=64, alpha_us=10.0, algorithms=["double-tree"]))
    small, larger = (times(tree, size, 64)["all-reduce"] for size in (1e5, 2e5))
    assert small == pytest.approx(120 * MICRO + 2e5 / 100e9)
    assert larger - small == pytest.approx(2 * 1e5 / 100e9)


@given(st.sampled_from([2, 3, 8, 16]), SIZES, BANDWIDTHS, LATENCIES)
def test_a_torus_of_one_dimension_is_a_ring_both_ways(side, size, bandwidth, alpha):
    found = times(
        fabric(tier(topology="torus", dims=[side], devices=side, ports=2, bandwidth_GBps=bandwidth, alpha_us=alpha)),
        size,
        side,
    )
    beta = 1 / (2 * bandwidth * GIGA)
    ring = (side - 1) * (alpha * MICRO + size / side * beta)
    assert found["all-reduce"] == pytest.approx(2 * ring)
    assert found["all-gather"] == pytest.approx(ring)
    # Each of M/G to a mean distance of G/4 over both directions of G links.
    assert found["all-to-all"] == pytest.approx(side // 2 * alpha * MICRO + side / 8 * size / (bandwidth * GIGA))


@given(GRIDS, SIZES, BANDWIDTHS, LATENCIES, RANKS)
def test_a_mesh_is_never_faster_than_a_torus(dims, size, bandwidth, alpha, ranks):
    common = dict(dims=dims, devices=math.prod(dims), ports=2 * len(dims), bandwidth_GBps=bandwidth, alpha_us=alpha)
    ranks = min(ranks, math.prod(dims))
    torus, mesh = (times(fabric(tier(topology=name, **common)), size, ranks) for name in ("torus", "mesh"))
    for kind in KINDS:
        assert torus[kind] <= mesh[kind] * SLACK, kind


@settings(max_examples=8)
@given(links(), SIZES, RANKS, st.sampled_from([1, 2, 4]))
def test_better_links_never_hurt(tiers, size, ranks, stride):
    ranks = min(ranks, max(1, tiers[-1]["devices"] // stride))
    before = times(fabric(*tiers), size, ranks, stride)
    for index in range(len(tiers)):
        better = [
            dict(bandwidth_GBps=tiers[index]["bandwidth_GBps"] * 2),
            dict(alpha_us=tiers[index]["alpha_us"] / 3),
            dict(in_network=tiers[index]["in_network"] if tiers[index]["in_network"] != "none" else "reduction"),
            *[dict(algorithms=[*tiers[index]["algorithms"], name]) for name in ALGORITHMS],
        ]
        for change in better:
            changed = [t | change if place == index else t for place, t in enumerate(tiers)]
            after = times(fabric(*changed), size, ranks, stride)
            for kind in KINDS:
                assert after[kind] <= before[kind] * SLACK, (kind, change)


@given(links(), SIZES, RANKS, st.floats(1.0, 8.0))
def test_contention_and_oversubscription(tiers, size, ranks, factor):
    """Oversubscription divides bandwidth, its share multiplies it, and α_factor multiplies every latency."""
    ranks = min(ranks, tiers[-1]["devices"])

    def priced(**change) -> dict[str, float]:
        return times(fabric(*[t | change for t in tiers]), size, ranks)

    def slower(alpha: float, bandwidth: float) -> dict[str, float]:
        scaled = []
        for t in tiers:
            switch = t["switch_alpha_us"]
            figures = dict(
                alpha_us=t["alpha_us"] * alpha,
                bandwidth_GBps=t["bandwidth_GBps"] / bandwidth,
                switch_alpha_us=None if switch is None else switch * alpha,
            )
            scaled.append(t | figures)
        return times(fabric(*scaled), size, ranks)

    assert priced(oversubscription=factor) == pytest.approx(slower(1, factor))
    assert priced(bandwidth_share=1 / factor) == pytest.approx(slower(1, factor))
    assert priced(alpha_factor=factor) == pytest.approx(slower(factor, 1))
    worst = priced(alpha_factor=factor, oversubscription=factor)
    unhurt = priced()
    for kind in KINDS:
        assert unhurt[kind] / SLACK <= worst[kind] <= factor * unhurt[kind] * SLACK


@pytest.mark.parametrize(("ranks", "stride"), [(16, 1), (8, 2), (4, 4), (64, 1), (8, 8)])
def test_exchange_pays_each_destination_where_it_crosses(ranks: int, stride: int):
    """Message by message: rank 0 to every other, at the innermost tier that holds both."""
    tiers = [
        tier("node", 8, bandwidth_GBps=400.0, alpha_us=1.0),
        tier("leaf", 32, bandwidth_GBps=50.0, alpha_us=3.0),
        tier("spine", 512, bandwidth_GBps=25.0, alpha_us=5.0),
    ]
    size, expected, classes = 1e6, 0.0, set()
    for other in range(1, ranks):
        crossed = next(t for t in tiers if t["devices"] > other * stride)
        expected += crossed["alpha_us"] * MICRO + size / ranks / (crossed["bandwidth_GBps"] * GIGA)
        classes.add(crossed["name"])
    assert times(fabric(*tiers), size, ranks, stride)["all-to-all"] == pytest.approx(expected)
    at_once = [t | dict(algorithms=["direct"]) for t in tiers]
    moved = expected - sum(
        next(t for t in tiers if t["devices"] > other * stride)["alpha_us"] * MICRO for other in range(1, ranks)
    )
    starts = sum(t["alpha_us"] * MICRO for t in tiers if t["name"] in classes)
    assert times(fabric(*at_once), size, ranks, stride)["all-to-all"] == pytest.approx(moved + starts)


def test_a_full_mesh_uses_a_port_for_every_peer():
    """MI300X: seven ports of 64 GB/s; a group of four drives three of them, one of eight all seven."""
    links_ = fabric(tier(topology="full-mesh", ports=7, bandwidth_GBps=64.0, alpha_us=0.0, algorithms=["direct"]))
    for ranks in (2, 4, 8):
        moved = 2 * (ranks - 1) / ranks * 1e9
        assert times(links_, 1e9, ranks)["all-reduce"] == pytest.approx(moved / ((ranks - 1) * 64e9))


def test_context_parallel_ranks_outside_tp_leave_the_node():
    """Two ranks 8 apart in nodes of 8 devices share no fast link."""
    tiers = fabric(
        tier("node", 8, bandwidth_GBps=400.0, alpha_us=1.0), tier("net", 64, bandwidth_GBps=50.0, alpha_us=5.0)
    )
    assert times(tiers, 1e6, 2, 8)["all-gather"] == pytest.approx(5 * MICRO + 0.5e6 / 50e9)
    assert times(tiers, 1e6, 2, 4)["all-gather"] == pytest.approx(1 * MICRO + 0.5e6 / 400e9)
