"""Layers of a Hugging Face config: which mixer and which feed-forward each layer has."""

from __future__ import annotations

from ...errors import InputError
from .attention import block_sparse, compressed, gated_delta, grouped_query, kimi_delta, latent, mamba2
from .config import (
    CHOSEN,
    EXPERTS,
    Config,
    assume,
    checked,
    flag,
    given,
    layer_count,
    listing,
    present,
    section,
    shown,
    text,
    whole,
    window_tokens,
)

FOUR_NORMS = {"gemma2", "gemma3", "glm4"}
"""Families with a norm before and after both halves of a layer."""

EXPERTS_OF_INTERMEDIATE_SIZE = {"mixtral", "gpt_oss", "minimax_m2", "minimax_m3", "minimax_m3_vl", "llama4", "phimoe"}
"""Families whose `intermediate_size` is the width of one expert."""

SHARED_GATE = {"qwen2_moe", "qwen3_next", "qwen3_5_moe"}
"""Families that weigh the shared expert by a gate of its own."""

ROUTER_BIAS = {"gpt_oss", "nemotron_h", "glm4_moe", "glm_moe_dsa", "kimi_k2", "deepseek_v3", "deepseek_v32"}
"""Families with a bias for each expert in the router (gpt-oss), or for each expert's choice (the others)."""

WINDOWED = {"mistral", "mixtral", "gemma2", "gemma3", "phi3", "starcoder2"}
"""Families whose `sliding_window` holds without another switch."""

LAYER_TYPES = (
    *("full_attention", "sliding_attention", "chunked_attention"),
    *("linear_attention", "deepseek_sparse_attention", "attention"),
)

NOT_DESCRIBED = {"hidden_size_per_layer_input": "per-layer embeddings", "num_kv_shared_layers": "shared caches"}
"""Keys of parts (Gemma 3n and the small Gemma 4 have them) that no field of a model document stands for."""

PATTERN = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}
"""Layers of Nemotron-H as its pattern writes them, with the words of its newer configs."""


def layer_shapes(config: Config, hidden: int) -> list[dict]:
    """The norms, attention and feed-forward of every layer, in the JSON form of a group."""
    if config.family == "nemotron_h":
        return _nemotron_layers(config, hidden)
    for key, what in NOT_DESCRIBED.items():
        if whole(config, key, default=0):
            raise InputError(f"{config.file}: {key}: {what} cannot be described by a jaxperf model yet")
    count = layer_count(config)
    kinds = _attention_kinds(config, count)
    sparse = _expert_layers(config, count)
    shapes = []
    for layer in range(count):
        attention = _attention(config, hidden, kinds[layer], layer)
        feed_forward = expert_feed_forward(config, layer) if sparse[layer] else _dense(config)
        norms = 4 if config.family in FOUR_NORMS else 2
        if config.family == "gemma4":
            norms, feed_forward = _gemma_4(config, hidden, attention, feed_forward)
        if config.family == "kimi_linear" and whole(config, "attn_res_block_size", default=0):
            norms += 4  # attention residuals: a projection and a norm before either half
        if config.family == "kimi_linear" and sparse[layer] and flag(config, "latent_moe_use_norm"):
            attention["extra_parameters"] = attention.get("extra_parameters", 0) + feed_forward["latent_size"]
        shapes.append({"norm_vectors": norms, "attention": attention, "feed_forward": feed_forward})
    return shapes


def _attention(config: Config, hidden: int, kind: str, layer: int) -> dict:
    """Attention of one layer, of a kind as `_attention_kinds` names it."""
    if kind == "compressed":
        return compressed(config, hidden, layer)
    if kind == "kimi_delta":
        return kimi_delta(config, hidden)
    if kind == "linear_attention":
        return gated_delta(config)
    if present(config, "kv_lora_rank"):
        indexer = listing(config, "indexer_types", layer + 1)
        return latent(config, hidden, indexed=indexer is None or indexer[layer] == "full")
    window = None
    if kind == "sliding_attention":
        window = window_tokens(config, "sliding_window")
    elif kind == "chunked_attention":
        window = window_tokens(config, "attention_chunk_size")
    if config.family == "gemma4" and kind == "full_attention":
        shared = flag(config, "attention_k_eq_v")
        values = {**config.values, "head_dim": whole(config, ("global_head_dim", "head_dim"))}
        if shared and present(config, "num_global_key_value_heads"):
            values["num_key_value_heads"] = config.values["num_global_key_value_heads"]
        wide = grouped_query(Config(config.file, values, config.family, config.assumptions), hidden)
        return wide | ({"value_from_key": True} if shared else {})
    attention = grouped_query(config, hidden, window)
    if kind == "chunked_attention":
        attention["chunked"] = True
    return block_sparse(config, hidden, attention, layer)


