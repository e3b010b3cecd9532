"""The tables of speculative decoding and prefix caching in `jaxperf estimate`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .estimate_tables import duration, figure
from .output import table

if TYPE_CHECKING:
    from rich.console import Console


def show_features(out: Console, result: dict[str, Any]) -> None:
    """Print what is on beside plain decoding; the tables that follow are with it."""
    if "speculative" in result:
        speculative_table(out, result["speculative"])
    if "prefix" in result:
        prefix_table(out, result["prefix"])
    on = [
        name for key, name in (("speculative", "speculative decoding"), ("prefix", "prefix caching")) if key in result
    ]
    out.print(f"All figures below are with {' and '.join(on)}.", style="dim")
    out.print()


def _drafts(found: dict[str, Any]) -> str:
    if found["mtp"] is not None:
        return f"{found['mtp']} by the model's own layers"
    if found["draft_tree"] is not None:
        return f"a tree of {','.join(map(str, found['draft_tree']))} by {found['draft']}"
    return f"{found['draft_length']} by {found['draft']} on tp {found['draft_tp']}"


def speculative_table(out: Console, found: dict[str, Any]) -> None:
    """A round of speculative decoding: what is drafted, what it yields, what it costs, and what it gains."""
    from rich.markup import escape

    shares = dict.fromkeys(f"{share:g}" for share in found["acceptance"])
    made = table("speculative decoding", "value", "")
    made.columns[2].justify, made.columns[2].no_wrap, made.columns[2].style = "left", False, "dim"
    memory = found["draft_weights_bytes"] / 1e9, found["draft_kv_cache_bytes_per_sequence"] / 1e6
    for row in (
        ("drafted tokens", f"{found['verified_tokens'] - 1:,.0f}", escape(_drafts(found))),
        ("tokens per verify pass", figure(found["tokens_per_verify"]), f"acceptance {', '.join(shares)}"),
        ("drafts of a round", duration(found["draft_s"]), ""),
        ("verify pass", duration(found["verify_s"]), f"{found['verified_tokens']:,.0f} tokens of every sequence"),
        ("speed-up", f"{found['speed_up']:.3f}", f"plain decoding: {duration(found['plain_tpot_s'])} a token"),
        ("draft's prefill", duration(found["draft_prefill_s"]), "part of the time to first token"),
        ("draft's weights", f"{memory[0]:,.2f} GB", f"a device, and {memory[1]:,.1f} MB of KV cache a sequence"),
    ):
        made.add_row(*row)
    out.print(made)
    out.print()


def prefix_table(out: Console, found: dict[str, Any]) -> None:
    """A prefix hit: what it saves, and what loading it from elsewhere would take."""
    from rich.markup import escape

    made = table("prefix caching", "value", "")
    made.columns[2].justify, made.columns[2].no_wrap, made.columns[2].style = "left", False, "dim"
    size = f"{found['kv_cache_bytes'] / 1e6:,.1f} MB of KV cache"
    made.add_row("found", f"{found['hit_tokens']:,} tokens", f"{found['hit_ratio']:.1%} of the prompt, {size}")
    made.add_row("computed", f"{found['suffix_tokens']:,} tokens", "")
    made.add_row("saved", duration(found["saved_s"]), "of the prefill")
    for source in found["load"]:
        better = "beats computing it" if source["pays"] else "computing it is faster"
        even = source["break_even_tokens"]
        length = "at no length" if not math.isfinite(even) else f"from {even:,.0f} tokens"
        note = f"instead, {better}; loading pays {length}"
        made.add_row(f"load from {escape(source['tier'])}", duration(source["load_s"]), note)
    out.print(made)
    out.print()
