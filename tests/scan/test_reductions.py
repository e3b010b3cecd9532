"""Every reduction against NumPy over the same table, bit for bit, however the table is cut into blocks and parts."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxperf.phases.end_to_end import REASONS
from jaxperf.scan import absorb
from jaxperf.scan.pareto import BINS, Pareto, logarithmic_bin
from jaxperf.scan.pareto3 import Pareto3
from jaxperf.scan.reduce import Best, Block, Counts, Place, sign
from jaxperf.scan.spread import Histogram, Marginals, Top, bin_edges, histogram_bin, quantiles

A, B, C = "output_tokens_per_s_per_device", "ttft", "requests_per_s"
CHUNKS, BATCHES, ROWS = 3, 40, 20


def score_table(seed, rows=ROWS, levels=None):
    """Scores of three metrics, [row, chunk, batch]: one rising, one falling; a tenth infeasible; ties on few levels."""
    draw = np.random.default_rng(seed)
    size = (rows, CHUNKS, BATCHES)
    angle = draw.uniform(0.02, 1.5, size)
    radius = np.exp(-draw.exponential(draw.choice([0.01, 0.3, 2.0]), size))
    values = [100 * radius * np.cos(angle), 1 / (radius * np.sin(angle)), draw.uniform(0.5, 2, size)]
    if levels:
        values = [np.ceil(value * levels / value.max()) for value in values]
    real = np.dtype(jnp.result_type(float))
    dead = draw.uniform(size=size) < 0.1
    scores = {
        name: np.where(dead, -np.inf, sign(name) * v.astype(np.float32)).astype(real)
        for name, v in zip((A, B, C), values, strict=True)
    }
    return scores, np.where(dead, 6, 0).astype(np.int8)


def blocks(scores, reason, shape):
    """The table cut into blocks of a shape, with padding, in order."""
    points, chunks, batches = shape
    rows = reason.shape[0]
    for row in range(0, rows, points):
        for chunk in range(0, CHUNKS, chunks):
            for batch in range(0, BATCHES, batches):
                at = (slice(row, row + points), slice(chunk, chunk + chunks), slice(batch, batch + batches))

                def cut(table, fill, at=at):
                    part = table[at]
                    padding = [(0, want - have) for want, have in zip(shape, part.shape, strict=True)]
                    return np.pad(part, padding, constant_values=fill).ravel()

                place = Place(*(np.int32(n) for n in (row, chunk, batch, BATCHES)))
                axes = np.minimum(row + np.arange(points), rows - 1)[:, None] % 5
                cuts = {name: cut(table, -np.inf) for name, table in scores.items()}
                yield Block(cuts, cut(reason, -1), place, axes.astype(np.int32), shape)


@functools.cache
def update_of(reduction):
    """A reduction's step, compiled once for all tests."""
    return jax.jit(reduction.update)


def reduced(reduction, parts_of, order=1, pieces=1):
    """The merged part of blocks that are reduced in a few pieces, with their parts merged in either order."""
    update = update_of(reduction)
    everything, found = list(parts_of), []
    for piece in range(pieces):
        state = reduction.init()
        for block in everything[piece::pieces]:
            state = update(state, block)
        assert int(reduction.crowding(state)) < 2
        found.append(reduction.extract(state))
    return reduction.merge(found[::order])


def dominated(mine, others, earlier):
    """Plain definition: some other is at least as good in all and better in one, or equal and earlier."""
    most, equal = np.all(others >= mine, axis=1), np.all(others == mine, axis=1)
    return np.any(most & (~equal | earlier))


def plain_frontier(scores, names):
    """The frontier by definition: numbers (row, inner) of its points."""
    flat = np.stack([scores[name].ravel() for name in names], axis=1)
    alive = np.flatnonzero(np.all(flat > -np.inf, axis=1))
    points = flat[alive]
    kept = [i for i in range(len(alive)) if not dominated(points[i], points, np.arange(len(alive)) < i)]
    return {tuple(map(int, divmod(alive[i], CHUNKS * BATCHES))) for i in kept}


def numbers(part):
    return {(int(row), int(inner)) for row, inner in zip(part["row"].ravel(), part["inner"].ravel(), strict=True)}


def same(mine, its):
    assert mine.keys() == its.keys()
    for name in mine:
        np.testing.assert_array_equal(mine[name], its[name])


SHAPES = [(8, 2, 16), (ROWS, 3, 40), (7, 1, 40)]
ALL = [
    Counts(),
    Best((A, B)),
    Best((B, A, C)),
    Pareto((A, B)),
    Pareto((C, A)),
    Pareto3((A, B, C), capacity=1024, count_runs=4),
    Top(A, 10),
    Top(B, 25),
    Histogram(B),
    Marginals((A, B), (("chunk", CHUNKS), ("batch", BATCHES), ("row", 5))),
]


@pytest.mark.parametrize("reduction", ALL, ids=lambda r: f"{r.name}-{'-'.join(r.metrics)}")
@pytest.mark.parametrize("levels", [None, 4, 30])
def test_neither_blocks_nor_order_nor_pieces_change_anything(reduction, levels):
    scores, reason = score_table(3, levels=levels)
    first = reduced(reduction, blocks(scores, reason, SHAPES[0]))
    for shape, order, pieces in ((SHAPES[1], 1, 1), (SHAPES[2], -1, 3)):
        same(reduced(reduction, blocks(scores, reason, shape), order, pieces), first)


