"""Recurrent layers, residuals of several streams and caches with recent tokens, against loops in NumPy and Python."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxperf
from jaxperf.compiling import quick
from jaxperf.constants import PLACE_BITS, PLACE_WORDS
from jaxperf.errors import InputError
from jaxperf.load import evaluate_quick
from jaxperf.ops import EXACT
from jaxperf.phases.breakdown import breakdown
from jaxperf.spec.documents.model import group_places
from jaxperf.spec.implied import place_words
from jaxperf.spec.library import find, names, validate
from jaxperf.spec.model import as_arrays, build_model, stack_groups, without_places
from jaxperf.stages.flops import attention_flops, recent_pairs
from jaxperf.stages.latency import attention_timing
from jaxperf.stages.memory import layer_kv_bytes, layer_weight_bytes, parameters
from jaxperf.stages.operators import AttentionCore
from jaxperf.stages.plan import make_plan
from jaxperf.stages.shapes import CANDIDATES, Pass, attention_shape, layers_below, stage_shares
from jaxperf.stages.traffic import attention_bytes

from . import specs

SYSTEM = jaxperf.load_system("gb200-nvl72")
BREAKDOWN = quick(breakdown)


@quick
def STAGES(model, counts):
    """Layers of every group in every candidate, [counts, groups, candidates]."""
    groups = stack_groups(model)
    return jax.vmap(lambda count: jax.vmap(lambda group: stage_shares(group, model.layers, count, EXACT))(groups))(
        counts
    )


class Counted:
    """Matrix products that count their FLOPs: 2·m·k·n each."""

    def __init__(self) -> None:
        self.flops = 0.0

    def __call__(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        self.flops += 2.0 * left.shape[0] * left.shape[1] * right.shape[1]
        return left @ right


def _delta_token_by_token(q, k, v, beta):
    state, outputs = np.zeros((k.shape[1], v.shape[1])), []
    for query, key, value, share in zip(q, k, v, beta, strict=True):
        state = state + share * np.outer(key, value - key @ state)
        outputs.append(query @ state)
    return np.stack(outputs), state


def _delta_in_one_chunk(q, k, v, beta, state, product):
    """The delta rule over a chunk in WY form; the inversion is counted as C³/3."""
    size = len(k)
    below = np.tril(beta[:, None] * product(k, k.T), -1)
    inverse = np.linalg.inv(np.eye(size) + below)
    product.flops += size**3 / 3
    keys, values = product(inverse, beta[:, None] * k), product(inverse, beta[:, None] * v)
    corrected = values - product(keys, state)
    outputs = product(q, state) + product(np.tril(product(q, k.T)), corrected)
    return outputs, state + product(k.T, corrected)


@pytest.mark.parametrize("dk, dv, chunk", [(128, 128, 64), (64, 32, 16), (16, 48, 128)])
def test_flops_of_a_delta_rule_in_chunks_are_those_of_the_algorithm(dk: int, dv: int, chunk: int):
    """The chunked form gives what token by token gives, and its products are what a value head costs."""
    rng = np.random.default_rng(dk)
    q, k = (rng.normal(size=(2 * chunk, dk)) / dk**0.5 for _ in range(2))
    v, beta = rng.normal(size=(2 * chunk, dv)), rng.uniform(0.1, 0.9, 2 * chunk)
    product, state, outputs = Counted(), np.zeros((dk, dv)), []
    for part in (slice(0, chunk), slice(chunk, None)):
        output, state = _delta_in_one_chunk(q[part], k[part], v[part], beta[part], state, product)
        outputs.append(output)
    wanted, last = _delta_token_by_token(q, k, v, beta)
    np.testing.assert_allclose(np.concatenate(outputs), wanted, atol=1e-9)
    np.testing.assert_allclose(state, last, atol=1e-9)
    layer = dict(kind="linear", head_size=dk, value_head_size=dv, state_key_heads=2, state_value_heads=4)
    attention = _model(layer | dict(state_chunk_tokens=chunk)).groups[0].attention
    assert float(attention.chunk_operations) == pytest.approx(product.flops / (2 * chunk), rel=1e-6)


@pytest.mark.parametrize("size, width, chunk", [(128, 64, 128), (32, 16, 256)])
def test_flops_of_mamba_2_in_chunks_are_those_of_the_algorithm(size: int, width: int, chunk: int):
    """State-space duality without decay: 6 heads share the scores of each of 2 groups."""
    heads, groups = 6, 2
    rng, product = np.random.default_rng(size), Counted()
    for _ in range(groups):
        b, c = rng.normal(size=(chunk, size)), rng.normal(size=(chunk, size))
        scores = np.tril(product(c, b.T))
        for _ in range(heads // groups):
            x, state = rng.normal(size=(chunk, width)), rng.normal(size=(size, width))
            output, after = product(scores, x) + product(c, state), state + product(b.T, x)
            wanted = np.stack([c[t] @ (state + b[: t + 1].T @ x[: t + 1]) for t in range(chunk)])
            np.testing.assert_allclose(output, wanted, rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(after, state + b.T @ x, rtol=1e-12)
    layer = dict(kind="state-space", head_size=size, value_head_size=width, state_key_heads=groups)
    attention = _model(layer | dict(state_value_heads=heads, state_chunk_tokens=chunk)).groups[0].attention
    assert float(attention.chunk_operations) == pytest.approx(product.flops / (chunk * heads), rel=1e-6)


def _model(attention: dict, **more):
    return as_arrays(build_model(specs.model_document(specs.group(1, attention, specs.dense())) | more))


def _rows(name: str, batch: float, **more):
    model = jaxperf.load_model(name)
    deployed = as_arrays(jaxperf.deployment(name, tp=8, efficiency="ideal", **more))
    return model, BREAKDOWN(model, SYSTEM, deployed, as_arrays(jaxperf.workload(4096, 256, batch)))


@pytest.mark.parametrize(
    "name, layers, keys, values",
    [
        ("qwen3.5-397b-a17b", 45, 16 * 128, 64 * 128),
        ("kimi-k3", 69, 96 * 128, 96 * 128),
        ("nemotron-h-56b", 54, 8 * 256, 256 * 64),
    ],
)
def test_a_decode_step_moves_state_and_convolution(name: str, layers: int, keys: int, values: int):
    """Per token and rank of 8, 2 bytes an element: convolution in and out, three values of the gated norm; the core
    reads queries, keys and values and writes the values; state of 4 bytes and three inputs there and back."""
    batch = 24
    _, phases = _rows(name, float(batch))
    mixed, gated = (2 * keys + values) / 8, values / 8
    row = phases["decode"]["convolution, gated norm"]
    assert float(row.count) == layers
    assert float(row.activations_bytes) == pytest.approx(layers * batch * (2 * mixed + 3 * gated) * 2, rel=1e-6)
    document = find("model", name).document
    recurrent = next(g["attention"] for g in document["layer_groups"] if g["attention"]["kind"] != "latent")
    state = recurrent["state_value_heads"] * recurrent["head_size"] * recurrent["value_head_size"] / 8
    moved = 2 * (4 * state + 2 * (recurrent["convolution_width"] - 1) * mixed)
    core = phases["decode"]["attention"]
    assert float(core.kv_cache_bytes) > layers * batch * moved
    only = attention_bytes(_core(name, tp=8), _step(batch), jnp.asarray(4096.0), EXACT)
    assert float(only.kv_cache) == pytest.approx(batch * moved, rel=1e-6)
    assert float(only.activations) == pytest.approx(batch * (mixed + gated) * 2, rel=1e-6)


def _step(batch: float) -> Pass:
    return Pass(*jnp.asarray([batch, batch, batch, 1.0, 4096.0, 1.0, batch]), decode=True)


def _core(name: str, tp: float, group: int = 0) -> AttentionCore:
    """The core of a group's layers, in bf16, as the operator table has it."""
    model = jaxperf.load_model(name)
    attention = model.groups[group].attention
    shape = attention_shape(attention, model.hidden_size, jnp.asarray(tp), jnp.asarray(1.0), EXACT)
    return AttentionCore(
        attention.present,
        shape,
        attention.window,
        jnp.asarray(2.0),
        jnp.asarray(2.0),
        jnp.asarray(1.0),
        jnp.asarray(0.5),
        jnp.asarray(1e15),
        attention.attended,
        2 * attention.index_size * attention.kept_share,
        attention.index_bytes * attention.kept_share,
        attention.chunked,
        attention.stored,
        attention.recent,
        1 / attention.kept_share,
    )


