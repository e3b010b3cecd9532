"""Formats of imported checkpoints: quantisation configs of every kind, exclude lists, caches, and mismatches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jaxperf.errors import InputError
from jaxperf.spec.deployment import build_precision
from jaxperf.spec.huggingface import import_model
from jaxperf.spec.library import validate

from .configs import DEEPSEEK, LLAMA, MIXTRAL, NEMOTRON, published, written

EVERY = ("attention", "feed_forward")
BLOCK = dict.fromkeys(("attention", "feed_forward", "routed_experts", "shared_experts"), "fp8-block")

FORMATS = {
    "Qwen--Qwen3-235B-A22B-FP8": {"attention": "fp8-block", "routed_experts": "fp8-block"},
    "deepseek-ai--DeepSeek-V3": BLOCK,
    "MiniMaxAI--MiniMax-M2.5": {"attention": "fp8-block", "routed_experts": "fp8-block"},
    "openai--gpt-oss-120b": {"routed_experts": "mxfp4"},
    "moonshotai--Kimi-K2.5": {"routed_experts": "int4-group32"},
    "moonshotai--Kimi-K3": {"routed_experts": "mxfp4-w4a16"},
    "nvidia--Llama-3.1-70B-Instruct-FP8": {"attention": "fp8", "feed_forward": "fp8", "kv_cache": "fp8"},
    "nvidia--Qwen3-235B-A22B-NVFP4": {"attention": "nvfp4", "routed_experts": "nvfp4", "kv_cache": "fp8"},
    "nvidia--GLM-5-NVFP4": {
        **dict.fromkeys(("feed_forward", "routed_experts", "shared_experts"), "nvfp4"),
        "kv_cache": "fp8",
    },
    "nvidia--GLM-5.1-NVFP4": {"routed_experts": "nvfp4", "kv_cache": "fp8"},
    "nvidia--Kimi-K2.6-NVFP4": {"routed_experts": "nvfp4", "kv_cache": "fp8"},
    "deepseek-ai--DeepSeek-V4-Flash": {
        **dict.fromkeys(("attention", "shared_experts"), "fp8-block"),
        "routed_experts": "mxfp4-w4a8",
    },
    "nvidia--DeepSeek-V4-Flash-NVFP4": {
        **dict.fromkeys(("attention", "shared_experts"), "fp8-block"),
        "routed_experts": "nvfp4",
    },
    "nvidia--MiniMax-M3-NVFP4": {
        **dict.fromkeys(("attention", "feed_forward", "shared_experts"), "mxfp8"),
        "routed_experts": "nvfp4",
    },
    "nvidia--NVIDIA-Nemotron-3.5-Lightning-30B-A3B-NVFP4": {
        "attention": "fp8",
        **dict.fromkeys(("routed_experts", "shared_experts", "lm_head"), "nvfp4-w4a16"),
        "kv_cache": "fp8",
    },
    "nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-FP8": {
        **dict.fromkeys(("attention", "routed_experts", "shared_experts", "kv_cache"), "fp8"),
    },
}


@pytest.mark.parametrize("name", FORMATS)
def test_published_checkpoint_has_its_formats(name: str):
    path = published(name)
    imported = import_model(path)
    assert imported.document["precision"] == FORMATS[name]
    build_precision(validate(imported.document, str(path)).document["precision"])


def test_what_a_class_format_hides_is_said():
    assumptions = import_model(published("nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4")).assumptions
    assert any("attention weights count as nvfp4" in text and "% are bf16" in text for text in assumptions)


def test_quant_file_is_read_beside_the_config_or_where_it_is_given(tmp_path: Path):
    quant = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    wanted = {"attention": "fp8", "feed_forward": "fp8", "kv_cache": "fp8"}
    apart = written(tmp_path / "other", quant, "quant.json")
    alone = written(tmp_path, LLAMA, "Maker--Model_config.json")
    assert import_model(alone).document["precision"] == {}
    given = import_model(alone, quant=apart)
    assert given.document["precision"] == wanted
    assert given.document["sources"]["precision"]["source"].startswith("quant.json")
    written(tmp_path, quant, "Maker--Model_hf_quant_config.json")
    assert import_model(alone).document["precision"] == wanted
    plain = written(tmp_path / "folder", LLAMA)
    written(tmp_path / "folder", quant, "hf_quant_config.json")
    assert import_model(plain).document["precision"] == wanted


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        (dict(quant_method="fp8"), dict.fromkeys(EVERY, "fp8")),
        (dict(quant_method="fp8", weight_block_size=[128, 128]), dict.fromkeys(EVERY, "fp8-block")),
        (dict(quant_method="awq", bits=4, group_size=128), dict.fromkeys(EVERY, "int4")),
        (dict(quant_method="gptq", bits=8), dict.fromkeys(EVERY, "int8")),
        (dict(quant_method="gptq", bits=4, group_size=32), dict.fromkeys(EVERY, "int4-group32")),
        (dict(quant_method="bitsandbytes", load_in_4bit=True), dict.fromkeys(EVERY, "int4")),
        (dict(quant_method="fp8", modules_to_not_convert=["mlp"]), {"attention": "fp8"}),
        (dict(quant_method="fp8", modules_to_not_convert=["model.layers.*.self_attn"]), {"feed_forward": "fp8"}),
        (dict(quant_method="fp8", modules_to_not_convert=["re:.*self_attn.*", "lm_head"]), {"feed_forward": "fp8"}),
        (dict(quant_method="modelopt", quant_algo="NVFP4", exclude_modules=["*mlp*"]), {"attention": "nvfp4"}),
        (dict(quant_method="modelopt", quant_algo="W4A16_AWQ"), dict.fromkeys(EVERY, "int4")),
        (
            dict(quant_method="modelopt", quant_algo="FP8", kv_cache_scheme={"num_bits": 8, "type": "float"}),
            {**dict.fromkeys(EVERY, "fp8"), "kv_cache": "fp8"},
        ),
    ],
)
def test_methods(tmp_path: Path, entry: dict, wanted: dict):
    assert import_model(written(tmp_path, LLAMA, quantization_config=entry)).document["precision"] == wanted


@pytest.mark.parametrize(
    ("weights", "inputs", "wanted"),
    [
        (dict(num_bits=8, type="float", strategy="channel"), dict(num_bits=8, type="float"), "fp8"),
        (dict(num_bits=8, type="float", strategy="block"), dict(num_bits=8, type="float"), "fp8-block"),
        (dict(num_bits=4, type="float", group_size=16), dict(num_bits=4, type="float"), "nvfp4"),
        (dict(num_bits=4, type="float", group_size=16), None, "nvfp4-w4a16"),
        (dict(num_bits=4, type="float", group_size=32), None, "mxfp4-w4a16"),
        (dict(num_bits=4, type="float", group_size=32), dict(num_bits=8, type="float"), "mxfp4-w4a8"),
        (dict(num_bits=4, type="int", group_size=32), None, "int4-group32"),
        (dict(num_bits=8, type="int"), dict(num_bits=8, type="int"), "int8-w8a8"),
    ],
)
def test_compressed_tensors(tmp_path: Path, weights: dict, inputs: dict | None, wanted: str):
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    entry = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ["lm_head"]}
    precision = import_model(written(tmp_path, LLAMA, quantization_config=entry)).document["precision"]
    assert precision == dict.fromkeys(EVERY, wanted)


def test_groups_of_compressed_tensors_may_differ_by_target(tmp_path: Path):
    eight, four = ({"num_bits": 8, "type": "float"}, {"num_bits": 4, "type": "float", "group_size": 16})
    groups = {
        "experts": {"targets": ["re:.*experts\\.[0-9]+\\..*"], "weights": four, "input_activations": four},
        "rest": {"targets": ["Linear"], "weights": eight, "input_activations": eight},
    }
    entry = {"quant_method": "compressed-tensors", "config_groups": groups}
    precision = import_model(written(tmp_path, MIXTRAL, quantization_config=entry)).document["precision"]
    assert precision == {"attention": "fp8", "routed_experts": "nvfp4"}


def test_layers_that_are_left_out_decide_by_their_weight(tmp_path: Path):
    """Three of four attention layers stay bf16: so does the class, and the rest is named."""
    names = [f"model.layers.{layer}.self_attn" for layer in range(3)]
    entry = {"quant_method": "fp8", "modules_to_not_convert": names}
    imported = import_model(written(tmp_path, LLAMA, quantization_config=entry))
    assert imported.document["precision"] == {"feed_forward": "fp8"}
    assert "all attention weights count as bf16, though 25 % are fp8" in imported.assumptions


def test_mixed_precision_by_module(tmp_path: Path):
    layers = {f"backbone.layers.{i}.mixer.in_proj": {"quant_algo": "FP8"} for i in (0, 2, 5, 7)}
    layers |= {f"backbone.layers.{i}.mixer.out_proj": {"quant_algo": "FP8"} for i in (0, 2, 5, 7)}
    layers |= {f"backbone.layers.{i}.mixer.experts": {"quant_algo": "NVFP4"} for i in (1, 4, 8)}
    layers["lm_head"] = {"quant_algo": "NVFP4"}
    entry = {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    imported = import_model(written(tmp_path, NEMOTRON, quantization_config=entry))
    assert imported.document["precision"] == {"attention": "fp8", "routed_experts": "nvfp4", "lm_head": "nvfp4"}


@pytest.mark.parametrize(("dtype", "wanted"), [("float16", "fp16"), ("float32", "fp32")])
def test_other_widths_hold_for_all_classes(tmp_path: Path, dtype: str, wanted: str):
    precision = import_model(written(tmp_path, LLAMA, torch_dtype=dtype)).document["precision"]
    assert {precision[kind] for kind in (*EVERY, "embedding", "lm_head", "activations")} == {wanted}


@pytest.mark.parametrize(
    ("file", "changes", "name", "word"),
    [
        ("Llama-FP8_config.json", {}, None, "FP8"),
        ("Maker--Llama-NVFP4_config.json", {}, None, "NVFP4"),
        ("Llama-8B-NVFP4/config.json", {}, None, "NVFP4"),
        ("config.json", dict(_name_or_path="/models/Llama-FP8"), None, "FP8"),
        ("config.json", {}, "llama-fp8", "FP8"),
        ("Llama-AWQ_config.json", {}, None, "INT4"),
    ],
)
def test_a_name_that_promises_a_format_is_doubted(tmp_path: Path, file: str, changes: dict, name: str, word: str):
    imported = import_model(written(tmp_path, LLAMA, file, **changes), name=name)
    assert len(imported.warnings) == 1
    assert f"the name says {word}" in imported.warnings[0]
    assert str(tmp_path) not in json.dumps(imported.document)


@pytest.mark.parametrize("file", ["Llama-BF16_config.json", "Llama-8B_config.json"])
def test_other_names_are_not(tmp_path: Path, file: str):
    assert import_model(written(tmp_path, LLAMA, file)).warnings == []


def test_a_name_that_promises_another_format_is_doubted(tmp_path: Path):
    path = written(tmp_path, LLAMA, "Llama-NVFP4_config.json", quantization_config=dict(quant_method="fp8"))
    assert "the name says NVFP4, but the quantisation is attention fp8" in import_model(path).warnings[0]


EXPERTS = {f"model.layers.{layer}.mlp.experts": {"quant_algo": "NVFP4"} for layer in range(1, 4)}
FOREIGN = [
    ({"quantization": [1]}, "no 'quantization' object"),
    (dict(LLAMA), "no 'quantization' object"),
    ({"quantization": {"quant_algo": "FP9"}}, "quant_algo: 'FP9' is not known"),
    ({"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP3"}}, "kv_cache_quant_algo: 'FP3' is not known"),
    (
        {"quantization": {"quant_method": "fp8", "kv_cache_scheme": {"num_bits": [8], "type": "float"}}},
        "kv_cache_scheme: [8] bits of 'float' are not known",
    ),
    ({"quantization": {"quant_method": "fp8", "kv_cache_scheme": "fp8"}}, "kv_cache_scheme: 'fp8' is no object"),
    (
        {
            "quantization": {
                "quant_method": "compressed-tensors",
                "config_groups": {"0": {"targets": "Linear", "weights": {"num_bits": 8, "type": "float"}}},
            }
        },
        "config_groups.0.targets: 'Linear' is no list of names",
    ),
    ({"quantization": {"quant_method": "magic"}}, "quant_method: 'magic' is not known"),
    ({"quantization": {"quant_algo": "FP8", "exclude_modules": ["re:("]}}, "unreadable expression"),
    ({"quantization": {"quant_algo": "FP8", "exclude_modules": "lm_head"}}, "expected a list of module names"),
    (
        {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["model.layers.60.self_attn*"]}},
        "it names layer 60 ('model.layers.60.self_attn*'), but the model has 4 layers",
    ),
    (
        {"quantization": {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"tower.0.fc1": {"quant_algo": "FP8"}}}},
        "it names no module of this model",
    ),
]


@pytest.mark.parametrize(("quant", "message"), FOREIGN, ids=[message for _, message in FOREIGN])
def test_a_quant_file_for_something_else_is_refused(tmp_path: Path, quant: dict, message: str):
    file = written(tmp_path, quant, "hf_quant_config.json")
    with pytest.raises(InputError) as caught:
        import_model(written(tmp_path, DEEPSEEK), quant=file)
    assert message in str(caught.value)
    assert "hf_quant_config.json" in str(caught.value)


def test_a_prediction_layer_in_the_exclude_list_is_no_fault(tmp_path: Path):
    quant = {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["model.layers.4*", "lm_head"]}}
    file = written(tmp_path, quant, "hf_quant_config.json")
    precision = import_model(written(tmp_path, DEEPSEEK), quant=file).document["precision"]
    assert precision == dict.fromkeys(("attention", "feed_forward", "routed_experts", "shared_experts"), "nvfp4")


def test_experts_named_as_a_whole(tmp_path: Path):
    quant = {"quantization": {"quant_algo": "MIXED_PRECISION", "quantized_layers": EXPERTS}}
    file = written(tmp_path, quant, "hf_quant_config.json")
    assert import_model(written(tmp_path, DEEPSEEK), quant=file).document["precision"] == {"routed_experts": "nvfp4"}