@pytest.mark.parametrize("names", [(A, B), (C, A), (A, B, C), (B, C, A)])
@pytest.mark.parametrize("levels", [None, 3, 40])
def test_frontiers_are_the_definition(names, levels):
    reduction = Pareto(names) if len(names) == 2 else Pareto3(names, capacity=512, count_runs=4)
    update = update_of(reduction)
    for seed in range(2):
        scores, reason = score_table(seed, ROWS, levels)
        state = reduction.init()
        for block in blocks(scores, reason, SHAPES[0]):
            state = update(state, block)
        part = reduction.merge([reduction.extract(state)])
        assert numbers(part) == plain_frontier(scores, names)
        for score, row, inner in zip(part["score"], part["row"], part["inner"], strict=True):
            assert [scores[name].reshape(ROWS, -1)[row, inner] for name in names] == list(score)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([None, 2, 12]))
def test_the_best_and_the_top_are_a_stable_sort(seed, levels):
    scores, reason = score_table(seed, levels=levels)
    flat = {name: table.ravel() for name, table in scores.items()}
    place = np.arange(reason.size)
    top = reduced(Top(B, 25), blocks(scores, reason, SHAPES[0]), pieces=2)
    order = np.lexsort((place, -flat[B]))[:25]
    np.testing.assert_array_equal(top["row"] * CHUNKS * BATCHES + top["inner"], order)
    np.testing.assert_array_equal(top["score"], flat[B][order])
    best = reduced(Best((B, A, C)), blocks(scores, reason, SHAPES[0]), pieces=2)
    for index, keys in enumerate([(B, A, C), (A, B, C), (C, B, A)]):
        first = np.lexsort((place, *[-flat[name] for name in reversed(keys)]))[0]
        assert best["row"][index, 0] * CHUNKS * BATCHES + best["inner"][index, 0] == first


def test_histograms_and_quantiles_are_numpys():
    scores, reason = score_table(5)
    values = -scores[B].ravel()[reason.ravel() == 0]
    part = reduced(Histogram(B), blocks(scores, reason, SHAPES[0]), pieces=2)
    bins, counts = np.unique(histogram_bin(values), return_counts=True)
    np.testing.assert_array_equal(part["bin"], bins)
    np.testing.assert_array_equal(part["count"], counts)
    shares = (0.0, 0.01, 0.5, 0.9, 1.0)
    exact = np.quantile(values, shares, method="inverted_cdf")
    assert quantiles(part, shares) == pytest.approx(exact, rel=1e-3)
    assert np.all(bin_edges(bins) <= np.unique(bin_edges(histogram_bin(values))))


def test_marginals_are_the_best_of_each_value():
    scores, reason = score_table(6)
    part = reduced(ALL[-1], blocks(scores, reason, SHAPES[2]))
    for index, name in enumerate((A, B)):
        np.testing.assert_array_equal(part["chunk"][index], scores[name].max(axis=(0, 2)))
        np.testing.assert_array_equal(part["batch"][index], scores[name].max(axis=(0, 1)))
        by_row = [scores[name][np.arange(ROWS) % 5 == value].max() for value in range(5)]
        np.testing.assert_array_equal(part["row"][index], by_row)


def test_counts_pass_two_to_the_31():
    part = {"count": np.full(len(REASONS), 2**31 - 1)}
    assert Counts().merge([part] * 5)["count"].tolist() == [5 * (2**31 - 1)] * len(REASONS)


@pytest.mark.parametrize("reduction", [Pareto((A, B), capacity=16, count_runs=2), Pareto3((A, B, C), capacity=16)])
def test_a_full_frontier_says_so(reduction):
    real = np.dtype(jnp.result_type(float))
    x = np.linspace(1, 2, 128).astype(real)
    scores = {A: x, B: -x, C: x}
    block = Block(scores, np.zeros(128, np.int8), Place(*np.zeros(4, np.int32)), None, (128, 1, 1))
    assert int(reduction.crowding(reduction.init())) == 0
    assert int(reduction.crowding(jax.jit(reduction.update)(reduction.init(), block))) == 2


@given(st.lists(st.floats(2.0**-23, 2.0**39, width=32), min_size=2, max_size=40), st.sampled_from([1, -1]))
def test_bins_are_monotone(values, direction):
    real = np.dtype(jnp.result_type(float))
    scores = np.sort(direction * np.asarray(values, np.float32)).astype(real)
    bins = np.asarray(logarithmic_bin(jnp.asarray(scores), direction))
    assert np.all(np.diff(bins) >= 0)
    assert bins.min() >= 0
    assert bins.max() < BINS
    assert int(logarithmic_bin(jnp.asarray(-np.inf, real), direction)) == 0


@given(st.integers(0, 2**31), st.sampled_from(["requests_per_s", "ttft"]), st.sampled_from([np.float32, np.float64]))
def test_the_ladder_rules_out_nothing_that_is_open(seed, metric, real):
    draw = np.random.default_rng(seed)
    values = np.asarray([0.0, -0.0, 1e-40, 1e-30, 0.5, 1.0, 1.0 + 1e-6, 1.02, 3.0, 1e9, 3e38, np.inf]).astype(real)
    direction = 1 if metric == "requests_per_s" else -1
    known = direction * draw.choice(values[:-1], (9, 2)).astype(real)
    order = np.lexsort((-known[:, 1], -known[:, 0]))
    reached = np.maximum.accumulate(np.append(real(-np.inf), known[order, 1]))[:-1]
    known = known[order][known[order, 1] > reached]
    first, second = (direction * draw.choice(values, (2, 50))).astype(real)
    first[np.isinf(first)], second[np.isinf(second)] = -np.inf, -np.inf
    tall = second > absorb._ladder(known, first, metric)
    open_ = absorb._open(known, first, second) & (second > -np.inf)
    assert not np.any(open_ & ~tall)
    higher = absorb._steps(known[:, 0], metric)[:, None] > absorb._steps(first, metric)
    assert not np.any(tall & np.any(higher & (known[:, 1:] >= second), axis=0))
    assert np.all(absorb._ladder(known[:0], first, metric) == -np.inf)
