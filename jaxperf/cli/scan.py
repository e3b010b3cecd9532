"""`jaxperf scan`: price a whole space of configurations and keep the best."""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..constants import FORMATS, KV_FORMATS
from ..errors import InfeasibleError, InputError
from ..spec.library import write_text
from .common import parse_whole, positive, whole
from .output import compile_cache, console, print_json

if TYPE_CHECKING:
    from ..scan import GroupResult, ScanResult

AXES = ("tp", "pp", "ep", "cp", "attention_dp", "batch", "isl", "osl")
FOLDER = "jaxperf-scan"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of a scan."""
    parser.description = (
        "Price a whole space of configurations and keep, for each model and workload, the exact Pareto frontier of two "
        "objectives and the best of each. Without arguments: the embedded default space of several hundred million."
    )
    parser.add_argument("space", nargs="?", metavar="SPACE.toml", help="a space; or give --model and --system")
    axes = parser.add_argument_group("axes: comma-separated lists, or ranges such as 1..512 and 1..512*2")
    axes.add_argument("--model", metavar="NAMES", help="models")
    axes.add_argument("--system", metavar="NAMES", help="systems")
    for axis in AXES:
        option = "--dp-attention" if axis == "attention_dp" else f"--{axis}"
        axes.add_argument(option, dest=axis, metavar="LIST", help=_AXIS_HELP[axis])
    axes.add_argument("--chunk", metavar="LIST", help="tokens of a prefill chunk; 'whole' for no chunking")
    axes.add_argument("--weights", metavar="LIST", help=f"'model' or of {', '.join(FORMATS)}")
    axes.add_argument("--kv", metavar="LIST", help=f"'model' or of {', '.join(KV_FORMATS)}")
    axes.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="PATH=LIST",
        help="as in --field device.memory.hbm.bandwidth_GBps=3000,6000",
    )
    limits = parser.add_argument_group("constraints and objectives")
    limits.add_argument("--max-devices", type=whole(), metavar="N", help="devices of an instance, at most")
    limits.add_argument("--slo-ttft", type=positive, metavar="MS", help="time to the first token, at most")
    limits.add_argument("--slo-tpot", type=positive, metavar="MS", help="time per output token, at most")
    limits.add_argument("--objective", action="append", metavar="METRIC", help="one or two metrics (repeat the option)")
    limits.add_argument("--efficiency", metavar="NAME", help="ideal, default, or a calibration's name or PATH.json")
    limits.add_argument("--engine", metavar="NAME", help="engine whose settings apply, such as vllm")
    output = parser.add_argument_group("output")
    output.add_argument("--out", metavar="DIR", help=f"folder for frontier.csv and frontier.png (default {FOLDER})")
    output.add_argument("--force", action="store_true", help="write into a folder that holds results already")
    output.add_argument("--json", action="store_true", help="one JSON object on stdout; files only with --out")


_AXIS_HELP = {
    "tp": "tensor parallel degrees",
    "pp": "pipeline stages",
    "ep": "expert parallel degrees",
    "cp": "context parallel degrees",
    "attention_dp": "attention data parallel degrees",
    "batch": "sequences in flight in an instance",
    "isl": "prompt lengths",
    "osl": "output lengths",
}


def parse_axis(text: str, option: str) -> Any:
    """A list `1,2,4`, a range `1..512`, `1..512+8` or `1..512*2`. **Raises** `InputError` that names the option."""
    if ".." not in text:
        return [_number(item, option) for item in text.split(",")]
    start, _, rest = text.partition("..")
    for sign, key in (("*", "factor"), ("+", "step")):
        if sign in rest:
            stop, _, by = rest.partition(sign)
            return {"from": _number(start, option), "to": _number(stop, option), key: _number(by, option)}
    return {"from": _number(start, option), "to": _number(rest, option)}


def _number(text: str, option: str) -> int:
    try:
        return parse_whole(text.strip())
    except (InputError, ValueError, argparse.ArgumentTypeError) as error:
        raise InputError(f"{option}: {error}") from None


def _document(arguments: argparse.Namespace) -> dict | None:
    """The space that the options describe, None where none of them is given."""
    document: dict[str, Any] = {}
    for key, value in (("models", arguments.model), ("systems", arguments.system)):
        if value is not None:
            document[key] = [name.strip() for name in value.split(",")]
    for axis in AXES:
        value = getattr(arguments, axis)
        if value is not None:
            document[axis] = parse_axis(value, f"--{axis.replace('attention_dp', 'dp-attention')}")
    if arguments.chunk is not None:
        if ".." in arguments.chunk:
            document["chunk"] = parse_axis(arguments.chunk, "--chunk")
        else:
            words = [word.strip() for word in arguments.chunk.split(",")]
            document["chunk"] = [word if word == "whole" else _number(word, "--chunk") for word in words]
    for key in ("weights", "kv"):
        if getattr(arguments, key) is not None:
            document[key] = [word.strip() for word in getattr(arguments, key).split(",")]
    fields: dict[str, list[float]] = {}
    for entry in arguments.field:
        path, equals, values = entry.partition("=")
        if not equals or not values:
            raise InputError(f"--field: '{entry}' is no PATH=LIST, as in device.memory.hbm.bandwidth_GBps=3000,6000")
        try:
            fields[path] = [float(value) for value in values.split(",")]
        except ValueError:
            raise InputError(f"--field: {path}: '{values}' is no list of numbers") from None
    if fields:
        document["fields"] = fields
    return document or None


def _space(arguments: argparse.Namespace) -> Any:
    from ..scan.space import build_space, load_space, read_space

    document = _document(arguments)
    limits: dict[str, Any] = {}
    if arguments.max_devices is not None:
        limits["max_devices"] = arguments.max_devices
    for key in ("slo_ttft", "slo_tpot"):
        if getattr(arguments, key) is not None:
            limits[f"{key}_ms"] = getattr(arguments, key)
    if arguments.objective:
        limits["objectives"] = [word for entry in arguments.objective for word in entry.split(",")]
    for key in ("efficiency", "engine"):
        if getattr(arguments, key) is not None:
            limits[key] = getattr(arguments, key)
    if arguments.space is None and document is not None:
        for key, option in (("models", "--model"), ("systems", "--system")):
            if key not in document:
                raise InputError(f"scan: {option} is missing; give --model and --system, or a SPACE.toml")
        return build_space(document | limits, "command line")
    if document is None and not limits:
        return load_space(arguments.space)
    base = read_space(arguments.space)
    changed = base | (document or {}) | limits
    if document and {"isl", "osl"} & set(document):
        changed.pop("workloads", None)
    return build_space(changed, arguments.space or "default space")


def run(arguments: argparse.Namespace) -> int:
    """Scan, print the table, write the files; 1 where nothing is feasible."""
    space = _space(arguments)
    if arguments.out == "":
        raise InputError("--out: the name of the folder is empty")
    folder = None if arguments.json and arguments.out is None else Path(arguments.out or FOLDER)
    if folder is not None:
        _check_folder(folder, arguments.force)
    wide_vectors()
    compile_cache()
    from ..scan import scan

    if arguments.json or not sys.stderr.isatty():
        result = scan(space)
    else:
        result = _with_progress(space)
    if folder is not None:
        write_text(folder / "frontier.csv", frontier_csv(result))
        from ..plots import frontier_figure

        frontier_figure(result, folder / "frontier.png")
    if arguments.json:
        print_json(result.document())
    else:
        _print(result, folder)
    if not result.feasible:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in result.infeasible.items())
        raise InfeasibleError(f"none of {result.configurations:,} configurations is feasible: {reasons}")
    return 0


def wide_vectors() -> None:
    """Let XLA use 512-bit vectors where the CPU has them; it takes 256 unless told. Call before importing JAX."""
    flags = os.environ.get("XLA_FLAGS", "")
    try:
        wide = "avx512f" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")[:16384]
    except OSError:
        wide = False
    if wide and "prefer_vector_width" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_prefer_vector_width=512".strip()


def _check_folder(folder: Path, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out: {folder} is a file, not a folder")
    held = [name for name in ("frontier.csv", "frontier.png") if (folder / name).exists()]
    if held and not force:
        raise InputError(
            f"{folder} holds {' and '.join(held)} of an earlier scan; add --force, or --out another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out: {folder}: {error.strerror or error}") from None


def _with_progress(space: Any) -> ScanResult:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from ..scan import scan

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("compiling", total=None, rate="")

        def tick(state: Any) -> None:
            rate = f"{state.done / max(state.seconds, 1e-9) / 1e6:.0f} M/s"
            bar.update(task, description=state.group, total=state.total, completed=state.done, rate=rate)

        return scan(space, tick)


def frontier_csv(result: ScanResult) -> str:
    """All frontiers as CSV: a row a configuration, units in the column names."""
    rows = [row for group in result.groups for row in group.frontier]
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def layout_text(row: dict) -> str:
    """A layout in few characters, degrees of 1 left out: `tp8 pp2`."""
    parts = [f"{name.replace('attention_', '')}{row[name]}" for name in ("tp", "pp", "ep", "cp", "attention_dp")]
    kept = [part for part in parts if not part.endswith(("p1",))]
    return " ".join(kept) or "tp1"


def _picks(group: GroupResult) -> list[tuple[str, dict]]:
    """A few points of a frontier worth a line: both ends, and the best throughput at common speeds a user."""
    picks: list[tuple[str, dict]] = []
    first, second = list(group.best)[:2] if len(group.best) == 2 else (None, None)
    if first is None or second is None:
        return picks
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
    word = (
        "least"
        if metric in ("ttft", "tpot", "e2e", "price_per_million_tokens", "joules_per_token", "devices")
        else "most"
    )
    return f"{word} {metric.replace('_', ' ')}"


def _print(result: ScanResult, folder: Path | None) -> None:
    from rich.table import Table

    out = console()
    narrow = out.width < 100
    out.print(
        f"[bold]{result.configurations:,}[/] configurations in {result.wall_s:.1f} s "
        f"({result.configurations_per_s / 1e6:.0f} M/s, compiled in {result.compile_s:.1f} s); "
        f"{result.feasible:,} feasible"
    )
    for reason, count in result.infeasible.items():
        out.print(f"  {count:,} {reason}", style="dim")
    for group in result.groups:
        picks = _picks(group)
        title = f"[bold]{group.model}[/]  {group.isl} in / {group.osl} out"
        if not picks:
            feasible = group.counts.get("feasible", 0)
            out.print(f"\n{title}: {'no figure for the objectives' if feasible else 'nothing feasible'}")
            continue
        out.print(f"\n{title}   [dim]{len(group.frontier)} points on the frontier[/]")
        table = Table(
            box=None, pad_edge=False, show_edge=False, header_style="dim", padding=(0, 1 if narrow else 2, 0, 0)
        )
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
        out.print(table)
    if folder is not None:
        out.print(f"\nWrote {folder}/frontier.csv and {folder}/frontier.png", style="dim")


__all__ = ["configure", "frontier_csv", "layout_text", "parse_axis", "run"]
