"""The importer: architectures, published totals, agreement with the library, and configs that it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxperf.errors import InputError
from jaxperf.spec.documents import KINDS, unsourced
from jaxperf.spec.documents.model import group_places
from jaxperf.spec.huggingface import import_model
from jaxperf.spec.huggingface.groups import layer_groups, place_runs
from jaxperf.spec.library import find, validate
from jaxperf.spec.model import build_model
from jaxperf.stages.memory import index_bytes_per_token, kv_elements_per_token, parameters

from .configs import DEEPSEEK, FOLDER, LLAMA, MIXTRAL, NEMOTRON, PUBLISHED, published, written

TOTALS = {
    # Text models without vision and multi-token-prediction parts. From model cards and reports unless said.
    "MiniMaxAI--MiniMax-M2.5": 228_689_764_864,  # MiniMax-M2, safetensors metadata
    "Qwen--Qwen3-0.6B": 596_049_920,
    "Qwen--Qwen3-1.7B": 1_720_574_976,
    "Qwen--Qwen3-235B-A22B": 235_093_634_560,  # safetensors metadata
    "Qwen--Qwen3-32B": 32_762_123_264,
    "Qwen--Qwen3-8B": 8_190_735_360,
    "Qwen--Qwen3-Coder-480B-A35B-Instruct": 480_154_875_392,
    "Qwen--Qwen3-VL-235B-A22B-Instruct": 235_093_634_560,  # the text model of Qwen3-235B-A22B
    "Qwen--Qwen3-VL-32B-Thinking": 32_762_123_264,  # the text model of Qwen3-32B
    "Qwen--Qwen3-VL-4B-Instruct": 4.02e9,  # the text model of Qwen3-4B
    "Qwen--Qwen3.5-122B-A10B": 122e9,
    "Qwen--Qwen3.5-397B-A17B": 397e9,
    "deepseek-ai--DeepSeek-V3": 671e9,  # arXiv:2412.19437
    "deepseek-ai--DeepSeek-R1": 671e9,
    "deepseek-ai--DeepSeek-V3.2": 671e9,
    "deepseek-ai--DeepSeek-V4-Flash": 284e9,
    "sgl-project--DeepSeek-V4-Pro-FP8": 1.573e12,  # GGUF conversion of the main model; the card rounds to 1.6T
    "google--gemma-4-26B-A4B": 25.2e9,
    "meta-llama--Meta-Llama-3.1-70B": 70_553_706_496,
    "meta-llama--Meta-Llama-3.1-8B": 8_030_261_248,
    "mistralai--Mixtral-8x7B-v0.1": 46_702_792_704,
    "moonshotai--Kimi-K2.5": 1_026_408_235_864,  # Kimi-K2-Instruct, safetensors metadata
    "nvidia--MiniMax-M3-NVFP4": 428e9,
    "nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": 31.6e9,
    "nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-FP8": 120.6e9,  # technical report
    "nvidia--NVIDIA-Nemotron-3-Ultra-550B-A55B-FP8": 550e9,
    "openai--gpt-oss-120b": 116_829_156_672,
    "openai--gpt-oss-20b": 20_914_757_184,
    "zai-org--GLM-5": 744e9,
    "zai-org--GLM-5.1": 744e9,
    "zai-org--GLM-5.2": 744e9,
}

ROUNDED = {"moonshotai--Kimi-K3": (2.8e12, 0.05e12), "nvidia--Nemotron-H-56B-Base-8K": (56e9, 0.5e9)}
"""Totals that are published with two digits, and half of the last one."""

ACTIVE = {
    # Billions a token, with the embedding table where the report says so, else without it.
    "moonshotai--Kimi-K3": (104.0, False),
    "google--gemma-4-26B-A4B": (3.8, True),
    "nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": (3.6, True),
    "nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-FP8": (12.7, True),
    "nvidia--NVIDIA-Nemotron-3-Ultra-550B-A55B-FP8": (55.0, False),
    "deepseek-ai--DeepSeek-V4-Flash": (13.0, False),
    "sgl-project--DeepSeek-V4-Pro-FP8": (49.0, False),
}

IN_THE_LIBRARY = {
    "MiniMaxAI--MiniMax-M2.5": "minimax-m2.5",
    "Qwen--Qwen3-0.6B": "qwen3-0.6b",
    "Qwen--Qwen3-1.7B": "qwen3-1.7b",
    "Qwen--Qwen3-235B-A22B": "qwen3-235b-a22b",
    "Qwen--Qwen3-32B": "qwen3-32b",
    "Qwen--Qwen3-8B": "qwen3-8b",
    "Qwen--Qwen3-Coder-480B-A35B-Instruct": "qwen3-coder-480b-a35b",
    "Qwen--Qwen3.5-397B-A17B": "qwen3.5-397b-a17b",
    "deepseek-ai--DeepSeek-R1": "deepseek-v3",
    "deepseek-ai--DeepSeek-V3": "deepseek-v3",
    "meta-llama--Llama-4-Scout-17B-16E-Instruct": "llama-4-scout",
    "meta-llama--Meta-Llama-3.1-70B": "llama-3.1-70b",
    "meta-llama--Meta-Llama-3.1-8B": "llama-3.1-8b",
    "mistralai--Mixtral-8x7B-v0.1": "mixtral-8x7b",
    "moonshotai--Kimi-K2.5": "kimi-k2.5",
    "nvidia--Kimi-K2.6-NVFP4": "kimi-k2.5",
    "openai--gpt-oss-120b": "gpt-oss-120b",
    "openai--gpt-oss-20b": "gpt-oss-20b",
    "zai-org--GLM-5": "glm-5",
    "zai-org--GLM-5.1": "glm-5",
    "nvidia--GLM-5.2-NVFP4": "glm-5.2",
    "nvidia--DeepSeek-V4-Flash-NVFP4": "deepseek-v4-flash",
    "nvidia--DeepSeek-V4-Pro-NVFP4": "deepseek-v4-pro",
    "nvidia--NVIDIA-Nemotron-3-Ultra-550B-A55B-NVFP4": "nemotron-3-ultra-550b-a55b",
}
"""Configs whose architecture the library had, typed by hand, or has from another variant's config."""

