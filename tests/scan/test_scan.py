"""A scan as a whole: what a person gets, one program for all, honest counts, clear errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxperf
from jaxperf.compiling import quick
from jaxperf.errors import InputError
from jaxperf.native.product import TOGETHER
from jaxperf.scan import Keep, build_space, engine, load_space, pareto, plan, rows, scan
from jaxperf.scan.enumeration import Rows, layouts
from jaxperf.scan.plan import block_shape, prepare
from jaxperf.spec.library import find

sys.path.insert(0, str(Path(__file__).parent))
import toy as toys

SMALL = toys.SPACE | {"chunk": [512, 2048], "slo_tpot_ms": 40.0}
HBM = "device.memory.hbm.bandwidth_GBps"


@pytest.fixture(scope="module")
def result():
    return scan(build_space(SMALL, "test"))


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


def test_a_spec_field_is_an_axis():
    path = "device.memory.hbm.bandwidth_GBps"
    space = build_space(SMALL | {"systems": ["h100-sxm-8"], "fields": {path: [1000, 8000]}}, "t")
    groups = scan(space).groups
    assert {row[path] for group in groups for row in group.frontier} == {8000.0}


@pytest.fixture
def toy(monkeypatch):
    """The toy in the place of the real model: a scan whose figures are exact and which compiles at once."""
    monkeypatch.setattr(engine, "evaluate", toys.evaluate)
    monkeypatch.setattr(rows, "_evaluate", quick(rows._metrics))
    engine.program.cache_clear()
    yield toys.found
    engine.program.cache_clear()


KEEP = Keep(top=7, quantiles=("ttft",), marginals=True)


def test_neither_memory_nor_units_change_anything(toy):
    whole = toy(scan(toys.SPACE, keep=KEEP))
    assert whole["groups"][0]["top"]["output_tokens_per_s_per_user"][6]["batch"] >= 1
    for settings in ({"memory": 2**20}, {"memory": 300_000, "unit": 2**12}, {"unit": 1}):
        assert toy(scan(toys.SPACE, keep=KEEP, **settings)) == whole


def test_memory_bounds_the_block():
    prepared, sizes = prepare(load_space()), []
    for memory in (2**22, 2**24, 2**26):
        sizes.append(block_shape(prepared, memory).size)
        assert memory / 4 < sizes[-1] * plan.BYTES_PER_CONFIGURATION <= memory
    assert sizes == sorted(sizes)
    assert block_shape(prepared, wide=True).size >= 2**21


def test_only_the_best_is_the_frontiers_ends(toy):
    whole, best = scan(toys.SPACE), scan(toys.SPACE, keep=Keep(frontier=False))
    assert [group.best for group in best.groups] == [group.best for group in whole.groups]
    assert not any(group.frontier for group in best.groups)


def test_three_objectives_have_a_surface(toy):
    space = toys.SPACE | {"objectives": ["ttft", "output_tokens_per_s_per_device", "devices"], "workloads": [[64, 64]]}
    for group in scan(space).groups:
        points = [(-row["ttft_s"], row["output_tokens_per_s_per_device"], -row["devices"]) for row in group.frontier]
        for mine in points:
            assert not any(all(b >= a for a, b in zip(mine, its, strict=True)) and its != mine for its in points)
        assert group.best["devices"]["devices"] == min(row["devices"] for row in group.frontier)
        assert len(group.best) == 3


def test_a_crowded_frontier_loses_nothing(toy, monkeypatch):
    whole = toy(scan(toys.SPACE))
    assert min(len(group["frontier"]) for group in whole["groups"]) > 1
    small = lambda metrics: pareto.Pareto(metrics, capacity=1, count_runs=1)  # noqa: E731
    monkeypatch.setattr("jaxperf.scan.keep.Pareto", small)
    assert toy(scan(toys.SPACE)) == whole


def test_a_table_holds_every_configuration(toy, tmp_path):
    import pyarrow.parquet as pq

    path = tmp_path / "table.parquet"
    result = scan(toys.SPACE, table=path, keep=KEEP, unit=2**13)
    assert [p.name for p in tmp_path.iterdir()] == ["table.parquet"]
    found = pq.read_table(path)
    assert found.num_rows == result.configurations
    assert pq.ParquetFile(path).metadata.num_row_groups > 1
    assert found.schema.field("ttft_s").metadata == {b"unit": b"s"}
    provenance = json.loads(found.schema.metadata[b"jaxperf"])
    assert provenance["version"]["jaxperf"] == jaxperf.__version__
    keys = ["model", "system", "isl", "tp", "pp", "ep", "cp", "attention_dp", "batch", "chunk", "weights", "kv"]
    lines = list(zip(*[found[key].to_pylist() for key in keys], strict=True))
    assert len(set(lines)) == result.configurations
    assert sum(reason == "feasible" for reason in found["reason"].to_pylist()) == result.feasible
    value = dict(zip(lines, found["output_tokens_per_s_per_device"].to_pylist(), strict=True))
    for group in result.groups:
        for row in group.frontier:
            assert value[tuple(row[key] for key in keys)] == row["output_tokens_per_s_per_device"]
        mine = [v for line, v in value.items() if line[0] == group.model and line[2] == group.isl and v is not None]
        top = sorted(mine, reverse=True)[:7]
        assert [row["output_tokens_per_s_per_device"] for row in group.top["output_tokens_per_s_per_device"]] == top


def test_a_small_table_may_be_csv(toy, tmp_path):
    space = toys.SPACE | {"batch": [1, 2], "models": ["llama-3.1-8b"]}
    result = scan(space, table=tmp_path / "table.csv")
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert len(lines) == result.configurations + 1
    assert lines[0].startswith('"model","system","isl","osl","tp"')


@pytest.mark.parametrize(
    ("name", "message"), [("x.csv", "too many for CSV"), ("x.txt", "ends in .parquet or .csv"), (".", "ends in")]
)
def test_a_table_that_cannot_be_is_refused(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        scan(load_space(), table=tmp_path / name)


def test_interrupting_keeps_what_is_finished(toy, tmp_path):
    path = tmp_path / "journal.bin"
    whole = toy(scan(toys.SPACE))

    def stop(state):
        if state.counted > 20_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(toys.SPACE, stop, journal=path, memory=2**20, unit=2**12)
    again = scan(toys.SPACE, journal=path, resume=True)
    assert again.resumed >= 20_000
    assert toy(again) == whole


RANDOM = {
    "samples": 3000,
    "seed": 7,
    "fields": {
        "device.memory.hbm.bandwidth_GBps": {"low": 1000, "high": 8000, "law": "sobol-log"},
        "device.peak_TFLOPS.bf16": {"low": 300, "high": 3000, "law": "sobol"},
        "device.memory.hbm.capacity_GB": {"low": 40, "high": 300, "law": "uniform"},
    },
}


def test_random_hardware_is_drawn_beside_the_product(toy):
    space = toys.SPACE | {"random": RANDOM, "batch": [1, 8], "models": ["llama-3.1-8b"], "workloads": [[64, 64]]}
    prepared = prepare(build_space(space, "t"))
    assert prepared.hardware.variants == 3000
    values = prepared.hardware.values(np.arange(3000))
    assert np.all((values >= [1000, 300, 40]) & (values <= [8000, 3000, 300]))
    quarters = np.floor(np.log(values[:2048, 0] / 1000) / np.log(8) * 4)
    assert np.all(np.abs(np.bincount(quarters.astype(int), minlength=4)[:4] - 512) <= 1)  # Sobol: evenly spread
    (group,) = scan(space, keep=Keep(top=3)).groups
    assert (
        group.configurations
        == 3000 * prepare(build_space(space | {"random": {**RANDOM, "samples": 1}}, "t")).configurations
    )
    for row in group.frontier:
        drawn = [row[path] for path in RANDOM["fields"]]
        assert np.any(np.all(np.isclose(values, drawn, rtol=1e-12), axis=1))
    assert toy(scan(space, keep=Keep(top=3), memory=10**6))["groups"][0]["top"] == group.top


def test_layouts_waste_nothing():
    dense, experts = find("model", "llama-3.1-70b").document, find("model", "qwen3-235b-a22b").document
    choices = [(1, 2, 8, 16), (1, 4, 100), (1, 4), (1,), (1, 4)]
    assert {ep for _, _, ep, _, _ in layouts(dense, choices, 64)} == {1}
    found = set(layouts(experts, choices, 64))
    assert {ep for _, _, ep, _, _ in found} == {1, 4}
    assert all((tp * cp * dpa) % ep == 0 and tp * pp * cp * dpa <= 64 for tp, pp, ep, cp, dpa in found)
    assert 100 not in {pp for _, pp, _, _, _ in layouts(dense, choices, 6400)}


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**30))
def test_every_row_has_one_number_and_neighbours_share_layouts(sizes, variants, formats, seed):
    draw = np.random.default_rng(seed)
    tables = tuple(np.unique(draw.integers(1, 4, (size, 5)), axis=0).reshape(-1, 5) for size in sizes)
    every = Rows(tables, variants, formats)
    if not len(every):
        return
    points = every.take(np.arange(len(every)))
    found = list(zip(points.system, points.variant, points.precision, *points.degrees.T, strict=True))
    expected = {
        (system, variant, precision, *layout)
        for system, table in enumerate(tables)
        for layout in table
        for variant in range(variants)
        for precision in range(formats)
    }
    assert len(found) == len(expected) and set(found) == expected
    some = draw.integers(0, len(every), 20)
    again = every.take(some)
    np.testing.assert_array_equal(again.degrees, points.degrees[some])
    np.testing.assert_array_equal(again.variant, points.variant[some])
    for first in range(0, len(every), TOGETHER):
        part = slice(first, first + TOGETHER)
        layouts = np.any(np.diff(points.degrees[part], axis=0), axis=1).sum() + 1
        assert layouts == len({tuple(row) for row in points.degrees[part]})


def test_one_program_serves_every_group(toy, monkeypatch):
    traces = []

    def counting(*arguments):
        traces.append(1)
        return toys.evaluate(*arguments)

    monkeypatch.setattr(engine, "evaluate", counting)
    scan(SMALL)
    assert len(traces) == 1


def test_default_space_is_large_and_sound():
    prepared = prepare(load_space())
    assert prepared.configurations >= 100_000_000
    assert len(prepared.space.models) >= 4
    assert {"h100-sxm-8", "h200-8", "b200-8", "gb200-nvl72"} <= set(prepared.space.systems)
    for group in prepared.groups:
        points = group.rows.take(np.arange(len(group.rows)))
        rows = np.column_stack([points.system, points.variant, points.precision, points.degrees])
        assert len(np.unique(rows, axis=0)) == len(rows)
        assert len(set(group.chunk)) == len(group.chunk)
        assert max(group.chunk) <= group.isl
        tp, pp, ep, cp, dpa = points.degrees.T
        assert np.all(tp * pp * cp * dpa <= 64)
        assert np.all((tp * cp * dpa) % ep == 0)


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
        ({"objectives": ["ttft", "tpot", "e2e", "mfu"]}, "4 are given"),
        ({"objectives": ["ttft", "ttft_s"]}, "'ttft' stands twice"),
        ({"random": 3}, "random: expected a table"),
        ({"random": {"samples": 3}}, "the key 'fields' is missing"),
        ({"random": {"sample": 3}}, "did you mean 'samples'"),
        ({"random": {"samples": 3, "fields": {}}}, "expected a table of path"),
        ({"random": {"samples": 0, "fields": {HBM: {"low": 1, "high": 2}}}}, "samples: 0 is out of range"),
        ({"random": {"samples": 10**8, "fields": {HBM: {"low": 1, "high": 2}}}}, "samples: 100000000 is out of range"),
        ({"random": {"samples": 3, "fields": {HBM: {"low": 2, "high": 1}}}}, "low 2 is not below high 1"),
        ({"random": {"samples": 3, "fields": {HBM: {"low": 2}}}}, "expected a table with low, high and law"),
        ({"random": {"samples": 3, "fields": {HBM: {"low": 1, "high": 2, "law": "sobool"}}}}, "did you mean 'sobol'"),
        ({"random": {"samples": 3, "fields": {"device.x": {"low": 1, "high": 2}}}}, "no field 'x'"),
        (
            {"fields": {HBM: [5000]}, "random": {"samples": 3, "fields": {HBM: {"low": 1, "high": 2}}}},
            "axis of [fields]",
        ),
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


def test_an_unknown_price_is_never_the_best_and_ties_go_to_the_other_objective():
    space = SMALL | {"systems": ["gb200-nvl72", "h100-sxm-8"], "objectives": ["devices", "price_per_million_tokens"]}
    for group in scan(space).groups:
        assert {row["system"] for row in group.frontier} == {"h100-sxm-8"}
        assert group.best["price_per_million_tokens"]["price_per_million_tokens_USD"] > 0
        least = group.best["devices"]
        same = [row for row in group.frontier if row["devices"] == least["devices"]]
        assert least["price_per_million_tokens_USD"] == min(row["price_per_million_tokens_USD"] for row in same)
