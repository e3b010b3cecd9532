"""The JSON form of an engine: memory, kernels, host, adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...constants import COLLECTIVE_ALGORITHMS, MEMORY_KINDS
from ...errors import InputError
from ..schema import Flag, Listing, Number, Section, Text
from .common import SOURCES

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

EXPERTS = Section(
    {
        "skew": Number(low=0, high=4, default=0.0),
        "redundant": Number(low=0, high=65536, default=0, integer=True, unit="experts"),
        "placement": Text(("anywhere", "balanced"), default="anywhere"),
    },
    default={"skew": 0.0, "redundant": 0, "placement": "anywhere"},
)
"""Routing and placement of experts: weights r^-skew by rank of popularity, copies of hot experts in all groups of a
stage, and whether a balancer puts hot experts beside cold ones."""


def redundant_experts(engine: Mapping[str, Any] | None, settings: Mapping[str, Any] | None = None) -> int:
    """Copies of experts that an engine's document and what replaces parts of it ask for [experts]."""
    for given in (settings, engine):
        if given is not None and "experts" in given:
            return given["experts"].get("redundant", 0)
    return 0


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
        "experts": EXPERTS,
        "two_batch_overlap": Flag(default=False),
        "expert_forwarding": Flag(default=False),
        "kv_kept_share": _KEPT,
        "kv_rank_share": _KEPT,
        "note": Text(default=None, optional=True),
        "sources": SOURCES,
    }
)
"""`kernels_per_layer` null: as the operator table counts them. `attention` eager writes its scores to memory and reads
the KV cache twice. `fusion` none: residual, norm, activation and every projection in kernels of their own; full:
quantisation with the norm, activation with the GEMM before it. `two_batch_overlap`: two halves of a batch take turns to
compute and to communicate. `expert_forwarding`: a token is sent to a node once and forwarded there. Of the KV cache a
share of the tokens is kept after prefill (eviction), at a share of the width (low rank)."""
