"""Configs for the tests of the importer: small ones that are written here, and the folder of published ones."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2].parent / "shared" / "data" / "hf_configs"
PUBLISHED = sorted(
    path.name.removesuffix("_config.json")
    for path in FOLDER.glob("*_config.json")
    if not path.name.endswith("_hf_quant_config.json")
)

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}

MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}

DEEPSEEK = {
    **LLAMA,
    "model_type": "deepseek_v3",
    "num_key_value_heads": 8,
    "q_lora_rank": 96,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "moe_intermediate_size": 128,
    "first_k_dense_replace": 1,
    "topk_method": "noaux_tc",
    "num_nextn_predict_layers": 1,
}

NEMOTRON = {
    **LLAMA,
    "model_type": "nemotron_h",
    "num_hidden_layers": 9,
    "hybrid_override_pattern": "MEM*EM-ME",
    "head_dim": 64,
    "mamba_num_heads": 16,
    "mamba_head_dim": 32,
    "n_groups": 4,
    "ssm_state_size": 64,
    "conv_kernel": 4,
    "use_conv_bias": True,
    "mlp_hidden_act": "relu2",
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 96,
    "moe_shared_expert_intermediate_size": 192,
    "moe_latent_size": 128,
}


def written(folder: Path, values: Any, name: str = "config.json", **changes: Any) -> Path:
    """A config in a file; a change of None takes the key away."""
    made = copy.deepcopy(values)
    for key, value in changes.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = value
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made))
    return path


def published(name: str) -> Path:
    """A published config; the test is skipped where the folder is absent."""
    path = FOLDER / f"{name}_config.json"
    if not path.is_file():
        pytest.skip(f"the published configs are absent: no file {path}")
    return path
