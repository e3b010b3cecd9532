"""What a model's document implies and a kernel needs as one number: work of recurrent layers, vectors of residuals,
places of layers as bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..constants import PLACE_BITS, PLACE_WORDS

STATE_OPERATIONS = {"linear": 7.0, "state-space": 6.0}
"""FLOPs a state element and token in decode: the delta rule decays, reads, corrects and writes (7); Mamba-2 decays,
adds an outer product and reads (6, arXiv:2405.21060)."""


def chunk_operations(doc: dict, value_head_size: Any) -> Any:
    """FLOPs of a prefill a token and value head, in chunks of C tokens, every product a whole square of C².

    Gated delta in WY form (arXiv:2412.06464): 6·dk·dv with the state, C·(6·dk + 4·dv) inside the chunk (kkᵀ, qkᵀ, T·k;
    T·v, scores·v), and C²/3 to invert T. Mamba-2 (arXiv:2405.21060, §6): 4·N·P with the state, C·(2·P + 2·N·G/H) inside
    (CBᵀ once a group).
    """
    size, chunk = doc["head_size"], doc["state_chunk_tokens"]
    if doc["kind"] == "linear":
        inside = chunk * (6 * size + 4 * value_head_size) + chunk * chunk / 3
        return 6 * size * value_head_size + inside
    if doc["kind"] == "state-space":
        shared = doc["state_key_heads"] / doc["state_value_heads"]
        return 4 * size * value_head_size + chunk * (2 * value_head_size + 2 * size * shared)
    return 0.0


def state_space_vectors(doc: dict, value_head_size: Any) -> Any:
    """Vectors of a Mamba-2 layer beyond those of a gated-delta layer: decay, skip and step a head (3H against 2H), a
    norm over all heads (HP against P), and the convolution's bias (HP + 2GN) [elements]."""
    if doc["kind"] != "state-space":
        return 0
    heads, groups = doc["state_value_heads"], doc["state_key_heads"]
    inner = heads * value_head_size
    bias = inner + 2 * groups * doc["head_size"] if doc["convolution_bias"] else 0
    return heads + inner - value_head_size + bias


def attended(doc: dict) -> Any:
    """Tokens that a query scores at most, beside the recent ones: its window; or the indexer's top-k entries, of
    `compression` tokens each."""
    window = float("inf") if doc["window_tokens"] is None else doc["window_tokens"]
    if not doc["index_top_k"]:
        return window
    return min(window, doc["index_top_k"] * doc["compression"])


def residual_vectors(document: dict) -> Any:
    """Hidden vectors a token that half a layer reads and writes for its residual and norm.

    4 for an ordinary one (2 read, the sum and its norm written). Hyper-connections of n streams: 4n + 2 (mixes: n read;
    input: n read, 1 written; output and mixed streams: n + 1 read, n written in one kernel; arXiv:2512.24880, Table 2
    and §4.3.1). Attention residuals over N blocks of S halves: 5 + N/S (arXiv:2603.15031, Table 1, two phases).
    """
    streams, block = document["residual_streams"], document["residual_block_layers"]
    if streams > 1:
        return 4 * streams + 2
    if not block:
        return 4
    return 5 + residual_blocks(document) / (2 * block)


def residual_blocks(document: dict) -> int:
    """Blocks whose sums attention residuals attend to, 0 where there are none."""
    block, layers = document["residual_block_layers"], sum(group["count"] for group in document["layer_groups"])
    return -(-layers // block) if block else 0


def place_words(places: list[int]) -> np.ndarray:
    """Layers as bits, bit l mod 24 of word l // 24 for layer l, [PLACE_WORDS]; zeros where a layer is beyond them."""
    words = [0] * PLACE_WORDS
    if places and max(places) >= PLACE_BITS * PLACE_WORDS:
        places = []
    for place in places:
        words[place // PLACE_BITS] += 1 << place % PLACE_BITS
    return np.asarray(words, float)
