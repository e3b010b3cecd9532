"""Prefix caching: what a hit saves, how often it comes, and when loading beats recomputing."""

from __future__ import annotations

from collections import OrderedDict

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import jaxperf
from jaxperf import closed_form
from jaxperf.compiling import quick
from jaxperf.errors import InputError
from jaxperf.phases.end_to_end import evaluate
from jaxperf.phases.handoff import Link
from jaxperf.phases.prefix import capacity_tokens, hit_rate, load_or_recompute, prefix_cache, tier_link, zipf
from jaxperf.spec.deployment import Engine
from jaxperf.stages.memory import kv_elements_per_token

from ..physics import specs

SLACK = 1 + 2e-6


def _hit(work, tokens):
    return eqx.tree_at(lambda w: w.prefix_hit, work, jnp.asarray(tokens, float))


def _model(attention=None, feed_forward=None, count=8):
    attention = specs.attention(16, 4, 64) if attention is None else attention
    return specs.model(specs.group(count, attention, feed_forward or specs.dense(4096)), hidden=1024)


ATTENTIONS = st.sampled_from(
    [
        specs.attention(16, 4, 64),
        specs.attention(16, 16, 64, window_tokens=256),
        specs.latent(16, q_rank=256),
    ]
)
CASES = st.tuples(
    ATTENTIONS,
    st.sampled_from([specs.dense(2048), specs.experts()]),
    st.sampled_from([{}, {"tp": 4}, {"tp": 2, "pp": 2}, {"cp": 2}]),
    st.sampled_from([float("inf"), 128.0, 1000.0]),
    st.sampled_from([2, 700, 20000]),
)


@settings(max_examples=25)
@given(CASES, st.floats(0, 1), st.floats(0, 1))
def test_the_first_token_comes_earlier_the_more_is_found(case, one, other):
    attention, feed_forward, layout, chunk, isl = case
    model, machine = _model(attention, feed_forward), specs.system()
    deployed = specs.deployment(engine=Engine(chunk=chunk), **layout)
    work = specs.workload(isl, 10, 4)
    shorter, longer = sorted(float(int(share * isl)) for share in (one, other))

    def price(tokens):
        return specs.priced(model, machine, deployed, _hit(work, tokens))

    none, few, many, all_found = (price(tokens) for tokens in (0.0, shorter, longer, float(isl)))
    # Chunks that end elsewhere may round a step's work up; a hit of whole chunks never does.
    steps = 1.0 if chunk > isl else 1 + 2 * chunk / isl
    assert float(few.ttft) <= float(none.ttft) * SLACK * steps
    if chunk > isl:
        assert float(many.ttft) <= float(few.ttft) * SLACK
    assert float(all_found.ttft) <= float(many.ttft) * SLACK
    assert float(all_found.ttft) == pytest.approx(float(price(isl - 1.0).ttft), rel=1e-9)
    assert float(many.tpot) == pytest.approx(float(none.tpot), rel=1e-9)
    assert float(many.memory.kv_cache) == pytest.approx(float(none.memory.kv_cache), rel=1e-9)


@quick
def without_caching(model, machine, deployed, work):
    """`evaluate` with a hit that is the number 0, not an array: the program of a scan."""
    return evaluate(model, machine, deployed, eqx.tree_at(lambda w: w.prefix_hit, work, 0))


@settings(max_examples=10)
@given(CASES)
def test_no_hit_is_no_prefix_caching(case):
    attention, feed_forward, layout, chunk, isl = case
    model, deployed = _model(attention, feed_forward), specs.deployment(engine=Engine(chunk=chunk), **layout)
    work = specs.workload(isl, 10, 4)
    traced = specs.priced(model, specs.system(), deployed, _hit(work, 0.0))
    plain = without_caching(model, specs.system(), deployed, work)
    for mine, other in zip(jax.tree.leaves(traced), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(other), rtol=1e-12)


@pytest.mark.parametrize("hit", [1, 100, 512, 1000, 1023])
def test_the_work_of_a_prefix_and_of_its_suffix_is_the_work_of_the_prompt(hit):
    """FLOPs add up, but for the LM head, which both parts run for their last token."""
    machine, deployed = specs.system(), specs.deployment()
    whole = specs.priced(_model(), machine, deployed, specs.workload(1024, 1))
    prefix = specs.priced(_model(), machine, deployed, specs.workload(hit, 1))
    suffix = specs.priced(_model(), machine, deployed, _hit(specs.workload(1024, 1), hit))
    head = 2 * 32000 * 1024
    parts = float(prefix.prefill.flops) + float(suffix.prefill.flops) - head
    assert parts == pytest.approx(float(whole.prefill.flops), rel=1e-9)


