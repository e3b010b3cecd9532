"""The JSON form of a model: attention, feed-forward, groups of layers, formats of weights."""

from __future__ import annotations

from ...constants import FORMATS, GROUP_SLOTS, KV_FORMATS, WEIGHT_CLASSES
from ...errors import InputError
from ..schema import Flag, Listing, Number, Section, Table, Text
from .common import SOURCES, count


def _heads_rule(attention: dict, where: str) -> None:
    kind = attention.get("kind", "grouped-query")
    query, kv = attention.get("query_heads", 0), attention.get("kv_heads", 0)
    if kind == "grouped-query":
        if kv < 1:
            raise InputError(f"{where}.kv_heads: {kv} is out of range; grouped-query attention needs at least 1")
        if query % kv:
            raise InputError(f"{where}.kv_heads: {kv} does not divide query_heads {query}; choose a divisor of {query}")
    if kind == "latent" and not (attention.get("kv_rank") and attention.get("rope_head_size")):
        raise InputError(f"{where}: latent attention needs kv_rank and rope_head_size above 0")
    if kind in ("linear", "state-space"):
        needed = ("head_size", "state_key_heads", "state_value_heads")
        missing = [name for name in needed if not attention.get(name)]
        if missing:
            raise InputError(f"{where}.{missing[0]}: {kind} attention needs it above 0")
    if kind == "compressed" and not (query and attention.get("head_size")):
        raise InputError(f"{where}: compressed attention needs query_heads and head_size above 0")
    if bool(attention.get("output_rank")) != bool(attention.get("output_groups")):
        raise InputError(f"{where}: output_rank and output_groups stand together; give both or neither")


def _projections_rule(attention: dict, where: str) -> None:
    among, all_ = attention.get("extra_projections", 0), attention.get("extra_parameters", 0)
    if among and attention.get("kind") == "none":
        raise InputError(f"{where}.extra_projections: a layer without attention has none; leave it out")
    if among > all_:
        raise InputError(
            f"{where}.extra_projections: {among} is more than the {all_} extra_parameters; choose 0 to {all_}"
        )


def _experts_rule(feed_forward: dict, where: str) -> None:
    experts, chosen = feed_forward.get("experts", 0), feed_forward.get("experts_per_token", 0)
    if chosen > experts:
        raise InputError(
            f"{where}.experts_per_token: {chosen} is more than the {experts} experts; choose 1 to {experts}"
        )
    if experts and not (chosen and feed_forward.get("expert_width")):
        raise InputError(f"{where}: experts need experts_per_token and expert_width above 0")
    if not experts and not feed_forward.get("width") and feed_forward.get("kind") != "none":
        raise InputError(f"{where}.width: a dense feed-forward needs a width above 0")


ATTENTION = Section(
    {
        "kind": Text(("grouped-query", "latent", "compressed", "linear", "state-space", "none")),
        "query_heads": count(),
        "kv_heads": count(),
        "head_size": count(),
        "value_head_size": Number(low=0, high=1e9, default=None, integer=True, optional=True),
        "window_tokens": Number(low=1, high=1e9, default=None, integer=True, optional=True, unit="tokens"),
        "qkv_bias": Flag(default=False),
        "output_bias": Flag(default=False),
        "qk_norm_parameters": count(),
        "value_from_key": Flag(default=False),
        "sinks": Flag(default=False),
        "output_gate": Flag(default=False),
        "output_rank": count(),
        "output_groups": count(),
        "q_rank": count(),
        "kv_rank": count(),
        "rope_head_size": count(),
        "chunked": Flag(default=False),
        "shares_kv": Flag(default=False),
        "index_heads": count(),
        "index_head_size": count(),
        "index_top_k": count(),
        "compression": count(low=1, default=1),
        "recent_tokens": count(),
        "state_key_heads": count(),
        "state_value_heads": count(),
        "state_gates": count(default=2, high=16),
        "convolution_width": count(),
        "convolution_bias": Flag(default=False),
        "state_chunk_tokens": count(low=1, default=64),
        "extra_parameters": count(),
        "extra_projections": count(),
    },
    rules=(_heads_rule, _projections_rule),
)
"""Attention of a layer. `latent` (MLA): head_size is the no-rope part dn, value_head_size dv. `compressed`: one key of
head_size elements that is the value, too, for `compression` tokens, beside the last `recent_tokens` as they are; its
output projection goes through output_groups x output_rank. `linear` (gated delta): head_size and value_head_size of the
state, state_key_heads, state_value_heads, and state_gates columns a value head; `state-space` (Mamba-2): the same, with
the state size N as head_size, groups as state_key_heads, and one gate (the step); a prefill takes `state_chunk_tokens`
at once. `value_from_key`: no projection for values, which are the projected keys. `extra_projections`: those of the
`extra_parameters` that multiply every token."""

FEED_FORWARD = Section(
    {
        "kind": Text(("gated", "plain", "none")),
        "width": count(),
        "bias": Flag(default=False),
        "experts": count(),
        "experts_per_token": count(),
        "expert_width": count(),
        "shared_width": count(),
        "router_bias": Flag(default=False),
        "expert_bias": Flag(default=False),
        "shared_gate": Flag(default=False),
        "latent_size": count(),
    },
    rules=(_experts_rule,),
)
"""Feed-forward of a layer. `latent_size`: routed experts read and write that many elements, with projections from the
hidden size and back that all experts share."""