ARCHITECTURE = ("hidden_size", "vocabulary_size", "tied_embeddings", "max_context_tokens", "layer_groups", "mtp_layers")


def document(path: Path) -> dict:
    """The imported document with defaults filled in."""
    return validate(import_model(path).document, str(path), "model").document


def attention_of(path: Path) -> dict:
    """Attention of the first group."""
    return document(path)["layer_groups"][0]["attention"]


def test_the_folder_holds_what_the_tables_name():
    if not FOLDER.is_dir():
        pytest.skip(f"the published configs are absent: no folder {FOLDER}")
    assert len(PUBLISHED) == 48
    assert set(TOTALS) | set(ROUNDED) | set(ACTIVE) | set(IN_THE_LIBRARY) <= set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_config_becomes_a_valid_document_with_sources(name: str):
    path = published(name)
    imported = import_model(path)
    made = validate(imported.document, str(path), "model").document
    assert unsourced(imported.document, KINDS["model"]) == []
    assert str(path.parent) not in str(imported.document)
    assert imported.warnings == []
    assert made["exact_today"] == (made["approximation"] is None)
    assert all(text in made["note"] for text in imported.assumptions)
    places = sorted(place for group in made["layer_groups"] for place in group_places(group))
    assert places == list(range(len(places)))


@pytest.mark.parametrize("name", TOTALS)
def test_total_is_the_published_one(name: str):
    total = parameters(build_model(document(published(name)))).total
    assert total == pytest.approx(TOTALS[name], rel=5e-3)
    if isinstance(TOTALS[name], int) and "Kimi" not in name:
        assert total == TOTALS[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_total_rounds_to_the_published_one(name: str):
    total, half = ROUNDED[name]
    assert abs(parameters(build_model(document(published(name)))).total - total) <= half


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters_are_the_published_ones(name: str):
    billions, with_embedding = ACTIVE[name]
    made = document(published(name))
    count = parameters(build_model(made))
    table = 0 if with_embedding else made["vocabulary_size"] * made["hidden_size"]
    assert (count.active - table) / 1e9 == pytest.approx(billions, rel=0.03)


@pytest.mark.parametrize("name", IN_THE_LIBRARY)
def test_import_agrees_with_the_library(name: str):
    made, known = document(published(name)), find("model", IN_THE_LIBRARY[name]).document
    for field in ARCHITECTURE:
        assert made[field] == known[field], field
    if not name.startswith("nvidia--"):  # those are quantised anew
        assert made["precision"] == known["precision"]


def test_nemotron_layers_by_hand():
    """Mamba-2, experts in a latent and attention, each matrix written out (arXiv:2405.21060; Nemotron 3 report)."""
    total = 0
    hidden, inner, groups, state, heads = 512, 16 * 32, 4, 64, 16
    convolved = inner + 2 * groups * state
    mamba = hidden * (2 * inner + 2 * groups * state + heads) + 4 * convolved + convolved  # in, conv and its bias
    mamba += 3 * heads + inner + inner * hidden  # decay, skip, step; norm; out
    experts = 8 * 2 * 128 * 96 + 8 * hidden + 8 + 2 * hidden * 192 + 2 * hidden * 128
    attention = hidden * (8 + 2 * 2) * 64 + 8 * 64 * hidden
    dense = 2 * hidden * 1024
    by_kind = {"M": mamba, "E": experts, "*": attention, "-": dense}
    total = sum(by_kind[kind] + hidden for kind in NEMOTRON["hybrid_override_pattern"]) + 2 * 1000 * hidden + hidden

    def count(folder: Path) -> Any:
        return parameters(build_model(document(written(folder, NEMOTRON))))

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        assert count(Path(folder)).total == total


def test_irregular_layers_are_listed(tmp_path: Path):
    groups = document(written(tmp_path, NEMOTRON))["layer_groups"]
    assert [group_places(group) for group in groups] == [[0, 2, 5, 7], [1, 4, 8], [3], [6]]
    model = build_model(document(written(tmp_path, NEMOTRON)))
    assert model.layers == 9
    assert [group.first for group in model.groups] == [0, 1, 3, 6]


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        (dict(model_type="mistral", sliding_window=256), 256),
        (dict(model_type="mistral", sliding_window=None), None),
        (dict(model_type="qwen2", sliding_window=256, use_sliding_window=False), None),
        (dict(model_type="gpt_oss", sliding_window=128, layer_types=["sliding_attention"] * 4), 128),
        (dict(sliding_window=256, layer_types=["full_attention"] * 4), None),
    ],
)
def test_windows(tmp_path: Path, changes: dict, window: int | None):
    assert attention_of(written(tmp_path, LLAMA, **changes))["window_tokens"] == window


