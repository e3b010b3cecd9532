"""Layers beyond plain attention: state space, compressed caches, experts in a latent, irregular places."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxperf.ops import EXACT
from jaxperf.spec.model import as_arrays, build_model
from jaxperf.stages.memory import (
    index_bytes_per_token,
    kv_elements_per_token,
    layer_kv_bytes,
    layer_parameters,
    parameters,
)
from jaxperf.stages.shapes import attention_shape, stage_shares

from . import specs

STATE_SPACE = dict(
    kind="state-space",
    head_size=64,
    value_head_size=32,
    state_key_heads=4,
    state_value_heads=16,
    convolution_width=4,
    convolution_bias=True,
)
COMPRESSED = dict(kind="compressed", query_heads=8, head_size=64, q_rank=96, output_rank=32, output_groups=4)
GATED_LATENT = specs.latent(q_rank=96, output_gate=True)
SHARED_VALUES = specs.attention(8, 2, 64, value_from_key=True)
KINDS = {
    "state space": STATE_SPACE,
    "compressed": COMPRESSED
    | dict(compression=4, recent_tokens=128, index_head_size=16, index_heads=2, index_top_k=64),
    "gated latent": GATED_LATENT,
    "shared values": SHARED_VALUES,
}


def _model(attention: dict, feed_forward: dict | None = None, count: int = 1):
    chosen = {"kind": "none"} if feed_forward is None else feed_forward
    return build_model(specs.model_document(specs.group(count, attention, chosen)))


def _cache(attention: dict, tokens: float, tp: int = 1) -> float:
    group = as_arrays(_model(attention)).groups[0]
    return float(layer_kv_bytes(group, jnp.asarray(float(tokens)), specs.deployment(tp=tp), EXACT))


def test_the_state_does_not_grow_with_the_context():
    state = 16 * 32 * 64 * 4 + 3 * (16 * 32 + 2 * 4 * 64) * 2
    assert _cache(STATE_SPACE, 100) == _cache(STATE_SPACE, 1_000_000) == state
    assert _cache(STATE_SPACE, 100, tp=4) == state / 4


def test_mamba_2_flops_a_token():
    group = as_arrays(_model(STATE_SPACE)).groups[0]
    shape = attention_shape(group.attention, jnp.asarray(512.0), jnp.asarray(1.0), 1.0, EXACT)
    assert float(shape.state_flops) == 6 * 16 * 32 * 64
    assert float(shape.qkv_n) == 2 * 16 * 32 + 2 * 4 * 64 + 16
    assert float(shape.out_k) == 16 * 32


@pytest.mark.parametrize("tokens", [64, 128, 1024, 65536])
def test_a_compressed_cache_holds_its_entries_and_the_recent_tokens(tokens: int):
    """S/4 entries of key and index, and the last 128 tokens without an index, in blocks of 16 tokens each."""
    held = tokens / 4 * (64 * 2 + 16 + 4) + min(tokens, 128) * 64 * 2
    assert _cache(KINDS["compressed"], tokens) == pytest.approx(held, rel=0.02)
    assert kv_elements_per_token(_model(KINDS["compressed"])) == 64 / 4
    assert index_bytes_per_token(_model(KINDS["compressed"])) == (16 + 4) / 4


def test_compressed_parameters():
    """Queries through a rank, one key that is the value, an output in two steps, two norms."""
    total = layer_parameters(_model(COMPRESSED).groups[0], 512)
    expected = 512 * 96 + 96 * 8 * 64 + 512 * 64 + 32 * 8 * 64 + 4 * 32 * 512 + 96 + 64
    assert total.attention + total.key_value + total.replicated == expected


def test_values_from_keys_save_a_projection_but_no_cache():
    apart, shared = _model(specs.attention(8, 2, 64)), _model(SHARED_VALUES)
    assert parameters(apart).total - parameters(shared).total == 512 * 2 * 64
    assert kv_elements_per_token(apart) == kv_elements_per_token(shared)


def test_an_output_gate_on_latent_attention():
    plain, gated = _model(specs.latent(q_rank=96)), _model(GATED_LATENT)
    assert parameters(gated).total - parameters(plain).total == 512 * 8 * 64


def test_experts_in_a_latent():
    """Each expert shrinks to the latent; two projections are added for all of them."""
    wide = specs.experts(count=16, chosen=2, width=512, shared=256)
    full, narrow = (_model(specs.attention(), part) for part in (wide, wide | dict(latent_size=128)))
    assert parameters(full).total - parameters(narrow).total == 16 * 3 * 512 * (512 - 128) - 2 * 512 * 128
    assert parameters(full).active - parameters(narrow).active == 2 * 3 * 512 * (512 - 128) - 2 * 512 * 128


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_priced(kind: str):
    """Through the whole model: finite, and more work takes more time."""
    layers = specs.group(4, KINDS[kind], specs.experts(shared=256) | dict(latent_size=128))
    described, machine = specs.model(layers), specs.system()
    deployed = specs.deployment(tp=2)
    few, many = (specs.priced(described, machine, deployed, specs.workload(batch=batch)) for batch in (4.0, 64.0))
    for metrics in (few, many):
        assert 0 < float(metrics.mfu) <= 1.0001 and 0 < float(metrics.mbu) <= 1.0001
    assert 0 < float(few.tpot) < float(many.tpot)
    assert float(few.ttft) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_shapes_are_finite(kind: str):
    described = as_arrays(_model(KINDS[kind], specs.experts(shared=256) | dict(latent_size=128)))
    deployed = specs.deployment(tp=2)

    def total(group):
        counts = layer_parameters(group, described.hidden_size)
        shape = attention_shape(group.attention, described.hidden_size, deployed.parallelism.tp, 1.0, EXACT)
        cache = layer_kv_bytes(group, jnp.asarray(1000.0), deployed, EXACT)
        return sum(jax.tree.leaves(counts)) + sum(jax.tree.leaves(shape)) + cache

    finite = eqx.tree_at(lambda g: g.attention.window, described.groups[0], jnp.asarray(4096.0))
    for leaf in jax.tree.leaves(jax.grad(total)(finite)):
        assert np.isfinite(np.asarray(leaf)).all()


def test_listed_layers_are_spread_over_stages_and_none_is_lost():
    """Irregular places count once in all, and the first and the last stage hold theirs."""
    places = {"a": [0, 2, 4, 6, 9, 11], "b": [1, 3, 5, 8, 10], "c": [7]}
    groups = [
        specs.group(len(at), specs.attention(8 * number), specs.dense(), layers=at)
        for number, at in enumerate(places.values(), start=1)
    ]
    described = specs.model(*groups)
    for stages in (1, 2, 3, 4, 6):
        for group, at in zip(described.groups, places.values(), strict=False):
            shares = stage_shares(group, jnp.asarray(12.0), jnp.asarray(float(stages)), EXACT)
            size = 12 // stages
            assert float(shares[0]) == sum(place < size for place in at)
            assert float(shares[-1]) == sum(place >= 12 - size for place in at)
