"""The scan engine: exact against NumPy over the same table, one program for all, honest counts, clear errors."""

from __future__ import annotations

import dataclasses
import math
import random

import jax
import numpy as np
import pytest

import jaxperf
from jaxperf.errors import InputError
from jaxperf.phases.end_to_end import REASONS
from jaxperf.scan import build_space, engine, load_space, scan
from jaxperf.scan.engine import block_points, block_shape, evaluate_block, group_inputs, prepare
from jaxperf.scan.reduce import Block, Counts, Pareto

SMALL = {
    "models": ["llama-3.1-8b", "qwen3-30b-a3b"],
    "systems": ["h100-sxm-8", "b200-8"],
    "workloads": [[1024, 256], [3000, 100]],
    "tp": [1, 2, 4],
    "pp": [1, 2],
    "ep": [1, 4],
    "attention_dp": [1, 2],
    "batch": {"from": 1, "to": 192},
    "chunk": [512, 2048],
    "weights": ["bf16", "fp8"],
    "max_devices": 8,
    "slo_tpot_ms": 40.0,
}


@pytest.fixture(scope="module")
def result():
    return scan(build_space(SMALL, "test"))


def table(space):
    """Every configuration of a space as flat NumPy arrays, written by the scan's own block program."""
    prepared = prepare(space)
    shape = block_shape(prepared)
    program = jax.jit(lambda m, i, p, c, n: evaluate_block(m, i, p, c, n, space.objectives))
    for group in prepared.groups:
        model, inputs = group_inputs(prepared, group)
        parts = []
        for number in range(group.blocks(shape)):
            points, chunk = block_points(group, number, shape)
            block = program(model, inputs, points, chunk, np.int32(number))
            parts.append([np.asarray(block.first), np.asarray(block.second), np.asarray(block.reason)])
        first, second, reason = (np.concatenate(column) for column in zip(*parts, strict=True))
        yield group, first, second, reason


def numpy_frontier(first, second):
    """The exact frontier by sorting: points that no other is at least as good as in both."""
    order = np.lexsort((-second, -first))
    kept, reached = set(), 0.0
    for index in order:
        if second[index] > reached:
            kept.add((float(first[index]), float(second[index])))
            reached = second[index]
    return kept


def test_frontier_best_and_counts_are_exact(result):
    for group, (_, first, second, reason) in zip(result.groups, table(build_space(SMALL, "test")), strict=True):
        counts = {REASONS[code]: int(np.sum(reason == code)) for code in range(len(REASONS)) if np.any(reason == code)}
        assert group.counts == counts
        assert sum(counts.values()) == group.configurations
        frontier = {
            (row["output_tokens_per_s_per_device"], row["output_tokens_per_s_per_user"]) for row in group.frontier
        }
        expected = numpy_frontier(first, second)
        assert len(frontier) == len(expected)
        for mine, its in zip(sorted(frontier), sorted(expected), strict=True):
            assert mine == pytest.approx(its, rel=2e-6)
        best = group.best["output_tokens_per_s_per_device"]["output_tokens_per_s_per_device"]
        assert best == pytest.approx(first.max(), rel=2e-6)


def test_rows_are_what_estimate_says(result):
    row = result.groups[1].frontier[3]
    metrics = jaxperf.estimate(
        row["model"],
        row["system"],
        isl=row["isl"],
        osl=row["osl"],
        batch=row["batch"],
        tp=row["tp"],
        pp=row["pp"],
        ep=row["ep"],
        attention_dp=row["attention_dp"],
        weights=row["weights"],
        kv=row["kv"],
        chunk=row["chunk"],
    )
    for column, value in (("ttft_s", metrics.ttft), ("tpot_s", metrics.tpot), ("e2e_s", metrics.e2e)):
        assert row[column] == pytest.approx(float(value), rel=1e-5)
    assert row["devices"] == int(metrics.devices)
    assert row["tpot_s"] < 0.040