def test_windows_alternate_in_gemma_2(tmp_path: Path):
    groups = document(written(tmp_path, LLAMA, model_type="gemma2", sliding_window=256))["layer_groups"]
    assert [(group_places(group), group["attention"]["window_tokens"]) for group in groups] == [
        ([0, 2], 256),
        ([1, 3], None),
    ]
    assert all(group["norm_vectors"] == 4 for group in groups)


def test_tied_embeddings_are_counted_once(tmp_path: Path):
    apart = parameters(build_model(document(written(tmp_path, LLAMA))))
    tied = parameters(build_model(document(written(tmp_path, LLAMA, tie_word_embeddings=True))))
    assert apart.total - tied.total == 1000 * 512


def test_text_part_of_a_multimodal_model(tmp_path: Path):
    nested = {"model_type": "wrapper_vl", "text_config": LLAMA, "vision_config": {"hidden_size": 64}}
    imported = import_model(written(tmp_path, nested))
    assert imported.document["hidden_size"] == 512
    assert "without its vision part" in imported.assumptions


def test_latent_attention_with_its_cache(tmp_path: Path):
    made = document(written(tmp_path, DEEPSEEK))
    assert kv_elements_per_token(build_model(made)) == 4 * (64 + 16)
    dense, sparse = made["layer_groups"]
    assert (dense["count"], dense["feed_forward"]["width"]) == (1, 1024)
    assert (sparse["count"], sparse["feed_forward"]["shared_width"]) == (3, 128)
    assert sparse["feed_forward"]["router_bias"]


def test_expert_width_of_mixtral_is_its_intermediate_size(tmp_path: Path):
    feed_forward = document(written(tmp_path, MIXTRAL))["layer_groups"][0]["feed_forward"]
    assert (feed_forward["experts"], feed_forward["experts_per_token"], feed_forward["expert_width"]) == (8, 2, 1024)


def test_unknown_architecture_says_what_it_assumed(tmp_path: Path):
    imported = import_model(written(tmp_path, LLAMA, model_type="novel", tie_word_embeddings=None))
    assert any("'novel' is not known" in text for text in imported.assumptions)
    assert "embedding and LM head are two matrices" in imported.assumptions
    assert "'novel' is not known" in imported.document["note"]


