"""What a model is: a short list of layer groups, as a pytree whose leaves are numbers."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..constants import GROUP_SLOTS
from ..ops import Scalar


class Attention(eqx.Module):
    """Attention of a layer. Flags are 0 or 1; sizes are elements; absent parts are 0.

    `latent` (MLA): `head_size` is the no-rope part dn, `rope_head_size` dr, `value_head_size` dv.
    `linear` (gated delta): the state's key and value head sizes. `window` is in tokens, infinite for full attention.
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


class FeedForward(eqx.Module):
    """Feed-forward of a layer: a dense part, routed experts and shared experts, any of which may be absent (0).

    `gated` is 1 for three matrices (gate, up, down) and 0 for two; `shared_width` is all shared experts together.
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


class LayerGroup(eqx.Module):
    """`count` layers of one shape: from layer `first`, the first `run` of every `period` layers."""

    count: Scalar
    first: Scalar
    period: Scalar
    run: Scalar
    norm_vectors: Scalar
    attention: Attention
    feed_forward: FeedForward


class Model(eqx.Module):
    """A language model's text part. `groups` has `GROUP_SLOTS` entries, unused ones with count 0."""

    hidden_size: Scalar
    vocabulary_size: Scalar
    tied_embeddings: Scalar
    position_embeddings: Scalar
    embedding_norm_vectors: Scalar
    final_norm_vectors: Scalar
    lm_head_bias: Scalar
    max_context: Scalar
    groups: tuple[LayerGroup, ...]

    @property
    def layers(self) -> Scalar:
        """Number of layers L."""
        return sum(group.count for group in self.groups)


def _attention(doc: dict) -> Attention:
    kind = doc["kind"]
    value_head_size = doc["value_head_size"]
    window = doc["window_tokens"]
    same = [
        "query_heads",
        "kv_heads",
        "head_size",
        "q_rank",
        "kv_rank",
        "rope_head_size",
        "qk_norm_parameters",
        "state_key_heads",
        "state_value_heads",
        "convolution_width",
        "extra_parameters",
    ]
    flags = ["qkv_bias", "output_bias", "sinks", "output_gate"]
    return Attention(
        present=int(kind != "none"),
        latent=int(kind == "latent"),
        linear=int(kind == "linear"),
        value_head_size=doc["head_size"] if value_head_size is None else value_head_size,
        window=float("inf") if window is None else window,
        **{name: doc[name] for name in same},
        **{name: int(doc[name]) for name in flags},
    )


def _feed_forward(doc: dict) -> FeedForward:
    same = ["width", "experts", "experts_per_token", "expert_width", "shared_width"]
    flags = ["bias", "router_bias", "expert_bias", "shared_gate"]
    return FeedForward(
        gated=int(doc["kind"] == "gated"),
        **{name: doc[name] for name in same},
        **{name: int(doc[name]) for name in flags},
    )


def _group(doc: dict) -> LayerGroup:
    same = ["count", "first", "period", "run", "norm_vectors"]
    return LayerGroup(
        **{name: doc[name] for name in same},
        attention=_attention(doc["attention"]),
        feed_forward=_feed_forward(doc["feed_forward"]),
    )


def _empty(group: LayerGroup) -> LayerGroup:
    """A group of no layers that still has finite arithmetic: the shape of `group`, its count 0."""
    return eqx.tree_at(lambda g: (g.count, g.first), group, (0, 0))


def build_model(document: dict) -> Model:
    """A `Model` of plain numbers from a validated document (defaults filled in).

    The numbers are Python ints, so counts of parameters and bytes are exact to the unit; a traced value that stands in
    the document stays traced. Pass the result through `as_arrays` for kernels.
    """
    groups = [_group(group) for group in document["layer_groups"]]
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
        groups=tuple(groups),
    )


def as_arrays(tree: Any) -> Any:
    """The same pytree with every leaf a JAX array: floats of the default width; integer arrays stay what they are."""
    real = jax.dtypes.canonicalize_dtype(float)

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array):
            return leaf if jnp.issubdtype(leaf.dtype, jnp.integer) else leaf.astype(real)
        return jnp.asarray(leaf, real)

    return jax.tree.map(convert, tree)