def test_a_hit_of_one_chunk_leaves_the_later_chunks():
    """Two chunks are the first chunk by itself, then the second after a hit (one stage; LM head once more)."""
    machine, deployed = specs.system(), specs.deployment(engine=Engine(chunk=512.0))
    both = specs.priced(_model(), machine, deployed, specs.workload(1024, 1))
    first = specs.priced(_model(), machine, deployed, specs.workload(512, 1))
    second = specs.priced(_model(), machine, deployed, _hit(specs.workload(1024, 1), 512))
    head = float(first.prefill.time) + float(second.prefill.time) - float(both.prefill.time)
    matrix = 2 * 32000 * 1024 / (3.35e12)  # bytes of the LM head in bf16 over the bandwidth of HBM
    assert matrix < head < 1.2 * matrix


@quick
@jax.value_and_grad
def ttft_with_slope(tokens, model, machine, deployed, work):
    """TTFT as a function of the hit."""
    return evaluate(model, machine, deployed, _hit(work, tokens)).ttft


@pytest.mark.float64
def test_the_derivative_by_the_hit_agrees_with_differences():
    configuration = (_model(), specs.system(), specs.deployment(), specs.workload(30000, 10))
    _, slope = ttft_with_slope(10000.0, *configuration)
    later, sooner = (ttft_with_slope(tokens, *configuration)[0] for tokens in (9999.0, 10001.0))
    assert float(slope) == pytest.approx(float(sooner - later) / 2, rel=1e-6)
    assert float(slope) < 0


@pytest.mark.parametrize(
    ("exponent", "items", "capacity"), [(0.8, 10000, 500), (1.0, 1000, 50), (1.2, 100, 10), (0.0, 200, 50)]
)
def test_che_agrees_with_a_simulated_cache(exponent, items, capacity):
    random = np.random.default_rng(3)
    chance = np.arange(1, items + 1) ** -exponent
    requests, cache, hits = random.choice(items, 200_000, p=chance / chance.sum()), OrderedDict(), 0
    for place, item in enumerate(requests):
        if item in cache:
            cache.move_to_end(item)
            hits += place >= 50_000
        else:
            cache[item] = True
            if len(cache) > capacity:
                cache.popitem(last=False)
    found = hit_rate(zipf(exponent, float(items)), float(capacity))
    assert float(found.probability) == pytest.approx(hits / 150_000, abs=0.004)


def _che(exponent, items, capacity):
    """Che's approximation with every rank by itself, in NumPy."""
    chance = np.arange(1, items + 1) ** -exponent
    chance = chance / chance.sum()
    low, high = np.log(capacity), np.log(capacity) + 60
    for _ in range(200):
        middle = (low + high) / 2
        short = -np.expm1(-chance * np.exp(middle)).sum() < capacity
        low, high = (middle, high) if short else (low, middle)
    return float((chance * -np.expm1(-chance * np.exp(low))).sum())


@settings(max_examples=25)
@given(st.floats(0, 1.5), st.integers(2, 300_000), st.floats(0.0005, 0.95))
def test_grouped_ranks_are_as_good_as_single_ones(exponent, items, share):
    capacity = max(share * items, 0.5)
    assume(capacity < items)
    found = float(hit_rate(zipf(exponent, float(items)), capacity).probability)
    assert found == pytest.approx(_che(exponent, items, capacity), abs=1e-4)
    assert found <= float(hit_rate(zipf(exponent, float(items)), capacity * 1.01).probability) * SLACK
    assert found >= min(capacity / items, 1) / SLACK  # popularity never hurts a cache


def test_hit_rates_at_their_ends():
    assert float(hit_rate(zipf(0.0, 1000.0), 250.0).probability) == pytest.approx(0.25, rel=1e-9)
    assert float(hit_rate(zipf(0.9, 1000.0), 1000.0).probability) == 1
    assert float(hit_rate(zipf(0.9, 1000.0), 5000.0).probability) == 1
    assert np.isinf(float(hit_rate(zipf(0.9, 1000.0), 5000.0).requests))
    assert 0 < float(hit_rate(zipf(0.9, 1000.0), 1e-3).probability) < 1e-3


@pytest.mark.float64
def test_derivatives_of_the_hit_rate_agree_with_differences():
    rate = quick(lambda s, n, c: hit_rate(zipf(s, n), c).probability)
    slopes = jax.grad(rate, argnums=(0, 1, 2))(0.9, 5000.0, 400.0)
    for index, step in enumerate((1e-4, 0.5, 0.05)):
        high, low = ([0.9, 5000.0, 400.0] for _ in range(2))
        high[index] += step
        low[index] -= step
        assert float(slopes[index]) == pytest.approx(float(rate(*high) - rate(*low)) / (2 * step), rel=1e-4)


