"""The tables of `jaxperf estimate --compare`, for terminals from 60 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .breakdown_table import cell
from .common import Configuration
from .estimate_compare import ratio
from .estimate_tables import COLOURS, figure, summary
from .output import console, table

if TYPE_CHECKING:
    from rich.console import Console

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""What the sides are called, the base first."""

OPERATORS_WIDE = 116
"""Columns from which operators show shares, bytes and bounds of both sides."""

SAME = 0.005
"""A ratio that differs less from 1 is neither better nor worse."""

METRICS = {
    "ttft_s": ("time to first token", -1),
    "tpot_s": ("time per output token", -1),
    "e2e_s": ("end to end", -1),
    "output_tokens_per_s": ("output tokens/s", 1),
    "output_tokens_per_s_per_device": ("  per device", 1),
    "output_tokens_per_s_per_user": ("  per user", 1),
    "requests_per_s": ("requests/s", 1),
    "mfu": ("MFU", 1),
    "mbu": ("MBU", 1),
    "max_batch": ("largest batch", 1),
    "usd_per_million_tokens": ("$ per million tokens", -1),
    "joules_per_token": ("joules per token", -1),
}
"""Metrics of a comparison: what they are called, and whether more is better (1) or worse (-1)."""

MEMORY = {
    "weights_bytes": "weights per device",
    "kv_cache_bytes": "KV cache per device",
    "total_bytes": "memory per device",
    "capacity_bytes": "capacity per device",
}


def show(configurations: list[Configuration], base: dict, pairs: list[dict]) -> None:
    """Print the base, every other side, and for each pair their metrics and operators."""
    from rich.markup import escape

    out = console()
    results = [base] + [pair["other"] for pair in pairs]
    for index, (configuration, result) in enumerate(zip(configurations, results, strict=True)):
        first, *others = summary(configuration)
        out.print(f"[bold]{LETTERS[index]}[/]  {first}")
        if index > 0:
            out.print(f"   {LETTERS[0]} with {escape(pairs[index - 1]['options'])}")
        for line in others:
            out.print(f"   {line}", style="dim")
        if not result["feasible"]:
            out.print(f"   [bold red]Infeasible:[/] {escape(result['reason'])}")
    out.print()
    for letter, pair in zip(LETTERS[1:], pairs, strict=False):
        metrics_table(out, letter, base, pair)
        phases = {row["phase"] for row in pair["ratio"]["breakdown"]}
        for phase in sorted(phases, key=lambda name: (name != "prefill", name)):
            operators_table(out, letter, phase, base, pair)
    if any(configuration.layout["pp"] > 1 for configuration in configurations):
        out.print("Rows are one pass through all stages; stages work at the same time.", style="dim")
    for text in dict.fromkeys(text for result in results for text in result["approximations"]):
        out.print(f"[bold yellow]Approximate:[/] {escape(text)}")


def times(value: float | None, better: int = -1) -> str:
    """A ratio as `1.63x`, green where it is for the better and red where for the worse; a dash where there is none."""
    if value is None:
        return "-"
    text = f"{figure(value)}x"
    if better == 0 or abs(value - 1) < SAME:
        return text
    return f"[{'green' if (value > 1) == (better > 0) else 'red'}]{text}[/]"


def metrics_table(out: Console, letter: str, base: dict, pair: dict[str, Any]) -> None:
    """Metrics, memory and bounds of both sides."""
    other, ratios = pair["other"], pair["ratio"]
    made = table("metric", LETTERS[0], letter, f"{letter}/{LETTERS[0]}")
    for key, (label, better) in METRICS.items():
        values = [side["metrics"][key] for side in (base, other)]
        if all(value == value for value in values):  # a price or a power that is not known is NaN
            made.add_row(label, *(_metric(key, value) for value in values), times(ratios["metrics"][key], better))
    for key, label in MEMORY.items():
        values = [side["memory"][key] for side in (base, other)]
        better = 0 if key == "capacity_bytes" else -1
        made.add_row(label, *(f"{value / 1e9:,.2f} GB" for value in values), times(ratios["memory"][key], better))
    for phase in ("prefill", "decode"):
        bounds = [side["bound"][phase] for side in (base, other)]
        made.add_row(f"{phase} is bound by", *(f"[{COLOURS[bound]}]{bound}[/]" for bound in bounds), "")
    out.print(made)
    out.print()


def _metric(key: str, value: float) -> str:
    if key.endswith("_s") and not key.endswith("_per_s"):
        return cell("time_s", value)
    if key in ("mfu", "mbu"):
        return f"{value:.1%}"
    return f"{value:,}" if key == "max_batch" else figure(value)


def operators_table(out: Console, letter: str, phase: str, base: dict, pair: dict[str, Any]) -> None:
    """The operators of a phase: times of both sides and their ratio; in a wide terminal shares, bytes and bounds."""
    sides = [
        {row["operator"]: row for row in side["breakdown"] if row["phase"] == phase} for side in (base, pair["other"])
    ]
    names = (LETTERS[0], letter)
    columns = {"time_s": ""} | (
        {"share": " share", "bytes": " bytes", "bound": " bound"} if out.width >= OPERATORS_WIDE else {}
    )
    heads = [f"{name}{text}" for text in columns.values() for name in names]
    heads.insert(2, f"{letter}/{LETTERS[0]}")
    made = table(phase, *heads)
    rows = [row for row in pair["ratio"]["breakdown"] if row["phase"] == phase]
    for row in rows:
        mine = [side.get(row["operator"], {}) for side in sides]
        cells = [_cell(key, side.get(key)) for key in columns for side in mine]
        only = next((f"only {name}" for name, side, its in zip(names, mine, mine[::-1], strict=True) if not its), None)
        cells.insert(2, only or times(row["time"]))
        made.add_row(row["operator"], *cells)
    made.add_section()
    sums = {key: [sum(row[key] for row in side.values()) for side in sides] for key in columns if key != "bound"}
    cells = [cell(key, value) for key in sums for value in sums[key]]
    cells.insert(2, times(ratio(*sums["time_s"])))
    made.add_row("sum", *cells, style="bold")
    out.print(made)
    out.print()


def _cell(key: str, value: Any) -> str:
    if key == "bound":
        return "" if value is None else f"[{COLOURS[value]}]{value}[/]"
    return cell(key, value)
