"""The tables of `jaxperf estimate --decode`, for terminals from 60 columns."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .common import Configuration
from .estimate_tables import duration, factor_errors, figure, limits_table, summary
from .output import console, table
from .pair import Pair

if TYPE_CHECKING:
    from rich.console import Console

CLASSES = {"weights": "weights", "kv_cache": "KV cache", "activations": "activations", "reserve": "reserve"}


def show(pair: Pair, result: dict[str, Any]) -> None:
    """Print two sides and what they do together (see `pair_result.describe_pair`)."""
    from rich.markup import escape

    out = console()
    headline(out, pair, result["link"])
    if not result["feasible"]:
        out.print(f"[bold red]Infeasible:[/] {escape(result['reason'])}")
        out.print("The figures below are what it would do if it were feasible.", style="dim")
        out.print()
    if "prefix" in result:
        from .speculation_tables import show_features

        show_features(out, result)
    metrics_table(out, result)
    memory_table(out, result)
    limits_table(out, result)
    if "breakdown" in result:
        from .breakdown_table import breakdown_table

        for phase in ("prefill", "decode"):
            breakdown_table(out, phase, [row for row in result["breakdown"] if row["phase"] == phase])
        if any(side.layout["pp"] > 1 for side in pair.sides):
            out.print("Rows are one pass through all stages; stages work at the same time.", style="dim")
    for text in result["approximations"]:
        out.print(f"[bold yellow]Approximate:[/] {escape(text)}")


def headline(out: Console, pair: Pair, link: dict[str, Any]) -> None:
    """What is priced where, and what joins the two."""
    from rich.markup import escape

    prefill = pair.prefill
    out.print(f"[bold]{escape(prefill.model.name)}[/], {prefill.isl:,} tokens in, {prefill.osl:,} out")
    for name, side, number in zip(("prefill", "decode"), pair.sides, pair.instances, strict=True):
        out.print(f"[bold]{name:<8}[/] {side_lines(side, name, None if pair.way.shared else number)}")
    if pair.way.shared:
        text = f"{link['origin']}: the KV cache stays in its memory"
    else:
        pairs = "one pair" if link["streams"] == 1 else f"{link['streams']:,} pairs"
        rate = f"{figure(link['bandwidth_bytes_per_s'] / 1e9)} GB/s between two devices, {pairs} at once"
        text = f"{rate}, {duration(link['latency_s'])} ({link['origin']})"
    out.print(f"[bold]link[/]     {escape(text)}")
    for side in {side.efficiency: side for side in pair.sides}.values():
        factor_errors(out, side)
    out.print()


def side_lines(side: Configuration, phase: str, instances: int | None) -> str:
    """One side in a line, with `rich` markup: where, how many devices, what of the workload, its formats."""
    name, devices, _, formats = (line.strip() for line in summary(side))
    devices, _, _ = devices.rpartition(", batch")
    load = f"prompts at once: {side.prefill_batch:,}" if phase == "prefill" else f"batch {side.batch:,}"
    chunk = "" if side.chunk is None or phase == "decode" else f", chunks of {side.chunk:,}"
    times = "" if instances is None or instances == 1 else f"{instances:,} instances of "
    return f"{name.partition(' on ')[2]}, {times}{devices}, {load}{chunk}, {formats}"


def _with_notes(*columns: str) -> Any:
    made = table(*columns)
    made.columns[0].no_wrap = True
    made.columns[-1].justify, made.columns[-1].no_wrap, made.columns[-1].style = "left", False, "dim"
    return made


def metrics_table(out: Console, result: dict[str, Any]) -> None:
    """Latency, handoff, throughput and, of two pools, how busy each is."""
    m, moved, workload = result["metrics"], result["handoff"], result["workload"]
    targets = [workload["slo_ttft_s"], workload["slo_tpot_s"]]
    aims = ["" if value is None else f"target {duration(value)}" for value in targets]
    sent = "nothing is sent" if result["link"]["shared_memory"] else f"{duration(moved['transfer_s'])} transfer"
    blocks = "" if result["link"]["shared_memory"] else f"{moved['requests']:,.0f} blocks a device"
    made = _with_notes("metric", "value", "")
    rows = [
        ("time to first token", duration(m["ttft_s"]), aims[0]),
        ("  of it handoff", duration(moved["time_s"]), f"{sent}, {duration(moved['repack_s'])} repack"),
        ("time per output token", duration(m["tpot_s"]), aims[1]),
        ("end to end", duration(m["e2e_s"]), "one request"),
        ("KV cache of a prompt", f"{moved['bytes'] / 1e6:,.1f} MB", blocks),
        ("output tokens/s", figure(m["output_tokens_per_s"]), f"{figure(m['decode_tokens_per_s'])} while decoding"),
    ]
    if "pools" in result:
        devices = f"{result['pools']['devices']:,.0f} in both pools"
        rows.append(("  per device", figure(m["output_tokens_per_s_per_device"]), devices))
    rows.append(("  per user", figure(m["output_tokens_per_s_per_user"]), ""))
    rows.append(("requests/s", figure(m["requests_per_s"]), "" if "pools" in result else "the units take turns"))
    if "pools" in result:
        rows += pool_rows(result["pools"])
    rows.append(("MFU", f"{m['mfu']:.1%}", "of peak FLOP/s, prefill"))
    rows.append(("MBU", f"{m['mbu']:.1%}", "of peak bandwidth, decode"))
    for key, label, note in (
        ("usd_per_million_tokens", "$ per million tokens", "output, device price"),
        ("joules_per_token", "joules per token", "output, full power"),
    ):
        if math.isfinite(m.get(key, math.nan)):
            rows.append((label, figure(m[key]), note))
    for row in rows:
        made.add_row(*row)
    out.print(made)
    out.print()


def pool_rows(pools: dict[str, Any]) -> list[tuple[str, str, str]]:
    """How busy each pool is, and the instances at which both would be."""
    numbers = [pools["prefill_instances"], pools["decode_instances"]]
    notes = [f"{number:,} instance{'' if number == 1 else 's'}" for number in numbers]
    labels = {"prefill": ("prefill pool is busy", notes[0]), "decode": ("decode pool is busy", notes[1])}
    labels["link"] = ("link is busy", "")
    limit = max(labels, key=lambda name: pools[f"{name}_busy"])
    rows = []
    for name, (label, note) in labels.items():
        said = [note] * bool(note) + ["the limit"] * (name == limit)
        rows.append((label, f"{pools[f'{name}_busy']:.1%}", ": ".join(said)))
    ratio = pools["prefill_instances_per_decode_instance"]
    rows.append(("equally busy at", f"{figure(ratio)} : 1", "prefill to decode instances"))
    return rows


def memory_table(out: Console, result: dict[str, Any]) -> None:
    """Memory of the fullest device of each side, or of the memory that both share."""
    sides = [result[name]["memory"] for name in ("prefill", "decode")]
    made = _with_notes("memory per device", "prefill, GB", "decode, GB", "")
    for key, label in CLASSES.items():
        made.add_row(label, *(f"{side[f'{key}_bytes'] / 1e9:,.2f}" for side in sides), "")
    shared = result.get("shared_memory")
    if shared is None:
        totals = (f"{side['total_bytes'] / 1e9:,.2f}" for side in sides)
        made.add_row("total", *totals, _verdict(*sides), style="bold")
        made.add_row("may be filled", *(f"{side['usable_bytes'] / 1e9:,.2f}" for side in sides), "", style="dim")
    else:
        note = "weights once" if shared["weights_copies"] == 1 else "weights twice"
        made.add_row("together", "", f"{shared['total_bytes'] / 1e9:,.2f}", note, style="bold")
        made.add_row("may be filled", "", f"{shared['usable_bytes'] / 1e9:,.2f}", "", style="dim")
    out.print(made)
    out.print()


def _verdict(*sides: dict[str, Any]) -> str:
    fit = [side["total_bytes"] <= side["usable_bytes"] for side in sides]
    if all(fit):
        return "both fit"
    return "neither fits" if not any(fit) else f"{'prefill' if not fit[0] else 'decode'} does not"
