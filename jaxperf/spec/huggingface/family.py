"""Which model a config.json describes: its text part, its family, its name, and what the name promises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ...errors import InputError, nearest
from .config import EXPERTS, Config, assume, flag, present, shown

FAMILIES = (
    *("llama", "llama4", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl", "qwen3", "qwen3_moe"),
    *("qwen3_vl", "qwen3_vl_moe", "qwen3_next", "qwen3_5", "qwen3_5_moe", "deepseek_v2", "deepseek_v3", "deepseek_v32"),
    *("deepseek_v4", "kimi_k2", "kimi_linear", "glm4_moe", "glm_moe_dsa", "minimax_m2", "minimax_m3", "minimax_m3_vl"),
    *("gpt_oss", "gemma", "gemma2", "gemma3", "gemma4", "nemotron_h", "phi3"),
)
"""Families whose layers the importer knows."""

OF_ARCHITECTURE = {
    "DeepseekV4ForCausalLM": "deepseek_v4",
    "DeepseekV32ForCausalLM": "deepseek_v32",
    "DeepseekV3ForCausalLM": "deepseek_v3",
    "KimiLinearForCausalLM": "kimi_linear",
    "NemotronHForCausalLM": "nemotron_h",
}
"""Families of architectures whose `model_type` says something else."""

OTHER_LAYERS = {
    **dict.fromkeys(
        ("mamba", "mamba2", "falcon_mamba", "rwkv", "jamba", "bamba", "zamba2", "falcon_h1", "lfm2", "recurrent_gemma"),
        "its recurrent layers are of a kind that jaxperf does not describe",
    ),
    **dict.fromkeys(
        ("gpt2", "gptj", "gpt_neox", "gpt_bigcode", "bloom", "opt", "falcon", "mpt", "phi", "stablelm", "dbrx"),
        "its layers differ from Llama's in ways that its config does not spell out (see `jaxperf specs list model` for "
        "those in the library)",
    ),
    **dict.fromkeys(
        ("bert", "roberta", "deberta", "t5", "mt5", "bart", "whisper", "clip", "vit", "gemma3n", "gemma3n_text"),
        "it is no decoder-only language model that jaxperf describes",
    ),
}
"""Model types that are refused, and why."""

RECURRENT_KEYS = ("ssm_state_size", "mamba_num_heads", "state_size", "linear_attn_config", "linear_num_value_heads")
"""Keys that mean recurrent layers; a family that is not known is refused if it has one."""

WITHOUT_EFFECT = re.compile(
    r"^_|^(architectures|auto_map|model_type|transformers_version|use_cache|pretraining_tp|torch_dtype|dtype|id2label"
    r"|label2id|task_specific_params|temperature|top_[kp]|do_sample|hidden_act|hidden_activation|vision_config"
    r"|audio_config|norm_topk_prob|scoring_func|routed_scaling_factor|mlp_hidden_act)$|_token_ids?$|token_index$|rope|rotary"
    r"|dropout|initializer|_eps(ilon)?$|_range$|aux_loss|jitter|^output_|(_scale|_multiplier|_scaling|softcapping)$"
)
"""Keys that change no size or count that jaxperf knows, in any model."""

WORDS = {"fp8": ("fp8",), "nvfp4": ("nvfp4",), "mxfp4": ("mxfp4",), "int4": ("awq", "gptq", "int4", "w4a16")}
"""What a name may promise about the weights, and the words that promise it."""


def text_config(path: Path, root: dict) -> Config:
    """The text model's keys and family. **Raises** `InputError` for an architecture that is refused."""
    inner = next((root[key] for key in ("text_config", "llm_config", "language_config") if key in root), None)
    if inner is not None and not isinstance(inner, dict):
        raise InputError(f"{path}: text_config: expected an object, got {type(inner).__name__}")
    values = {**{k: v for k, v in root.items() if not isinstance(v, dict)}, **(inner or root)}
    architectures = _architectures(path, values.get("architectures") or root.get("architectures"))
    kinds = [part["model_type"] for part in (inner or {}, root) if part.get("model_type") is not None]
    for kind in kinds:
        if not isinstance(kind, str):
            raise InputError(f"{path}: model_type: {shown(kind)} is no text")
    family = next(iter(kinds), "").removesuffix("_text")
    for architecture in architectures:
        if family not in FAMILIES or architecture == "DeepseekV4ForCausalLM":
            family = OF_ARCHITECTURE.get(architecture, family)
    config = Config(path.name, values, family)
    if family in OTHER_LAYERS:
        raise InputError(f"{path}: model_type: '{family}' is not imported: {OTHER_LAYERS[family]}")
    if flag(config, "is_encoder_decoder"):
        raise InputError(f"{path}: is_encoder_decoder: an encoder-decoder is not a model that jaxperf describes")
    if family in FAMILIES:
        return config
    recurrent = present(config, *RECURRENT_KEYS)
    if recurrent:
        near = nearest(family or "none", FAMILIES)
        raise InputError(f"{path}: model_type: '{family}' is not known and has recurrent layers ({recurrent}); {near}")
    if "hidden_size" in values:
        of = f" (architecture {', '.join(architectures)})" if architectures else ""
        assume(
            config,
            f"model_type '{family or 'none'}' is not known{of}: layers as in Llama (DeepSeek where kv_lora_rank "
            "stands): two norms a layer, gated feed-forwards, no biases or query and key norms but those named",
        )
    return config


