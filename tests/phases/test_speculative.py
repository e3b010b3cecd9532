"""Speculative decoding: published figures, laws on drawn configurations, and one copy of the physics."""

from __future__ import annotations

import csv
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxperf
from jaxperf.compiling import quick
from jaxperf.errors import InputError
from jaxperf.phases.drafts import any_accepted, chain, prediction_layer, tokens_per_verify, tree
from jaxperf.phases.handoff import kv_cache_bytes
from jaxperf.phases.speculative import best_draft_length, speculate
from jaxperf.stages.memory import parameters

from ..physics import specs

LEVIATHAN = [
    (0.6, 2, 1.53, 1.96),
    (0.7, 3, 1.58, 2.53),
    (0.8, 2, 1.23, 2.44),
    (0.8, 5, 1.63, 3.69),
    (0.9, 2, 1.11, 2.71),
    (0.9, 10, 1.60, 6.86),
]
"""Acceptance, drafts, operations and speed against plain decoding with a draft that costs nothing: table 1 of Leviathan
et al. 2023, arXiv:2211.17192."""

SLACK = 1 + 1e-6

speculate_jit = quick(speculate)


def _acceptance(chance, drafts):
    return chain(_draft(), specs.deployment(), chance, drafts).acceptance


def _draft(**more):
    return specs.model(specs.group(2, specs.attention(4, 4, 64), specs.dense(512)), hidden=256, **more)


def _target(feed_forward=None, attention=None, count=8):
    attention = specs.attention(16, 4, 64) if attention is None else attention
    return specs.model(specs.group(count, attention, feed_forward or specs.dense(4096)), hidden=1024)


@pytest.mark.parametrize(("chance", "drafts", "operations", "speed"), LEVIATHAN)
def test_the_published_table(chance, drafts, operations, speed):
    yielded = float(tokens_per_verify(_acceptance(chance, float(drafts))))
    assert yielded == pytest.approx(speed, abs=0.005 + 1e-9)
    assert (drafts + 1) / yielded == pytest.approx(operations, abs=0.005 + 1e-9)


@pytest.mark.float64
def test_the_reference_rows(reference):
    with open(reference / "worked_checks.csv", encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["topic"] == "spec"]
    assert len(rows) >= 8
    for row in rows:
        inputs, expected = json.loads(row["inputs"]), float(row["expected"])
        drafts = inputs.get("gamma", inputs.get("depth"))
        yielded = float(tokens_per_verify(_acceptance(inputs.get("alpha", inputs.get("p")), float(drafts))))
        found = (drafts + 1) / yielded if "operations" in row["statement"] else yielded
        assert found == pytest.approx(expected, rel=max(float(row["rel_tol"]), 1e-9)), row["id"]


@pytest.mark.float64
@given(st.floats(0, 1), st.integers(1, 32))
def test_tokens_per_verify_is_the_geometric_sum_with_its_derivative(chance, drafts):
    yielded = lambda a: tokens_per_verify(_acceptance(a, float(drafts)))  # noqa: E731
    assert float(yielded(chance)) == pytest.approx(sum(chance**j for j in range(drafts + 1)), rel=1e-9)
    slope = float(jax.grad(yielded)(chance))
    assert slope == pytest.approx(sum(j * chance ** (j - 1) for j in range(1, drafts + 1)), rel=1e-9)
    assert float(yielded(1.0)) == drafts + 1
    assert float(yielded(0.0)) == 1


@pytest.mark.parametrize("widths", [(1, 1, 1), (4, 2, 2), (8,), (2, 2, 2, 2)])
def test_a_tree_yields_what_a_simulation_counts(widths):
    chance, rounds = 0.4, 200_000
    random = np.random.default_rng(7)
    alive, counted = np.ones(rounds, bool), np.ones(rounds)
    for width in widths:
        alive &= (random.random((rounds, width)) < chance).any(axis=1)
        counted += alive
    drawn = tree(_draft(), specs.deployment(), chance, widths)
    assert float(tokens_per_verify(drawn.acceptance)) == pytest.approx(counted.mean(), rel=0.01)
    nodes = 1 + sum(int(np.prod(widths[: level + 1])) for level in range(len(widths)))
    assert float(drawn.verified) == nodes
    # Every node but the leaves is drafted from once: a draft pass a level, on the nodes of the level before.
    assert float(jnp.sum(drawn.rows * drawn.steps)) == nodes - np.prod(widths)


