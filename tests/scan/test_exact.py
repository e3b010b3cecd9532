"""Scans of random spaces against NumPy over the table that the same program writes."""

from __future__ import annotations

import bisect
import random

import jax
import numpy as np
import pytest

from jaxperf.phases.end_to_end import REASONS
from jaxperf.scan import build_space, plan
from jaxperf.scan.execute import Job, native_job, run_units
from jaxperf.scan.pareto import Pareto
from jaxperf.scan.pareto3 import Pareto3
from jaxperf.scan.reduce import Best, Counts
from jaxperf.scan.spread import Histogram, Top, histogram_bin

A, B, C = "output_tokens_per_s_per_device", "output_tokens_per_s_per_user", "ttft"
KEPT = (Counts(), Pareto((A, B)), Pareto3((A, B, C)), Best((A, B)), Top(C, 20), Histogram("tpot"))
COLUMNS = (A, B, C, "tpot")
SHAPE = plan.Shape(64, 2, 192)


def random_space(seed):
    """A space of at least 10^5 points; its arrays have the same shapes for every seed, so that all share a program."""
    draw = random.Random(seed)
    models = ["llama-3.1-8b", "llama-3.1-70b", "qwen3-32b", "qwen3-30b-a3b", "qwen3-235b-a22b", "minimax-m2.5"]
    return build_space(
        {
            "models": draw.sample(models, 3),
            "systems": draw.sample(["h100-sxm-8", "h200-8", "b200-8", "a100-80gb-8"], 2),
            "workloads": [[draw.randint(600, 9000), draw.randint(2, 3000)] for _ in range(3)],
            "tp": [1, 2, 4, 8],
            "pp": [1, draw.choice([2, 3, 4])],
            "ep": [1, draw.choice([2, 4, 8])],
            "attention_dp": [1, draw.choice([2, 4])],
            "batch": sorted(draw.sample(range(1, 1000), 192)),
            "chunk": draw.sample([128, 256, 300, 512], 2),
            "weights": ["bf16", "fp8"],
            "max_devices": 64,
            "slo_tpot_ms": draw.choice([20.0, 50.0, 1e4]),
            "slo_ttft_ms": draw.choice([400.0, 1e4]),
        },
        f"seed {seed}",
    )


def scan_with_table(space, backend):
    """By group: the merged parts, and the table as arrays in the order of the configurations' numbers."""
    prepared, devices = plan.prepare(space), (jax.local_devices()[0],)
    if backend == "native":
        job = native_job(prepared, SHAPE, KEPT, COLUMNS, devices)
    else:
        job = Job(prepared, SHAPE, KEPT, COLUMNS, devices, False)
    tables = {index: [] for index in range(len(prepared.groups))}
    parts = {index: [] for index in range(len(prepared.groups))}

    def sink(unit, number, columns, reason):
        group = prepared.groups[unit.group]
        place = plan.places(SHAPE, group, group.part(number, SHAPE))
        tables[unit.group].append((place[place >= 0], *[np.asarray(c)[place >= 0] for c in (*columns, reason)]))

    units = plan.units(prepared, SHAPE, 2**15)
    run_units(job, units, lambda *_: None, lambda unit, part: parts[unit.group].append(part), sink)
    for index, group in enumerate(prepared.groups):
        if not len(group.rows):
            continue
        joined = [np.concatenate(column) for column in zip(*tables[index], strict=True)]
        order = np.argsort(joined[0])
        place, *columns, reason = [column[order] for column in joined]
        np.testing.assert_array_equal(place, np.arange(group.configurations))
        merged = [r.merge([part[i] for part in parts[index]]) for i, r in enumerate(KEPT)]
        yield group, merged, dict(zip(COLUMNS, columns, strict=True)), reason


def sorted_frontier(first, second):
    """Places of the points that no other is at least as good as in both; of equals, the first."""
    order = np.lexsort((np.arange(first.size), -second, -first))
    reached = np.concatenate([[-np.inf], np.maximum.accumulate(second[order])[:-1]])
    return order[second[order] > reached]


def surface(points):
    """The same for three metrics: point by point against those that come before it in lexicographic order. Of these the
    staircase is kept: rising second metrics, falling third ones."""
    order = np.lexsort((np.arange(len(points)), -points[:, 2], -points[:, 1], -points[:, 0]))
    order = order[points[order, 0] > -np.inf]
    found, seconds, thirds = set(), [], []
    for index, second, third in zip(order.tolist(), *points[order, 1:].T.tolist(), strict=True):
        end = start = bisect.bisect_left(seconds, second)
        if end < len(seconds) and thirds[end] >= third:
            continue
        found.add(index)
        end += end < len(seconds) and seconds[end] == second
        while start > 0 and thirds[start - 1] <= third:
            start -= 1
        seconds[start:end], thirds[start:end] = [second], [third]
    return found


def test_the_surface_is_the_definition():
    points = np.random.default_rng(0).integers(0, 7, (400, 3)).astype(float)
    points[::9, 0] = -np.inf
    expected = set()
    for index, point in enumerate(points):
        above = np.all(points >= point, axis=1)
        equal = np.all(points == point, axis=1)
        if point[0] > -np.inf and not np.any(above & ~equal) and np.argmax(equal) == index:
            expected.add(index)
    assert surface(points) == expected


def check(seed, backend):
    space, total = random_space(seed), 0
    for group, (counts, pair, triple, best, top, spread), scores, reason in scan_with_table(space, backend):
        total += group.configurations

        def place(part, inner=group.inner):
            return part["row"].astype(np.int64) * inner + part["inner"]

        np.testing.assert_array_equal(counts["count"], [np.sum(reason == code) for code in range(len(REASONS))])
        np.testing.assert_array_equal(scores[A] > -np.inf, reason == 0)
        expected = sorted_frontier(scores[A], scores[B])
        np.testing.assert_array_equal(place(pair), expected)
        np.testing.assert_array_equal(pair["score"], np.stack([scores[A][expected], scores[B][expected]], axis=1))
        assert set(place(triple)) == surface(np.stack([scores[A], scores[B], scores[C]], axis=1))
        every = np.arange(reason.size)
        first = np.lexsort((every, -scores[C]))[:20]
        np.testing.assert_array_equal(place(top), first[scores[C][first] > -np.inf])
        if len(expected):
            assert place(best)[:, 0].tolist() == [expected[0], expected[-1]]
        bins, occurrences = np.unique(histogram_bin(-scores["tpot"][reason == 0]), return_counts=True)
        np.testing.assert_array_equal(spread["bin"], bins)
        np.testing.assert_array_equal(spread["count"], occurrences)
    assert total >= 100_000


@pytest.mark.parametrize("seed", range(24))
def test_random_spaces_are_exact(seed):
    check(seed, "native")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_random_spaces_are_exact_on_devices(seed):
    check(seed, "xla")
