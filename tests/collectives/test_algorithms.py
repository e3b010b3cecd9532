"""Algorithms one by one, against figures worked by hand from the papers that they come from."""

from __future__ import annotations

from fractions import Fraction

import pytest

from jaxperf.collectives import algorithms as costs

from . import fabrics
from .fabrics import GIGA, MICRO

# A vector of 1 MB, messages of 1 µs, links of 1 GB/s: a megabyte takes 1000 µs. All in microseconds and bytes.
SIZE, ALPHA, BETA = Fraction(10**6), Fraction(1), Fraction(1, 1000)

WORKED = {
    # Thakur, Rabenseifner, Gropp 2005 (doi 10.1177/1094342005051521), sections 4.1 and 4.4, without γ.
    "ring all-gather of 8": (costs.ring_all_gather(SIZE, 8, ALPHA, BETA), 7 + 875),
    "recursive doubling all-gather of 8": (costs.doubling_all_gather(SIZE, 8, 3, ALPHA, BETA), 3 + 875),
    "recursive halving reduce-scatter of 64": (
        costs.doubling_all_gather(SIZE, 64, 6, ALPHA, BETA),
        6 + Fraction(63000, 64),
    ),
    "ring all-reduce of 8": (costs.ring_all_reduce(SIZE, 8, ALPHA, BETA), 14 + 1750),
    "Rabenseifner's all-reduce of 8": (costs.halving_doubling_all_reduce(SIZE, 8, 3, ALPHA, BETA), 6 + 1750),
    "Bruck's all-to-all of 8": (costs.bruck_all_to_all(SIZE, 3, ALPHA, BETA), 3 * (1 + 500)),
    "pairwise all-to-all of 8": (costs.pairwise_all_to_all(SIZE, 8, ALPHA, BETA), 7 + 875),
    "binomial broadcast of 8": (costs.tree_broadcast(SIZE, 3, ALPHA, BETA), 3 * (1 + 1000)),
    "binomial reduce and broadcast of 8": (costs.tree_all_reduce(SIZE, 3, ALPHA, BETA), 6 * (1 + 1000)),
    # Sanders, Speck, Träff 2009: two trees, each carries one half up and down; every link moves 2 M in all.
    "double tree of 8": (costs.double_tree_all_reduce(SIZE, 8, 3, ALPHA, BETA), 6 + 2000),
    # Graham et al. 2016 (SHARP): the switch adds up, a rank sends and receives its vector once.
    "aggregation in the network": (costs.in_network_all_reduce(SIZE, 8, ALPHA, BETA), 2 + 1000),
    # NVLink multicast: of each of G shards a rank reads one reduced and writes one, so (G + 1)/G of M: 9/8 for 8.
    "NVLink multicast of 8": (costs.in_network_all_reduce(SIZE, 8, ALPHA, BETA, 1), 2 + 1125),
    "one-shot of 8": (costs.one_shot_all_reduce(SIZE, 8, ALPHA, BETA), 1 + 7000),
    "two-shot of 8": (costs.two_shot_all_reduce(SIZE, 8, ALPHA, BETA), 2 + 1750),
    "direct exchange of 8": (costs.direct_exchange(SIZE, 8, ALPHA, BETA), 1 + 875),
    # Chan, Heimlich, Purkayastha, van de Geijn 2007: buckets along each dimension; 4 x 4: 3 + 3 steps.
    "torus gather of 4 x 4": (costs.torus_all_gather(SIZE, 16, 6, ALPHA, BETA), 6 + Fraction(15000, 16)),
    # A ring of 8 moves M to a mean distance of 2 over two links: M/8·8 of one link's time.
    "all-to-all on a ring of 8": (costs.torus_all_to_all(SIZE, 4, 8, ALPHA, BETA), 4 + 1000),
    "all-to-all on a line of 8": (costs.mesh_all_to_all(SIZE, 7, 8, ALPHA, BETA), 7 + 2000),
}


@pytest.mark.parametrize("case", WORKED)
def test_figures_worked_by_hand(case: str):
    found, wanted = WORKED[case]
    assert found == wanted