@pytest.mark.slow
def test_a_tree_of_single_candidates_is_a_chain():
    machine, work = specs.system(), specs.workload(batch=4)
    line = chain(_draft(), specs.deployment(tp=2), 0.7, 3.0)
    single = tree(_draft(), specs.deployment(tp=2), 0.7, (1, 1, 1))
    first, second = (speculate_jit(_target(), machine, specs.deployment(tp=2), work, kind) for kind in (line, single))
    assert float(first.metrics.tpot) == pytest.approx(float(second.metrics.tpot), rel=1e-9)
    assert float(any_accepted(0.3, 1.0)) == pytest.approx(0.3)
    assert float(any_accepted(0.3, 3.0)) == pytest.approx(1 - 0.7**3)


FEED_FORWARDS = st.sampled_from([specs.dense(2048), specs.experts(), specs.experts(64, 8, 256, 512)])
ATTENTIONS = st.sampled_from(
    [
        specs.attention(16, 4, 64),
        specs.attention(16, 1, 64),
        specs.attention(16, 16, 64, window_tokens=256),
        specs.latent(16, q_rank=256),
    ]
)
LAYOUTS = st.sampled_from([{}, {"tp": 4}, {"tp": 2, "pp": 2}, {"tp": 2, "attention_dp": 2}, {"tp": 2, "cp": 2}])
WORKLOADS = st.builds(
    specs.workload,
    isl=st.sampled_from([1, 500, 20000]),
    osl=st.sampled_from([2, 500]),
    batch=st.sampled_from([1, 3, 64, 400]),
)
EFFICIENCIES = st.sampled_from(
    [
        {},
        {
            "attention_decode_compute": 0.08,
            "latent_decode_compute": 0.5,
            "attention_prefill_compute": 0.4,
            "gemm_rows_half": 64.0,
            "operator_us": 4.0,
        },
        {"host_step_us": 800.0, "host_sequence_us": 60.0, "gemm_compute": 0.7, "gemm_memory": 0.8},
    ]
)


@st.composite
def drawn_cases(draw):
    layout = draw(LAYOUTS)
    feed_forward = draw(FEED_FORWARDS)
    ranks = layout.get("tp", 1) * layout.get("cp", 1) * layout.get("attention_dp", 1)
    efficiency = draw(EFFICIENCIES)
    deployed = specs.deployment(efficiency, **layout, **({"ep": ranks} if feed_forward.get("experts") else {}))
    own = {key: layout[key] for key in ("tp", "attention_dp") if key in layout}
    return _target(feed_forward, draw(ATTENTIONS)), deployed, specs.deployment(efficiency, **own), draw(WORKLOADS)


@pytest.mark.float64
@settings(max_examples=25)
@given(drawn_cases(), st.floats(0, 1), st.integers(1, 16))
def test_laws_of_speculation(case, chance, drafts):
    target, deployed, own, work = case
    machine = specs.system()

    def run(acceptance):
        return speculate_jit(target, machine, deployed, work, chain(_draft(), own, acceptance, float(drafts)))

    found, never, always = run(chance), run(0.0), run(1.0)
    plain = specs.priced(target, machine, deployed, work)
    assert float(found.speed_up) <= float(found.tokens_per_verify) * SLACK
    assert float(never.speed_up) <= SLACK
    assert float(never.speed_up) <= float(found.speed_up) * SLACK
    assert float(found.speed_up) <= float(always.speed_up) * SLACK
    assert float(always.tokens_per_verify) == drafts + 1
    assert float(found.plain_time) == pytest.approx(float(plain.tpot), rel=1e-9)
    assert float(found.verify_time) * SLACK >= float(plain.tpot)
    assert float(found.metrics.ttft) >= float(plain.ttft)
    assert float(found.metrics.memory.total) > float(plain.memory.total)
    assert float(found.metrics.max_batch) <= float(plain.max_batch)
    assert float(found.metrics.memory.max_context) <= float(plain.memory.max_context)
    assert 0 < float(found.metrics.mbu) <= SLACK
    round_time = float(found.draft_time + found.verify_time)
    assert float(found.metrics.tpot) == pytest.approx(round_time / float(found.tokens_per_verify), rel=1e-9)
    assert float(found.metrics.decode.time) == pytest.approx(round_time, rel=1e-9)


