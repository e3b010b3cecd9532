"""Attention of a layer from a Hugging Face config: one function for each kind of mixer.

Shapes follow the models' published code (transformers `modeling_*.py`, and the repositories' own `modeling_*.py`);
parameter totals are checked against the published ones."""

from __future__ import annotations

from ...errors import InputError
from .config import Config, assume, checked, flag, listing, section, text, whole, window_tokens

QK_NORM_A_HEAD = {
    *("qwen3", "qwen3_moe", "qwen3_vl", "qwen3_vl_moe", "qwen3_next", "qwen3_5", "qwen3_5_moe"),
    *("gemma3", "gemma4", "minimax_m3_vl", "minimax_m3"),
}
"""Families that normalise each query and key head with a vector of the head size."""

QKV_BIAS = {"qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl", "glm4", "glm4_moe"}
"""Families whose query, key and value projections have biases while the output projection has none."""


def heads(config: Config) -> tuple[int, int]:
    """Query and key/value heads; where only query heads are given, as many key/value heads."""
    query = whole(config, "num_attention_heads", low=1)
    kv = whole(config, "num_key_value_heads", default=query, low=1)
    if query % kv:
        raise InputError(f"{config.file}: num_key_value_heads: {kv} does not divide num_attention_heads {query}")
    return query, kv


def head_size(config: Config, hidden: int, query: int) -> int:
    """Size of a query or key head: given, or the hidden size divided by the heads."""
    given = whole(config, ("head_dim", "attention_head_dim"), default=0, low=1)
    if not given and hidden % query:
        raise InputError(f"{config.file}: num_attention_heads: {query} does not divide hidden_size {hidden}")
    return given or hidden // query


def grouped_query(config: Config, hidden: int, window: int | None = None) -> dict:
    """Multi-head, grouped-query or multi-query attention, with biases, norms, sinks and gate where the family has
    them."""
    query, kv = heads(config)
    size = head_size(config, hidden, query)
    attention: dict = {"kind": "grouped-query", "query_heads": query, "kv_heads": kv, "head_size": size}
    if window is not None:
        attention["window_tokens"] = window
    biased = flag(config, "attention_bias", flag(config, "qkv_bias"))
    if biased or config.family in QKV_BIAS:
        attention["qkv_bias"] = True
    if biased and config.family not in QKV_BIAS and "qkv_bias" not in config.values:
        attention["output_bias"] = True
    if config.family == "gpt_oss":
        attention["sinks"] = True
    if flag(config, "attn_output_gate", config.family == "qwen3_next"):
        attention["output_gate"] = True
    norms = _qk_norms(config, query, kv, size)
    if norms:
        attention["qk_norm_parameters"] = norms
    return attention


def _qk_norms(config: Config, query: int, kv: int, size: int) -> int:
    """Elements of the query and key norms of a layer."""
    if config.family == "llama4":
        return 0  # normalised without parameters
    if config.family in QK_NORM_A_HEAD:
        return 2 * size
    if not flag(config, "use_qk_norm"):
        return 0
    if config.family == "minimax_m2" or text(config, "qk_norm_type") == "per_layer":
        return (query + kv) * size
    if config.family != "glm4_moe":
        assume(config, f"query and key norms are vectors of the head size, {size}")
    return 2 * size


def block_sparse(config: Config, hidden: int, attention: dict, layer: int) -> dict:
    """MiniMax-M3: an indexer (queries of its heads, one key, their norms) chooses blocks of the cache."""
    inner = section(config, "sparse_attention_config")
    sparse = Config(config.file, inner or {}, config.family)
    if not flag(sparse, "use_sparse_attention"):
        return attention
    active = listing(sparse, "sparse_attention_freq", layer + 1)
    if active is not None and not active[layer]:
        return attention
    count, size = whole(sparse, "sparse_num_index_heads", low=1), whole(sparse, "sparse_index_dim", low=1)
    top = whole(sparse, "sparse_topk_blocks", low=1) * whole(sparse, "sparse_block_size", low=1)
    extra = hidden * (count + 1) * size + 2 * size
    return attention | {
        "index_heads": count,
        "index_head_size": size,
        "index_top_k": top,
        "extra_parameters": extra,
    }


