"""The JSON form of every kind of spec: fields, units, ranges, rules. Importing this does not import JAX."""

from __future__ import annotations

import math
from typing import Any

from ..constants import (
    AXES,
    COLLECTIVE_ALGORITHMS,
    DIM_SLOTS,
    DTYPES,
    FORMATS,
    GROUP_SLOTS,
    KV_FORMATS,
    MEMORY_KINDS,
    MEMORY_SLOTS,
    SPILL_KINDS,
    TIER_SLOTS,
    WEIGHT_CLASSES,
)
from ..errors import InputError
from .schema import Flag, Kind, Listing, Number, Section, Table, Text

SOURCES = Table(Section({"source": Text(), "date": Text(default="undated"), "estimate": Flag(default=False)}), least=1)
"""`{path: {source, date, estimate}}`; a path covers every figure below it."""


def _count(low: float = 0, default: Any = 0, high: float = 1e9) -> Number:
    return Number(low=low, high=high, default=default, integer=True)


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
        "query_heads": _count(),
        "kv_heads": _count(),
        "head_size": _count(),
        "value_head_size": Number(low=0, high=1e9, default=None, integer=True, optional=True),
        "window_tokens": Number(low=1, high=1e9, default=None, integer=True, optional=True, unit="tokens"),
        "qkv_bias": Flag(default=False),
        "output_bias": Flag(default=False),
        "qk_norm_parameters": _count(),
        "value_from_key": Flag(default=False),
        "sinks": Flag(default=False),
        "output_gate": Flag(default=False),
        "output_rank": _count(),
        "output_groups": _count(),
        "q_rank": _count(),
        "kv_rank": _count(),
        "rope_head_size": _count(),
        "chunked": Flag(default=False),
        "shares_kv": Flag(default=False),
        "index_heads": _count(),
        "index_head_size": _count(),
        "index_top_k": _count(),
        "compression": _count(low=1, default=1),
        "recent_tokens": _count(),
        "state_key_heads": _count(),
        "state_value_heads": _count(),
        "state_gates": _count(default=2, high=16),
        "convolution_width": _count(),
        "convolution_bias": Flag(default=False),
        "extra_parameters": _count(),
    },
    rules=(_heads_rule,),
)
"""Attention of a layer. `latent` (MLA): head_size is the no-rope part dn, value_head_size dv. `compressed`: one key of
head_size elements that is the value, too, for `compression` tokens, beside the last `recent_tokens` as they are; its
output projection goes through output_groups x output_rank. `linear` (gated delta): head_size and value_head_size of
the state, state_key_heads, state_value_heads, and state_gates columns a value head; `state-space` (Mamba-2): the same,
with the state size N as head_size, groups as state_key_heads, and one gate (the step). `value_from_key`: no projection
for values, which are the projected keys."""