def test_unknown_architecture_names_what_was_not_read(tmp_path: Path):
    strange = dict(model_type="novel", architectures=["NovelForCausalLM"], memory_slots=8, rope_theta=1e4)
    texts = import_model(written(tmp_path, LLAMA, **strange)).assumptions
    assert any("'novel' is not known (architecture NovelForCausalLM)" in text for text in texts)
    assert "no other sizes follow from the keys that were not read: memory_slots" in texts
    assert not any("not read" in text for text in import_model(written(tmp_path, LLAMA, memory_slots=8)).assumptions)


def test_no_experts_beside_a_choice_of_experts_is_said(tmp_path: Path):
    imported = import_model(written(tmp_path, MIXTRAL, num_local_experts=0))
    assert not imported.document["layer_groups"][0]["feed_forward"].get("experts")
    assert any("every layer is dense" in text and "num_experts_per_tok" in text for text in imported.assumptions)


@pytest.mark.parametrize(
    ("values", "changes", "count"),
    [
        (DEEPSEEK, {}, 1),
        (DEEPSEEK, dict(model_type="glm4_moe", num_nextn_predict_layers=2), 2),
        (MIXTRAL, dict(model_type="minimax_m2", num_mtp_modules=3, mtp_transformer_layers=1, use_mtp=True), 3),
        (MIXTRAL, dict(model_type="minimax_m2", num_mtp_modules=3, mtp_transformer_layers=1, use_mtp=False), 0),
        (MIXTRAL, dict(model_type="minimax_m2", num_mtp_modules=3, mtp_transformer_layers=2), 0),
        (LLAMA, dict(model_type="qwen3_5", layer_types=["full_attention"] * 4, mtp_num_hidden_layers=1), 1),
        (NEMOTRON, dict(num_nextn_predict_layers=1), 0),
        (LLAMA, {}, 0),
    ],
)
def test_prediction_layers_like_the_last_stand_apart(tmp_path: Path, values: dict, changes: dict, count: int):
    imported = import_model(written(tmp_path, values, **changes))
    assert imported.document.get("mtp_layers", 0) == count
    assert ("mtp_layers" in imported.document["sources"]) == (count > 0)
    said = [text for text in imported.assumptions if "multi-token-prediction" in text]
    asked = any("num_nextn" in key or "mtp" in key for key in {**values, **changes}) and changes.get("use_mtp", True)
    assert len(said) == bool(asked)