def test_chunking_into_blocks_changes_nothing(result, monkeypatch):
    monkeypatch.setattr(engine, "POINTS", 8)
    monkeypatch.setattr(
        "jaxperf.scan.block_shape", lambda prepared: dataclasses.replace(block_shape(prepared), points=8, chunks=1)
    )
    other = scan(build_space(SMALL, "test"))
    for mine, its in zip(result.groups, other.groups, strict=True):
        assert mine.counts == its.counts
        assert [row["batch"] for row in mine.frontier] == [row["batch"] for row in its.frontier]
        assert [row["tpot_s"] for row in mine.frontier] == pytest.approx([r["tpot_s"] for r in its.frontier], rel=1e-6)


def test_one_program_serves_every_group(monkeypatch):
    traces = []
    original = engine.evaluate

    def counting(*arguments):
        traces.append(1)
        return original(*arguments)

    monkeypatch.setattr(engine, "evaluate", counting)
    space = build_space(SMALL | {"batch": {"from": 1, "to": 97}}, "test")
    scan(space)
    assert len(traces) == 1


def test_frontier_of_random_blocks_is_exact():
    random.seed(5)
    reduction = Pareto(capacity=32768, runs=64)
    update = jax.jit(reduction.update)
    for spread in (1e-3, 1.0, 6.0):
        generator = np.random.default_rng(7)
        state, points = reduction.init(), []
        for number in range(6):
            angle = generator.uniform(0, math.pi / 2, 5000)
            radius = np.exp(-generator.exponential(spread, 5000))
            first, second = 100 * radius * np.cos(angle), 3 * radius * np.sin(angle)
            first[::17] = 0.0
            second[::17] = 0.0
            real = np.dtype(np.asarray(state[0]).dtype)
            first, second = first.astype(np.float32).astype(real), second.astype(np.float32).astype(real)
            points.append((first, second))
            state = update(state, Block(first, second, np.zeros(5000, np.int8), np.int32(number)))
        found = {(a, b) for a, b, _, _ in reduction.finish(state)}
        everything = [np.concatenate(column) for column in zip(*points, strict=True)]
        assert found == numpy_frontier(*everything)
        for a, b, number, index in reduction.finish(state):
            assert points[number][0][index] == a
            assert points[number][1][index] == b


def test_frontier_overflow_is_an_error_not_a_loss():
    reduction = Pareto(capacity=16, runs=2)
    x = np.linspace(1, 2, 100).astype(np.asarray(reduction.init()[0]).dtype)
    state = jax.jit(reduction.update)(reduction.init(), Block(x, 3 - x, np.zeros(100, np.int8), np.int32(0)))
    with pytest.raises(OverflowError, match="more than 16 points"):
        reduction.finish(state)


def test_a_crowded_frontier_is_scanned_again_with_more_room(result, monkeypatch):
    monkeypatch.setattr(engine, "CAPACITY", 8)
    other = scan(build_space(SMALL | {"models": ["llama-3.1-8b"], "workloads": [[1024, 256]]}, "test"))
    assert len(result.groups[0].frontier) > 8
    assert other.groups[0].frontier == result.groups[0].frontier


def test_counts_pass_two_to_the_31():
    reduction = Counts()
    state = reduction.init()
    state = state.at[1, 0].set(5000)  # 5000·2^20 counted so far
    reason = np.asarray([0, 0, 0, 6, 6, -1, -1, -1], np.int8)
    state = jax.jit(reduction.update)(state, Block(np.zeros(8), np.zeros(8), reason, np.int32(0)))
    assert reduction.finish(state) == {"feasible": 5000 * 2**20 + 3, "out of memory": 2}


def test_default_space_is_large_and_sound():
    prepared = prepare(load_space())
    assert prepared.configurations >= 100_000_000
    assert len(prepared.space.models) >= 4
    assert {"h100-sxm-8", "h200-8", "b200-8", "gb200-nvl72"} <= set(prepared.space.systems)
    for group in prepared.groups:
        assert len(set(group.rows)) == len(group.rows)
        assert len(set(group.chunk)) == len(group.chunk)
        assert max(group.chunk) <= group.isl


def test_every_kept_layout_can_exist():
    for group in prepare(load_space()).groups:
        for _, _, (tp, pp, ep, cp, dpa) in group.rows:
            assert tp * pp * cp * dpa <= 64
            assert (tp * cp * dpa) % ep == 0


