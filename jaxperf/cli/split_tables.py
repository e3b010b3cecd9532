"""The tables of `jaxperf estimate --gpu-layers`, for terminals from 60 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .estimate_tables import WIDE, duration, factor_errors, figure, summary
from .output import console, table
from .split import Splitting

if TYPE_CHECKING:
    from rich.console import Console

NAMES = {"gpu": "GPU", "cpu": "host", "bus": "bus", "runtime": "runtime"}
COLOURS = {"gpu": "green", "cpu": "cyan", "bus": "magenta", "runtime": "yellow"}
"""Where time goes: what it is called, and its colour."""


def show(asked: Splitting, result: dict[str, Any]) -> None:
    """Print every split (see `split_result.describe_split`)."""
    from rich.markup import escape

    out = console()
    headline(out, asked)
    splits = result["splits"]
    for split in splits:
        if not split["feasible"]:
            out.print(
                f"[bold red]Infeasible[/] with {split['gpu_layers']} layers on the GPU: {escape(split['reason'])}"
            )
    if not all(split["feasible"] for split in splits):
        which = "Their figures are what they" if len(splits) > 1 else "The figures below are what it"
        out.print(f"{which} would do if feasible.", style="dim")
        out.print()
    split_table(out, splits)
    for phase in ("prefill", "decode"):
        limits_table(out, phase, splits)
    for text in result["approximations"]:
        out.print(f"[bold yellow]Approximate:[/] {escape(text)}")


def headline(out: Console, asked: Splitting) -> None:
    """What is split over what."""
    from rich.markup import escape

    first, _, lengths, formats = summary(asked.gpu)
    out.print(f"{first} and [bold]{escape(asked.host.system.name)}[/], {asked.model_layers} layers")
    out.print(f"batch {asked.gpu.batch:,}, {lengths}")
    out.print(formats)
    bus = asked.bus
    factor_errors(out, asked.gpu)
    out.print(f"bus: {figure(bus.bandwidth / 1e9)} GB/s one way, {duration(bus.latency)} ({escape(bus.origin)})")
    out.print()


def split_table(out: Console, splits: list[dict[str, Any]]) -> None:
    """Latency and memory, a row for every number of layers on the GPU."""
    wide = out.width >= WIDE
    heads = ["layers on GPU", "TTFT", "TPOT", "end to end", "tokens/s"] if wide else ["layers", "TTFT", "TPOT", "tok/s"]
    made = table(*heads, "GPU GB", "host GB", left=0)
    for split in splits:
        m, memory = split["metrics"], split["memory"]
        times = [m["ttft_s"], m["tpot_s"]] + ([m["e2e_s"]] if wide else [])
        made.add_row(
            str(split["gpu_layers"]),
            *map(duration, times),
            figure(m["output_tokens_per_s_per_user"]),
            *(_held(memory[f"{place}_bytes"], memory[f"{place}_usable_bytes"]) for place in ("gpu", "host")),
        )
    usable = splits[0]["memory"]
    room = [f"{usable[f'{place}_usable_bytes'] / 1e9:,.2f}" for place in ("gpu", "host")]
    made.add_section()
    made.add_row("room" if not wide else "may be filled", *[""] * (len(heads) - 1), *room, style="dim")
    out.print(made)
    out.print()


def _held(size: float, usable: float) -> str:
    text = f"{size / 1e9:,.2f}"
    return f"[bold red]{text}[/]" if size > usable else text


def limits_table(out: Console, phase: str, splits: list[dict[str, Any]]) -> None:
    """Where the time of a phase goes; the largest part limits it."""
    made = table("prefill" if phase == "prefill" else "decode step", *NAMES.values(), "limit")
    made.columns[-1].justify = "left"
    for split in splits:
        bound = split["bound"][phase]
        cells = {part: duration(split["parts"][phase][f"{part}_s"]) for part in NAMES}
        cells[bound] = f"[bold {COLOURS[bound]}]{cells[bound]}[/]"
        label = f"{split['gpu_layers']} layers"
        made.add_row(label, *cells.values(), f"[{COLOURS[bound]}]{NAMES[bound]}[/]")
    out.print(made)
    out.print()