REFUSED = [
    (LLAMA, dict(hidden_size=None), "the key 'hidden_size' is missing"),
    (LLAMA, dict(hidden_size=-512), "hidden_size: -512 is out of range"),
    (LLAMA, dict(hidden_size=0), "hidden_size: 0 is out of range"),
    (LLAMA, dict(hidden_size="512"), "hidden_size: '512' is no number"),
    (LLAMA, dict(hidden_size=True), "hidden_size: True is no number"),
    (LLAMA, dict(vocab_size=1.5), "vocab_size: 1.5 is out of range"),
    (LLAMA, dict(num_hidden_layers=10**9), "num_hidden_layers: 1000000000 is out of range"),
    (LLAMA, dict(num_key_value_heads=3), "num_key_value_heads: 3 does not divide num_attention_heads 8"),
    (LLAMA, dict(num_attention_heads=7, num_key_value_heads=7), "7 does not divide hidden_size"),
    (LLAMA, dict(tie_word_embeddings="no"), "tie_word_embeddings: 'no' is neither true nor false"),
    (LLAMA, dict(model_type="mistral", sliding_window=0), "sliding_window: 0 is no window"),
    (LLAMA, dict(model_type="mistral", sliding_window=-1), "sliding_window: -1 is no window"),
    (LLAMA, dict(layer_types=["full_attention"] * 3), "layer_types: 3 entries for 4 layers"),
    (LLAMA, dict(layer_types=["quantum"] * 4), "layer_types: 'quantum' is not known"),
    (LLAMA, dict(layer_types="full_attention"), "layer_types: expected a list"),
    (MIXTRAL, dict(num_experts_per_tok=9), "num_experts_per_tok: 9 is more than the 8 experts"),
    (MIXTRAL, dict(num_local_experts=None), "num_experts_per_tok: 2 experts a token, but the key"),
    (LLAMA, dict(model_type="novel", moe_num_experts=64, moe_k=6), "(moe_num_experts, moe_k)"),
    (LLAMA, dict(model_type="novel", num_experts=64, moe_topk=6), "the key 'num_experts_per_tok' is missing"),
    (LLAMA, dict(model_type=5), "model_type: 5 is no text"),
    (LLAMA, dict(architectures=5), "architectures: 5 is no list of names"),
    (LLAMA, dict(architectures="LlamaForCausalLM"), "architectures: 'LlamaForCausalLM' is no list of names"),
    (LLAMA, dict(architectures=[[1]]), "architectures: [[1]] is no list of names"),
    (LLAMA, dict(torch_dtype=16), "torch_dtype: 16 is no text"),
    (LLAMA, dict(torch_dtype=["bfloat16"]), "torch_dtype: ['bfloat16'] is no text"),
    (LLAMA, dict(torch_dtype="float64"), "torch_dtype: 'float64' is not known; expected bfloat16, float16, float32"),
    (LLAMA, dict(torch_dtype=None, dtype=False), "dtype: False is no text"),
    (LLAMA, dict(rope_scaling=8.0), "rope_scaling: 8.0 is no object"),
    (LLAMA, dict(rope_scaling=[1, 2]), "rope_scaling: [1, 2] is no object"),
    (LLAMA, dict(is_encoder_decoder="yes"), "is_encoder_decoder: 'yes' is neither true nor false"),
    (MIXTRAL, dict(mlp_only_layers=[[1]]), "mlp_only_layers: [1] is no number"),
    (DEEPSEEK, dict(topk_method=1), "topk_method: 1 is no text"),
    (DEEPSEEK, dict(v_head_dim=None), "the key 'v_head_dim' is missing"),
    (NEMOTRON, dict(hybrid_override_pattern="MEQ*EM-ME"), "'Q' is no layer"),
    (NEMOTRON, dict(num_hidden_layers=8), "num_hidden_layers: 8, but the pattern has 9 layers"),
    (LLAMA, dict(model_type="mamba"), "model_type: 'mamba' is not imported: its recurrent layers"),
    (LLAMA, dict(model_type="gpt2"), "model_type: 'gpt2' is not imported"),
    (LLAMA, dict(model_type="novel", ssm_state_size=64), "has recurrent layers (ssm_state_size)"),
    (LLAMA, dict(model_type="t5"), "no decoder-only language model"),
    (LLAMA, dict(model_type="novel", is_encoder_decoder=True), "an encoder-decoder"),
    (LLAMA, dict(text_config=[1]), "text_config: expected an object"),
    (LLAMA, dict(model_type="gemma4", num_kv_shared_layers=2), "num_kv_shared_layers: shared caches"),
]


@pytest.mark.parametrize(("values", "changes", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_nonsense_is_refused_with_its_reason(tmp_path: Path, values: dict, changes: dict, message: str):
    with pytest.raises(InputError) as caught:
        import_model(written(tmp_path, values, **changes))
    assert message in str(caught.value)
    assert "config.json" in str(caught.value)


@given(st.sets(st.integers(0, 60), min_size=1))
def test_runs_hold_exactly_the_places(places: set[int]):
    runs = place_runs(sorted(places))
    assert sorted(place for run in runs for place in group_places(run)) == sorted(places)


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40))
def test_groups_hold_every_layer_once(kinds: list[str]):
    groups = layer_groups([{"kind": kind} for kind in kinds], "here")
    assert len(groups) <= 4
    owner = {place: group["kind"] for group in groups for place in group_places(group)}
    assert [owner[place] for place in range(len(kinds))] == kinds


def test_more_shapes_than_groups_are_refused():
    with pytest.raises(InputError, match="layers of 5 shapes"):
        layer_groups([{"kind": kind} for kind in "abcde"], "here")


def test_sparse_attention_keeps_an_index_beside_the_cache():
    """DeepSeek-V3.2: 576 elements of latent and 128 + 4 bytes of key a token and layer (arXiv:2512.02556)."""
    made = document(published("deepseek-ai--DeepSeek-V3.2"))
    model = build_model(made)
    assert kv_elements_per_token(model) == 61 * 576
    assert index_bytes_per_token(model) == 61 * (128 + 4)
    shared = build_model(document(published("zai-org--GLM-5.2")))
    assert index_bytes_per_token(shared) == (3 + 18) * (128 + 4)
