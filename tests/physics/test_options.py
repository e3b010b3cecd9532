"""Optimisations of an engine: what they must cost, what they must not, and what they must never do."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxperf.compiling import quick
from jaxperf.errors import InputError
from jaxperf.load import deployment, engine_document, load_model, load_system, workload
from jaxperf.ops import EXACT, Smooth
from jaxperf.phases.breakdown import breakdown
from jaxperf.phases.end_to_end import evaluate
from jaxperf.spec.deployment import Engine
from jaxperf.spec.options import Adapters, Options, Tiles
from jaxperf.stages.adapters import adapted_sizes
from jaxperf.stages.operators import Gemm
from jaxperf.stages.options import padding
from jaxperf.stages.shapes import attention_shape

from . import specs
from .test_laws import LAYOUTS, WORKLOADS, _layout, _model, models

SLACK = 1 + 2e-5
LORA = Adapters(rank=16.0, count=1.0, inline=1.0, attention=1.0, feed_forward=1.0)
CONFIGURATIONS = st.tuples(models(), LAYOUTS, WORKLOADS)
FEW = settings(max_examples=15)
EVALUATE, BREAKDOWN = quick(evaluate), quick(breakdown)


def _priced(drawn, options: Options | None = None, weights: str | None = None, kv: str | None = None, **engine):
    figures, layout, work = drawn
    chosen = Engine(options=Options() if options is None else options, **engine)
    deployed = specs.deployment(engine=chosen, weights=weights, kv=kv, **_layout(layout, figures))
    return EVALUATE(_model(figures), specs.system(), deployed, work)


def _at_least(more, less):
    for name in ("ttft", "tpot"):
        assert float(getattr(more, name)) * SLACK >= float(getattr(less, name))


@FEW
@given(CONFIGURATIONS)
def test_options_that_are_off_change_nothing(drawn):
    figures, layout, work = drawn
    plain = EVALUATE(_model(figures), specs.system(), specs.deployment(**_layout(layout, figures)), work)
    for name in ("ttft", "tpot", "output_tokens_per_s", "max_batch"):
        assert float(getattr(_priced(drawn), name)) == pytest.approx(float(getattr(plain, name)), rel=1e-6)


WORSE = [
    Options(eager=1.0),
    Options(apart=1.0),
    Options(tiles=Tiles(128.0, 128.0)),
    Options(tiles=Tiles(128.0, 256.0, 132.0)),
    Options(adapters=LORA),
    Options(adapters=dataclasses.replace(LORA, inline=0.0, merging=1.0)),
]


@pytest.mark.parametrize("index", range(len(WORSE)))
@FEW
@given(CONFIGURATIONS)
def test_more_work_is_never_faster(index, drawn):
    _at_least(_priced(drawn, WORSE[index]), _priced(drawn))


@FEW
@given(CONFIGURATIONS)
def test_joined_kernels_are_never_slower(drawn):
    _at_least(_priced(drawn, weights="fp8"), _priced(drawn, Options(joined=1.0), weights="fp8"))


@FEW
@given(CONFIGURATIONS)
def test_waves_only_add_to_tiles(drawn):
    tiled = _priced(drawn, Options(tiles=Tiles(64.0, 128.0)))
    _at_least(_priced(drawn, Options(tiles=Tiles(64.0, 128.0, 132.0))), tiled)


@FEW
@given(CONFIGURATIONS)
def test_more_adapters_are_never_faster(drawn):
    def several(count: float):
        return _priced(drawn, Options(adapters=dataclasses.replace(LORA, count=count)))

    few, many = several(2.0), several(100.0)
    _at_least(few, several(1.0))
    _at_least(many, few)
    assert float(many.memory.weights) > float(few.memory.weights)


@FEW
@given(CONFIGURATIONS, st.sampled_from(["int4", "int4-group32", "q4_0", "q4_k_m", "int8"]))
def test_separate_dequantisation_costs(drawn, weights):
    _at_least(_priced(drawn, Options(dequantise=1.0), weights=weights), _priced(drawn, weights=weights))


@FEW
@given(CONFIGURATIONS, st.sampled_from(["int4", "int4-group32-zero", "q4_k_m", "q8_0", "int8"]))
def test_weight_only_formats_never_slow_decode(drawn, weights):
    narrow, wide = _priced(drawn, weights=weights), _priced(drawn)
    assert float(narrow.tpot) <= float(wide.tpot) * SLACK
    assert float(narrow.memory.weights) < float(wide.memory.weights)


@FEW
@given(CONFIGURATIONS, st.sampled_from(["int4", "nvfp4", "q4_0", "int4-group32"]))
def test_a_narrow_cache_reads_less(drawn, kv):
    narrow, middle, wide = _priced(drawn, kv=kv), _priced(drawn, kv="fp8"), _priced(drawn)
    assert float(narrow.decode.needed_bytes) <= float(middle.decode.needed_bytes) * SLACK
    assert float(middle.decode.needed_bytes) <= float(wide.decode.needed_bytes) * SLACK
    assert float(narrow.memory.kv_cache) < float(middle.memory.kv_cache) < float(wide.memory.kv_cache)


@FEW
@given(CONFIGURATIONS, st.sampled_from([0.1, 0.5, 0.9]))
def test_a_smaller_cache_never_hurts(drawn, share):
    plain = _priced(drawn)
    for smaller in (_priced(drawn, kv_kept=share), _priced(drawn, kv_width=share)):
        assert float(smaller.tpot) <= float(plain.tpot) * SLACK
        assert float(smaller.max_batch) >= float(plain.max_batch)
        assert float(smaller.memory.kv_cache) <= float(plain.memory.kv_cache)
    assert float(_priced(drawn, kv_kept=share).ttft) == pytest.approx(float(plain.ttft), rel=1e-6)


def test_merged_ahead_is_no_adapter_at_all():
    def times(lora: dict | None) -> list[float]:
        chosen = {} if lora is None else {"lora": lora}
        deployed = deployment("llama-2-7b", settings=chosen, efficiency="ideal")
        args = load_model("llama-2-7b"), load_system("a100-80gb-8"), deployed, workload(512, 128, 4)
        return [float(leaf) for leaf in jax.tree.leaves(specs.evaluate_jit(*args))[:8]]

    plain = times(None)
    assert times({"rank": 64, "mode": "merged-ahead"}) == plain
    assert times({"rank": 64}) != plain


def test_adapter_parameters_of_a_known_model():
    """LoRA of rank 16 on every projection of Llama-2-7B: 39,976,960 trainable parameters (PEFT prints them)."""
    model = load_model("llama-2-7b")
    group = model.groups[0]
    shape = attention_shape(group.attention, model.hidden_size, 1.0, 1.0, EXACT)
    attention, feed_forward, shared = adapted_sizes(group, shape, model.hidden_size, 1.0)
    sides = attention.sides + feed_forward.sides + shared.sides
    assert float(16 * group.count * sides) == 39_976_960
    assert float(group.count * (attention.weights + feed_forward.weights)) == 6_476_005_376


def test_adapters_are_read_once_each():
    """64 of 64 equally likely adapters in 8 sequences: 64(1 − (63/64)^8) = 7.6 of them are read."""
    rows = _rows({"lora": {"rank": 32, "adapters": 64}}, batch=8)["decode"]
    weights = float(rows["lora feed-forward"].weights_bytes)
    one = 32 * 3 * (4096 + 11008) * 32 * 2
    assert weights / one == pytest.approx(64 * (1 - (63 / 64) ** 8), rel=1e-4)


def _rows(chosen: dict, batch: int = 1, weights: str | None = None):
    deployed = deployment("llama-2-7b", weights=weights, settings=chosen, efficiency="ideal")
    args = load_model("llama-2-7b"), load_system("a100-80gb-8"), deployed, workload(1024, 2, batch)
    return BREAKDOWN(*args)


def test_dequantisation_counts_two_operations_a_weight():
    row = _rows({"dequantise": "separate"}, weights="int4")["decode"]["dequantise ffn"]
    weights = 32 * 3 * 4096 * 11008
    assert float(row.flops) == pytest.approx(2 * weights, rel=1e-6)
    assert float(row.bytes) == pytest.approx(4 * weights, rel=1e-6)
    wide = _rows({"dequantise": "separate"})["decode"]["dequantise ffn"]
    assert float(wide.count) == 0 == float(wide.time)


def test_eager_attention_writes_its_scores():
    rows = _rows({"attention": "eager"})["prefill"]
    moved = float(rows["attention scores"].bytes) + float(rows["attention softmax"].bytes)
    assert moved == pytest.approx(4 * 32 * 32 * 1024**2 * 2, rel=1e-6)
    assert float(rows["attention"].flops) == pytest.approx(32 * 4 * 1024**2 * 4096, rel=1e-6)


@pytest.mark.parametrize(
    ("m", "n", "tiles", "expected"),
    [
        (128.0, 256.0, Tiles(128.0, 128.0), 1.0),
        (1.0, 128.0, Tiles(128.0, 128.0), 128.0),
        (129.0, 128.0, Tiles(128.0, 128.0), 256 / 129),
        (128.0, 128.0 * 109, Tiles(128.0, 128.0, 108.0), 216 / 109),
        (77.0, 33.0, Tiles(), 1.0),
    ],
)
def test_padding(m, n, tiles, expected):
    """109 tiles on 108 SMs take two waves (NVIDIA, Matrix Multiplication Background User's Guide)."""
    efficiency = specs.deployment().efficiency
    product = Gemm(1.0, 1.0, m, n, 64.0, 2.0, 2.0, 2.0, 1.0)
    assert float(padding(product, tiles, efficiency, EXACT)) == pytest.approx(expected, rel=1e-6)


ALL = Options(
    eager=1.0,
    dequantise=1.0,
    apart=1.0,
    tiles=Tiles(128.0, 128.0, 132.0),
    adapters=dataclasses.replace(LORA, count=3.0),
)


def test_one_program_serves_every_option_with_finite_gradients():
    traces = 0

    @quick
    def slope(model, machine, deployed, work):
        nonlocal traces
        traces += 1

        def times(scale):
            tiers = tuple(
                eqx.tree_at(lambda t: t.bandwidth, tier, tier.bandwidth * scale) for tier in machine.device.memory.tiers
            )
            changed = eqx.tree_at(lambda s: s.device.memory.tiers, machine, tiers)
            metrics = specs.evaluate(model, changed, deployed, work)
            return jnp.log(metrics.tpot) + jnp.log(metrics.ttft)

        return jax.value_and_grad(times)(jnp.ones(()))

    for name, options in [
        ("llama-2-7b", ALL),
        ("deepseek-v3", ALL),
        ("qwen3-30b-a3b", Options(eager=1.0)),
        *[("llama-2-7b", option) for option in WORSE],
    ]:
        deployed = deployment(name, weights="int4", efficiency="ideal")
        deployed = eqx.tree_at(lambda d: d.engine, deployed, specs.deployment(engine=Engine(options=options)).engine)
        value, gradient = slope(load_model(name), load_system("h100-sxm-8"), deployed, workload(300, 20, 4))
        assert np.isfinite(float(value))
        assert np.isfinite(float(gradient))
        assert float(gradient) <= 0
    assert traces == 1


def test_relaxed_options_agree_with_exact_ones():
    deployed = specs.deployment(weights="int4", engine=Engine(options=ALL), tp=2)
    args = load_model("llama-2-7b"), load_system("h100-sxm-8"), deployed, workload(300, 20, 4)
    exact = EVALUATE(*args)
    smooth = quick(lambda *a: specs.evaluate(*a, Smooth(jnp.asarray(1e-3))))(*args)
    for name in ("ttft", "tpot"):
        assert float(getattr(smooth, name)) == pytest.approx(float(getattr(exact, name)), rel=0.02)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"atention": "eager"}, "attention"),
        ({"attention": "eagre"}, "eager"),
        ({"fusion": "some"}, "none, usual, full"),
        ({"lora": {"rank": 16, "adapters": 4, "mode": "merged-ahead"}}, "cannot be merged"),
        ({"lora": {"rank": -1}}, "out of range"),
        ({"lora": {"rank": 8, "classes": ["router"]}}, "not one of"),
        ({"tiles": {"rows": 128}}, "stand together"),
        ({"tiles": {"units": 132}}, "waves"),
        ({"kv_kept_share": 0}, "above 0"),
        ({"kv_rank_share": 1.5}, "out of range"),
    ],
)
def test_bad_settings_say_what_is_wrong(chosen, words):
    with pytest.raises(InputError, match=words):
        engine_document(None, settings=chosen)