def latent(config: Config, hidden: int, indexed: bool = True) -> dict:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434), with the sparse-attention indexer of DeepSeek-V3.2
    where the config has one and the layer is `indexed`."""
    query, _ = heads(config)
    attention = {
        "kind": "latent",
        "query_heads": query,
        "head_size": whole(config, "qk_nope_head_dim", low=1),
        "value_head_size": whole(config, "v_head_dim", low=1),
        "rope_head_size": whole(config, "qk_rope_head_dim", low=1),
        "q_rank": whole(config, "q_lora_rank", default=0),
        "kv_rank": whole(config, "kv_lora_rank", low=1),
    }
    if flag(config, "mla_use_output_gate"):
        attention["output_gate"] = True
    extra = 0
    if flag(config, "attention_bias"):
        extra += attention["q_rank"] + attention["kv_rank"] + attention["rope_head_size"] + hidden
    top = whole(config, "index_topk", default=0)
    if top:
        attention["index_top_k"] = top
        if indexed:
            count, size = whole(config, "index_n_heads", low=1), whole(config, "index_head_dim", low=1)
            attention |= {"index_heads": count, "index_head_size": size}
            extra += (attention["q_rank"] or hidden) * count * size + hidden * (size + count) + 2 * size
    if extra:
        attention["extra_parameters"] = extra
    return attention


def compressed(config: Config, hidden: int, layer: int) -> dict:
    """DeepSeek-V4: one head of key and value in one, low-rank queries, a two-step output projection, sinks, and by
    layer a window alone (ratio 0), or beside it entries that stand for 4 (with an indexer) or 128 tokens each.

    The vectors of the hyper-connections (two mixers a layer, (2 + n)·n columns over n streams) count here, too.
    """
    ratios = listing(config, "compress_ratios", layer + 1)
    if ratios is None:
        raise InputError(f"{config.file}: the key 'compress_ratios' is missing; the model cannot be described")
    ratio = checked(config, "compress_ratios", ratios[layer], 0)
    query, size = whole(config, "num_attention_heads", low=1), whole(config, "head_dim", low=1)
    rank, groups = whole(config, "o_lora_rank", low=1), whole(config, "o_groups", low=1)
    window, streams = window_tokens(config, "sliding_window"), whole(config, "hc_mult", default=0)
    mixer = (2 + streams) * streams
    mixing = 2 * mixer * streams * hidden
    extra, projections = query + mixing + 2 * (mixer + 3) * (streams > 0), mixing
    attention: dict = {
        "kind": "compressed",
        "query_heads": query,
        "head_size": size,
        "q_rank": whole(config, "q_lora_rank", low=1),
        "output_rank": rank,
        "output_groups": groups,
    }
    if window is None:
        raise InputError(f"{config.file}: the key 'sliding_window' is missing; the model cannot be described")
    if ratio == 0:
        attention["window_tokens"] = window
    else:
        overlap = 2 if ratio == 4 else 1
        attention |= {"compression": ratio, "recent_tokens": window}
        extra += overlap * size * (2 * hidden + ratio) + size
        projections += overlap * size * 2 * hidden
    if ratio == 4:
        count, index = whole(config, "index_n_heads", low=1), whole(config, "index_head_dim", low=1)
        attention |= {"index_heads": count, "index_head_size": index, "index_top_k": whole(config, "index_topk", low=1)}
        extra += 2 * index * (2 * hidden + ratio) + index + hidden * count + attention["q_rank"] * count * index
        projections += 2 * index * 2 * hidden
    attention["extra_parameters"] = extra
    return attention | ({"extra_projections": projections} if projections else {})


def gated_delta(config: Config) -> dict:
    """Gated DeltaNet of Qwen3-Next and Qwen3.5."""
    return {
        "kind": "linear",
        "head_size": whole(config, "linear_key_head_dim", low=1),
        "value_head_size": whole(config, "linear_value_head_dim", low=1),
        "state_key_heads": whole(config, "linear_num_key_heads", low=1),
        "state_value_heads": whole(config, "linear_num_value_heads", low=1),
        "convolution_width": whole(config, "linear_conv_kernel_dim", low=1),
    }


def kimi_delta(config: Config, hidden: int) -> dict:
    """Kimi Delta Attention (arXiv:2510.26692): gated delta with a decay for each channel through a low rank, one gate a
    head, and an output gate of full rank or through the same low rank.

    What differs from gated delta's own parameters stands in `extra_parameters`.
    """
    inner = Config(config.file, section(config, "linear_attn_config") or {}, config.family)
    count, size = whole(inner, "num_heads", low=1), whole(inner, "head_dim", low=1)
    width = count * size
    decay = hidden * size + size * width
    if not flag(inner, "use_full_rank_gate"):
        assume(config, "the low-rank output gate of its linear layers is counted and priced as one of full rank")
    vectors = width - count  # a step bias for each channel in place of one a head
    return {
        "kind": "linear",
        "head_size": size,
        "value_head_size": size,
        "state_key_heads": count,
        "state_value_heads": count,
        "state_gates": 1,
        "convolution_width": whole(inner, "short_conv_kernel_size", low=1),
        "extra_parameters": decay + vectors,
        "extra_projections": decay,
    }


def mamba2(config: Config, hidden: int) -> dict:
    """Mamba-2 (arXiv:2405.21060) of Nemotron-H: H heads of P, G groups of state N."""
    count, size = whole(config, "mamba_num_heads", low=1), whole(config, "mamba_head_dim", low=1)
    groups, state = whole(config, "n_groups", low=1), whole(config, "ssm_state_size", low=1)
    attention = {
        "kind": "state-space",
        "head_size": state,
        "value_head_size": size,
        "state_key_heads": groups,
        "state_value_heads": count,
        "convolution_width": whole(config, "conv_kernel", low=1),
    }
    if flag(config, "use_conv_bias", True):
        attention["convolution_bias"] = True
    attention["state_chunk_tokens"] = whole(config, "chunk_size", default=128, low=1)
    if flag(config, "mamba_proj_bias", flag(config, "use_bias")):
        attention["extra_parameters"] = 2 * count * size + 2 * groups * state + count + hidden
    return attention
