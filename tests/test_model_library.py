"""The shipped models: valid, sourced, reachable under their usual spellings, and counted to the unit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jaxperf.spec.documents import KINDS, unsourced
from jaxperf.spec.documents.model import group_places
from jaxperf.spec.library import aliases, find, names, read_json, specs_folder, validate
from jaxperf.spec.model import build_model
from jaxperf.stages.memory import parameters

FILES = sorted((specs_folder() / "models").glob("*.json"))
NAMES = [path.stem for path in FILES]

# Published totals, typed here from their source; the count must meet each to the unit.
PUBLISHED = {
    "gpt2": 124_439_808,  # openai-community/gpt2, safetensors metadata
    "llama-2-7b": 6_738_415_616,  # keras-hub llama_presets.py
    "llama-2-13b": 13_015_864_320,  # meta-llama/Llama-2-13b-hf, safetensors metadata less rotary buffers
    "llama-2-70b": 68_976_648_192,  # meta-llama/Llama-2-70b-hf, safetensors metadata less rotary buffers
    "llama-3.1-8b": 8_030_261_248,  # meta-llama/Llama-3.1-8B, safetensors metadata
    "llama-3.1-70b": 70_553_706_496,  # meta-llama/Llama-3.1-70B, safetensors metadata
    "llama-3.1-405b": 405_853_388_800,  # meta-llama/Llama-3.1-405B, safetensors metadata
    "mixtral-8x7b": 46_702_792_704,  # mistralai/Mixtral-8x7B-v0.1, safetensors metadata
    "mixtral-8x22b": 140_620_634_112,  # mistralai/Mixtral-8x22B-v0.1, safetensors metadata, V = 32000
    "qwen2.5-7b": 7_615_616_512,  # Qwen/Qwen2.5-7B, safetensors metadata
    "qwen3-8b": 8_190_735_360,  # Qwen/Qwen3-8B, safetensors metadata
    "qwen3-32b": 32_762_123_264,  # Qwen/Qwen3-32B, safetensors metadata
    "qwen3-235b-a22b": 235_093_634_560,  # Qwen/Qwen3-235B-A22B, safetensors metadata
    "qwen3-coder-480b-a35b": 480_154_875_392,  # Qwen/Qwen3-Coder-480B-A35B-Instruct, safetensors metadata
    "gemma-2-9b": 9_241_705_984,  # google/gemma-2-9b, safetensors metadata; keras-hub gemma_presets.py
    "gemma-2-27b": 27_227_128_320,  # keras-hub gemma_presets.py
    "phi-3-mini-4k": 3_821_079_552,  # microsoft/Phi-3-mini-4k-instruct, safetensors metadata; keras-hub phi3_presets.py
    "phi-4": 14_659_507_200,  # microsoft/phi-4, safetensors metadata
    "deepseek-v2-lite": 15_706_484_224,  # deepseek-ai/DeepSeek-V2-Lite, safetensors metadata
    "deepseek-v2": 235_741_434_880,  # deepseek-ai/DeepSeek-V2, safetensors metadata
    "gpt-oss-120b": 116_829_156_672,  # openai/gpt-oss-120b, safetensors metadata, mxfp4 unpacked
    "minimax-m2.5": 228_689_764_864,  # MiniMaxAI/MiniMax-M2, safetensors metadata
    "bloom-176b": 176_247_271_424,  # bigscience/bloom, safetensors metadata in the Hugging Face documentation
}

# Active parameters of a token as the model cards round them [billions], embedding and LM head included.
ACTIVE_BILLIONS = {
    "mixtral-8x7b": 12.9,  # Mixtral of Experts, arXiv:2401.04088: 13B
    "mixtral-8x22b": 39.1,  # mistral.ai: 39B
    "qwen3-235b-a22b": 22.2,  # model card: 22B
    "qwen3-30b-a3b": 3.35,  # model card: 3.3B
    "deepseek-v3": 37.5,  # arXiv:2412.19437: 37B
    "nemotron-3-super-120b-a12b": 12.7,  # NVIDIA Nemotron 3 Super technical report: 12.7B
    "nemotron-3-nano-30b-a3b": 3.6,  # NVIDIA Nemotron 3 Nano technical report: 3.6B with embeddings
    "gemma-4-26b-a4b": 3.8,  # model card: 3.8B
}

SPELLINGS = {
    "llama2-70b": "llama-2-70b",
    "Llama2-70B": "llama-2-70b",
    "LLaMA 70B": "llama-2-70b",
    "meta-llama/Llama-2-70b-hf": "llama-2-70b",
    "LLaMA-2-70B": "llama-2-70b",
    "meta-llama/Llama-2-7b-hf": "llama-2-7b",
    "LLaMA 7B": "llama-2-7b",
    "Llama2-13B": "llama-2-13b",
    "LLaMA-3.1-405B": "llama-3.1-405b",
    "Llama 3.1:405b": "llama-3.1-405b",
    "Llama 3.1:70b": "llama-3.1-70b",
    "meta-llama/Llama-3.1-70B": "llama-3.1-70b",
    "meta-llama/Meta-Llama-3-70B": "llama-3.1-70b",
    "meta-llama/Meta-Llama-3-8B": "llama-3.1-8b",
    "Llama-3-8B": "llama-3.1-8b",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "llama-3.1-8b",
    "Llama 3.2:3b": "llama-3.2-3b",
    "mistralai/Mistral-7B-v0.1": "mistral-7b",
    "Mistral 7B": "mistral-7b",
    "mistralai/Mixtral-8x7B-v0.1": "mixtral-8x7b",
    "Qwen2.5-72B-Instruct": "qwen2.5-72b",
    "DeepSeek R1 14b": "qwen2.5-14b",
    "Qwen/Qwen3-32B": "qwen3-32b",
    "nvidia/Qwen3-32B-NVFP4": "qwen3-32b",
    "Qwen/Qwen3-235B-A22B-FP8": "qwen3-235b-a22b",
    "Qwen/Qwen3.5-397B-A17B": "qwen3.5-397b-a17b",
    "ggml-org/Qwen3-Coder-30B-A3B-Instruct-Q8_0-GGUF": "qwen3-30b-a3b",
    "DeepSeek-R1-0528": "deepseek-v3",
    "deepseek-ai/DeepSeek-R1": "deepseek-v3",
    "deepseek-ai/DeepSeek-V3": "deepseek-v3",
    "nvidia/DeepSeek-R1-NVFP4": "deepseek-v3",
    "openai/gpt-oss-120b": "gpt-oss-120b",
    "gpt-oss 20b": "gpt-oss-20b",
    "moonshotai/Kimi-K2.5": "kimi-k2.5",
    "MiniMaxAI/MiniMax-M2.5": "minimax-m2.5",
    "zhipuai/GLM-5": "glm-5",
    "zai-org/GLM-5": "glm-5",
    "GPT-175B": "gpt-3-175b",
    "GPT-1.8T-MoE": "gpt-1.8t-moe",
    "gpt2 (124M)": "gpt2",
    "deepseek-ai/DeepSeek-V3.2": "deepseek-v3.2",
    "deepseek-ai/DeepSeek-V4-Flash": "deepseek-v4-flash",
    "sgl-project/DeepSeek-V4-Pro-FP8": "deepseek-v4-pro",
    "moonshotai/Kimi-K3": "kimi-k3",
    "MiniMaxAI/MiniMax-M3": "minimax-m3",
    "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8": "nemotron-3-super-120b-a12b",
    "google/gemma-4-26B-A4B": "gemma-4-26b-a4b",
    "zai-org/GLM-5.2": "glm-5.2",
}


def _document(name: str) -> dict:
    return find("model", name).document


def _total(name: str):
    return parameters(build_model(_document(name)))


def test_library_is_large_enough():
    assert len(FILES) >= 36
    assert names("model") == sorted(NAMES)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_file_is_valid_and_every_figure_has_a_source(path: Path):
    document = read_json(path)
    assert validate(document, str(path), "model").name == path.stem
    assert path.stem == path.stem.lower() and " " not in path.stem
    assert unsourced(document, KINDS["model"]) == []
    for entry in document["sources"].values():
        assert entry["source"].strip() and entry["date"] != "undated"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_source_covers_a_field(path: Path):
    document = read_json(path)
    for field in document["sources"]:
        value = document
        for key in field.split("."):
            assert key in value, f"{path.name}: sources names the absent field {field}"
            value = value[key]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_file_is_formatted_as_saved(path: Path):
    assert path.read_text(encoding="utf-8") == json.dumps(read_json(path), indent=2) + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_groups_tile_all_layers_once(name: str):
    groups = _document(name)["layer_groups"]
    layers = [place for group in groups for place in group_places(group)]
    assert sorted(layers) == list(range(sum(g["count"] for g in groups)))


@pytest.mark.parametrize("name", NAMES)
def test_model_says_whether_it_is_exact_today(name: str):
    document = _document(name)
    # Every second layer of GPT-3 attends within a band whose width was never published.
    assert document["exact_today"] == (name != "gpt-3-175b")
    assert bool(document["approximation"]) != document["exact_today"]


def test_no_spelling_stands_in_two_files():
    owner: dict[str, str] = {}
    for path in FILES:
        document = read_json(path)
        spellings = [text.lower() for text in (document["name"], *document["aliases"])]
        assert len(spellings) == len(set(spellings)), f"{path.name}: a spelling stands twice"
        for text in spellings:
            assert text == text.strip()
            assert text not in owner, f"'{text}' stands in {owner[text]} and in {path.name}"
            owner[text] = path.name
    assert set(aliases("model")) == set(owner)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_usual_spellings_resolve(spelling: str):
    assert find("model", spelling).name == SPELLINGS[spelling]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_total_is_met_to_the_unit(name: str):
    published = _document(name)["published"]
    assert published["exact"] and published["parameters_total"] == PUBLISHED[name]
    assert _total(name).total == PUBLISHED[name]


@pytest.mark.parametrize("name", NAMES)
def test_count_agrees_with_the_file(name: str):
    published, counted = _document(name)["published"], _total(name)
    assert type(counted.total) is int and type(counted.active) is int
    assert 0 < counted.active <= counted.total
    if published["exact"]:
        assert counted.total == published["parameters_total"]
    elif published["parameters_total"] is not None:
        assert counted.total == pytest.approx(published["parameters_total"], rel=0.01)


@pytest.mark.parametrize("name", ACTIVE_BILLIONS)
def test_active_parameters(name: str):
    assert _total(name).active / 1e9 == pytest.approx(ACTIVE_BILLIONS[name], rel=0.01)


def test_glm_5_with_its_prediction_layer_is_the_stored_total():
    """The file holds 78 layers; the stored total adds one MoE layer, a 2D x D projection and three norms."""
    document = _document("glm-5")
    hidden = document["hidden_size"]
    dense, sparse = document["layer_groups"]
    longer = {**document, "layer_groups": [dense, {**sparse, "count": sparse["count"] + 1}]}
    stored = parameters(build_model(longer)).total + 2 * hidden * hidden + 3 * hidden
    assert stored == 753_864_139_008  # zai-org/GLM-5, safetensors metadata


def test_mxfp4_and_block_formats_follow_the_published_quantisation():
    assert _document("gpt-oss-120b")["precision"]["routed_experts"] == "mxfp4"
    assert _document("gpt-oss-120b")["precision"]["attention"] == "bf16"
    assert _document("deepseek-v3")["precision"]["attention"] == "fp8-block"
    assert _document("deepseek-v3")["precision"]["router"] == "bf16"
    assert _document("kimi-k2.5")["precision"]["routed_experts"] == "int4-group32"
    assert _document("llama-3.1-70b")["precision"]["attention"] == "bf16"
