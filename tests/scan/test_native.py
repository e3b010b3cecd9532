"""Scans as machine code: the same figures as XLA's program and as `evaluate`, as a product, as a list, by gradient."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxperf
from jaxperf.errors import InputError
from jaxperf.native import jit
from jaxperf.native.kernel import NEW_FORMATS, NEW_LAYOUT, NEW_SYSTEM
from jaxperf.scan import Keep, build_space, engine, listing, native, runner, scan
from jaxperf.scan.enumeration import DEGREES
from jaxperf.scan.host import host_block
from jaxperf.scan.listing import FEW, ConfigurationList, Priced, packing, parts, priced, sharing
from jaxperf.scan.native import FIELDS, Kernels
from jaxperf.scan.plan import Shape, prepare
from jaxperf.scan.unshared import Unshared
from jaxperf.tape import NoKernelError

from . import toy

SPACE = {
    "models": ["llama-3.1-8b", "qwen3-30b-a3b"],
    "systems": ["h100-sxm-8", "b200-8"],
    "workloads": [[1024, 256], [3000, 100]],
    "tp": [1, 2, 8],
    "pp": [1, 4],
    "ep": [1, 4],
    "attention_dp": [1, 4],
    "batch": {"from": 1, "to": 50},
    "chunk": [256, 512, 2048],
    "weights": ["bf16", "fp8"],
    "slo_tpot_ms": 30.0,
    "max_devices": 32,
}
WANTED = ("output_tokens_per_s_per_device", "ttft")


def whole(kernels, index):
    """A group as one block, with everything."""
    group = kernels.prepared.groups[index]
    return host_block(
        kernels, index, group.part(0, Shape(len(group.rows), len(group.chunk), len(group.batch))), True, None
    )


@pytest.mark.parametrize(
    "models", [["llama-3.1-8b", "mixtral-8x7b"], ["gemma-2-9b", "deepseek-v3"], ["gpt-oss-120b", "qwen3.5-397b-a17b"]]
)
def test_every_kind_of_model_is_priced_as_evaluate_prices_it(models):
    space = build_space(SPACE | {"models": models, "batch": [1, 7, 300], "tp": [1, 8], "workloads": [[5000, 300]]}, "t")
    prepared = prepare(space)
    kernels = Kernels(prepared, WANTED)
    tolerance = 1e-5 if jnp.result_type(float) == np.float32 else 1e-9
    for index, group in enumerate(prepared.groups):
        block = whole(kernels, index)
        draw = np.random.default_rng(index)
        row, chunk, batch = (draw.integers(0, n, 12) for n in (*block.heights.reasons.shape[:2], 3))
        sizes, chunks = np.asarray(group.batch)[batch], np.asarray(group.chunk)[chunk]
        found = kernels.metrics(index, row, sizes, chunks)
        points = group.rows.take(row)
        for i in range(12):
            weights, kv = prepared.precisions[group.model][points.precision[i]]
            layout = dict(zip(DEGREES, map(int, points.degrees[i]), strict=True))
            metrics = jaxperf.estimate(
                group.model,
                space.systems[points.system[i]],
                **layout,
                batch=int(sizes[i]),
                chunk=int(chunks[i]),
                isl=group.isl,
                osl=group.osl,
                weights=weights,
                kv=kv,
                slo_tpot=space.slo_tpot,
            )
            for name in FIELDS:
                value = metrics.memory.total if name == "memory.total" else getattr(metrics, name)
                assert found[name][i] == pytest.approx(float(value), rel=tolerance), (group.model, layout, name)
            assert block.heights.reasons[row[i], chunk[i], batch[i]] == int(metrics.reason)


@pytest.mark.slow
def test_both_backends_find_the_same():
    keep = Keep(top=5, quantiles=("ttft",), marginals=True)
    space = SPACE | {"batch": [1, 2, 3, 5, 8, 13], "chunk": [256, 512]}
    native, xla = (scan(space, keep=keep, backend=name) for name in ("native", "xla"))
    assert (native.backend, xla.backend) == ("native", "xla")
    assert native.infeasible == xla.infeasible
    for mine, its in zip(native.groups, xla.groups, strict=True):
        assert mine.counts == its.counts
        assert len(mine.frontier) == pytest.approx(len(its.frontier), abs=2)
        for metric, row in mine.best.items():
            assert row[metric] == pytest.approx(its.best[metric][metric], rel=1e-5)
        for axis, values in mine.marginals["output_tokens_per_s_per_device"].items():
            for value, best in values.items():
                if best is None:
                    assert its.marginals["output_tokens_per_s_per_device"][axis][value] is None
                    continue
                assert best == pytest.approx(its.marginals["output_tokens_per_s_per_device"][axis][value], rel=1e-5)


def shuffled(prepared, index):
    """All configurations of a group as a list in random order, and of each its row, chunk and batch in the product."""
    group = prepared.groups[index]
    size = group.configurations
    row, inner = np.divmod(np.random.default_rng(index).permutation(size), group.inner)
    chunk, batch = np.divmod(inner, len(group.batch))
    points = group.rows.take(row)
    columns = {"batch": np.asarray(group.batch)[batch], "chunk": np.asarray(group.chunk)[chunk]}
    columns |= {"system": points.system, "precision": points.precision}
    columns |= {"isl": np.full(size, group.isl), "osl": np.full(size, group.osl)}
    columns |= dict(zip(DEGREES, points.degrees.T, strict=True))
    everything = ConfigurationList({name: np.ascontiguousarray(c, np.int32) for name, c in columns.items()})
    return everything, (row, chunk, batch)


@pytest.mark.parametrize("index", [0, 3])
@pytest.mark.parametrize("few", [0, 1000], ids=["sorted", "one by one"])
def test_a_shuffled_list_is_the_product_bit_for_bit(index, few, monkeypatch):
    monkeypatch.setattr(listing, "FEW", few)
    prepared = prepare(build_space(SPACE, "t"))
    kernels = Kernels(prepared, WANTED)
    block = whole(kernels, index)
    everything, places = shuffled(prepared, index)
    counts = np.zeros_like(block.counts)
    best = []
    for part in parts(len(everything), 3):
        found = priced(kernels, index, everything, *part)
        assert isinstance(found, Unshared if few else Priced)
        counts += found.counts
        segments = np.arange(len(found.highest("ttft")))
        best.append([found.highest(name).max() for name in WANTED])
        score = found.points(segments, WANTED)
        assert len(score["row"]) == found.counts[1]
        for point in np.random.default_rng(0).integers(0, len(score["row"]), 30):
            named = found.configuration(int(score["row"][point]), int(score["inner"][point]))
            mine = np.all([everything.columns[name][slice(*part)] == value for name, value in named.items()], axis=0)
            at = tuple(axis[slice(*part)][mine][0] for axis in places)
            assert [block.scores(name)[at] for name in WANTED] == list(score["score"][point])
        place = int(np.argmax(found.highest("ttft")))
        assert found.points(np.asarray([place]), ("ttft",))["score"].max() == found.highest("ttft")[place]
    np.testing.assert_array_equal(counts[1:], block.counts[1:])
    np.testing.assert_array_equal(np.max(best, axis=0), [block.scores(name).max() for name in WANTED])


def test_a_sample_tells_how_many_configurations_share_a_row():
    draw = np.random.default_rng(0)
    for count, rows in ((5_000, 700), (300_000, 8_000), (300_000, 150), (100_000, 10**7)):
        row = draw.integers(0, rows, count)
        columns = {name: np.ones(count, np.int32) for name in ConfigurationList.NAMES}
        columns |= {"batch": np.arange(count, dtype=np.int32), "isl": (row % 997).astype(np.int32)}
        columns["osl"] = (row // 997).astype(np.int32)
        assert sharing(columns) == pytest.approx(count / len(np.unique(row)), rel=0.2)
        together = {name: column[np.argsort(row)] for name, column in columns.items()}
        assert (sharing(together) > FEW) == (count / len(np.unique(row)) > FEW)


def test_lists_that_cannot_be_are_refused(monkeypatch):
    good = {name: np.ones(4, np.int32) for name in ConfigurationList.NAMES}
    for wrong, said in (
        ({"batch": np.ones(3, np.int32)}, "one length"),
        ({"batch": np.ones(4)}, "int32"),
        ({"batch": [1, 2, 3, 4]}, "NumPy array"),
        ({"batch": None}, "one length"),
        ({"batch": np.ones((4, 3), np.int32)}, "one length"),
        ({"batch": np.ma.ones(4, np.int32)}, "NumPy array"),
        ({"tp": -np.ones(4, np.int32)}, "from 0 up"),
    ):
        with pytest.raises(InputError, match=said):
            ConfigurationList(good | wrong)
    with pytest.raises(InputError, match="one length"):
        ConfigurationList({"batch": np.ones(4, np.int32)})
    with pytest.raises(InputError, match="one length"):
        ConfigurationList({name: np.ones((4, 2), np.int32) for name in good})
    assert parts(0, 2) == []
    kernels = Kernels(prepare(build_space(SPACE, "t")), WANTED)
    zeros = good | {"system": np.zeros(4, np.int32), "precision": np.zeros(4, np.int32)}
    for wrong, said in (
        ({"system": np.full(4, 2, np.int32)}, "system: 2 is out of range; expected below 2"),
        ({"precision": np.full(4, 9, np.int32)}, "precision: 9 is out of range"),
        ({"batch": np.zeros(4, np.int32)}, "batch: 0 is out of range"),
        ({"isl": np.full(4, 2**24, np.int32)}, "isl: 16777216 is out of range; expected 1 to 16777215"),
    ):
        with pytest.raises(InputError, match=said):
            priced(kernels, 0, ConfigurationList(zeros | wrong), 0, 4)
    with pytest.raises(InputError, match="there are none"):
        priced(kernels, 0, ConfigurationList(zeros), 2, 2)
    path = "device.memory.hbm.bandwidth_GBps"
    varied = Kernels(prepare(build_space(SPACE | {"fields": {path: [1000, 2000]}}, "t")), WANTED)
    with pytest.raises(InputError, match="variant"):
        priced(varied, 0, ConfigurationList(zeros), 0, 4)
    for part in ((0, 5), (-3, 4), (3, 2)):
        with pytest.raises(InputError, match="no part from"):
            priced(kernels, 0, ConfigurationList(zeros), *part)
    monkeypatch.setattr(listing, "MOST_STACKED", 1)
    with pytest.raises(InputError, match="a list of 2 systems; expected at most 1"):
        priced(kernels, 0, ConfigurationList(zeros), 0, 4)


def test_what_does_not_fit_in_63_bits_is_priced_one_by_one(monkeypatch):
    monkeypatch.setattr(listing, "FEW", 0)
    kernels = Kernels(prepare(build_space(SPACE, "t")), WANTED)
    good = {name: np.ones(4, np.int32) for name in ConfigurationList.NAMES}
    good |= {"system": np.zeros(4, np.int32), "precision": np.zeros(4, np.int32)}
    assert isinstance(priced(kernels, 0, ConfigurationList(good), 0, 4), Priced)
    wide = good | {name: np.asarray([1, 1, 1, 2**20], np.int32) for name in DEGREES}
    assert packing(wide) is None
    found = priced(kernels, 0, ConfigurationList(wide), 0, 4)
    assert isinstance(found, Unshared)
    assert found.counts[1] == 3


def test_what_cannot_be_native_says_why(monkeypatch):
    monkeypatch.setattr(runner, "available", lambda: False)
    with pytest.raises(InputError, match="no LLVM"):
        scan(SPACE, backend="native")
    assert runner._backend(None, (jax.local_devices()[0],)) == "xla"
    for wrong in ("numba", ""):
        with pytest.raises(InputError, match=f"'{wrong}' is not one of"):
            scan(SPACE, backend=wrong)
    with pytest.raises(InputError, match=r"j.bin: the journal is of the backend native, but there is no LLVM"):
        runner._backend("native", (jax.local_devices()[0],), Path("j.bin"))


def test_what_has_no_code_falls_back_to_xla_unless_native_is_asked_for(monkeypatch):
    def nothing(*_):
        raise NoKernelError("no kernel for a primitive of next year")

    monkeypatch.setattr(native, "record", nothing)
    monkeypatch.setattr(native, "RECENT", native.Recent(9))
    small = {"models": ["llama-3.1-8b"], "systems": ["h100-sxm-8"], "workloads": [[64, 8]], "batch": [1, 2]}
    with pytest.raises(InputError, match="primitive of next year; expected xla"):
        scan(small, backend="native")
    monkeypatch.setattr(engine, "evaluate", toy.evaluate)
    engine.program.cache_clear()
    assert scan(small, keep=Keep(frontier=False)).backend == "xla"
    engine.program.cache_clear()


@pytest.mark.parametrize("models", [["llama-3.1-8b"], ["deepseek-v3"], ["qwen3.5-397b-a17b"]])
def test_rows_that_share_a_layout_are_what_each_is_alone(models):
    space = SPACE | {
        "models": models,
        "kv": ["bf16", "fp8"],
        "workloads": [[2048, 256]],
        "batch": {"from": 1, "to": 40},
    }
    space |= {"fields": {"device.memory.hbm.bandwidth_GBps": [2000, 3000, 4000]}, "tp": [1, 8], "pp": [1]}
    kernels = Kernels(prepare(build_space(space, "t")), WANTED)
    block = whole(kernels, 0)
    changes = block.shared.changes[: block.part.row[1]]
    assert {NEW_LAYOUT, NEW_FORMATS, NEW_SYSTEM} == set(changes) and np.mean(changes == NEW_SYSTEM) > 0.7
    places = np.arange(block.heights.highest[0].size)
    alone = block.kernel.listed(block.shared, block.batches, *np.unravel_index(places, block.heights.highest.shape[1:]))
    np.testing.assert_array_equal(alone.max(axis=-1), block.heights.highest.reshape(len(WANTED), -1))


def test_inputs_of_many_groups_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(native, "MOST_KEPT", 20_000)
    space = SPACE | {"models": ["llama-3.1-8b"], "workloads": [[isl, 64] for isl in range(100, 1100, 100)]}
    prepared = prepare(build_space(space, "t"))
    kernels = Kernels(prepared, WANTED)
    for index in range(10):
        whole(kernels, index)
    assert sum(table.size for table, _ in kernels.inputs.values()) <= 20_000
    expected = scan(space, keep=Keep(frontier=False))
    monkeypatch.setattr(native, "MOST_KEPT", 0)
    again = scan(space, keep=Keep(frontier=False))
    assert [group.best for group in again.groups] == [group.best for group in expected.groups]


def test_models_alike_share_their_code(monkeypatch):
    made = []
    original = jit.Library.__init__
    monkeypatch.setattr(jit.Library, "__init__", lambda self, *given: made.append(given) or original(self, *given))
    jit.library.cache_clear()
    monkeypatch.setattr(native, "RECENT", native.Recent(99))
    space = SPACE | {"models": ["llama-3.1-8b", "llama-3.1-70b", "llama-2-70b"], "batch": [1, 2]}
    kernels = Kernels(prepare(build_space(space, "t")), WANTED)
    for index in range(6):
        kernels.of(index)
    assert len(made) == 1


def test_engine_is_what_a_kernel_prices(monkeypatch):
    seen = []
    original = engine.evaluate
    monkeypatch.setattr(engine, "evaluate", lambda *given: seen.append(1) or original(*given))
    kernels = Kernels(prepare(build_space(SPACE, "t")), WANTED)
    for index in range(4):
        kernels.of(index)
    assert len(seen) == 1