def test_a_verify_pass_writes_a_state_after_each_drafted_token():
    """One is read, as many are written as tokens may be the last accepted; as many are kept."""
    core, batch = _core("nemotron-h-56b", tp=8), 4
    one, five = (
        attention_bytes(core, eqx.tree_at(lambda w: w.new_tokens, _step(batch), jnp.asarray(t)), 4096.0, EXACT)
        for t in (1.0, 5.0)
    )
    assert float(five.kv_cache / one.kv_cache) == pytest.approx(6 / 2)
    group = jaxperf.load_model("nemotron-h-56b").groups[0]
    deployed = as_arrays(jaxperf.deployment("nemotron-h-56b", tp=8, efficiency="ideal"))
    held = [float(layer_kv_bytes(group, jnp.asarray(100.0), deployed, EXACT, jnp.asarray(n))) for n in (1.0, 5.0)]
    assert held[1] == pytest.approx(5 * held[0])


@pytest.mark.parametrize("name, heads, tp", [("nemotron-h-56b", 8, 32), ("qwen3.5-397b-a17b", 16, 32)])
def test_key_heads_shard_at_most_so_many_ways(name: str, heads: int, tp: int):
    """Beyond, every rank has one whole key head: in its projection, its convolution and its weights."""
    document = next(g for g in find("model", name).document["layer_groups"] if g["attention"]["state_key_heads"])
    layer, model = document["attention"], jaxperf.load_model(name)
    assert layer["state_key_heads"] == heads
    values = layer["state_value_heads"] * (layer["value_head_size"] or layer["head_size"]) / tp
    mixed = 2 * layer["head_size"] + values
    shape = _core(name, tp=float(tp)).shape
    assert float(shape.mixed_elements) == mixed
    gates = 1 if layer["kind"] == "state-space" else 2
    assert float(shape.qkv_n) == mixed + values + gates * layer["state_value_heads"] / tp
    wide, narrow = (
        float(layer_weight_bytes(model.groups[0], model.hidden_size, specs.deployment(tp=float(n)), EXACT))
        for n in (heads, tp)
    )
    keys = 2 * layer["head_size"] * (float(model.hidden_size) + layer["convolution_width"]) * 2
    assert narrow > keys and wide - narrow < wide - keys