FEED_FORWARD = Section(
    {
        "kind": Text(("gated", "plain", "none")),
        "width": _count(),
        "bias": Flag(default=False),
        "experts": _count(),
        "experts_per_token": _count(),
        "expert_width": _count(),
        "shared_width": _count(),
        "router_bias": Flag(default=False),
        "expert_bias": Flag(default=False),
        "shared_gate": Flag(default=False),
        "latent_size": _count(),
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
        "count": _count(low=1, default=1, high=10_000),
        "first": _count(),
        "period": _count(low=1, default=1),
        "run": _count(low=1, default=1),
        "layers": Listing(_count(high=1e5), default=None, optional=True, least=1),
        "norm_vectors": _count(default=2, high=16),
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


MODEL = Section(
    {
        "kind": Text(("model",)),
        "name": Text(),
        "aliases": Listing(Text(), default=[]),
        "hidden_size": _count(low=1, default=1),
        "vocabulary_size": _count(low=1, default=1),
        "tied_embeddings": Flag(default=False),
        "position_embeddings": _count(),
        "embedding_norm_vectors": _count(high=8),
        "final_norm_vectors": _count(default=1, high=8),
        "lm_head_bias": Flag(default=False),
        "max_context_tokens": Number(low=1, high=1e9, default=None, integer=True, optional=True, unit="tokens"),
        "layer_groups": Listing(GROUP, least=1, most=GROUP_SLOTS),
        "mtp_layers": _count(high=64),
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
    rules=(_layers_rule,),
)
"""`mtp_layers`: layers of multi-token prediction beside the `layer_groups`, each like the last layer, behind a
projection from twice the hidden size."""


def _peaks_rule(device: dict, where: str) -> None:
    if not any(device["peak_TFLOPS"].get(dtype) for dtype in DTYPES):
        raise InputError(f"{where}.peak_TFLOPS: at least one of {', '.join(DTYPES)} must be given")
    if device["main_memory"] not in device["memory"]:
        raise InputError(
            f"{where}.main_memory: '{device['main_memory']}' is no tier of memory; "
            f"choose one of {', '.join(device['memory'])}"
        )
    kind = device["memory"][device["main_memory"]]["kind"]
    if kind in SPILL_KINDS:
        raise InputError(
            f"{where}.main_memory: '{device['main_memory']}' is {kind} memory, which only takes what is offloaded; "
            "choose a memory of the device"
        )
    tiers = list(device["memory"].items())
    for (name, tier), (faster, before) in zip(tiers[1:], tiers, strict=False):
        if tier["bandwidth_GBps"] > before["bandwidth_GBps"]:
            raise InputError(
                f"{where}.memory.{name}.bandwidth_GBps: {tier['bandwidth_GBps']:g} is more than the "
                f"{before['bandwidth_GBps']:g} of '{faster}' before it; list the fastest tier first"
            )


DEVICE = Section(
    {
        "name": Text(),
        "peak_TFLOPS": Table(
            Number(low=0, high=1e9, above=True, optional=True, unit="TFLOP/s, dense"), keys=DTYPES, least=1
        ),
        "memory": Table(
            Section(
                {
                    "kind": Text(MEMORY_KINDS),
                    "capacity_GB": Number(low=0, high=1e9, above=True, unit="GB = 1e9 bytes"),
                    "bandwidth_GBps": Number(low=0, high=1e9, above=True, unit="GB/s"),
                    "sustained_share": Number(low=0, high=1, above=True, default=None, optional=True),
                }
            ),
            least=1,
            most=MEMORY_SLOTS,
        ),
        "main_memory": Text(),
        "tdp_W": Number(low=0, high=1e6, default=None, optional=True, above=True, unit="W"),
        "price_per_hour_USD": Number(low=0, high=1e6, default=None, optional=True, unit="USD per device-hour"),
    },
    rules=(_peaks_rule,),
)

TIER = Section(
    {
        "name": Text(),
        "topology": Text(("crossbar", "full-mesh", "torus", "mesh")),
        "dims": Listing(Number(low=1, high=1e6, integer=True), default=[], most=DIM_SLOTS),
        "devices": Number(low=1, high=1e7, integer=True, unit="devices reached, inner tiers included"),
        "bandwidth_GBps": Number(low=0, high=1e7, above=True, unit="GB/s, one-way, per port"),
        "ports": Number(low=1, high=1e4, default=1, integer=True),
        "alpha_us": Number(low=0, high=1e6, unit="microseconds a message"),
        "alpha_factor": Number(low=1, high=1e4, default=1.0),
        "bandwidth_share": Number(low=0, high=1, above=True, default=1.0),
        "oversubscription": Number(low=1, high=1e4, default=1.0),
        "in_network": Text(("none", "reduction", "multicast"), default="none"),
        "switch_alpha_us": Number(low=0, high=1e6, default=None, optional=True, unit="microseconds through the switch"),
        "algorithms": Listing(Text(COLLECTIVE_ALGORITHMS), default=None, optional=True),
        "axes": Listing(Text(AXES), default=list(AXES), least=1),
    }
)
"""One level of a fabric. `alpha_factor` and `bandwidth_share` are contention: α is multiplied by the one, bandwidth by
the other; `oversubscription` divides bandwidth. `in_network`: switches that add up (`reduction`), or multicast units
that the devices drive (`multicast`), with `switch_alpha_us` for α where it differs. `algorithms` that its software
offers beside the ring; `axes` that use it (by default all)."""


def _fabric_rule(system: dict, where: str) -> None:
    reach = 1
    for index, tier in enumerate(system["fabric"]):
        if tier["devices"] < reach:
            raise InputError(
                f"{where}: fabric[{index}].devices: {tier['devices']} is less than the {reach} that the tier inside "
                "reaches; list tiers innermost first"
            )
        dims, grid = tier.get("dims", []), tier["topology"] in ("torus", "mesh")
        product = math.prod(dims)
        if grid and not dims:
            raise InputError(f"{where}: fabric[{index}].dims: a {tier['topology']} needs its dimensions, as in [4, 4]")
        if dims and not grid:
            raise InputError(f"{where}: fabric[{index}].dims: a {tier['topology']} has none; leave them out")
        if dims and product * reach != tier["devices"]:
            beyond = f" of {reach} devices each" if reach > 1 else ""
            raise InputError(
                f"{where}: fabric[{index}].dims: {dims} multiply to {product}{beyond}, not to {tier['devices']} devices"
            )
        if grid and tier.get("in_network", "none") != "none":
            raise InputError(f"{where}: fabric[{index}].in_network: a {tier['topology']} has no switch; choose none")
        if grid and tier.get("algorithms"):
            raise InputError(f"{where}: fabric[{index}].algorithms: a {tier['topology']} runs its own; leave them out")
        reach = tier["devices"]
    seen = [tier["name"] for tier in system["fabric"]]
    for name in seen:
        if seen.count(name) > 1:
            raise InputError(f"{where}: fabric: two tiers are called '{name}'; a chain of tiers names each once")
    for axis in AXES:
        if not any(axis in tier.get("axes", AXES) for tier in system["fabric"]):
            raise InputError(f"{where}: fabric: no tier serves {axis}; name it in the axes of one")
    if system["devices"] > reach:
        raise InputError(f"{where}: devices: {system['devices']} is more than the {reach} that the fabric reaches")


SYSTEM = Section(
    {
        "kind": Text(("system",)),
        "name": Text(),
        "aliases": Listing(Text(), default=[]),
        "device": DEVICE,
        "devices": Number(low=1, high=1e6, integer=True, unit="devices of the node or scale-up domain"),
        "fabric": Listing(TIER, least=1, most=TIER_SLOTS),
        "exact_today": Flag(default=True),
        "approximation": Text(default=None, optional=True),
        "note": Text(default=None, optional=True),
        "sources": SOURCES,
    },
    rules=(_fabric_rule,),
)

OFFLOADED = ("weights", "kv-cache")
"""What an engine may let spill to host memory or SSD."""

PLACEMENT = Section(
    {
        "weights": Text(MEMORY_KINDS, default=None, optional=True),
        "kv_cache": Text(MEMORY_KINDS, default=None, optional=True),
        "order": Text(("weights-first", "kv-cache-first"), default="weights-first"),
    },
    default={"weights": None, "kv_cache": None, "order": "weights-first"},
)
"""Where an engine puts weights and KV cache: the kind of memory that a class is pinned to, or null for the fastest that
has room (host memory and SSD only where `offload` names the class)."""

ADAPTED = ("attention", "feed_forward", "shared_experts")
"""Classes of weights that adapters may change."""


def _lora_rule(lora: dict, where: str) -> None:
    if lora.get("mode", "inline") != "inline" and lora.get("adapters", 1) > 1:
        raise InputError(
            f"{where}.adapters: {lora['adapters']} adapters cannot be merged into one set of weights; "
            "choose 1, or the mode inline"
        )


LORA = Section(
    {
        "rank": Number(low=0, high=65536, default=0, integer=True),
        "adapters": Number(low=1, high=1e6, default=1, integer=True),
        "mode": Text(("inline", "merged-each-pass", "merged-ahead"), default="inline"),
        "classes": Listing(Text(ADAPTED), default=["attention", "feed_forward"], least=1, most=len(ADAPTED)),
    },
    default={"rank": 0, "adapters": 1, "mode": "inline", "classes": ["attention", "feed_forward"]},
    rules=(_lora_rule,),
)
"""LoRA adapters of one rank (0: none): computed beside the weights, merged into them in every pass, or merged once."""


def _tiles_rule(tiles: dict, where: str) -> None:
    given = [tiles.get(name, 0) > 0 for name in ("rows", "columns")]
    if any(given) != all(given):
        raise InputError(f"{where}: rows and columns of a tile stand together; give both or neither")
    if tiles.get("units", 0) and not all(given):
        raise InputError(f"{where}.units: waves are waves of tiles; give rows and columns, too")


TILES = Section(
    {name: Number(low=0, high=1e6, default=0, integer=True) for name in ("rows", "columns", "units")},
    default={"rows": 0, "columns": 0, "units": 0},
    rules=(_tiles_rule,),
)
"""Tiles of rows x columns outputs that GEMMs are padded to, in waves over some units (SMs, cores); 0: no padding."""

_KEPT = Number(low=0, high=1, above=True, default=1.0)

ENGINE = Section(
    {
        "kind": Text(("engine",)),
        "name": Text(),
        "aliases": Listing(Text(), default=[]),
        "memory_utilisation": Number(low=0, high=1, above=True, default=0.9),
        "reserve_GB": Number(low=0, high=1e4, default=0.0, unit="GB = 1e9 bytes a device"),
        "block_tokens": Number(low=1, high=1e6, default=16, integer=True, unit="tokens"),
        "contiguous_tokens": Number(low=1, high=1e8, default=None, optional=True, integer=True, unit="tokens"),
        "placement": PLACEMENT,
        "offload": Listing(Text(OFFLOADED), default=[], most=len(OFFLOADED)),
        "causal_work": Number(low=0.5, high=1.0, default=0.5),
        "mla_prefill": Text(("cheapest", "absorbed", "expanded"), default="cheapest"),
        "overlap": Number(low=0, high=1, default=0.0),
        "host_overlap": Number(low=0, high=1, default=0.0),
        "collectives": Listing(Text((*COLLECTIVE_ALGORITHMS, "in-network")), default=None, optional=True),
        "kernel_launch_us": Number(low=0, high=1e6, default=0.0, unit="microseconds a kernel"),
        "kernels_per_layer": Number(low=0, high=1e5, default=0.0, optional=True),
        "kernels_per_collective": Number(low=0, high=1e5, default=0.0),
        "tokenise_us": Number(low=0, high=1e6, default=0.0, unit="microseconds a prompt token"),
        "schedule_us": Number(low=0, high=1e9, default=0.0, unit="microseconds a request"),
        "detokenise_us": Number(low=0, high=1e6, default=0.0, unit="microseconds an output token"),
        "attention": Text(("fused", "eager"), default="fused"),
        "dequantise": Text(("fused", "separate"), default="fused"),
        "fusion": Text(("none", "usual", "full"), default="usual"),
        "tiles": TILES,
        "lora": LORA,
        "kv_kept_share": _KEPT,
        "kv_rank_share": _KEPT,
        "note": Text(default=None, optional=True),
        "sources": SOURCES,
    }
)
"""`kernels_per_layer` null: as the operator table counts them. `attention` eager writes its scores to memory and reads
the KV cache twice. `fusion` none: residual, norm, activation and every projection in kernels of their own; full:
quantisation with the norm, activation with the GEMM before it. Of the KV cache a share of the tokens is kept after
prefill (eviction), at a share of the width (low rank)."""

WORKLOAD = Section(
    {
        "kind": Text(("workload",)),
        "name": Text(),
        "aliases": Listing(Text(), default=[]),
        "isl": Number(low=1, high=1e8, integer=True, unit="tokens"),
        "osl": Number(low=1, high=1e8, integer=True, unit="tokens"),
        "slo_ttft_ms": Number(low=0, high=1e9, above=True, default=None, optional=True, unit="ms"),
        "slo_tpot_ms": Number(low=0, high=1e9, above=True, default=None, optional=True, unit="ms"),
        "note": Text(default=None, optional=True),
        "sources": SOURCES,
    }
)

_SHARE = Number(low=0, high=1, above=True)
EFFICIENCY_FIELDS = {
    "gemm_compute": _SHARE,
    "gemm_memory": _SHARE,
    "gemm_rows_half": Number(low=0, high=1e6, unit="rows at half of the peak rate"),
    "gemm_columns_half": Number(low=0, high=1e6),
    "gemm_depth_half": Number(low=0, high=1e6),
    "attention_prefill_compute": _SHARE,
    "attention_decode_compute": _SHARE,
    "attention_memory": _SHARE,
    "elementwise_memory": _SHARE,
    "memory_bytes_half": Number(low=0, high=1e12, unit="bytes at half of the bandwidth"),
    "operator_us": Number(low=0, high=1e6, unit="microseconds an operator"),
    "attention_us": Number(low=0, high=1e6, unit="microseconds an attention core, besides", default=0.0),
    "collective_latency_scale": Number(low=1, high=1e4),
    "collective_bandwidth": _SHARE,
    "collective_us": Number(low=0, high=1e6, unit="microseconds a collective, besides", default=0.0),
    "host_step_us": Number(low=0, high=1e7, unit="microseconds a step"),
    "host_sequence_us": Number(low=0, high=1e7, unit="microseconds a sequence and step"),
    "host_token_us": Number(low=0, high=1e7, unit="microseconds a new token"),
    "sharpness": Number(low=1, high=1e3, optional=True, default=None),
}
CALIBRATION = Section(
    {
        "kind": Text(("calibration",)),
        "name": Text(),
        "aliases": Listing(Text(), default=[]),
        "groups": Listing(
            Section(
                {
                    "system": Text(default=None, optional=True),
                    "engine": Text(default=None, optional=True),
                    "efficiency": Section(EFFICIENCY_FIELDS),
                    "report": Table(Table(Number(low=-1e12, high=1e12, optional=True)), default={}),
                }
            ),
            least=1,
        ),
        "note": Text(default=None, optional=True),
        "sources": SOURCES,
    }
)

KINDS: dict[str, Section] = {
    "model": MODEL,
    "system": SYSTEM,
    "engine": ENGINE,
    "workload": WORKLOAD,
    "calibration": CALIBRATION,
}


def unsourced(document: dict, kind: Kind, path: str = "") -> list[str]:
    """Paths of the figures in a document that no entry of its `sources` covers (empty when all are covered)."""
    covered = tuple(document.get("sources", {}))
    missing: list[str] = []

    def walk(value: Any, here: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                if not (here == "" and key == "sources"):
                    walk(item, f"{here}.{key}" if here else key)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                walk(item, f"{here}[{index}]")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            if not any(here == c or here.startswith((c + ".", c + "[")) for c in covered):
                missing.append(here)

    walk(document, path)
    return missing