@settings(max_examples=12)
@given(drawn_cases())
def test_a_verify_pass_of_one_token_is_a_decode_step(case):
    target, deployed, own, work = case
    none = speculate_jit(target, specs.system(), deployed, work, chain(_draft(), own, 0.5, 0.0))
    assert float(none.verify_time) == pytest.approx(float(none.plain_time), rel=1e-12)
    assert float(none.draft_time) == 0
    assert float(none.speed_up) == pytest.approx(1.0, rel=1e-12)


def test_memory_bound_decoding_gains_what_the_theorem_says():
    """Theorem 3.8 of Leviathan et al.: τ/(γc + 1), where verifying costs what a decode step costs."""
    target, draft, machine = (
        jaxperf.load_model("llama-3.1-70b"),
        jaxperf.load_model("llama-3.1-8b"),
        jaxperf.load_system("h100-sxm-8"),
    )
    deployed = jaxperf.deployment("llama-3.1-70b", tp=8, efficiency="ideal")
    own = jaxperf.deployment("llama-3.1-8b", tp=8, efficiency="ideal")
    found = speculate_jit(target, machine, deployed, jaxperf.workload(512, 128), chain(draft, own, 0.8, 5.0))
    cost = float(found.draft_time) / 5 / float(found.plain_time)
    assert 0.08 < cost < 0.16  # 8 of 70 billion parameters
    theorem = (1 - 0.8**6) / (1 - 0.8) / (5 * cost + 1)
    assert float(found.speed_up) == pytest.approx(theorem, rel=0.03)
    assert float(found.speed_up) < theorem


def _needed(feed_forward, batch, drafts):
    found = speculate_jit(
        _target(feed_forward),
        specs.system(),
        specs.deployment(),
        specs.workload(4096, 2, batch),
        chain(_draft(), specs.deployment(), 0.0, float(drafts)),
    )
    alone = chain(_draft(), specs.deployment(), 0.0, 0.0)
    plain = speculate_jit(
        _target(feed_forward), specs.system(), specs.deployment(), specs.workload(4096, 2, batch), alone
    )
    return found, plain


def test_a_verify_pass_reads_every_cache_once():
    """Beside a decode step, T tokens read T − 1 more of their own and write T − 1 more; no weight is read twice."""
    found, plain = _needed(None, 8, 4)
    drafts = 4 * _draft_bytes(8)
    token = 8 * 2 * 4 * 64 * 2  # layers, keys and values of 4 heads of 64, bf16
    extra = float(found.metrics.decode.needed_bytes) - float(plain.metrics.decode.needed_bytes) - drafts
    assert extra == pytest.approx(8 * 2 * 4 * token, rel=1e-6)


def _draft_bytes(batch):
    """Bytes of weights and cache of one pass of the draft, from its own `evaluate`."""
    work = specs.workload(4096, 2, batch)
    return float(specs.priced(_draft(), specs.system(), specs.deployment(), work).decode.needed_bytes)


def test_verified_tokens_wake_experts_like_sequences_do():
    """Weights that 4 sequences of 4 verified tokens read = weights that 16 sequences read."""
    moe = specs.experts(64, 4, 512)
    found, _ = _needed(moe, 4, 3)
    token = 8 * 2 * 4 * 64 * 2
    verified = float(found.metrics.decode.needed_bytes) - 3 * _draft_bytes(4) - 4 * (4096 + 4 + 4) * token
    many = specs.priced(_target(moe), specs.system(), specs.deployment(), specs.workload(4096, 2, 16))
    few = specs.priced(_target(moe), specs.system(), specs.deployment(), specs.workload(4096, 2, 4))
    weights = float(many.decode.needed_bytes) - 16 * (4097 + 1) * token
    assert verified == pytest.approx(weights, rel=1e-6)
    assert weights > 1.5 * (float(few.decode.needed_bytes) - 4 * (4097 + 1) * token)