def test_streams_cross_stages_and_take_room():
    """Four streams: four times the bytes of a hop, and three more vectors a row of the chunk in memory."""
    model = jaxperf.load_model("deepseek-v4-pro")
    plain = eqx.tree_at(lambda m: (m.boundary_vectors, m.live_vectors), model, (jnp.asarray(1.0), jnp.asarray(1.0)))
    assert float(model.boundary_vectors) == float(model.live_vectors) == 4
    free = eqx.tree_at(lambda s: [t.alpha for t in s.fabric], SYSTEM, [0.0 * t.alpha for t in SYSTEM.fabric])
    deployed = as_arrays(jaxperf.deployment("deepseek-v4-pro", tp=4, ep=4, pp=4, efficiency="ideal"))
    work = as_arrays(jaxperf.workload(8192, 256, 64))
    hops = [float(BREAKDOWN(m, free, deployed, work)["prefill"]["pipeline hops"].time) for m in (model, plain)]
    assert hops[0] == pytest.approx(4 * hops[1], rel=1e-3)
    rooms = [float(evaluate_quick(m, SYSTEM, deployed, work).memory.activations) for m in (model, plain)]
    assert rooms[0] - rooms[1] == pytest.approx(3 * 8192 * 7168 * 2, rel=1e-6)
    kimi = jaxperf.load_model("kimi-k3")
    assert (float(kimi.boundary_vectors), float(kimi.live_vectors)) == (1 + 8 / 2, 1 + 8)


