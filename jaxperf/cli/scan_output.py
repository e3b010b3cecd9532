"""What `jaxperf scan` shows and writes: progress, tables on the terminal, CSV files."""

from __future__ import annotations

import csv
import io
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..spec.library import write_text
from .output import console

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..scan import GroupResult, ScanResult

FILES = ("frontier.csv", "frontier.png", "best.csv", "top.csv", "quantiles.csv", "marginals.csv")
"""What a scan may write into its folder."""

_LESS = ("ttft", "tpot", "e2e", "price_per_million_tokens", "joules_per_token", "devices")


def with_progress(scan: Callable[[Any], ScanResult]) -> ScanResult:
    """Runs a scan behind a bar on stderr: rate, feasible share, best so far, time left, the group at work."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("compiling", total=None, rate="")

        def tick(state: Any) -> None:
            bar.update(task, description=state.group, total=state.total, completed=state.done, rate=_status(state))

        return scan(tick)


def _status(state: Any) -> str:
    parts = [f"{state.fresh / max(state.seconds, 1e-9) / 1e6:.0f} M/s"]
    if state.counted:
        parts.append(f"{100 * state.feasible / state.counted:.0f} % feasible")
    if state.best:
        name, value = next(iter(state.best.items()))
        parts.append(f"{_short(name)} {abs(value):,.4g}")
    return ", ".join(parts)


def write_files(result: ScanResult, folder: Path) -> list[str]:
    """Writes what a scan found into a folder, whole files each, and names them."""
    groups, written = result.groups, []

    def write(name: str, rows: list[dict]) -> None:
        write_text(folder / name, csv_text(rows))
        written.append(name)

    if any(group.frontier for group in groups) or not any(group.best for group in groups):
        write("frontier.csv", [row for group in groups for row in group.frontier])
    else:
        write("best.csv", [{"best": name, **row} for group in groups for name, row in group.best.items()])
    for name, rows in (
        ("top.csv", _top(groups)),
        ("quantiles.csv", _quantiles(groups)),
        ("marginals.csv", _axes(groups)),
    ):
        if rows:
            write(name, rows)
    if "frontier.csv" in written and len(result.space.objectives) == 2:
        from ..plots import frontier_figure

        frontier_figure(result, folder / "frontier.png")
        written.append("frontier.png")
    return written


def _top(groups: list[GroupResult]) -> list[dict]:
    return [
        {"metric": name, "rank": rank, **row}
        for group in groups
        for name, rows in group.top.items()
        for rank, row in enumerate(rows, 1)
    ]


def _quantiles(groups: list[GroupResult]) -> list[dict]:
    return [
        {"model": group.model, "isl": group.isl, "osl": group.osl, "metric": name, "share": share, "value": value}
        for group in groups
        for name, values in group.quantiles.items()
        for share, value in values.items()
    ]


def _axes(groups: list[GroupResult]) -> list[dict]:
    return [
        {"model": g.model, "isl": g.isl, "osl": g.osl, "metric": name, "axis": axis, "at": at, "best": best}
        for g in groups
        for name, axes in g.marginals.items()
        for axis, values in axes.items()
        for at, best in values.items()
    ]


def csv_text(rows: list[dict]) -> str:
    """Rows as CSV: units in the column names, nothing for what is not known."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def frontier_csv(result: ScanResult) -> str:
    """All frontiers as CSV: a row a configuration."""
    return csv_text([row for group in result.groups for row in group.frontier])


def layout_text(row: dict) -> str:
    """A layout in few characters, degrees of 1 left out: `tp8 pp2`."""
    parts = [f"{name.replace('attention_', '')}{row[name]}" for name in ("tp", "pp", "ep", "cp", "attention_dp")]
    kept = [part for part in parts if not part.endswith(("p1",))]
    return " ".join(kept) or "tp1"