def _attention_kinds(config: Config, count: int) -> list[str]:
    """The kind of attention of every layer."""
    if config.family == "deepseek_v4":
        listing(config, "compress_ratios", count)
        return ["compressed"] * count
    if config.family == "kimi_linear":
        inner = section(config, "linear_attn_config")
        if inner is None:
            raise InputError(f"{config.file}: the key 'linear_attn_config' is missing; the model cannot be described")
        linear = listing(Config(config.file, inner, config.family), "kda_layers") or []
        places = {checked(config, "linear_attn_config.kda_layers", place, 1) for place in linear}
        if max(places, default=0) > count:
            raise InputError(f"{config.file}: linear_attn_config.kda_layers: layer {max(places)} of {count}")
        return ["kimi_delta" if layer + 1 in places else "full_attention" for layer in range(count)]
    types = listing(config, "layer_types", count)
    if types is not None:
        for name in types[:count]:
            if name not in LAYER_TYPES:
                known = ", ".join(LAYER_TYPES)
                raise InputError(f"{config.file}: layer_types: {shown(name)} is not known; expected {known}")
        return types[:count]
    if config.family in ("qwen3_next", "qwen3_5", "qwen3_5_moe"):
        interval = whole(config, "full_attention_interval", default=4, low=1)
        return ["linear_attention" if (layer + 1) % interval else "full_attention" for layer in range(count)]
    if config.family == "llama4":
        return _chunked(config, count)
    return _sliding(config, count)


def _chunked(config: Config, count: int) -> list[str]:
    """Llama 4: layers with rotary positions attend within chunks; every fourth has none and sees all."""
    rotary = listing(config, "no_rope_layers", count) or []
    if not rotary:
        interval = whole(config, "no_rope_layer_interval", default=4, low=1)
        rotary = [int((layer + 1) % interval != 0) for layer in range(count)]
        assume(config, f"every {interval}th layer attends to the whole context, the others within chunks")
    if present(config, "attention_chunk_size") is None:
        return ["full_attention"] * count
    return ["chunked_attention" if rotary[layer] else "full_attention" for layer in range(count)]


def _sliding(config: Config, count: int) -> list[str]:
    """Sliding windows where no list says which layers have them."""
    window = window_tokens(config, "sliding_window")
    if window is None or not flag(config, "use_sliding_window", True):
        return ["full_attention"] * count
    if config.family == "gemma2":
        return ["full_attention" if layer % 2 else "sliding_attention" for layer in range(count)]
    if config.family == "gemma3":
        period = whole(config, "sliding_window_pattern", default=6, low=1)
        return ["sliding_attention" if (layer + 1) % period else "full_attention" for layer in range(count)]
    if present(config, "use_sliding_window") and present(config, "max_window_layers"):
        full = whole(config, "max_window_layers")
        return ["full_attention" if layer < full else "sliding_attention" for layer in range(count)]
    if config.family not in WINDOWED:
        assume(config, f"every layer has the sliding window of {window} tokens")
    return ["sliding_attention"] * count


def _expert_layers(config: Config, count: int) -> list[bool]:
    """Whether each layer has experts. **Raises** `InputError` where the config speaks of experts without a number."""
    if not whole(config, EXPERTS, default=0):
        chosen = present(config, *CHOSEN)
        if chosen and whole(config, chosen):
            if present(config, *EXPERTS) is None:
                raise InputError(
                    f"{config.file}: {chosen}: {config.values[chosen]} experts a token, but the key '{EXPERTS[0]}' is "
                    f"missing (nor {', '.join(EXPERTS[1:])}); give the number of experts, 0 for a dense model"
                )
            assume(config, f"every layer is dense, as the number of experts is 0 (though {chosen} is given)")
        return [False] * count
    types = listing(config, "mlp_layer_types", count)
    if types is not None:
        return [kind == "sparse" for kind in types[:count]]
    frequency = given(config, "moe_layer_freq")
    if isinstance(frequency, list):
        return [bool(entry) for entry in listing(config, "moe_layer_freq", count) or []][:count]
    first = whole(config, "first_k_dense_replace", default=0)
    step = whole(config, ("moe_layer_freq", "decoder_sparse_step", "interleave_moe_layer_step"), default=1, low=1)
    dense = {checked(config, "mlp_only_layers", layer, 0) for layer in listing(config, "mlp_only_layers") or []}
    if present(config, "moe_layer_freq"):
        return [layer >= first and layer % step == 0 and layer not in dense for layer in range(count)]
    return [layer >= first and (layer + 1) % step == 0 and layer not in dense for layer in range(count)]


