"""GGUF types, integer groups and mixes: widths from block layouts, published bits per weight, and clear errors."""

from __future__ import annotations

import copy
import json

import pytest

from jaxperf.block_formats import BLOCKS, FILES, block_bytes, value_share
from jaxperf.constants import FORMATS, KV_FORMATS
from jaxperf.errors import InputError
from jaxperf.load import load_model
from jaxperf.spec.deployment import build_precision, precision_document
from jaxperf.spec.library import find, validate
from jaxperf.spec.model import build_model
from jaxperf.stages.memory import layer_parameters

# GiB of Llama-3-8B's files: llama.cpp, `llama-quantize --help`, 2024.
SIZES_8B = {"q4_0": 4.34, "q4_k_m": 4.58, "q5_k_m": 5.33, "q6_k": 6.14, "q8_0": 7.96}

# Bits per weight of Llama 2 7B: llama.cpp, README of `quantize`, 2024.
BITS_7B = {"q4_k_m": 4.84, "q5_k_m": 5.68, "q6_k": 6.56}


def _bits(model: str, weights: str) -> float:
    """Bits per weight of a whole model."""
    document = find("model", model).document
    precision = build_precision(precision_document(document["precision"], weights, None, document["layer_groups"]))
    built = build_model(document)
    hidden, bits, count = built.hidden_size, 0.0, 0
    for group in built.groups:
        layer = layer_parameters(group, hidden)
        attention = layer.attention + layer.key_value
        bits += (
            group.count
            * 8
            * (attention * precision.attention.bytes + layer.feed_forward * precision.feed_forward.bytes)
        )
        count += group.count * (attention + layer.feed_forward)
    table = built.vocabulary_size * hidden
    return (bits + 8 * table * (precision.embedding.bytes + precision.lm_head.bytes)) / (count + 2 * table)


def test_blocks_have_their_exact_sizes():
    """ggml-common.h: scales and quants of a block."""
    assert BLOCKS["q4_0"] == (2 + 16, 32)
    assert BLOCKS["q8_0"] == (2 + 32, 32)
    assert BLOCKS["q4_k"] == (2 * 2 + 12 + 128, 256)
    assert BLOCKS["q5_k"] == (2 * 2 + 12 + 32 + 128, 256)
    assert BLOCKS["q6_k"] == (128 + 64 + 16 + 2, 256)
    assert [8 * block_bytes(name) for name in BLOCKS] == [4.5, 8.5, 4.5, 5.5, 6.5625]


@pytest.mark.parametrize("weights", SIZES_8B)
def test_size_of_a_known_file(weights):
    """The file also has norms in fp32 and its vocabulary; sizes are printed to 0.01."""
    parameters = 8_030_261_248
    assert _bits("llama-3.1-8b", weights) * parameters / 2**33 == pytest.approx(SIZES_8B[weights], rel=2.5e-3)


@pytest.mark.parametrize("weights", BITS_7B)
def test_bits_per_weight_of_a_known_model(weights):
    assert _bits("llama-2-7b", weights) == pytest.approx(BITS_7B[weights], rel=2e-3)


def test_value_projections_by_kind_of_attention():
    attention = dict(kind="grouped-query", query_heads=32, kv_heads=32, head_size=128)
    assert value_share(attention) == 0.25
    assert value_share(attention | {"kv_heads": 8}) == pytest.approx(0.1)
    assert value_share(attention | {"value_from_key": True}) == 0
    assert value_share({"kind": "latent"}) == 0


@pytest.mark.parametrize("weights", FILES)
def test_a_gguf_type_sets_every_class_but_the_router(weights):
    document = find("model", "llama-3.1-8b").document
    chosen = precision_document(document["precision"], weights.upper(), None, document["layer_groups"])
    assert chosen["feed_forward"] == weights
    assert chosen["router"] == "bf16"
    assert chosen["embedding"] != "bf16" != chosen["lm_head"]
    assert all(FORMATS[chosen[name]].dtype == "bf16" for name in ("attention", "feed_forward", "lm_head"))


def test_integer_groups():
    assert FORMATS["int4-group32"].bytes == 0.5 + 2 / 32
    assert FORMATS["int4-group64-zero"].bytes == 0.5 + 2.5 / 64
    assert FORMATS["int4"].bytes == 0.5 + 2.5 / 128 > FORMATS["int4-group128"].bytes
    widths = [KV_FORMATS[name] for name in ("bf16", "fp8", "int4-group32", "nvfp4", "int4")]
    assert widths == sorted(widths, reverse=True)
    assert KV_FORMATS["q8_0"] == 34 / 32


@pytest.mark.parametrize("name", ["int3", "q3_k_m", "3bit", "fp3"])
def test_an_undefined_format_is_refused(name):
    with pytest.raises(InputError, match=f"no weight format is called '{name}'"):
        precision_document(find("model", "llama-2-7b").document["precision"], name)


def _with_mix(mix: dict) -> dict:
    document = copy.deepcopy(find("model", "llama-2-7b").document)
    document["precision"] = {"feed_forward": "q4_k", "mixes": {"feed_forward": mix}}
    return document


def test_a_mix_of_a_spec():
    mix = {"shares": {"q4_k": 2 / 3, "q6_k": 1 / 3}, "bits_per_weight": 5.1875}
    document = validate(_with_mix(mix), "mine.json").document
    assert build_precision(document["precision"]).feed_forward.bytes == pytest.approx(5.1875 / 8)
    blanket = precision_document(document["precision"], "fp8")
    assert build_precision(blanket).feed_forward.bytes == 1.0


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        ({"shares": {"q4_k": 0.5, "q6_k": 0.5}, "bits_per_weight": 4.5}, "give 5.531 bits per weight"),
        ({"shares": {"q4_k": 0.5, "q6_k": 0.4}, "bits_per_weight": 5.0}, "must sum to 1"),
        ({"shares": {"q3_k": 1.0}, "bits_per_weight": 3.4}, "unknown key 'q3_k'"),
        ({"shares": {"q4_k": 1.0}}, "bits_per_weight"),
    ],
)
def test_a_mix_that_does_not_add_up_is_refused(mix, words, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(_with_mix(mix)))
    with pytest.raises(InputError, match=words) as refused:
        load_model(path)
    assert "mine.json" in str(refused.value)
