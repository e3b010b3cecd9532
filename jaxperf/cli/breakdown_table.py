"""The breakdown of a phase as a table: times and bounds everywhere, counts and bytes where the terminal has room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .breakdown_rows import CLASSES
from .estimate_tables import COLOURS, WIDE, duration, figure, scaled
from .output import table

if TYPE_CHECKING:
    from rich.console import Console

CLASSES_WIDE = 116
"""Columns from which the bytes of an operator stand apart by class."""


def breakdown_table(out: Console, phase: str, rows: list[dict[str, Any]]) -> None:
    """Every operator of a phase: its time, share of the time, intensity and bound, from `WIDE` columns how often it
    runs, its FLOPs and bytes, from `CLASSES_WIDE` columns these by class; the last line is their sum."""
    classes = {f"{name}_bytes": name.replace("kv_cache", "KV cache") for name in CLASSES}
    columns = {"time_s": "time", "share": "share", "intensity": "FLOP/B"}
    if out.width >= WIDE:
        columns |= {"count": "runs", "flops": "FLOP"}
        columns |= classes if out.width >= CLASSES_WIDE else {"bytes": "bytes"}
    made = table(phase, *columns.values(), "bound")
    made.columns[-1].justify = "left"
    for row in rows:
        cells = [cell(key, row[key]) for key in columns]
        made.add_row(row["operator"], *cells, f"[{COLOURS[row['bound']]}]{row['bound']}[/]")
    made.add_section()
    total = {key: sum(row[key] for row in rows) for key in columns if key not in ("intensity", "count")}
    made.add_row("sum", *(cell(key, total.get(key)) for key in columns), "", style="bold")
    out.print(made)
    out.print()


def cell(key: str, value: float | None) -> str:
    """A figure of a row in its own unit; a dash where the operator does no such thing."""
    if not value or value != value:  # NaN is the intensity of what moves no bytes
        return "" if value is None else "-"
    if key == "time_s":
        return duration(value)
    if key == "share":
        return f"{value:.1%}"
    if key == "count":
        return f"{value:,}"
    if key == "intensity":
        return figure(value)
    return scaled(value) + ("" if key == "flops" else "B")