def test_queries_of_compressed_attention_move_at_their_own_size():
    """Queries of 512 elements and outputs of 512, of 128 heads, whatever 128 tokens of the cache take."""
    moved = attention_bytes(_core("deepseek-v4-pro", tp=1), _step(1.0), jnp.asarray(4096.0), EXACT)
    assert float(moved.activations) == 128 * (512 + 512) * 2


@pytest.mark.parametrize("size, chunks, prior", [(32, 8, 0), (32, 3, 0), (64, 4, 100), (200, 3, 0), (1, 300, 0)])
def test_recent_tokens_of_short_chunks_are_counted_one_chunk_at_a_time(size: int, chunks: int, prior: int):
    whole = _prompt(float(size), float(prior), float(chunks))
    core = eqx.tree_at(lambda c: c.index_bytes, _core("deepseek-v4-pro", tp=1.0), jnp.asarray(0.0))
    none = eqx.tree_at(lambda c: c.recent, core, jnp.asarray(0.0))
    with_, without = (attention_bytes(c, whole, whole.prior, EXACT).kv_cache for c in (core, none))
    read = sum(min(prior + n * size, 127) + size for n in range(chunks)) / chunks + min(size, 128)
    assert float(with_ - without) == pytest.approx(read * 512 * 2, rel=1e-6)


def test_plain_numbers_are_counted_in_reals():
    """A model of Python integers gives what one of arrays gives, also where a product of them leaves 32 bits."""
    document = specs.model_document(specs.group(2, specs.attention(), specs.dense()), hidden=16384, vocabulary=262144)
    deployed, work = as_arrays(specs.deployment()), as_arrays(specs.workload())
    one, other = (
        evaluate_quick(model, SYSTEM, deployed, work).memory.weights
        for model in (build_model(document), as_arrays(build_model(document)))
    )
    assert float(one) == pytest.approx(float(other), rel=1e-6)
    assert float(other) > 2 * 2 * 262144 * 16384


def test_prefill_of_a_recurrent_layer_grows_with_the_prompt_alone():
    """Twice the tokens, twice the FLOPs; a chunk costs more than token by token would, by the products inside it."""
    core = _core("qwen3.5-397b-a17b", tp=1)
    counts = [attention_flops(core, _prompt(tokens), jnp.asarray(0.0), EXACT) for tokens in (2048.0, 4096.0)]
    assert float(counts[1] / counts[0]) == pytest.approx(2.0)
    a_token = 64 * (6 * 128 * 128 + 64 * 10 * 128 + 64**2 / 3)
    assert float(counts[0]) == pytest.approx(2048 * a_token, rel=1e-6)


def _prompt(tokens: float, prior: float = 0.0, chunks: float = 1.0) -> Pass:
    return Pass(*jnp.asarray([tokens, tokens, 1.0, tokens, prior, chunks, 1.0]), decode=False)


@given(tokens=st.integers(1, 400), prior=st.sampled_from([0, 1, 60, 128, 1000]), top=st.sampled_from([None, 16, 64]))
@settings(max_examples=40, deadline=None)
def test_scores_of_compressed_attention_are_counted_one_query_at_a_time(tokens: int, prior: int, top: int | None):
    """Entries of 4 tokens, the chosen ones or all, and the recent tokens one by one."""
    layer = dict(kind="compressed", query_heads=8, head_size=64, q_rank=96, output_rank=32, output_groups=4)
    layer |= dict(compression=4, recent_tokens=128)
    if top:
        layer |= dict(index_head_size=16, index_heads=2, index_top_k=top)
    model = _model(layer)
    attention = model.groups[0].attention
    shape = attention_shape(attention, model.hidden_size, jnp.asarray(1.0), jnp.asarray(1.0), EXACT)
    core = _core("deepseek-v4-pro", tp=1.0)
    core = eqx.tree_at(
        lambda c: (c.shape, c.attended, c.recent, c.recent_weight, c.index_flops),
        core,
        (shape, attention.attended, attention.recent, 1 / attention.kept_share, jnp.asarray(0.0)),
    )
    reach = float("inf") if top is None else 4 * top
    scored = sum(min(prior + i, reach) / 4 + min(prior + i, 128) for i in range(1, tokens + 1))
    found = attention_flops(core, _prompt(float(tokens), float(prior)), jnp.asarray(float(prior)), EXACT)
    assert float(found) == pytest.approx(scored * 2 * (64 + 64) * 8, rel=1e-5)


