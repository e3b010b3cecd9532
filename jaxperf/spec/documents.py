"""The JSON form of every kind of spec: fields, units, ranges, rules. Importing this does not import JAX."""

from __future__ import annotations

from typing import Any

from ..constants import DTYPES, FORMATS, GROUP_SLOTS, KV_FORMATS, TIER_SLOTS, WEIGHT_CLASSES
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
        "kind": Text(("grouped-query", "latent", "linear", "none")),
        "query_heads": _count(),
        "kv_heads": _count(),
        "head_size": _count(),
        "value_head_size": Number(low=0, high=1e9, default=None, integer=True, optional=True),
        "window_tokens": Number(low=1, high=1e9, default=None, integer=True, optional=True, unit="tokens"),
        "qkv_bias": Flag(default=False),
        "output_bias": Flag(default=False),
        "qk_norm_parameters": _count(),
        "sinks": Flag(default=False),
        "output_gate": Flag(default=False),
        "q_rank": _count(),
        "kv_rank": _count(),
        "rope_head_size": _count(),
        "index_heads": _count(),
        "index_head_size": _count(),
        "index_top_k": _count(),
        "state_key_heads": _count(),
        "state_value_heads": _count(),
        "convolution_width": _count(),
        "extra_parameters": _count(),
    },
    rules=(_heads_rule,),
)
"""Attention of a layer. `latent` (MLA): head_size is the no-rope part dn, value_head_size dv; `linear` (gated delta):
head_size and value_head_size of the state, state_key_heads and state_value_heads."""

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
    },
    rules=(_experts_rule,),
)

GROUP = Section(
    {
        "count": _count(low=1, default=1, high=10_000),
        "first": _count(),
        "period": _count(low=1, default=1),
        "run": _count(low=1, default=1),
        "norm_vectors": _count(default=2, high=16),
        "attention": ATTENTION,
        "feed_forward": FEED_FORWARD,
    }
)
"""`count` layers of one shape: from layer `first`, the first `run` of every `period` layers."""

PRECISION = Section(
    {name: Text(tuple(FORMATS), default="bf16") for name in WEIGHT_CLASSES}
    | {
        "kv_cache": Text(tuple(KV_FORMATS), default="bf16"),
        "activations": Text(("fp32", "bf16", "fp16"), default="bf16"),
    },
    default={},
)


def _layers_rule(model: dict, where: str) -> None:
    layers = sum(group["count"] for group in model["layer_groups"])
    owners = [0] * layers
    for index, group in enumerate(model["layer_groups"]):
        first, period, run = group.get("first", 0), group.get("period", 1), group.get("run", 1)
        for nth in range(group["count"]):
            layer = first + nth // run * period + nth % run
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


def _peaks_rule(device: dict, where: str) -> None:
    if not any(device["peak_TFLOPS"].get(dtype) for dtype in DTYPES):
        raise InputError(f"{where}.peak_TFLOPS: at least one of {', '.join(DTYPES)} must be given")
    if device["main_memory"] not in device["memory"]:
        raise InputError(
            f"{where}.main_memory: '{device['main_memory']}' is no tier of memory; "
            f"choose one of {', '.join(device['memory'])}"
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
                    "kind": Text(("sram", "hbm", "gddr", "lpddr", "ddr", "host", "ssd")),
                    "capacity_GB": Number(low=0, high=1e9, above=True, unit="GB = 1e9 bytes"),
                    "bandwidth_GBps": Number(low=0, high=1e9, above=True, unit="GB/s"),
                }
            ),
            least=1,
            most=4,
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
        "dims": Listing(Number(low=2, high=1e6, integer=True), default=[]),
        "devices": Number(low=1, high=1e7, integer=True, unit="devices reached, inner tiers included"),
        "bandwidth_GBps": Number(low=0, high=1e7, above=True, unit="GB/s, one-way, per port"),
        "ports": Number(low=1, high=1e4, default=1, integer=True),
        "alpha_us": Number(low=0, high=1e6, unit="microseconds a message"),
        "in_network": Flag(default=False),
    }
)


def _fabric_rule(system: dict, where: str) -> None:
    reach = 1
    for index, tier in enumerate(system["fabric"]):
        if tier["devices"] < reach:
            raise InputError(
                f"{where}: fabric[{index}].devices: {tier['devices']} is less than the {reach} that the tier inside "
                "reaches; list tiers innermost first"
            )
        dims = tier.get("dims", [])
        product = 1
        for size in dims:
            product *= size
        if dims and product * reach != tier["devices"] and product != tier["devices"]:
            raise InputError(
                f"{where}: fabric[{index}].dims: {dims} multiply to {product}, not to {tier['devices']} devices"
            )
        reach = tier["devices"]
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

ENGINE = Section(
    {
        "kind": Text(("engine",)),
        "name": Text(),
        "aliases": Listing(Text(), default=[]),
        "memory_utilisation": Number(low=0, high=1, above=True, default=0.9),
        "reserve_GB": Number(low=0, high=1e4, default=0.0, unit="GB = 1e9 bytes a device"),
        "block_tokens": Number(low=1, high=1e6, default=16, integer=True, unit="tokens"),
        "causal_work": Number(low=0.5, high=1.0, default=0.5),
        "overlap": Number(low=0, high=1, default=0.0),
        "host_overlap": Number(low=0, high=1, default=0.0),
        "note": Text(default=None, optional=True),
        "sources": SOURCES,
    }
)

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
