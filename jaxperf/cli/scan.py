"""`jaxperf scan`: price a whole space of configurations and keep the best."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..constants import FORMATS, KV_FORMATS
from ..errors import InfeasibleError, InputError
from .common import positive, whole
from .output import compile_cache, print_json
from .scan_output import FILES, frontier_csv, layout_text, print_result, with_progress, write_files
from .scan_space import AXES, names, parse_axis, space_of

if TYPE_CHECKING:
    from ..scan import ScanResult

__all__ = ["configure", "frontier_csv", "layout_text", "parse_axis", "run", "wide_vectors"]

FOLDER = "jaxperf-scan"
JOURNAL = "journal.bin"
TERMINATED = 128 + signal.SIGTERM


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of a scan."""
    parser.description = (
        "Price a whole space of configurations and keep, for each model and workload, the exact Pareto frontier of two "
        "or three objectives and the best of each. Without arguments: the embedded default space of several hundred "
        "million. An interrupted scan goes on with --resume."
    )
    parser.add_argument("space", nargs="?", metavar="SPACE.toml", help="a space; or give --model and --system")
    _add_axes(parser)
    limits = parser.add_argument_group("constraints and objectives")
    limits.add_argument("--max-devices", type=whole(), metavar="N", help="devices of an instance, at most")
    limits.add_argument("--slo-ttft", type=positive, metavar="MS", help="time to the first token, at most")
    limits.add_argument("--slo-tpot", type=positive, metavar="MS", help="time per output token, at most")
    limits.add_argument(
        "--objective", action="append", metavar="METRIC", help="up to three metrics (repeat the option)"
    )
    limits.add_argument("--efficiency", metavar="NAME", help="ideal, default, or a calibration's name or PATH.json")
    limits.add_argument("--engine", metavar="NAME", help="engine whose settings apply, such as vllm")
    _add_keep(parser)
    _add_run(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--out", metavar="DIR", help=f"folder for the results as CSV and PNG (default {FOLDER})")
    output.add_argument("--force", action="store_true", help="start over, and over results that are there already")
    output.add_argument("--json", action="store_true", help="one JSON object on stdout; files only with --out")


def _add_axes(parser: argparse.ArgumentParser) -> None:
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


def _add_keep(parser: argparse.ArgumentParser) -> None:
    keep = parser.add_argument_group("what to keep")
    keep.add_argument("--pareto", metavar="METRICS", help="the frontier of these two or three metrics")
    keep.add_argument("--best", action="store_true", help="only the best of each objective, no frontier: faster")
    keep.add_argument("--top", type=whole(high=10_000), metavar="K", help="also the K best of each objective")
    keep.add_argument("--quantiles", metavar="METRICS", help="also quantiles of these metrics")
    keep.add_argument("--marginals", action="store_true", help="also the best by value of every axis")
    keep.add_argument(
        "--table", metavar="FILE", help="also every configuration, as .parquet (or .csv, up to a million)"
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how to run")
    how.add_argument("--x64", action="store_true", help="double precision (default: single)")
    how.add_argument("--memory", type=positive, metavar="GIB", help="memory for blocks (default: what is fastest)")
    how.add_argument("--resume", action="store_true", help="go on from the journal, if there is one")
    how.add_argument("--journal", metavar="FILE", help=f"journal, kept at the end (default DIR/{JOURNAL}, removed)")
    how.add_argument("--checkpoint", type=whole(), metavar="N", help="configurations between entries of the journal")
    how.add_argument("--devices", type=whole(high=4096), metavar="N", help="devices of this process (default 1)")
    how.add_argument(
        "--backend",
        choices=("native", "xla"),
        help="machine code for the cores of this CPU, or XLA's program for any devices (default: the fastest)",
    )
    how.add_argument("--distributed", action="store_true", help="share the scan with other processes or hosts")
    how.add_argument("--coordinator", metavar="HOST:PORT", help="where the processes meet (that of process 0)")
    how.add_argument("--processes", type=whole(high=100_000), metavar="N", help="how many processes there are")
    how.add_argument("--process-id", type=whole(low=0), metavar="I", help="number of this process, from 0")


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


def run(arguments: argparse.Namespace) -> int:
    """Scan, print the table, write the files; 1 where nothing is feasible."""
    space = space_of(arguments)
    folder, journal = _places(arguments)
    wide_vectors()
    compile_cache()
    processes = _start_jax(arguments)
    first = processes.index == 0
    if folder is not None and first:
        _make_folder(folder)

    def work(progress: Any) -> ScanResult:
        return _scan(arguments, space, journal, processes, progress)

    try:
        with _termination():
            quiet = arguments.json or not first or not sys.stderr.isatty()
            result = work(None) if quiet else with_progress(work)
    except KeyboardInterrupt as stop:
        return _interrupted(journal, TERMINATED if isinstance(stop, _Terminated) else 130)
    if first:
        _report(arguments, result, folder)
    if journal is not None and arguments.journal is None and first:
        for path in (journal, *journal.parent.glob(f"{journal.name}.*")):
            path.unlink(missing_ok=True)
    processes.leave()
    if not result.feasible:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in result.infeasible.items())
        raise InfeasibleError(f"none of {result.configurations:,} configurations is feasible: {reasons}")
    return 0


def _scan(arguments: argparse.Namespace, space: Any, journal: Path | None, processes: Any, progress: Any) -> ScanResult:
    from ..scan import Keep, scan
    from ..scan.parse import metrics
    from ..scan.plan import UNIT

    quantiles = names(arguments.quantiles) if arguments.quantiles else []
    keep = Keep(
        frontier=not arguments.best,
        top=arguments.top or 0,
        quantiles=metrics(tuple(quantiles), "--quantiles", 16) if quantiles else (),
        marginals=arguments.marginals,
    )
    return scan(
        space,
        progress,
        keep=keep,
        table=arguments.table,
        journal=journal,
        resume=arguments.resume,
        devices=arguments.devices or 1,
        backend=arguments.backend,
        memory=None if arguments.memory is None else arguments.memory * 2**30,
        unit=arguments.checkpoint or UNIT,
        processes=processes,
    )


def _report(arguments: argparse.Namespace, result: ScanResult, folder: Path | None) -> None:
    written = [] if folder is None else write_files(result, folder)
    if result.lost_bytes:
        print(f"jaxperf: the journal's damaged end ({result.lost_bytes:,} bytes) was scanned again", file=sys.stderr)
    if arguments.json:
        print_json(result.document())
    else:
        print_result(result, folder, written)
    sys.stdout.flush()


def _start_jax(arguments: argparse.Namespace) -> Any:
    """Precision, devices and other processes; before anything is computed."""
    import jax

    from ..scan.processes import Processes, connect

    given = [name for name in ("coordinator", "processes", "process_id") if getattr(arguments, name) is not None]
    if given and not arguments.distributed:
        raise InputError(f"--{given[0].replace('_', '-')} needs --distributed")
    if arguments.x64:
        jax.config.update("jax_enable_x64", True)
    if arguments.devices is not None:
        jax.config.update("jax_num_cpu_devices", arguments.devices)  # a CPU counts as one device unless told
    if not arguments.distributed:
        return Processes()
    return connect(arguments.coordinator, arguments.processes, arguments.process_id)


def _places(arguments: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """The folder and the journal of a scan, None where there is none; refuses to overwrite what is there."""
    for option in ("out", "journal", "table"):
        if getattr(arguments, option) == "":
            raise InputError(f"--{option}: the name is empty")
    folder = None if arguments.json and arguments.out is None else Path(arguments.out or FOLDER)
    journal = Path(arguments.journal) if arguments.journal else None if folder is None else folder / JOURNAL
    if arguments.resume and journal is None:
        raise InputError("--resume: there is no journal without --out or --journal")
    if arguments.resume and arguments.force:
        raise InputError("--resume and --force exclude each other: go on, or start over")
    going_on = arguments.resume and journal is not None and journal.exists()
    if folder is not None and folder.exists() and not folder.is_dir():
        raise InputError(f"--out: {folder} is a file, not a folder")
    if journal is not None and journal.is_dir():
        raise InputError(f"--journal: {journal} is a folder")
    if arguments.force or going_on or (arguments.process_id or 0) > 0:
        return folder, journal
    held = [] if folder is None else [name for name in FILES if (folder / name).exists()]
    if held:
        raise InputError(
            f"{folder} holds {' and '.join(held)} of an earlier scan; add --force, or --out another folder"
        )
    if arguments.table and Path(arguments.table).exists():
        raise InputError(f"--table: {arguments.table} exists; add --force, or choose another name")
    if journal is not None and journal.exists():
        raise InputError(f"{journal} is of an interrupted scan; add --resume to go on, or --force to start over")
    return folder, journal


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out: {folder}: {error.strerror or error}") from None


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a scan as Ctrl-C does."""


@contextlib.contextmanager
def _termination() -> Iterator[None]:
    def stop(*_: Any) -> NoReturn:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupted(journal: Path | None, code: int) -> int:
    if journal is None or not journal.exists():
        text = "interrupted; nothing was kept: give --out or --journal for a scan that can go on"
    else:
        text = f"interrupted; finished work is in {journal}: the same command with --resume goes on"
    print(f"jaxperf: {text}", file=sys.stderr)
    return code


def wide_vectors() -> None:
    """Let XLA use 512-bit vectors where the CPU has them; it takes 256 unless told. Call before importing JAX."""
    flags = os.environ.get("XLA_FLAGS", "")
    try:
        wide = "avx512f" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")[:16384]
    except OSError:
        wide = False
    if wide and "prefer_vector_width" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_prefer_vector_width=512".strip()
