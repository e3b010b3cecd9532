"""Options of the command line that change an engine's settings for one configuration."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import InputError
from ..spec.documents.engine import ENGINE
from .values import one_of, option_type, parse_between, parse_share, whole

_CHOICES = {"attention": ("fused", "eager"), "dequantise": ("fused", "separate"), "fusion": ("none", "usual", "full")}
_SKEW = "popularity of experts by rank r: r^-S (default 0: all alike)"
_FLAGS = ("two_batch_overlap", "expert_forwarding")
_PLACEMENTS = ("anywhere", "balanced")
_MODES = ("inline", "merged-each-pass", "merged-ahead")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for attention, fusion, quantised weights, adapters and a smaller KV cache."""
    group = parser.add_argument_group("optimisations")
    texts = {
        "attention": "eager writes its scores to memory",
        "dequantise": "separate kernels widen quantised weights",
        "fusion": "element-wise kernels: none, usual or full",
    }
    for name, choices in _CHOICES.items():
        help_text = f"{texts[name]} ({', '.join(choices)})"
        group.add_argument(f"--{name}", type=one_of(choices, name), metavar="HOW", help=help_text)
    group.add_argument("--expert-skew", type=option_type(parse_between, low=0, high=4), metavar="S", help=_SKEW)
    copies = whole(high=65536, low=0)
    group.add_argument("--redundant-experts", type=copies, metavar="N", help="copies of hot experts, in all ep groups")
    places = "where experts lie: anywhere, or balanced (hot ones beside cold ones)"
    placed = one_of(_PLACEMENTS, "placement")
    group.add_argument("--expert-placement", type=placed, metavar="HOW", help=places)
    overlap = "two halves of a batch take turns: one computes while the other communicates"
    group.add_argument("--two-batch-overlap", action=argparse.BooleanOptionalAction, help=overlap)
    forward = "tokens are sent to a node once and forwarded there to the ranks of their experts"
    group.add_argument("--expert-forwarding", action=argparse.BooleanOptionalAction, help=forward)
    group.add_argument("--lora-rank", type=whole(high=65536), metavar="R", help="rank of LoRA adapters")
    group.add_argument("--lora-adapters", type=whole(high=1_000_000), metavar="N", help="adapters in use (default 1)")
    group.add_argument("--lora-mode", type=one_of(_MODES, "mode"), metavar="HOW", help=", ".join(_MODES))
    share = option_type(parse_share)
    group.add_argument("--kv-kept", type=share, metavar="SHARE", help="share of the KV cache that eviction keeps")
    group.add_argument("--kv-rank", type=share, metavar="SHARE", help="share of the KV cache's width (low rank)")


def engine_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of an engine that the options of `add_engine_options` give, checked.

    **Raises** `InputError` where they contradict each other.
    """
    settings = {name: getattr(arguments, name, None) for name in _CHOICES}
    settings |= {"kv_kept_share": getattr(arguments, "kv_kept", None)}
    settings |= {"kv_rank_share": getattr(arguments, "kv_rank", None)}
    settings = {name: value for name, value in settings.items() if value is not None}
    wanted = {"skew": "expert_skew", "redundant": "redundant_experts", "placement": "expert_placement"}
    experts = {name: getattr(arguments, option, None) for name, option in wanted.items()}
    experts = {name: value for name, value in experts.items() if value is not None}
    if experts:
        settings["experts"] = experts
    settings |= {name: getattr(arguments, name, None) for name in _FLAGS}
    settings = {name: value for name, value in settings.items() if value is not None}
    given = {name: getattr(arguments, f"lora_{name}", None) for name in ("rank", "adapters", "mode")}
    lora = {name: value for name, value in given.items() if value is not None}
    if lora and "rank" not in lora:
        raise InputError("--lora-adapters and --lora-mode need --lora-rank")
    if lora:
        settings["lora"] = lora
    for name, value in settings.items():
        ENGINE.fields[name].check(value, f"--{name.removesuffix('_share').replace('_', '-')}")
    return settings