def _picks(group: GroupResult) -> list[tuple[str, dict]]:
    """A few points of a frontier worth a line: both ends, and the best throughput at common speeds a user."""
    picks: list[tuple[str, dict]] = []
    if len(group.best) != 2:
        return [(_short(name), row) for name, row in group.best.items()]
    first, second = group.best
    picks.append((_short(first), group.best[first]))
    if first == "output_tokens_per_s_per_device":
        for speed in (50, 100, 200):
            fast = [row for row in group.frontier if row["output_tokens_per_s_per_user"] >= speed]
            if fast:
                picks.append((f"≥ {speed} tok/s", max(fast, key=lambda row: row[first])))
    picks.append((_short(second), group.best[second]))
    seen: list[tuple[str, dict]] = []
    for label, row in picks:
        if all(row != other for _, other in seen):
            seen.append((label, row))
    return seen


def _short(metric: str) -> str:
    if metric.startswith("output_tokens_per_s_per_"):
        return {"device": "throughput", "user": "speed"}[metric.rpartition("_")[2]]
    return f"{'least' if metric in _LESS else 'most'} {metric.replace('_', ' ')}"


def print_result(result: ScanResult, folder: Path | None, written: list[str]) -> None:
    """The counts, and for each group a few points worth a line."""
    out = console()
    out.print(
        f"[bold]{result.configurations:,}[/] configurations in {result.wall_s:.1f} s "
        f"({result.configurations_per_s / 1e6:.0f} M/s, compiled in {result.compile_s:.1f} s); "
        f"{result.feasible:,} feasible"
    )
    if result.resumed:
        out.print(f"  {result.resumed:,} of them from the journal", style="dim")
    for reason, count in result.infeasible.items():
        out.print(f"  {count:,} {reason}", style="dim")
    for group in result.groups:
        picks = _picks(group)
        title = f"[bold]{group.model}[/]  {group.isl} in / {group.osl} out"
        if not picks:
            feasible = group.counts.get("feasible", 0)
            out.print(f"\n{title}: {'no figure for the objectives' if feasible else 'nothing feasible'}")
            continue
        points = f"{len(group.frontier):,} points on the frontier" if group.frontier else "best only"
        out.print(f"\n{title}   [dim]{points}[/]")
        out.print(_table(picks, out.width < 100))
        for name, values in group.quantiles.items():
            shown = "  ".join(f"{100 * float(share):g} % {value:,.4g}" for share, value in values.items())
            out.print(f"{name}: {shown}", style="dim")
    if folder is not None:
        files = " and ".join(f"{folder}{os.sep}{name}" for name in written)
        out.print(f"\nWrote {files}", style="dim")
    if result.table is not None:
        out.print(f"Wrote {result.table}", style="dim")


def _table(picks: list[tuple[str, dict]], narrow: bool) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_edge=False, header_style="dim", padding=(0, 1 if narrow else 2, 0, 0))
    columns = ["", "system", "layout", "batch"] + ([] if narrow else ["weights/KV"])
    columns += ["tok/s dev", "tok/s user"] + ([] if narrow else ["TTFT ms", "TPOT ms", "$/M tok"])
    for name in columns:
        right = name not in ("", "system", "layout", "weights/KV")
        table.add_column(
            name, justify="right" if right else "left", no_wrap=name not in ("layout", "tok/s dev", "tok/s user")
        )
    for label, row in picks:
        price = row["price_per_million_tokens_USD"]
        cells = [label, row["system"], layout_text(row), f"{row['batch']}"]
        if not narrow:
            cells += [f"{row['weights']}/{row['kv']}"]
        cells += [f"{row['output_tokens_per_s_per_device']:,.0f}", f"{row['output_tokens_per_s_per_user']:,.0f}"]
        if not narrow:
            cells += [f"{row['ttft_s'] * 1e3:,.0f}", f"{row['tpot_s'] * 1e3:.1f}"]
            cells += ["-" if price is None or math.isnan(price) else f"{price:.2f}"]
        table.add_row(*cells)
    return table