@pytest.mark.parametrize("size, chunks, prior", [(512, 7, 0), (200, 5, 40), (2048, 3, 4096)])
def test_chunks_of_compressed_attention_add_up(size: int, chunks: int, prior: int):
    """The closed form over chunks has the FLOPs and recent pairs of a loop over them."""
    core = _core("deepseek-v4-pro", tp=1.0, group=3)
    whole = _prompt(float(size), float(prior), float(chunks))
    pairs = chunks * recent_pairs(core, whole, EXACT) / core.recent_weight
    assert float(pairs) == pytest.approx(sum(min(prior + i, 128) for i in range(1, size * chunks + 1)), rel=1e-5)
    found = attention_timing(core, _plan("deepseek-v4-pro"), whole, EXACT)
    one_by_one = sum(
        float(attention_flops(core, _prompt(float(size), start), jnp.asarray(start), EXACT))
        for start in (float(prior + size * index) for index in range(chunks))
    )
    assert float(found.flops) == pytest.approx(one_by_one, rel=2e-3)  # the chunk in which top-k fills is one of them


@functools.cache
def _plan(name):
    model = jaxperf.load_model(name)
    deployed = as_arrays(jaxperf.deployment(name, tp=1, efficiency="ideal"))
    return make_plan(model, stack_groups(model), SYSTEM, deployed, EXACT)


@pytest.mark.parametrize("name, vectors", [("deepseek-v4-pro", 18.0), ("kimi-k3", 5 + 8 / 24), ("llama-3.1-8b", 4.0)])
def test_residuals_move_as_many_vectors_as_published(name: str, vectors: float):
    """4n + 2 (arXiv:2512.24880, Table 2 with its fused kernel), N/S + 5 (arXiv:2603.15031, Table 1), and 4."""
    model, phases = _rows(name, 8.0)
    assert float(model.groups[0].residual_vectors) == pytest.approx(vectors)
    norms = phases["decode"]["norm, rope, quantise"]
    least = 2 * float(model.layers) * vectors * float(model.hidden_size) * 2 * 8
    assert least <= float(norms.activations_bytes) < 1.6 * least


@pytest.mark.parametrize("name", names("model"))
def test_every_projection_is_multiplied(name: str):
    """Weights that a decode step of one row reads, against the model's active parameters without its embedding: what is
    no product are vectors (norms, biases, decays, convolutions), under one per cent."""
    model = jaxperf.load_model(name)
    deployed = as_arrays(jaxperf.deployment(name, tp=1, efficiency="ideal", weights="bf16"))
    rows = BREAKDOWN(model, SYSTEM, deployed, as_arrays(jaxperf.workload(1024, 16, 1)))["decode"]
    head = float(rows["lm head"].weights_bytes) * (1 / 2 - 1 / float(deployed.precision.lm_head.bytes))
    read = sum(float(row.weights_bytes) for row in rows.values()) / 2 - head
    described = build_model(find("model", name).document)
    counted = parameters(described)
    tied = described.tied_embeddings * described.vocabulary_size * described.hidden_size
    assert read == pytest.approx(counted.active - counted.embedding + tied, rel=0.01)


BELOW = jax.jit(jax.vmap(layers_below, (None, 0)))