def test_a_spec_field_is_an_axis():
    path = "device.memory.hbm.bandwidth_GBps"
    space = build_space(
        SMALL | {"systems": ["h100-sxm-8"], "models": ["llama-3.1-8b"], "fields": {path: [1000, 8000]}}, "t"
    )
    groups = scan(space).groups
    assert {row[path] for group in groups for row in group.frontier} == {8000.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modles": ["x"]}, "unknown key 'modles'; did you mean 'models'"),
        ({"models": ["llama-3.1-70"]}, "did you mean 'llama-3.1-70b'"),
        ({"systems": "h100"}, None),
        ({"tp": [0]}, "tp: 0 is out of range"),
        ({"tp": [2, 2]}, "tp: 2 stands twice"),
        ({"tp": []}, "tp: the list is empty"),
        ({"tp": [1.5]}, "tp: 1.5 is no whole number"),
        ({"batch": {"from": 9, "to": 3}}, "from 9 is above to 3"),
        ({"batch": {"from": 1, "until": 3}}, "a range needs from and to"),
        ({"weights": ["fp9"]}, "no format is called 'fp9'"),
        ({"kv": [8]}, "kv: 8 is no name"),
        ({"chunk": ["half"]}, "chunk: 'half' is no whole number"),
        ({"workloads": [[1024]]}, "neither a workload's name nor"),
        ({"isl": [5]}, "name the same axis"),
        ({"slo_tpot_ms": -3}, "slo_tpot_ms: -3 is out of range"),
        ({"objectives": ["speed"]}, "no metric is called 'speed'"),
        ({"objectives": ["ttft", "tpot", "e2e"]}, "3 are given"),
        ({"fields": {"device.memory.hbm.bandwidth": [1]}}, "did you mean 'bandwidth_GBps'"),
        ({"engine": "vlm"}, "did you mean 'vllm'"),
        ({"fields": {"device.memory.hbm.bandwidth_GBps": [1e300]}}, "out of range"),
        ({"fields": {"devices": [4]}}, "changes no time"),
        ({"max_devices": [4, 8]}, "expected one value"),
        ({"chunk": []}, "chunk: the list is empty"),
        ({"batch": {"from": 1, "to": 9, "step": 2, "factor": 2}}, "a step or a factor"),
        ({"systems": ["gb200-nvl72"], "objectives": ["price_per_million_tokens"]}, "no system of the space states"),
    ],
)
def test_a_wrong_space_says_what_is_wrong(change, message):
    document = SMALL | change
    if message is None:
        assert build_space(document, "space.toml").systems == ("h100-sxm-8",)
        return
    with pytest.raises(InputError, match=r"space.toml|no model|no engine|objective|h100-sxm-8") as error:
        build_space(document, "space.toml")
    assert message in str(error.value)


def test_a_space_without_layouts_is_refused():
    with pytest.raises(InputError, match="no layout of the space can exist"):
        scan(SMALL | {"tp": [7], "models": ["llama-3.1-8b"]})


def test_ranges_may_start_at_their_factor():
    space = build_space(SMALL | {"batch": {"from": 2, "to": 64, "factor": 2}, "tp": {"from": 8, "to": 8}}, "test")
    assert space.batch == (2, 4, 8, 16, 32, 64)
    assert space.tp == (8,)
    assert build_space(SMALL | {"chunk": {"from": 256, "to": 1024, "factor": 2}}, "test").chunk == (256, 512, 1024)


def test_an_unknown_price_is_never_the_best():
    space = SMALL | {
        "models": ["llama-3.1-8b"],
        "systems": ["gb200-nvl72", "h100-sxm-8"],
        "workloads": [[1024, 256]],
        "objectives": ["ttft", "price_per_million_tokens"],
    }
    (group,) = scan(space).groups
    assert group.frontier
    assert {row["system"] for row in group.frontier} == {"h100-sxm-8"}
    assert group.best["price_per_million_tokens"]["price_per_million_tokens_USD"] > 0


def test_the_best_of_tied_ones_is_best_in_the_other_objective():
    space = SMALL | {"models": ["llama-3.1-8b"], "objectives": ["devices", "output_tokens_per_s_per_device"]}
    for group in scan(space).groups:
        least = group.best["devices"]
        same = [row for row in group.frontier if row["devices"] == least["devices"]]
        assert least["output_tokens_per_s_per_device"] == max(row["output_tokens_per_s_per_device"] for row in same)