@pytest.mark.parametrize("ranks", [2, 3, 5, 8, 72, 1000])
def test_no_software_beats_the_bound(ranks: int):
    """Patarasuk & Yuan 2009: an all-reduce takes at least 2(G−1)/G·M over one link's bandwidth."""
    rounds = (ranks - 1).bit_length()
    bound = Fraction(2 * (ranks - 1), ranks) * SIZE * BETA
    software = (
        costs.ring_all_reduce(SIZE, ranks, 0, BETA),
        costs.tree_all_reduce(SIZE, rounds, 0, BETA),
        costs.double_tree_all_reduce(SIZE, ranks, rounds, 0, BETA),
        costs.halving_doubling_all_reduce(SIZE, ranks, rounds, 0, BETA),
        costs.one_shot_all_reduce(SIZE, ranks, 0, BETA),
        costs.two_shot_all_reduce(SIZE, ranks, 0, BETA),
    )
    assert min(software) == bound
    switched = [costs.in_network_all_reduce(SIZE, ranks, 0, BETA, Fraction(multicast)) for multicast in (0, 1)]
    assert switched[0] == SIZE * BETA <= bound
    assert switched[1] == Fraction(ranks + 1, ranks) * SIZE * BETA
    if ranks > 3:
        assert switched[1] < bound


def test_a_line_takes_as_long_as_counting_its_busiest_link():
    """All-to-all on rings and lines, message by message along the shorter way."""
    for side in (2, 4, 8, 10):
        ring, line = [0.0] * (2 * side), [0.0] * (2 * side)  # links clockwise, then anticlockwise
        for source in range(side):
            for target in range(side):
                ahead = (target - source) % side
                ways = [(ahead, 0)] if 2 * ahead < side else [(side - ahead, 1)]
                if 2 * ahead == side:
                    ways = [(ahead, 0), (ahead, 1)]
                for hops, direction in ways:
                    for hop in range(hops):
                        place = (source + hop) % side if direction == 0 else side + (source - hop) % side
                        ring[place] += 1 / side / len(ways)
                step, direction = (1, 0) if target > source else (-1, 1)
                for place in range(source, target, step):
                    line[place + direction * side] += 1 / side
        assert max(ring) == pytest.approx(costs.torus_all_to_all(1.0, 0, side, 0.0, 1.0))
        assert max(line) == pytest.approx(costs.mesh_all_to_all(1.0, 0, side, 0.0, 1.0))


def test_a_torus_axis_of_a_tpu():
    """jax-ml/scaling-book (commit 0819a7d), sharding.md question 2: an all-reduce of bf16[1024, 4096] over one axis of
    a 4 x 4 x 4 slice with 4.5e10 B/s one way a link, 9e10 both ways, takes 190 µs. The book leaves out the factor
    (G − 1)/G, 3/4 here. Its all-gather in applied-inference.md: bf16[64, 8192] over 9e10 B/s takes 11 µs."""
    slice_ = fabrics.fabric(
        fabrics.tier(topology="torus", dims=[4, 4, 4], devices=64, bandwidth_GBps=45.0, ports=6, alpha_us=0.0)
    )
    reduced = fabrics.times(slice_, 1024 * 4096 * 2, 4)["all-reduce"]
    assert reduced / (3 / 4) == pytest.approx(190 * MICRO, rel=0.03)
    gathered = fabrics.times(slice_, 64 * 8192 * 2, 4)["all-gather"]
    assert gathered / (3 / 4) == pytest.approx(11 * MICRO, rel=0.07)
    # Over all three axes the array leaves through six links in place of two, a factor of 3 (the book's "n axes").
    per_byte = [fabrics.times(slice_, 1e9, ranks)["all-gather"] * ranks / (ranks - 1) for ranks in (4, 16, 64)]
    assert per_byte == pytest.approx([GIGA / (2 * n * 45 * GIGA) for n in (1, 2, 3)])


def test_two_links_a_dimension_on_a_v5p_axis():
    """TPU v5p: 16 chips along the first axis of its 16 x 20 x 28 torus, 100 GB/s one way a link: an all-gather of M
    takes 15/16·M/(200 GB/s) and 15 hops of 1 µs (scaling-book: bandwidth both ways, about 1 µs a hop)."""
    from jaxperf.load import load_system

    links = load_system("tpu-v5p-pod").fabric
    found = fabrics.times(links, 100e6, 16)["all-gather"]
    assert found == pytest.approx(15 * MICRO + 15 / 16 * 100e6 / 200e9)
