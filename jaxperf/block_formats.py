"""Weights in blocks of llama.cpp (GGUF): exact sizes, and which tensors of a file have which type. Plain Python.

Source: llama.cpp, ggml/src/ggml-common.h (block structures) and src/llama-quant.cpp (`llama_tensor_get_type`), 2024."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Block(NamedTuple):
    """A block of quantised weights: its size [bytes] with scales, and the weights in it."""

    bytes: int
    weights: int


BLOCKS: Final = {
    "q4_0": Block(18, 32),
    "q8_0": Block(34, 32),
    "q4_k": Block(144, 256),
    "q5_k": Block(176, 256),
    "q6_k": Block(210, 256),
}
"""Q4_0: an fp16 scale and 32 nibbles. Q8_0: an fp16 scale and 32 bytes. Q4_K: fp16 scale and minimum, 12 bytes of 6-bit
scales, 256 nibbles; Q5_K: 32 bytes of high bits more. Q6_K: 16 8-bit scales, an fp16 scale, 6 bits a weight."""

MORE_BITS: Final = 0.5
"""Share of the layers whose value and down projections have Q6_K in a `_M` mix: the first eighth, the last eighth and
every third between them (`use_more_bits`; 16 of 32 layers)."""


def block_bytes(name: str) -> float:
    """Bytes per weight of a block type, scales included."""
    return BLOCKS[name].bytes / BLOCKS[name].weights


def mixed_bytes(shares: Mapping[str, float], sizes: Mapping[str, float]) -> float:
    """Bytes per weight of a mix of formats [bytes]: Σ share·bytes, from shares that sum to 1."""
    return sum(share * sizes[name] for name, share in shares.items())


def _down_mix(base: str) -> float:
    """Bytes per weight of gate, up and down projections: a third has Q6_K in `MORE_BITS` of the layers."""
    share = MORE_BITS / 3
    return (1 - share) * block_bytes(base) + share * block_bytes("q6_k")


class FileType(NamedTuple):
    """A type of GGUF file: the type of most tensors, of value and down projections in `MORE_BITS` of the layers, of the
    LM head and of the embedding table."""

    base: str
    more: str
    lm_head: str
    embedding: str


FILES: Final = {
    "q4_0": FileType("q4_0", "q4_0", "q6_k", "q4_0"),
    "q8_0": FileType("q8_0", "q8_0", "q8_0", "q8_0"),
    "q4_k_m": FileType("q4_k", "q6_k", "q6_k", "q4_k"),
    "q5_k_m": FileType("q5_k", "q6_k", "q6_k", "q5_k"),
    "q6_k": FileType("q6_k", "q6_k", "q6_k", "q6_k"),
}

MIXES: Final = {name: _down_mix(FILES[name].base) for name in ("q4_k_m", "q5_k_m")}
"""Bytes per weight of the `_M` mixes over a gated feed-forward (gate, up, down): 4.84 and 5.68 bits."""


def value_share(attention: Mapping) -> float:
    """Share of an attention layer's weights in its value projection: Hkv·dv over those of q, k, v and output; 0 where
    there is none (latent, linear)."""
    if attention["kind"] != "grouped-query" or attention.get("value_from_key"):
        return 0.0
    query, kv, dk = attention["query_heads"], attention["kv_heads"], attention["head_size"]
    dv = attention.get("value_head_size") or dk
    return kv * dv / (query * dk + kv * dk + kv * dv + query * dv)


MULTI_HEAD: Final = [
    {"count": 1, "attention": {"kind": "grouped-query", "query_heads": 1, "kv_heads": 1, "head_size": 1}}
]
"""Layers whose projections of queries, keys, values and output are equally large."""


def file_precision(name: str, layer_groups: list[dict]) -> dict:
    """The classes of a precision that a type of GGUF file sets: feed-forward, experts, embedding and LM head by their
    formats' names, attention by the mix of its projections over all layers (`mixes`).

    The router stays as it is. Mixtures of experts with 8 experts have wider value projections, which is left out.
    """
    kind = FILES[name]
    chosen = dict.fromkeys(("feed_forward", "shared_experts", "routed_experts"), name)
    chosen |= {"attention": kind.base, "embedding": kind.embedding, "lm_head": kind.lm_head}
    if kind.more == kind.base:
        return chosen
    layers = sum(group["count"] for group in layer_groups)
    share = sum(group["count"] * value_share(group["attention"]) for group in layer_groups) / max(layers, 1)
    shares = {kind.base: 1 - share * MORE_BITS, kind.more: share * MORE_BITS}
    bits = 8 * mixed_bytes(shares, {block: block_bytes(block) for block in BLOCKS})
    return chosen | {"mixes": {"attention": {"shares": shares, "bits_per_weight": bits}}}