@pytest.mark.parametrize("name", names("model"))
def test_stages_hold_whole_layers_of_each_kind(name: str):
    """Layers below a layer, for every group and layer of the library, as the document lists them."""
    document = find("model", name).document
    model = jaxperf.load_model(name)
    layers, count = np.arange(0.0, 257.0), int(model.layers) + 1
    assert count <= len(layers)
    for group, described in zip(model.groups, document["layer_groups"], strict=False):
        found = np.asarray(BELOW(group, jnp.asarray(layers)))[:count]
        wanted = np.searchsorted(group_places(described), layers[:count], side="left")
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", ["nemotron-3-ultra-550b-a55b", "kimi-k3", "qwen3.5-397b-a17b", "deepseek-v4-pro"])
@pytest.mark.parametrize("stages", [1, 2, 3, 5, 8, 13, CANDIDATES])
def test_every_stage_of_a_short_pipeline_is_a_candidate(name: str, stages: int):
    document = find("model", name).document
    model = jaxperf.load_model(name)
    layers = int(model.layers)
    base, more = divmod(layers, stages)
    edges = np.cumsum([0] + [base + (stage < more) for stage in range(stages)])
    held = [np.histogram(group_places(group), edges)[0] for group in document["layer_groups"]]
    shares = [stage_shares(g, model.layers, jnp.asarray(float(stages)), EXACT) for g in model.groups]
    found = np.stack([np.asarray(share)[:stages] for share in shares[: len(held)]])
    np.testing.assert_array_equal(found, np.stack(held))


@pytest.mark.parametrize("name", names("model"))
def test_the_slowest_stage_is_found(name: str):
    """By any cost of each kind of layer, of all stages up to 16 and for every number of them where the kinds repeat
    themselves; by the program of a scan likewise."""
    document = find("model", name).document
    model = jaxperf.load_model(name)
    listed = any(group["layers"] for group in document["layer_groups"])
    layers, rng = int(model.layers), np.random.default_rng(0)
    stages = np.arange(1, min(layers, 17 if listed else 33))
    counts = [*stages, *([] if listed else [layers])]
    for trimmed in (model, without_places(model, [document])):
        shares = STAGES(trimmed, jnp.asarray(counts, float))
        for count, share in zip(counts, np.asarray(shares), strict=True):
            base, more = divmod(layers, int(count))
            edges = np.cumsum([0] + [base + (stage < more) for stage in range(count)])
            held = np.stack([np.histogram(group_places(group), edges)[0] for group in document["layer_groups"]])
            costs = rng.uniform(size=(20, len(held)))
            np.testing.assert_allclose((costs @ share[: len(held)]).max(1), (costs @ held).max(1), rtol=1e-5)


@given(st.sets(st.integers(0, PLACE_BITS * PLACE_WORDS - 1), min_size=1))
@settings(max_examples=30, deadline=None)
def test_places_are_the_bits_of_their_words(places: set[int]):
    words = place_words(sorted(places))
    assert (words < 2**PLACE_BITS).all()
    found = {PLACE_BITS * n + bit for n, word in enumerate(words) for bit in range(PLACE_BITS) if int(word) >> bit & 1}
    assert found == places


def test_a_stage_of_attention_layers_is_the_slowest():
    """Every recurrent layer on one half, every attention layer on the other, listed as irregular places: two stages
    take as long as the slower half, not as the mean of both."""
    groups = [
        specs.group(4, specs.attention(32, 32, 128), specs.dense(), layers=[0, 1, 2, 3]),
        specs.group(4, specs.attention(1, 1, 64), specs.dense(64), layers=[4, 5, 6, 7]),
    ]
    model, machine = specs.model(*groups), specs.system()
    halved, whole = (
        evaluate_quick(model, machine, as_arrays(specs.deployment(pp=pp)), as_arrays(specs.workload(batch=8.0)))
        for pp in (2, 1)
    )
    assert float(halved.tpot) > 0.9 * float(whole.tpot)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(residual_streams=0), "residual_streams"),
        (dict(residual_streams=4, residual_block_layers=12), "exclude each other"),
    ],
)
def test_impossible_residuals_are_refused(change: dict, words: str):
    document = specs.model_document(specs.group(2, specs.attention(), specs.dense())) | change
    with pytest.raises(InputError, match=words):
        validate(document, "example.json", "model")


def test_more_projections_than_parameters_are_refused():
    layer = specs.attention(extra_parameters=10, extra_projections=11)
    with pytest.raises(InputError, match="extra_projections"):
        specs.model_document(specs.group(2, layer, specs.dense()))
