"""Weight matrices of a layer under the names that checkpoints give them, so that exclude lists can be matched."""

from __future__ import annotations

PREFIXES = (
    "model.layers.{}.",
    "language_model.model.layers.{}.",
    "model.language_model.layers.{}.",
    "backbone.layers.{}.",
    "layers.{}.",
)
"""What stands before a layer's own names."""

MIXERS = {
    "grouped-query": ("self_attn", "mixer", "attn"),
    "latent": ("self_attn",),
    "compressed": ("attn", "self_attn"),
    "linear": ("linear_attn", "self_attn"),
    "state-space": ("mixer", "mamba"),
    "none": (),
}
"""Modules that hold attention, by its kind."""

EXPERT_PARENTS = ("mlp", "block_sparse_moe", "mixer", "ffn", "feed_forward", "moe")
"""Modules that hold experts and routers."""

HEADS = {
    "lm_head": ("lm_head", "language_model.lm_head", "head"),
    "embedding": (
        *("model.embed_tokens", "language_model.model.embed_tokens", "model.language_model.embed_tokens"),
        *("backbone.embeddings", "embed_tokens", "embed"),
    ),
}
"""Names of the classes that stand outside the layers."""

Module = tuple[tuple[str, ...], float]
"""A matrix: every name it may have, and its elements."""


def layer_modules(shape: dict, hidden: int, layer: int) -> dict[str, list[Module]]:
    """The matrices of a layer by class of weights (see `Module`); `shape` is a group in its JSON form."""
    attention, feed_forward = shape["attention"], shape["feed_forward"]
    found: dict[str, list[Module]] = {}

    def named(parents: tuple[str, ...], leaves: tuple[str, ...], size: float) -> Module:
        dotted = [f"{parent}.{leaf}" for parent in parents for leaf in leaves]
        return tuple(prefix.format(layer) + name for prefix in PREFIXES for name in dotted), float(size)

    mixers = MIXERS[attention["kind"]]
    if mixers:
        parts = _attention_parts(attention, hidden)
        found["attention"] = [named(mixers, leaves, size) for leaves, size in parts]
    width = feed_forward.get("width", 0)
    if width:
        leaves = (("gate_proj", "gate_up_proj", "w1"), ("up_proj", "gate_up_proj", "w3"), ("down_proj", "w2"))
        kept = leaves if feed_forward["kind"] == "gated" else leaves[1:]
        found["feed_forward"] = [named(("mlp", "mixer", "ffn", "feed_forward"), names, width) for names in kept]
    if feed_forward.get("experts"):
        found["router"] = [named(EXPERT_PARENTS, ("gate", "router"), 1)]
        found["routed_experts"] = [
            named(EXPERT_PARENTS, ("experts.0.gate_proj", "experts.0.w1", "experts.0.up_proj", "experts"), 2),
            named(EXPERT_PARENTS, ("experts.0.down_proj", "experts.0.w2", "experts"), 1),
        ]
    if feed_forward.get("shared_width"):
        shared = tuple(f"{parent}.{name}" for parent in EXPERT_PARENTS for name in ("shared_experts", "shared_expert"))
        found["shared_experts"] = [
            named(shared, ("gate_proj", "up_proj", "w1"), 2),
            named(shared, ("down_proj", "w2"), 1),
        ]
    return found


def _attention_parts(attention: dict, hidden: int) -> list[tuple[tuple[str, ...], float]]:
    """The matrices of an attention layer: their last names, and their elements."""
    size = attention["head_size"]
    value = attention.get("value_head_size", size)
    query = attention.get("query_heads", 0)
    if attention["kind"] == "grouped-query":
        kv = attention["kv_heads"]
        parts = [
            (("q_proj", "qkv_proj"), query * size),
            (("k_proj", "qkv_proj"), kv * size),
            (("v_proj", "qkv_proj"), kv * value),
            (("o_proj",), query * value),
        ]
        return [(leaves, elements * hidden) for leaves, elements in parts]
    if attention["kind"] == "latent":
        rank, rope, latent = attention["q_rank"], attention["rope_head_size"], attention["kv_rank"]
        return [
            (("q_a_proj", "q_proj"), hidden * rank),
            (("q_b_proj", "q_proj"), (rank or hidden) * query * (size + rope)),
            (("kv_a_proj_with_mqa",), hidden * (latent + rope)),
            (("kv_b_proj",), latent * query * (size + value)),
            (("o_proj",), query * value * hidden),
        ]
    if attention["kind"] == "compressed":
        rank, out = attention["q_rank"], attention["output_rank"]
        return [
            (("wq_a",), hidden * rank),
            (("wq_b",), rank * query * size),
            (("wkv",), hidden * size),
            (("wo_a",), out * query * size),
            (("wo_b",), out * attention["output_groups"] * hidden),
        ]
    keys, values = attention["state_key_heads"] * size, attention["state_value_heads"] * value
    inputs = ("in_proj", "in_proj_qkv", "in_proj_qkvz", "q_proj")
    return [(inputs, hidden * (2 * keys + 2 * values)), (("out_proj", "o_proj"), hidden * values)]
