"""Attention that does not see everything (windows that start anew, an indexer's choice, shared caches), and MLA."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxperf
from jaxperf.compiling import quick
from jaxperf.load import evaluate_quick
from jaxperf.ops import EXACT
from jaxperf.phases.end_to_end import evaluate
from jaxperf.spec.model import as_arrays
from jaxperf.stages.shapes import Pass, chunk_pairs

SYSTEM = jaxperf.load_system("gb200-nvl72")


def priced(model, isl=4096, osl=256, batch=8, chunk=None, **engine):
    """Metrics of a model at the physical bound on 8 devices."""
    deployed = jaxperf.deployment("deepseek-v3", tp=8, chunk=chunk, efficiency="ideal")
    deployed = eqx.tree_at(
        lambda d: [getattr(d.engine, n) for n in engine], deployed, [*map(jnp.asarray, engine.values())]
    )
    return evaluate_quick(model, SYSTEM, as_arrays(deployed), jaxperf.workload(isl, osl, batch))


def with_attention(model, **changes):
    """The model with leaves of every layer's attention replaced."""
    groups = tuple(
        eqx.tree_at(
            lambda g: [getattr(g.attention, n) for n in changes],
            group,
            [jnp.asarray(value, group.count.dtype) for value in changes.values()],
        )
        for group in model.groups
    )
    return eqx.tree_at(lambda m: m.groups, model, groups)


def one_pass(tokens, prior):
    return Pass(tokens, tokens, 1.0, tokens, prior, 1.0, 1.0, False)


@given(tokens=st.integers(1, 300), prior=st.integers(0, 300), size=st.integers(1, 90))
@settings(max_examples=60, deadline=None)
def test_pairs_of_chunked_attention_are_counted(tokens, prior, size):
    counted = sum((position % size) + 1 for position in range(prior, prior + tokens))
    found = chunk_pairs(
        jnp.asarray(float(size)),
        one_pass(jnp.asarray(float(tokens)), jnp.asarray(float(prior))),
        jnp.asarray(float(prior)),
    )
    assert float(found) == counted


def test_chunked_attention_never_takes_longer_than_a_sliding_window():
    chunked = jaxperf.load_model("llama-4-scout")
    sliding = with_attention(chunked, chunked=0.0)
    for isl in (4096, 8192, 65536):
        one, other = priced(chunked, isl), priced(sliding, isl)
        assert float(one.ttft) <= float(other.ttft) * (1 + 1e-6)
        assert float(one.tpot) <= float(other.tpot) * (1 + 1e-6)
        assert float(one.memory.kv_cache) == float(other.memory.kv_cache)
    assert float(priced(chunked, 65536).ttft) < 0.98 * float(priced(sliding, 65536).ttft)


def test_an_indexer_bounds_what_a_long_context_costs():
    sparse, dense = jaxperf.load_model("deepseek-v3.2"), jaxperf.load_model("deepseek-v3")
    growth = [float(priced(m, 131072).tpot) - float(priced(m, 8192).tpot) for m in (sparse, dense)]
    # 131072 - 8192 more tokens: index keys of 128 + 4 bytes against a latent of 576 elements of 2 bytes.
    assert growth[0] / growth[1] == pytest.approx(132 / 1152, rel=0.02)


def test_top_k_above_the_context_reads_all_of_it():
    sparse = jaxperf.load_model("deepseek-v3.2")
    free = with_attention(sparse, attended=jnp.inf)
    assert float(priced(sparse, 1024, 256).tpot) == pytest.approx(float(priced(free, 1024, 256).tpot), rel=1e-9)


def test_a_layer_that_shares_a_cache_stores_none_but_reads_it():
    model = jaxperf.load_model("llama-3.1-8b")
    shared = with_attention(model, stored=0.0)
    mine, its = priced(model, 32768), priced(shared, 32768)
    assert float(its.memory.kv_cache) == 0.0
    assert float(its.memory.weights) < float(mine.memory.weights)
    # the reads of the cache stay; its writes, of one token a sequence, and the K/V projections go
    assert 0.9 * float(mine.decode.needed_bytes) < float(its.decode.needed_bytes) < float(mine.decode.needed_bytes)


@pytest.mark.parametrize("chunk", [None, 512])
def test_latent_attention_prefills_in_its_cheaper_form(chunk):
    model = jaxperf.load_model("deepseek-v3")
    times = {
        form: float(priced(model, 16384, chunk=chunk, mla_absorbed=form).prefill.time) for form in (-1.0, 0.0, 1.0)
    }
    assert times[-1.0] <= min(times[0.0], times[1.0]) * (1 + 1e-6)
    assert times[0.0] != times[1.0]


def test_absorbed_latent_attention_pays_at_short_chunks_of_long_prompts():
    model = jaxperf.load_model("deepseek-v3")
    short, whole = (
        [float(priced(model, 32768, chunk=chunk, mla_absorbed=form).prefill.time) for form in (0.0, 1.0)]
        for chunk in (64, None)
    )
    assert short[1] < short[0]  # rebuilding 32k keys and values for 64 new tokens costs more than wide scores
    assert whole[0] < whole[1]


def test_visible_pairs_under_a_limit_are_smooth_in_the_prompt():
    deployed = jaxperf.deployment("deepseek-v3.2", tp=8, efficiency="ideal")
    work = jaxperf.workload(16384, 256, 8)
    model = jaxperf.load_model("deepseek-v3.2")

    def time(isl):
        return evaluate(model, SYSTEM, deployed, eqx.tree_at(lambda w: w.isl, work, isl), EXACT).ttft

    slope = quick(jax.grad(time))(work.isl)
    assert jnp.isfinite(slope) and slope > 0