def test_a_cache_of_prefixes_in_bytes():
    """Llama 3.1 70B takes 2·80·8·128·2 = 327,680 bytes a token."""
    model, deployed = jaxperf.load_model("llama-3.1-70b"), jaxperf.deployment("llama-3.1-70b", tp=8, efficiency="ideal")
    cache = prefix_cache(model, deployed, 1.0, 1000.0, 2048.0, 50 * 2048.0)
    assert float(cache.kv_bytes) == pytest.approx(50 * 2048 * 327680)
    assert float(cache.probability) == pytest.approx(_che(1.0, 1000, 50), abs=1e-6)
    assert float(cache.hit_tokens) == pytest.approx(2048 * float(cache.probability))
    assert float(capacity_tokens(model, deployed, 50 * 2048 * 327680.0, 2048.0)) == pytest.approx(50 * 2048)
    more = prefix_cache(model, deployed, 1.0, 10.0, 2048.0, 50 * 2048.0)
    assert (float(more.probability), float(more.kv_bytes)) == (1, pytest.approx(10 * 2048 * 327680))


load_jit = quick(load_or_recompute)


def _loading(hit, bandwidth, alpha=0.0, streams=1.0, isl=8192.0):
    model, deployed = jaxperf.load_model("llama-3.1-70b"), jaxperf.deployment("llama-3.1-70b", tp=8, efficiency="ideal")
    work = jaxperf.workload(isl, 128, prefix_hit=hit)
    link = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), Link(alpha, bandwidth, streams))
    return load_jit(model, jaxperf.load_system("h100-sxm-8"), deployed, work, link)


def test_loading_takes_the_bytes_over_the_link():
    found = _loading(4096, 50e9, 1e-3)
    assert float(found.size) == pytest.approx(4096 * 327680)
    assert float(found.load_time) == pytest.approx(1e-3 + 4096 * 327680 / 50e9)
    spread = _loading(4096, 50e9, 0.0, 8.0)
    assert float(spread.load_time) == pytest.approx(4096 * 327680 / 50e9 / 8)


def test_loading_pays_above_the_bandwidth_of_the_closed_form():
    """kv·R/f (Mooncake, FAST 2025): a compute-bound prefill of 8 devices without communication; attention's own FLOPs
    and collectives make recomputing dearer, so the closed form is an upper bound of the bandwidth needed."""
    threshold = float(closed_form.loading_bandwidth(327680.0, 2 * 68.5e9, 8 * 989.5e12))
    fast, slow = _loading(4096, 1.05 * threshold), _loading(4096, 0.2 * threshold)
    assert (float(fast.pays), float(slow.pays)) == (1, 0)
    assert float(fast.load_time) < float(fast.recompute_time)
    assert np.isinf(float(slow.break_even))


def test_at_the_break_even_length_both_take_the_same_time():
    first = _loading(4096, 60e9, 5e-3)
    length = float(first.break_even)
    assert 10 < length < 4096
    even = _loading(length, 60e9, 5e-3)
    assert float(even.load_time) == pytest.approx(float(even.recompute_time), rel=0.02)
    assert float(_loading(2 * length, 60e9, 5e-3).pays) == 1
    assert float(_loading(0.5 * length, 60e9, 5e-3).pays) == 0
    assert float(first.recompute_time) == pytest.approx(_saved(4096), rel=1e-6)


def _saved(hit):
    """What a hit saves, by two calls of `estimate`."""
    calls = [
        jaxperf.estimate("llama-3.1-70b", "h100-sxm-8", tp=8, efficiency="ideal", isl=8192, osl=128, prefix_hit=tokens)
        for tokens in (0, hit)
    ]
    return float(calls[0].ttft) - float(calls[1].ttft)


def test_host_memory_is_read_by_every_device_at_once():
    deployed = jaxperf.deployment("llama-3.1-70b", tp=8, efficiency="ideal")
    host = jaxperf.load_system("h100-sxm-8").device.memory.tiers[1]
    link = tier_link(host, deployed)
    assert float(link.bandwidth * link.streams) == pytest.approx(8 * 63e9)
    found = _loading(4096, float(link.bandwidth), 0.0, float(link.streams))
    assert float(found.load_time) == pytest.approx(4096 * 327680 / (8 * 63e9))
    elements = kv_elements_per_token(jaxperf.load_model("llama-3.1-70b"))
    assert float(elements) * 2 == 327680


def test_a_hit_longer_than_the_prompt_is_refused():
    with pytest.raises(InputError, match="prefix_hit: 2000 is out of range; choose 0 to 1024"):
        jaxperf.workload(1024, 10, prefix_hit=2000)
    with pytest.raises(InputError, match="prefix_hit: -1 is out of range"):
        jaxperf.workload(1024, 10, prefix_hit=-1)