def _dense(config: Config) -> dict:
    """A dense feed-forward; Llama 4 and MiniMax-M3 keep its width under another key than that of an expert."""
    width = whole(config, ("dense_intermediate_size", "intermediate_size_mlp", "intermediate_size"), low=1)
    feed_forward: dict = {"kind": "gated", "width": width}
    if flag(config, "mlp_bias"):
        feed_forward["bias"] = True
    return feed_forward


def expert_feed_forward(config: Config, layer: int = 0, kind: str = "gated") -> dict:
    """Routed and shared experts of a layer. **Raises** `InputError` where a token chooses more than there are."""
    count = whole(config, EXPERTS, low=1)
    chosen = whole(config, CHOSEN, low=1)
    if chosen > count:
        key = present(config, *CHOSEN)
        raise InputError(f"{config.file}: {key}: {chosen} is more than the {count} experts; expected 1 to {count}")
    keys = ("moe_intermediate_size", "intermediate_size")
    width = whole(config, keys[1:] if config.family in EXPERTS_OF_INTERMEDIATE_SIZE else keys, low=1)
    shared = whole(config, "shared_expert_intermediate_size", default=0)
    number = whole(config, ("n_shared_experts", "num_shared_experts"), default=0)
    sizes = ("moe_shared_expert_intermediate_size", "shared_intermediate_size")
    shared = shared or number * whole(config, sizes, default=width)
    if config.family == "llama4":
        shared = width
    made: dict = {"kind": kind, "experts": count, "experts_per_token": chosen, "expert_width": width}
    if shared:
        made["shared_width"] = shared
    if shared and config.family in SHARED_GATE:
        made["shared_gate"] = True
    hashed = layer < whole(config, "num_hash_layers", default=0)  # these choose by a table of token ids
    chosen_by_bias = text(config, "topk_method") == "noaux_tc" or flag(config, "use_routing_bias")
    if (chosen_by_bias or config.family in ROUTER_BIAS) and not hashed:
        made["router_bias"] = True
    if config.family == "gpt_oss":
        made["expert_bias"] = True
    read = whole(config, ("moe_latent_size", "routed_expert_hidden_size"), default=0)
    return made | ({"latent_size": read} if read else {})


def _gemma_4(config: Config, hidden: int, attention: dict, feed_forward: dict) -> tuple[int, dict]:
    """Norms and feed-forward of a Gemma 4 layer: a dense part beside the experts, with norms of their own; a vector
    that scales the router's input, a scale for each expert (counted as its bias), and a scalar for the layer."""
    attention["extra_parameters"] = attention.get("extra_parameters", 0) + 1
    if not feed_forward.get("experts"):
        return 4, feed_forward
    attention["extra_parameters"] += hidden
    return 7, feed_forward | {"width": whole(config, "intermediate_size", low=1), "router_bias": True}


def _nemotron_layers(config: Config, hidden: int) -> list[dict]:
    """Nemotron-H: every layer is one mixer, a feed-forward or experts, behind one norm."""
    pattern = given(config, "hybrid_override_pattern") or given(config, "layers_block_type")
    if not isinstance(pattern, (str, list)) or not pattern:
        raise InputError(f"{config.file}: the key 'hybrid_override_pattern' is missing (nor layers_block_type)")
    words = [PATTERN.get(entry, entry) if isinstance(entry, str) else shown(entry) for entry in pattern]
    for word in words:
        if word not in PATTERN.values():
            known = ", ".join(PATTERN.values())
            raise InputError(f"{config.file}: hybrid_override_pattern: {shown(word)} is no layer; expected {known}")
    count = whole(config, "num_hidden_layers", default=len(words), low=1)
    if count != len(words):
        raise InputError(f"{config.file}: num_hidden_layers: {count}, but the pattern has {len(words)} layers")
    none: dict = {"kind": "none"}
    plain = "plain" if (text(config, "mlp_hidden_act") or "relu2") == "relu2" else "gated"
    makers = {
        "mamba": lambda: (mamba2(config, hidden), none),
        "attention": lambda: (grouped_query(config, hidden, window_tokens(config, "sliding_window")), none),
        "moe": lambda: (none, expert_feed_forward(config, kind=plain)),
        "mlp": lambda: (none, {"kind": plain, "width": whole(config, "intermediate_size", low=1)}),
    }
    made = {word: makers[word]() for word in dict.fromkeys(words)}
    return [{"norm_vectors": 1, "attention": made[word][0], "feed_forward": made[word][1]} for word in words]
