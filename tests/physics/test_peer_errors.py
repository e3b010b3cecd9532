"""Errors that were found in other tools, one test each: jaxperf does not make them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxperf.load import load_model
from jaxperf.ops import EXACT
from jaxperf.spec.documents.calibration import EFFICIENCY_FIELDS
from jaxperf.spec.library import find
from jaxperf.spec.model import build_model, stack_groups
from jaxperf.stages.flops import attention_flops, flops
from jaxperf.stages.memory import kv_elements_per_token, layer_kv_elements, parameters
from jaxperf.stages.operators import AttentionCore, Gemm, head_table, layer_table
from jaxperf.stages.plan import make_plan
from jaxperf.stages.shapes import Pass, attention_shape
from jaxperf.stages.traffic import attention_bytes, traffic

from . import specs

DENSE = dict(count=10, attention=specs.attention(16, 4, 64), feed_forward=specs.dense(2048))
SPARSE = DENSE | dict(feed_forward=specs.experts(64, 4, 512))


def _model(figures: dict, **more):
    return specs.model(
        specs.group(figures["count"], figures["attention"], figures["feed_forward"]), hidden=1024, **more
    )


def _table(figures: dict, work: Pass, **degrees: float):
    described = _model(figures)
    plan = make_plan(described, stack_groups(described), specs.system(), specs.deployment(**degrees), EXACT)
    group = described.groups[0]
    shape = attention_shape(group.attention, 1024.0, degrees.get("tp", 1.0), float(work.decode), EXACT)
    return layer_table(group, shape, plan, work, EXACT), plan


def _prefill(tokens: float) -> Pass:
    return Pass(tokens, tokens, 1.0, tokens, 0.0, 1.0, 1.0, False)


def _decode(sequences: float, context: float) -> Pass:
    return Pass(sequences, sequences, sequences, 1.0, context - 1, 1.0, sequences, True)


@st.composite
def _efficiencies(draw: st.DrawFn) -> dict:
    """Any efficiency within its bounds."""
    drawn = {}
    for name, field in EFFICIENCY_FIELDS.items():
        if name == "sharpness":
            continue
        low = 1e-3 if field.high == 1 else field.low or 0.0
        drawn[name] = draw(st.floats(low, min(field.high, low + 1e4)))
    return drawn


@given(_efficiencies(), st.sampled_from([1, 8]), st.sampled_from([1.0, 3000.0]))
def test_no_efficiency_beats_the_peak(efficiency, tp, isl):
    """A fitted prefill reached 6.6 times the peak FLOP/s."""
    work = specs.workload(isl, 100, 8)
    fitted = specs.priced(_model(DENSE), specs.system(), specs.deployment(efficiency, tp=tp), work)
    ideal = specs.priced(_model(DENSE), specs.system(), specs.deployment(tp=tp), work)
    assert float(fitted.mfu) <= 1.0
    assert float(fitted.mbu) <= 1.0
    assert float(fitted.ttft) >= float(ideal.ttft) * (1 - 1e-5)
    assert float(fitted.tpot) >= float(ideal.tpot) * (1 - 1e-5)


def test_cache_capacity_is_not_multiplied_by_tp_twice(rtol):
    """B_max·KV of a sequence is the memory of all devices less the weights, once."""
    for tp in (1, 2, 4):
        found = specs.priced(_model(DENSE), specs.system(), specs.deployment(tp=tp), specs.workload(2000, 48, 1))
        counted = parameters(build_model(specs.model_document(specs.group(**DENSE), hidden=1024)))
        cache = 10 * 4 * 2 * 64 * 2 * 2048
        free = tp * (0.9 * 80e9 - float(found.memory.activations)) - 2 * counted.total
        assert float(found.max_batch) == pytest.approx(free / cache, rel=2e-3)


def test_gate_up_down_and_head_are_all_read():
    """A two-matrix MLP and a missing LM head put decode below the time to read the weights."""
    model, machine = load_model("llama-3.1-8b"), specs.system()
    counted = parameters(build_model(find("model", "llama-3.1-8b").document))
    read = 2 * (counted.total - counted.embedding)
    found = specs.priced(model, machine, specs.deployment(), specs.workload(1, 2, 1))
    assert float(found.tpot) >= read / 3.35e12
    assert float(found.tpot) == pytest.approx(read / 3.35e12, rel=0.02)
    assert float(found.decode.needed_bytes) == pytest.approx(read, rel=1e-3)


def test_cache_is_read_once():
    work = _decode(4.0, 1000.0)
    table, _ = _table(DENSE, work)
    core = table["attention"]
    assert isinstance(core, AttentionCore)
    moved = attention_bytes(core, work, work.prior, EXACT)
    one_token = 4 * 4 * 2 * 64 * 2  # sequences, heads, keys and values, head size, bytes
    assert float(moved.kv_cache) == 1000 * one_token + one_token  # read, and the new token written


def test_grouped_queries_stay_grouped():
    """Cache bytes follow the key/value heads, scores the query heads."""
    work = _decode(4.0, 1000.0)
    grouped, every = (
        _table(DENSE | dict(attention=specs.attention(16, heads, 64)), work)[0]["attention"] for heads in (4, 16)
    )
    assert isinstance(grouped, AttentionCore)
    assert isinstance(every, AttentionCore)
    read = [float(attention_bytes(core, work, work.prior, EXACT).kv_cache) for core in (grouped, every)]
    assert read[1] == 4 * read[0]
    counted = [float(attention_flops(core, work, work.prior, EXACT)) for core in (grouped, every)]
    assert counted[0] == counted[1] == 4 * 1000 * 16 * 64 * 4


def test_prefill_is_causal():
    work = _prefill(1000.0)
    core = _table(DENSE, work)[0]["attention"]
    assert isinstance(core, AttentionCore)
    assert float(attention_flops(core, work, 0.0, EXACT)) == 1000 * 1001 / 2 * 4 * 16 * 64


@pytest.mark.parametrize("pp", [1, 2])
def test_embedding_and_head_are_in_memory(pp: int):
    table = 32000 * 1024 * 2
    untied, tied = (
        specs.priced(_model(DENSE, tied=tied), specs.system(), specs.deployment(pp=pp), specs.workload()).memory
        for tied in (False, True)
    )
    layers = float(untied.weights) - (2 * table if pp == 1 else table)
    counted = parameters(build_model(specs.model_document(specs.group(**DENSE), hidden=1024)))
    assert layers == pytest.approx((counted.total - counted.embedding - counted.lm_head) * 2 / pp, rel=1e-3)
    assert float(untied.weights - tied.weights) == pytest.approx(table if pp == 1 else 0.0, abs=1024 * 2)


def test_latent_attention_is_not_priced_as_multi_head():
    model = build_model(find("model", "deepseek-v3").document)
    assert kv_elements_per_token(model) == 61 * (512 + 64)
    heads = 128 * (128 + 64 + 128)
    assert layer_kv_elements(model.groups[0].attention) * 71 == pytest.approx(heads, rel=0.01)
    work = _decode(1.0, 4096.0)
    core = _table(DENSE | dict(attention=specs.latent(16)), work)[0]["attention"]
    assert isinstance(core, AttentionCore)
    moved = attention_bytes(core, work, work.prior, EXACT)
    assert float(moved.kv_cache) == (4096 + 1) * (128 + 32) * 2


def test_one_token_does_not_read_every_expert():
    def read(batch: float) -> float:
        work = _decode(batch, 1000.0)
        table, _ = _table(SPARSE, work)
        return sum(float(traffic(table[name], work, EXACT).weights) for name in ("expert gate, up", "expert down"))

    expert = 3 * 1024 * 512 * 2
    assert read(1.0) == pytest.approx(4 * expert, rel=1e-5)
    assert read(16.0) == pytest.approx(64 * (1 - (60 / 64) ** 16) * expert, rel=1e-5)
    assert read(10_000.0) == pytest.approx(64 * expert, rel=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_a_pipeline_does_not_divide_the_time_of_a_token(batch: int):
    """A published tool takes a stage's time for B ≥ pp: too short by pp where reading weights is the bound."""
    model = load_model("llama-3.1-70b")
    work = specs.workload(100, 10, batch)
    whole = specs.priced(model, specs.system(capacity=4.0), specs.deployment(), work)
    staged = specs.priced(model, specs.system(capacity=4.0), specs.deployment(pp=4), work)
    assert float(staged.tpot) >= float(whole.tpot) * 0.98
    assert float(staged.decode_tokens_per_s) <= float(whole.decode_tokens_per_s) * 1.02


def test_operators_count_all_matrix_products():
    """Two FLOP a parameter and token: every matrix of the layer and the head stands in the table."""
    work = _prefill(7.0)
    table, plan = _table(DENSE, work)
    layer = sum(float(flops(row, work, EXACT)) for row in table.values() if isinstance(row, Gemm))
    assert layer == 2 * 7 * (1024 * 16 * 64 * 2 + 1024 * 4 * 128 + 3 * 1024 * 2048)
    head = head_table(plan, work)["lm head"]
    assert np.isclose(float(flops(head, work, EXACT)), 2 * 32000 * 1024)
