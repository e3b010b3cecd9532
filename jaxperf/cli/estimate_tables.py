"""The tables of `jaxperf estimate`, for terminals from 60 columns."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .common import Configuration
from .output import console, table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE = 100
"""Columns from which a table shows everything."""

COLOURS = {"compute": "green", "memory": "cyan", "network": "magenta", "overhead": "yellow"}
"""Parts of a time and their colours."""


def duration(seconds: float) -> str:
    """A time in the unit that suits it, to three digits: `49.3 ms`."""
    for limit, scale, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (math.inf, 1.0, "s")):
        if abs(seconds) < limit:
            return f"{figure(seconds * scale)} {unit}"
    return f"{seconds} s"


def figure(value: float) -> str:
    """A number to three digits, thousands apart: `3,456`, `12.3`, `0.0123`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1e15:
        return f"{value:.2e}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 6)}f}"


def scaled(value: float) -> str:
    """A large number with its prefix: `1.23 T`."""
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{figure(value / scale)} {prefix}"
    return f"{figure(value)} "


def bar(share: float, width: int) -> str:
    """A bar for a share of 0 to 1; above 1 it is full and ends in `>`."""
    if share > 1:
        return "█" * (width - 1) + ">"
    filled = round(max(share, 0.0) * width)
    return "█" * filled + "░" * (width - filled)


def show(configuration: Configuration, result: dict) -> None:
    """Print one priced configuration (see `estimate.describe`) or its closed forms."""
    from rich.markup import escape

    out = console()
    headline(out, configuration)
    if "closed_form" in result:
        first_look(out, result["closed_form"])
        return
    if not result["feasible"]:
        out.print(f"[bold red]Infeasible:[/] {escape(result['reason'])}")
        out.print("The figures below are what it would do if it were feasible.", style="dim")
        out.print()
    if "speculative" in result or "prefix" in result:
        from .speculation_tables import show_features

        show_features(out, result)
    metrics_table(out, result)
    memory_table(out, result["memory"])
    limits_table(out, result)
    if "breakdown" in result:
        from .breakdown_table import breakdown_table

        for phase in dict.fromkeys(row["phase"] for row in result["breakdown"]):
            breakdown_table(out, phase, [row for row in result["breakdown"] if row["phase"] == phase])
        if configuration.layout["pp"] > 1:
            out.print("Rows are one pass through all stages; stages work at the same time.", style="dim")
    for text in result["approximations"]:
        out.print(f"[bold yellow]Approximate:[/] {escape(text)}")


def _print(out: Console, made: Table) -> None:
    out.print(made)
    out.print()


def summary(configuration: Configuration) -> list[str]:
    """What is priced, in lines with `rich` markup."""
    from rich.markup import escape

    c = configuration
    layout = {name.replace("attention_dp", "dp-attention"): value for name, value in c.layout.items()}
    degrees = ", ".join(f"{name} {value}" for name, value in layout.items() if value > 1)
    weights = sorted({form for name, form in c.precision.items() if name not in ("kv_cache", "activations")})
    engine = "" if c.engine is None else f", engine {escape(c.engine.name)}"
    chunk = "" if c.chunk is None else f", chunks of {c.chunk:,}"
    plural = "" if c.devices == 1 else "s"
    return [
        f"[bold]{escape(c.model.name)}[/] on [bold]{escape(c.system.name)}[/]",
        f"{c.devices:,} device{plural}" + (f" ({degrees})" if degrees else "") + f", batch {c.batch:,}",
        f"{c.isl:,} tokens in, {c.osl:,} out, prefill of {c.prefill_batch:,}{chunk}",
        f"weights {'/'.join(weights)}, KV cache {c.precision['kv_cache']}{engine}, efficiency {escape(c.efficiency)}",
    ]


def headline(out: Console, configuration: Configuration) -> None:
    """What is priced, and how well its factors are known."""
    for line in summary(configuration):
        out.print(line)
    factor_errors(out, configuration)
    out.print()


def factor_errors(out: Console, configuration: Configuration) -> None:
    """How well the factors of a configuration are known, where their calibration says so."""
    from rich.markup import escape

    errors = {
        name: values["mape"]
        for name, values in configuration.report.items()
        if name.startswith(("held_out_after", "held-out systems")) and values.get("mape") is not None
    }
    if errors:
        said = ", ".join(
            f"{name.removeprefix('held_out_after_').removeprefix('held-out systems ')} {error:.0f} %"
            for name, error in errors.items()
        )
        out.print(f"held-out error of its factors: {escape(said)}", style="dim")


def _tokens(value: float | None) -> str:
    return "any" if value is None or not math.isfinite(value) else f"{value:,.0f}"