def _places_rule(group: dict, where: str) -> None:
    places = group.get("layers")
    if places is None:
        return
    if len(places) != group["count"]:
        raise InputError(f"{where}.layers: {len(places)} places for a count of {group['count']}")
    if places != sorted(set(places)):
        raise InputError(f"{where}.layers: the places must ascend")
    if any(group.get(name, usual) != usual for name, usual in (("first", 0), ("period", 1), ("run", 1))):
        raise InputError(f"{where}.layers: give the places, or first, period and run, but not both")


GROUP = Section(
    {
        "count": count(low=1, default=1, high=10_000),
        "first": count(),
        "period": count(low=1, default=1),
        "run": count(low=1, default=1),
        "layers": Listing(count(high=1e5), default=None, optional=True, least=1),
        "norm_vectors": count(default=2, high=16),
        "attention": ATTENTION,
        "feed_forward": FEED_FORWARD,
    },
    rules=(_places_rule,),
)
"""`count` layers of one shape: from layer `first`, the first `run` of every `period` layers, or, where that does not
describe them, the `layers` themselves."""


def group_places(group: dict) -> list[int]:
    """The layers that a group of a document holds."""
    if group.get("layers") is not None:
        return list(group["layers"])
    first, period, run = group.get("first", 0), group.get("period", 1), group.get("run", 1)
    return [first + nth // run * period + nth % run for nth in range(group["count"])]


BITS_TOLERANCE = 0.005
"""How far the bits per weight that a mix states may be from what its shares give, relative."""


def _mix_rule(mix: dict, where: str) -> None:
    total = sum(mix["shares"].values())
    if abs(total - 1) > 1e-6:
        raise InputError(f"{where}.shares: they sum to {total:g}; the shares of all tensors must sum to 1")
    bits = 8 * sum(share * FORMATS[name].bytes for name, share in mix["shares"].items())
    stated = mix["bits_per_weight"]
    if abs(stated / bits - 1) > BITS_TOLERANCE:
        raise InputError(
            f"{where}.bits_per_weight: {stated:g}, but the shares give {bits:.4g} bits per weight; "
            "correct the shares or the bits"
        )


MIX = Section(
    {
        "shares": Table(Number(low=0, high=1), keys=tuple(FORMATS), least=1),
        "bits_per_weight": Number(low=0, high=32, above=True, unit="bits, scales included"),
    },
    rules=(_mix_rule,),
)
"""A class whose tensors have several formats, by share of its weights. Arithmetic runs in the type of the class's own
format."""

PRECISION = Section(
    {name: Text(tuple(FORMATS), default="bf16") for name in WEIGHT_CLASSES}
    | {
        "kv_cache": Text(tuple(KV_FORMATS), default="bf16"),
        "activations": Text(("fp32", "bf16", "fp16"), default="bf16"),
        "mixes": Table(MIX, keys=WEIGHT_CLASSES, default={}),
    },
    default={},
)


def _layers_rule(model: dict, where: str) -> None:
    layers = sum(group["count"] for group in model["layer_groups"])
    owners = [0] * layers
    for index, group in enumerate(model["layer_groups"]):
        for layer in group_places(group):
            if layer >= layers:
                raise InputError(
                    f"{where}: layer_groups[{index}] reaches layer {layer}, but the groups hold {layers} layers in all"
                )
            owners[layer] += 1
    for layer, claims in enumerate(owners):
        if claims != 1:
            raise InputError(f"{where}: layer_groups: layer {layer} of {layers} belongs to {claims} groups; expected 1")


def _residual_rule(model: dict, where: str) -> None:
    if model.get("residual_streams", 1) > 1 and model.get("residual_block_layers", 0):
        raise InputError(f"{where}: residual_streams and residual_block_layers exclude each other; give one of them")


MODEL = Section(
    {
        "kind": Text(("model",)),
        "name": Text(),
        "aliases": Listing(Text(), default=[]),
        "hidden_size": count(low=1, default=1),
        "vocabulary_size": count(low=1, default=1),
        "tied_embeddings": Flag(default=False),
        "position_embeddings": count(),
        "embedding_norm_vectors": count(high=8),
        "final_norm_vectors": count(default=1, high=8),
        "lm_head_bias": Flag(default=False),
        "residual_streams": count(low=1, default=1, high=64),
        "residual_block_layers": count(high=10_000),
        "max_context_tokens": Number(low=1, high=1e9, default=None, integer=True, optional=True, unit="tokens"),
        "layer_groups": Listing(GROUP, least=1, most=GROUP_SLOTS),
        "mtp_layers": count(high=64),
        "precision": PRECISION,
        "published": Section(
            {
                "parameters_total": Number(low=1, high=1e15, default=None, integer=True, optional=True),
                "exact": Flag(default=False),
            },
            default={"parameters_total": None, "exact": False},
        ),
        "exact_today": Flag(),
        "approximation": Text(default=None, optional=True),
        "note": Text(default=None, optional=True),
        "sources": SOURCES,
    },
    rules=(_layers_rule, _residual_rule),
)
"""`residual_streams` of hyper-connections (1: an ordinary residual); `residual_block_layers`: layers of a block whose
sums attention residuals attend to (0: none). `mtp_layers`: layers of multi-token prediction beside the `layer_groups`,
each like the last layer, behind a projection from twice the hidden size."""