def test_memory_holds_the_draft_and_room_for_drafted_tokens():
    work, machine, deployed = specs.workload(1024, 512, 8), specs.system(), specs.deployment()
    found = speculate_jit(_target(), machine, deployed, work, chain(_draft(), deployed, 0.8, 3.0))
    plain = specs.priced(_target(), machine, deployed, work)
    assert float(found.draft_weights) == pytest.approx(2 * float(parameters(_draft()).total), rel=1e-6)
    more = float(found.metrics.memory.weights) - float(plain.memory.weights)
    assert more == pytest.approx(float(found.draft_weights), rel=1e-6)
    tokens = 1024 + 512 + 4
    caches = [float(kv_cache_bytes(model, deployed, float(tokens))) for model in (_target(), _draft())]
    assert float(found.draft_kv_cache) == pytest.approx(caches[1])
    assert float(found.metrics.memory.kv_cache) == pytest.approx(8 * sum(caches), rel=1e-6)


def test_a_draft_that_does_not_fit_is_out_of_memory():
    tight = specs.system(capacity=0.0065)
    work, deployed = specs.workload(1024, 512, 4), specs.deployment()
    big = specs.model(specs.group(6, specs.attention(16, 4, 64), specs.dense(4096)), hidden=1024)
    plain = specs.priced(_target(), tight, deployed, work)
    found = speculate_jit(_target(), tight, deployed, work, chain(big, deployed, 0.8, 3.0))
    assert float(plain.feasible) == 1
    assert float(found.metrics.feasible) == 0
    assert np.isfinite(float(found.metrics.tpot))


@quick
@jax.value_and_grad
def tpot_with_slopes(variables, target, machine, deployed, work, drawn):
    """TPOT as a function of a chance for every level and a factor on the bandwidth of HBM."""
    chance, factor = variables
    memory = machine.device.memory.tiers[0].bandwidth * factor
    scaled = eqx.tree_at(lambda s: s.device.memory.tiers[0].bandwidth, machine, memory)
    drawn = eqx.tree_at(lambda s: s.acceptance, drawn, drawn.acceptance * chance)
    return speculate(target, scaled, deployed, work, drawn).metrics.tpot


@pytest.mark.float64
def test_derivatives_agree_with_differences():
    deployed, own = specs.deployment(tp=2, ep=2), specs.deployment(tp=2)
    work, levels = specs.workload(2000, 100, 16), chain(_draft(), own, 1.0, 4.0)

    def tpot(*variables):
        variables = tuple(jnp.asarray(value, float) for value in variables)
        return tpot_with_slopes(variables, _target(specs.experts()), specs.system(), deployed, work, levels)

    step = 1e-6
    for chance in (0.0, 0.5, 1.0):
        _, slopes = tpot(chance, 1.0)
        by_chance = (tpot(chance + step, 1.0)[0] - tpot(chance - step, 1.0)[0]) / (2 * step)
        by_bandwidth = (tpot(chance, 1 + step)[0] - tpot(chance, 1 - step)[0]) / (2 * step)
        assert float(slopes[0]) == pytest.approx(float(by_chance), rel=1e-4)
        assert float(slopes[1]) == pytest.approx(float(by_bandwidth), rel=1e-4)
        assert float(slopes[0]) < 0
        assert float(slopes[1]) < 0


def test_the_best_length_is_the_best_of_all():
    deployed = specs.deployment({"gemm_rows_half": 64.0})
    base = chain(_draft(), specs.deployment(), 0.5, 1.0)
    configuration = (_target(count=24), specs.system(), deployed, specs.workload(1000, 200, 8))
    best = quick(lambda *arguments: best_draft_length(*arguments, most=8))
    for chance in (0.3, 0.7, 0.95):
        one_by_one = [
            float(speculate_jit(*configuration, chain(_draft(), specs.deployment(), chance, float(length))).speed_up)
            for length in range(1, 9)
        ]
        length, gain = best(*configuration, base, jnp.asarray(chance))
        assert int(length) == 1 + int(np.argmax(one_by_one))
        assert float(gain) == pytest.approx(max(one_by_one), rel=1e-9)
    length, gain = best(*configuration, base, jnp.asarray(0.0))
    assert (int(length), float(gain)) == (0, 1.0)