def _architectures(path: Path, value: Any) -> list[str]:
    """The names of architectures. **Raises** `InputError` for anything but a list of words."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise InputError(f"{path}: architectures: {shown(value)} is no list of names")
    return value


def not_read(config: Config) -> None:
    """Note the keys that an importer which only guesses the architecture has not asked for, last of all.

    **Raises** `InputError` where they speak of experts and none were found: the layers would be taken for dense ones.
    """
    if config.family in FAMILIES:
        return
    left = [
        key
        for key, value in config.values.items()
        if value not in (None, False, 0, "", [], {}) and key not in config.asked and not WITHOUT_EFFECT.search(key)
    ]
    experts = [key for key in left if re.search("moe|expert", key)]
    if experts and not any(config.values.get(key) for key in EXPERTS):
        raise InputError(
            f"{config.file}: model_type: '{config.family or 'none'}' is not known, and its experts are given by keys "
            f"that are not, either ({', '.join(experts)}); {nearest(config.family or 'none', FAMILIES)}"
        )
    if left:
        assume(config, f"no other sizes follow from the keys that were not read: {', '.join(left)}")


def repository_of(path: Path) -> str | None:
    """The Hugging Face id that a path gives away: `Owner--Name_config.json`, a `models--Owner--Name` cache, or the
    folder of a config.json (then the name alone)."""
    for part in reversed(path.absolute().parts[:-1]):
        if part.startswith("models--") and part.count("--") >= 2:
            return part.removeprefix("models--").replace("--", "/", 1)
    stem = re.sub(r"[_.-]?config$", "", path.stem)
    if stem:
        return stem.replace("--", "/", 1)
    return path.absolute().parent.name.replace("--", "/", 1) or None


def slug(text: str) -> str:
    """A library name: lower case, hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "imported-model"


def promised_format(path: Path, config: Config, name: str | None) -> str | None:
    """The weight format that the file's, the folder's or the model's name promises."""
    folder = path.absolute().parent.name if re.sub(r"[_.-]?config$", "", path.stem) == "" else ""
    texts = [name or "", path.stem, folder, str(config.values.get("_name_or_path") or "")]
    for text in texts:
        words = re.split(r"[^a-z0-9]+", text.lower())
        for promised, spellings in WORDS.items():
            if any(word in spellings for word in words):
                return promised
    return None