def _pressure(share: float) -> str:
    """A share of the room for the KV cache; where there is hardly any, only that it is far too much."""
    return f"{share:.1%}" if share < 100 else "> 10,000%"


def metrics_table(out: Console, result: dict) -> None:
    """Latency, throughput, utilisation and cost."""
    m, slo = result["metrics"], result["workload"]

    def target(value: float | None) -> str:
        return "" if value is None else f"target {duration(value)}"

    rows = [
        ("time to first token", duration(m["ttft_s"]), target(slo["slo_ttft_s"])),
        ("time per output token", duration(m["tpot_s"]), target(slo["slo_tpot_s"])),
        ("end to end", duration(m["e2e_s"]), "one request"),
        ("output tokens/s", figure(m["output_tokens_per_s"]), f"{figure(m['decode_tokens_per_s'])} while decoding"),
        ("  per device", figure(m["output_tokens_per_s_per_device"]), ""),
        ("  per user", figure(m["output_tokens_per_s_per_user"]), ""),
        ("requests/s", figure(m["requests_per_s"]), ""),
        ("MFU", f"{m['mfu']:.1%}", "of peak FLOP/s, prefill"),
        ("MBU", f"{m['mbu']:.1%}", "of peak bandwidth, decode"),
        ("largest batch", f"{m['max_batch']:,}", "fits beside these activations"),
        ("longest context", _tokens(result["memory"]["max_context_tokens"]), "at this batch, beside these activations"),
        ("KV pressure", _pressure(result["memory"]["kv_pressure"]), "of the room for KV cache"),
    ]
    if math.isfinite(m["usd_per_million_tokens"]):
        rows.append(("$ per million tokens", figure(m["usd_per_million_tokens"]), "output, device price"))
    if math.isfinite(m["joules_per_token"]):
        rows.append(("joules per token", figure(m["joules_per_token"]), "output, full power"))
    made = table("metric", "value", "")
    made.columns[2].justify, made.columns[2].no_wrap, made.columns[2].style = "left", False, "dim"
    for row in rows:
        made.add_row(*row)
    _print(out, made)


def memory_table(out: Console, memory: dict) -> None:
    """Memory of the fullest device by class."""
    made = table("memory per device", "GB", "share", "")
    made.columns[3].justify = "left"
    capacity, usable, width = memory["capacity_bytes"], memory["usable_bytes"], 16 if out.width < WIDE else 32
    for name in ("weights", "kv_cache", "activations", "reserve", "total"):
        value = memory[f"{name}_bytes"]
        style = "bold" if name == "total" else ""
        label = {"kv_cache": "KV cache"}.get(name, name)
        made.add_row(label, f"{value / 1e9:,.2f}", f"{value / capacity:.1%}", bar(value / capacity, width), style=style)
    used = [tier for tier in memory["tiers"] if tier["weights_bytes"] + tier["kv_cache_bytes"] > 0]
    if len(used) > 1:
        for tier in used:
            held = f"weights {tier['weights_bytes'] / 1e9:,.2f}, KV {tier['kv_cache_bytes'] / 1e9:,.2f}"
            size = tier["weights_bytes"] + tier["kv_cache_bytes"]
            made.add_row(f"  in {tier['name']}", f"{size / 1e9:,.2f}", "", held, style="dim")
    made.add_row("may be filled", f"{usable / 1e9:,.2f}", f"{usable / capacity:.1%}", "", style="dim")
    made.add_row("capacity", f"{capacity / 1e9:,.2f}", "", "", style="dim")
    _print(out, made)


def limits_table(out: Console, result: dict) -> None:
    """What each phase is made of; the largest part limits it."""
    made = table("limit", *COLOURS)
    for phase in ("prefill", "decode"):
        bound = result["bound"][phase]
        cells = {part: duration(result["parts"][phase][f"{part}_s"]) for part in COLOURS}
        cells[bound] = f"[bold {COLOURS[bound]}]{cells[bound]}[/]"
        made.add_row(f"{phase}: {bound}", *cells.values())
    _print(out, made)


def first_look(out: Console, forms: dict) -> None:
    """The closed forms of one decode iteration."""
    made = table("closed form of one decode step", "value")
    for name in ("memory", "compute", "network"):
        made.add_row(f"T_{name}", duration(forms[f"{name}_s"]))
    made.add_row("T_network / T_compute", figure(forms["network_over_compute"]))
    made.add_row("T_memory / T_compute", figure(forms["memory_over_compute"]))
    made.add_row("optimal tokens/s per device", figure(forms["optimal_tokens_per_s_per_device"]))
    made.add_row("this deployment is", forms["classification"])
    _print(out, made)