def test_multi_token_prediction_of_deepseek_v3():
    """One MTP layer, accepted 85 to 90 % of the time, 1.8 times the tokens a second (DeepSeek-V3 report, section
    5.4.3); the checkpoint holds 14 B parameters of it, its copies of embedding and LM head among them."""
    model = jaxperf.load_model("deepseek-v3")
    deployed = jaxperf.deployment("deepseek-v3", tp=8, ep=8, efficiency="ideal")
    drawn = jaxperf.speculation("deepseek-v3", deployed, 0.85, mtp=1)
    found = speculate_jit(model, jaxperf.load_system("h200-8"), deployed, jaxperf.workload(1024, 1024, 8), drawn)
    assert float(found.tokens_per_verify) == pytest.approx(1.85)
    # 8 sequences are few: twice the tokens wake nearly twice the experts, so the gain stays well below 1.85.
    assert 1 < float(found.speed_up) < 1.8
    alone = jaxperf.deployment("deepseek-v3", weights="fp8", efficiency="ideal")
    single = speculate_jit(
        model,
        jaxperf.load_system("h200-8"),
        alone,
        jaxperf.workload(1024, 1024),
        jaxperf.speculation("deepseek-v3", alone, 0.85, mtp=1),
    )
    projection = 2 * 7168**2
    elements = float(single.draft_weights) - projection  # fp8 is a byte, the projection is in bf16
    assert elements + 2 * 129280 * 7168 == pytest.approx(14e9, rel=0.05)
    layer = prediction_layer(model)
    assert float(layer.layers) == 1
    assert sum(float(g.count * g.feed_forward.experts) for g in layer.groups) == 256


def test_per_level_acceptances_multiply():
    drawn = jaxperf.speculation(
        "deepseek-v3", jaxperf.deployment("deepseek-v3", tp=8, efficiency="ideal"), [0.9, 0.7, 0.5], mtp=3
    )
    assert float(tokens_per_verify(drawn.acceptance)) == pytest.approx(1 + 0.9 + 0.9 * 0.7 + 0.9 * 0.7 * 0.5)
    assert float(drawn.copies) == 1


def test_lengths_and_chances_share_one_program():
    leaves = [
        [
            (leaf.shape, leaf.dtype, leaf.weak_type)
            for leaf in jax.tree.leaves(chain(_draft(), deployed, chance, drafts))
        ]
        for deployed in (specs.deployment(), specs.deployment(tp=4))
        for chance, drafts in ((0.3, 1), (0.9, 7.0), (jnp.asarray(1.0), jnp.asarray(32.0)), ([0.5, 0.4], 2))
    ]
    assert all(found == leaves[0] for found in leaves)
    assert not any(weak for _, _, weak in leaves[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(acceptance=1.2, draft="llama-3.1-8b"), "acceptance: 1.2 is out of range"),
        (dict(acceptance=-0.1, draft="llama-3.1-8b"), "acceptance: -0.1 is out of range"),
        (dict(acceptance=[0.5, 0.4], draft="llama-3.1-8b", length=3), "2 values for 3 drafted levels"),
        (dict(acceptance=0.5, draft="llama-3.1-8b", length=0), "draft length: 0 is out of range"),
        (dict(acceptance=0.5, draft="llama-3.1-8b", length=1000), "draft length: 1000 is out of range"),
        (dict(acceptance=0.5, draft="llama-3.1-8b", tree_widths=(4, 0)), "a width of 0 is out of range"),
        (dict(acceptance=0.5, draft="llama-3.1-8b", tree_widths=(100, 100)), "nodes to verify"),
        (dict(acceptance=0.5, draft="llama-3.1-405b"), "choose a smaller draft model"),
        (dict(acceptance=0.5, draft="llama-2-7b"), "a vocabulary of 32,000 tokens"),
        (dict(acceptance=0.5, draft="llama-3.1-8"), "did you mean 'llama-3.1-8b'"),
        (dict(acceptance=0.5, mtp=1), "no multi-token-prediction layers"),
        (dict(acceptance=0.5), "either a draft model or mtp"),
    ],
)
def test_bad_drafts_are_named(options, message):
    deployed = jaxperf.deployment("llama-3.1-70b", tp=8, efficiency="ideal")
    with pytest.raises(InputError, match=message):
        jaxperf.speculation("llama-3.1-70b", deployed, **options)
