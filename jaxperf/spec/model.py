"""What a model is: a short list of layer groups, as a pytree whose leaves are numbers."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..constants import GROUP_SLOTS
from ..ops import Scalar, stack
from .implied import (
    STATE_OPERATIONS,
    attended,
    chunk_operations,
    place_words,
    residual_blocks,
    residual_vectors,
    state_space_vectors,
)


class Attention(eqx.Module):
    """Attention of a layer. Flags are 0 or 1; sizes are elements; absent parts are 0.

    `latent` (MLA): `head_size` is the no-rope part dn, `rope_head_size` dr, `value_head_size` dv; `direct` where its
    latent is key and value itself, without up-projections. `linear` (gated delta, state space): the state's key and
    value head sizes, `state_gates` gate columns a value head, `state_operations` FLOPs a state element and token in
    decode and `chunk_operations` FLOPs a value head and token in prefill, which takes tokens in chunks.
    `window` is in tokens, infinite for full attention. `value_projection` is 0 where values reuse the key projection.
    `kept_share` cache entries a token (1/4 where 4 tokens are compressed into one), beside the last `recent` tokens;
    `index_bytes` a cache entry by which an indexer chooses what is attended to, `index_size` elements of all its heads
    together; `attended` tokens that a query scores at most beside the recent ones (window or top-k, infinite for all).
    `chunked` where windows do not slide but start anew; `stored` is 0 where a layer reads another layer's KV cache.
    `output_rank`, `output_groups`: an output projection in two steps, its input in groups. `extra_projections`
    elements among the `extra_parameters` multiply every token.
    """

    present: Scalar
    latent: Scalar
    linear: Scalar
    query_heads: Scalar
    kv_heads: Scalar
    head_size: Scalar
    value_head_size: Scalar
    window: Scalar
    qkv_bias: Scalar
    output_bias: Scalar
    qk_norm_parameters: Scalar
    sinks: Scalar
    output_gate: Scalar
    q_rank: Scalar
    kv_rank: Scalar
    rope_head_size: Scalar
    state_key_heads: Scalar
    state_value_heads: Scalar
    convolution_width: Scalar
    extra_parameters: Scalar
    extra_projections: Scalar
    direct: Scalar
    state_gates: Scalar
    state_operations: Scalar
    chunk_operations: Scalar
    value_projection: Scalar
    kept_share: Scalar
    recent: Scalar
    index_bytes: Scalar
    index_size: Scalar
    attended: Scalar
    chunked: Scalar
    stored: Scalar
    output_rank: Scalar
    output_groups: Scalar


class FeedForward(eqx.Module):
    """Feed-forward of a layer: a dense part, routed experts and shared experts, any of which may be absent (0).

    `gated` is 1 for three matrices (gate, up, down) and 0 for two; `shared_width` is all shared experts together;
    `latent_size` is what routed experts read and write in place of the hidden size, 0 where they read that.
    """

    gated: Scalar
    width: Scalar
    bias: Scalar
    experts: Scalar
    experts_per_token: Scalar
    expert_width: Scalar
    shared_width: Scalar
    router_bias: Scalar
    expert_bias: Scalar
    shared_gate: Scalar
    latent_size: Scalar


class LayerGroup(eqx.Module):
    """`count` layers of one shape: from layer `first`, the first `run` of every `period` layers.

    Irregular places are bits of `places` (see `place_words`), which are 0 for regular ones, or None where all models of
    a program are simple (see `without_places`); `period` is then the mean distance between them. A layer's half reads
    and writes `residual_vectors` hidden vectors a token for its residual.
    """

    count: Scalar
    first: Scalar
    period: Scalar
    run: Scalar
    places: Scalar | None
    residual_vectors: Scalar
    norm_vectors: Scalar
    attention: Attention
    feed_forward: FeedForward


class Model(eqx.Module):
    """A language model's text part. `groups` has `GROUP_SLOTS` entries, unused ones with count 0.

    Hidden vectors of a token: `boundary_vectors` that pass a pipeline stage's boundary, the mean over boundaries, and
    `live_vectors` that are kept at once: 1, or the streams of hyper-connections, or the blocks of attention residuals.
    """

    hidden_size: Scalar
    vocabulary_size: Scalar
    tied_embeddings: Scalar
    position_embeddings: Scalar
    embedding_norm_vectors: Scalar
    final_norm_vectors: Scalar
    lm_head_bias: Scalar
    max_context: Scalar
    boundary_vectors: Scalar
    live_vectors: Scalar
    groups: tuple[LayerGroup, ...]

    @property
    def layers(self) -> Scalar:
        """Number of layers L."""
        return sum(group.count for group in self.groups)


INDEX_SCALE_BYTES = 4
"""Bytes of the scale beside an indexer's key, whose elements are fp8 whatever the cache's format (DeepSeek-V3.2)."""


def _attention(doc: dict) -> Attention:
    kind = doc["kind"]
    value_head_size = doc["head_size"] if doc["value_head_size"] is None else doc["value_head_size"]
    window = doc["window_tokens"]
    compression = doc["compression"]
    same = [
        "query_heads",
        "kv_heads",
        "head_size",
        "q_rank",
        "rope_head_size",
        "qk_norm_parameters",
        "state_key_heads",
        "state_value_heads",
        "convolution_width",
        "output_rank",
        "output_groups",
    ]
    flags = ["qkv_bias", "output_bias", "sinks", "output_gate"]
    return Attention(
        present=int(kind != "none"),
        latent=int(kind in ("latent", "compressed")),
        linear=int(kind in ("linear", "state-space")),
        direct=int(kind == "compressed"),
        value_head_size=value_head_size,
        kv_rank=value_head_size if kind == "compressed" else doc["kv_rank"],
        window=float("inf") if window is None else window,
        value_projection=int(not doc["value_from_key"]),
        state_gates=1 if kind == "state-space" else doc["state_gates"],
        state_operations=STATE_OPERATIONS.get(kind, 0.0),
        chunk_operations=chunk_operations(doc, value_head_size),
        extra_projections=doc["extra_projections"],
        kept_share=1 if isinstance(compression, int) and compression == 1 else 1.0 / compression,
        recent=doc["recent_tokens"],
        index_size=doc["index_heads"] * doc["index_head_size"],
        attended=attended(doc),
        chunked=int(doc["chunked"]),
        stored=int(not doc["shares_kv"]),
        index_bytes=doc["index_head_size"] + INDEX_SCALE_BYTES if doc["index_head_size"] and doc["index_top_k"] else 0,
        extra_parameters=doc["extra_parameters"] + state_space_vectors(doc, value_head_size),
        **{name: doc[name] for name in same},
        **{name: int(doc[name]) for name in flags},
    )


def _feed_forward(doc: dict) -> FeedForward:
    same = ["width", "experts", "experts_per_token", "expert_width", "shared_width", "latent_size"]
    flags = ["bias", "router_bias", "expert_bias", "shared_gate"]
    return FeedForward(
        gated=int(doc["kind"] == "gated"),
        **{name: doc[name] for name in same},
        **{name: int(doc[name]) for name in flags},
    )


def _group(doc: dict, residual: Any) -> LayerGroup:
    places = doc["layers"]
    if places is None:
        where = {name: doc[name] for name in ("first", "period", "run")}
    else:
        where = {"first": places[0], "period": max(1.0, (places[-1] - places[0]) / max(len(places) - 1, 1)), "run": 1}
    return LayerGroup(
        count=doc["count"],
        places=place_words(places or []),
        residual_vectors=residual,
        norm_vectors=doc["norm_vectors"],
        **where,
        attention=_attention(doc["attention"]),
        feed_forward=_feed_forward(doc["feed_forward"]),
    )


def _empty(group: LayerGroup) -> LayerGroup:
    """A group of no layers that still has finite arithmetic: the shape of `group`, its count 0."""
    return eqx.tree_at(lambda g: (g.count, g.first, g.places), group, (0, 0, place_words([])))


def build_model(document: dict) -> Model:
    """A `Model` of plain numbers from a validated document (defaults filled in).

    The numbers are Python ints, so counts of parameters and bytes are exact to the unit; a traced value that stands in
    the document stays traced. Pass the result through `as_arrays` for kernels.
    """
    residual, streams, blocks = residual_vectors(document), document["residual_streams"], residual_blocks(document)
    groups = [_group(group, residual) for group in document["layer_groups"]]
    groups += [_empty(groups[0])] * (GROUP_SLOTS - len(groups))
    limit = document["max_context_tokens"]
    return Model(
        hidden_size=document["hidden_size"],
        vocabulary_size=document["vocabulary_size"],
        tied_embeddings=int(document["tied_embeddings"]),
        position_embeddings=document["position_embeddings"],
        embedding_norm_vectors=document["embedding_norm_vectors"],
        final_norm_vectors=document["final_norm_vectors"],
        lm_head_bias=int(document["lm_head_bias"]),
        max_context=float("inf") if limit is None else limit,
        boundary_vectors=streams + blocks / 2,
        live_vectors=streams + blocks,
        groups=tuple(groups),
    )


def without_places(model: Model, documents: Iterable[dict]) -> Model:
    """The model for a program that prices those of some documents alone: without places where all have one group of
    layers, a prefix and the rest, or two that take turns. Fewer stages then need a look."""
    groups = [document["layer_groups"] for document in documents]
    simple = all(len(each) <= 2 and all(not g["layers"] and g["period"] <= 2 for g in each) for each in groups)
    if not simple:
        return model
    return eqx.tree_at(lambda m: m.groups, model, tuple(replace(group, places=None) for group in model.groups))


def stack_groups(model: Model) -> LayerGroup:
    """All groups of a model as one `LayerGroup` whose leaves have a leading axis."""
    return stack(model.groups)


def as_arrays(tree: Any) -> Any:
    """The same pytree with every leaf a JAX array: floats of the default width; integer arrays of JAX stay integers."""
    real = jax.dtypes.canonicalize_dtype(float)

    def moved(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array):
            return _as_real(leaf, real)
        value = np.asarray(leaf, real)
        return jax.device_put(value) if value.ndim else _number(value.tobytes(), real)

    return jax.tree.map(moved, tree)


@functools.lru_cache(maxsize=1 << 16)
def _number(content: bytes, real: np.dtype) -> jax.Array:
    """A scalar by its bytes: one array for all that are equal, as making one takes 30 µs."""
    return jax.device_put(np.frombuffer(content, real)[0])


def _as_real(leaf: jax.Array, real: Any) -> jax.Array:
    """An array in the default width; weakly typed ones become strong; integers stay."""
    if jnp.issubdtype(leaf.dtype, jnp.integer) or (leaf.dtype == real and not leaf.weak_type):
        return leaf
    return leaf.astype(real)
