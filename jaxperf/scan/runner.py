"""One scan from a space to its result: plan, journal, compile, run, exchange, merge."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..native.jit import available
from ..tape import NoKernelError
from . import journal as journals
from . import table as tables
from .execute import Job, Progress, compile_seconds, native_job, run_units
from .identity import check_same, identity
from .journal import Journal, Parts
from .keep import Keep, reductions
from .plan import UNIT, Prepared, Shape, Unit, block_shape, prepare, units
from .processes import Processes
from .reduce import Reduction
from .result import ScanResult, group_result
from .space import Space
from .spread import Marginals


@dataclass(frozen=True)
class Settings:
    """How a scan runs and what it keeps (see `jaxperf.scan.scan`)."""

    keep: Keep = field(default_factory=Keep)
    table: Path | None = None
    journal: Path | None = None
    resume: bool = False
    devices: int = 1
    backend: str | None = None
    memory: float | None = None
    unit: int = UNIT
    processes: Processes = field(default_factory=Processes)


@dataclass
class Scan:
    """A scan under way."""

    settings: Settings
    job: Job
    units: list[Unit]
    identity: dict
    table: tables.Table | None
    parts: dict[int, Parts] = field(default_factory=dict)
    journal: Journal | None = None
    lost: int = 0


def run(space: Space, settings: Settings, progress: Callable[[Progress], None] | None) -> ScanResult:
    """Runs a scan; see `jaxperf.scan.scan`."""
    prepared = prepare(space)
    if settings.table is not None:
        tables.check_path(settings.table, prepared.configurations)
    scan = _begin(prepared, settings)
    try:
        _open_journal(scan)
        mine, resumed = _share(scan)
        compiled = compile_seconds(scan.job) if mine else 0.0
        started = time.perf_counter()
        _work(scan, mine, resumed, started, progress)
        everything = _gather(scan)
        wall = time.perf_counter() - started
        if scan.table is not None and settings.processes.index == 0:
            tables.join(scan.table, scan.units)
    finally:
        if scan.journal is not None:
            scan.journal.close()
    return _result(scan, everything, resumed, compiled, wall)


def _begin(prepared: Prepared, settings: Settings) -> Scan:
    """The plan of a scan; a journal that is resumed decides the blocks' shape and backend."""
    local = jax.local_devices()
    if settings.devices > len(local):
        raise InputError(f"--devices: {settings.devices} is out of range; this process has {len(local)}")
    devices = tuple(local[: settings.devices] if settings.devices else local)
    kept = reductions(prepared, settings.keep)
    columns = tables.COLUMNS if settings.table is not None else ()
    width = jnp.dtype(jnp.result_type(float)).itemsize
    path, held = settings.journal, None
    if path is not None and settings.resume and path.exists():
        held = journals.read_identity(path)
    asked = settings.backend if held is None or settings.backend is not None else held.get("backend")
    backend = _backend(asked, devices, None if settings.backend is not None else path)

    def shaped(backend: str) -> tuple[Shape, int]:
        if held is None:
            wide = devices[0].platform != "cpu"
            return block_shape(prepared, settings.memory, wide, width, whole=backend == "native"), settings.unit
        try:
            return Shape(*map(int, held["block"])), int(held["unit"])
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{path}: the journal is damaged at its head; start over with --force") from None

    job = None
    if backend == "native":
        try:
            job = native_job(prepared, shaped(backend)[0], kept, columns, devices)
        except NoKernelError as error:
            if asked is not None:
                raise InputError(f"--backend: native: {error}; expected xla") from None
            backend = "xla"
    shape, unit = shaped(backend)
    where = "" if settings.table is None else str(settings.table.resolve())
    mine = identity(prepared, shape, unit, kept, columns, where, backend)
    if job is None:
        job = Job(prepared, shape, kept, columns, devices, any(isinstance(reduction, Marginals) for reduction in kept))
    table = None
    if settings.table is not None:
        provenance = {"space": prepared.space, **{k: mine[k] for k in ("specs", "version", "precision", "platform")}}
        table = tables.Table(settings.table, prepared, shape, provenance)
    return Scan(settings, job, units(prepared, shape, unit), mine, table)


BACKENDS = ("native", "xla")
"""What computes blocks: machine code for this processor, made by LLVM, or XLA's program, on any device."""


def _backend(asked: str | None, devices: tuple[Any, ...], journal: Path | None = None) -> str:
    """The backend that is asked for, by a `journal` where there is one, or else the fastest one for these devices.

    **Raises** `InputError` where it cannot be had.
    """
    if asked not in (None, *BACKENDS):
        raise InputError(f"--backend: '{asked}' is not one of {', '.join(BACKENDS)}")
    why = None
    kinds = {device.platform for device in devices}
    if len(devices) > 1 or kinds != {"cpu"}:
        why = "it is for one CPU device, whose cores it uses all"
    elif not available():
        why = "there is no LLVM for this machine"
    if asked == "native" and why is not None and journal is not None:
        raise InputError(f"{journal}: the journal is of the backend native, but {why}; start over with --force")
    if asked == "native" and why is not None:
        raise InputError(f"--backend: native: {why}; expected xla")
    return asked or ("xla" if why else "native")


def _files(path: Path, index: int, count: int) -> tuple[Path, list[Path]]:
    """The journal of a process; for the first also those that processes beyond the present count have left."""
    own = path if index == 0 else path.with_name(f"{path.name}.{index}")
    if index:
        return own, []
    numbered = [(p, p.name.removeprefix(f"{path.name}.")) for p in path.parent.glob(f"{path.name}.*")]
    return own, sorted(p for p, number in numbered if number.isdigit() and int(number) >= count)


def _open_journal(scan: Scan) -> None:
    """Opens the journal and takes over what is in it, and whose parts of a table are there."""
    settings = scan.settings
    if settings.journal is None:
        return
    own, left = _files(settings.journal, settings.processes.index, settings.processes.count)
    if not settings.resume:
        for path in left:
            path.unlink()
        scan.journal = journals.create(own, scan.identity)
        return
    scan.journal = journals.resume(own, scan.identity) if own.exists() else journals.create(own, scan.identity)
    scan.parts, scan.lost = dict(scan.journal.done), scan.journal.lost
    for path in left:
        other = journals.resume(path, scan.identity)
        scan.parts |= other.done
        other.close()
    if scan.table is not None and not tables.finished(scan.table):
        scan.parts = {unit: parts for unit, parts in scan.parts.items() if scan.table.part(unit).exists()}


def _share(scan: Scan) -> tuple[list[Unit], int]:
    """The units that are left for this process, and the configurations that any process has from a journal.

    **Raises** `InputError` where the processes do not run the same scan.
    """
    processes = scan.settings.processes
    offer = {"identity": scan.identity, "done": sorted(scan.parts)}
    offers = [json.loads(text) for text in processes.exchange("start", json.dumps(offer).encode())]
    done: set[int] = set()
    for index, other in enumerate(offers):
        try:
            check_same(scan.identity, other["identity"], f"--distributed: process {index}")
        except InputError:
            processes.leave()  # all find the same, each by itself
            raise
        twice = done & set(other["done"])
        if index == processes.index:
            scan.parts = {unit: parts for unit, parts in scan.parts.items() if unit not in twice}
        done |= set(other["done"])
    left = [unit for unit in scan.units if unit.index not in done]
    resumed = sum(_size(scan, unit) for unit in scan.units if unit.index in done)
    return left[processes.index :: processes.count], resumed


def _size(scan: Scan, unit: Unit) -> int:
    group, shape = scan.job.prepared.groups[unit.group], scan.job.shape
    if unit.first == 0 and unit.end == group.blocks(shape):
        return group.configurations
    return sum(group.part(number, shape).configurations for number in range(unit.first, unit.end))


def _work(
    scan: Scan, mine: list[Unit], resumed: int, started: float, progress: Callable[[Progress], None] | None
) -> None:
    """Runs this process's units, journals each as it ends, and says how far it is."""
    groups, lock = scan.job.prepared.groups, threading.Lock()
    shared = sum(_size(scan, unit) for unit in mine)
    state = Progress(resumed, resumed + shared, 0.0, "")
    for unit, parts in scan.parts.items():
        _note(state, scan.job.kept, parts, _size(scan, scan.units[unit]))

    def tick(unit: Unit, count: int) -> None:
        if progress is None:
            return
        with lock:
            group = groups[unit.group]
            state.done += count
            state.fresh += count
            state.seconds = time.perf_counter() - started
            state.group = f"{group.model} {group.isl}/{group.osl}"
            progress(state)

    def finished(unit: Unit, parts: Parts) -> None:
        if scan.table is not None:
            tables.close_unit(scan.table, unit.index)
        if scan.journal is not None:
            scan.journal.append(unit.index, parts)
        with lock:
            scan.parts[unit.index] = parts
            _note(state, scan.job.kept, parts, _size(scan, unit))

    sink = None
    if scan.table is not None:
        table = scan.table
        sink = lambda unit, number, columns, reason: tables.write_block(table, unit, number, columns, reason)  # noqa: E731
    run_units(scan.job, mine, tick, finished, sink, scan.settings.processes.check)


def _note(state: Progress, kept: tuple[Reduction, ...], parts: Parts, size: int) -> None:
    """Adds a finished unit to what progress shows."""
    for reduction, part in zip(kept, parts, strict=True):
        if reduction.name == "counts":
            state.feasible += int(part["count"][0])
            state.counted += size
        elif reduction.name in ("frontier", "best") and part["score"].size:
            score = part["score"].reshape(-1, len(reduction.metrics))
            for column, metric in enumerate(reduction.metrics):
                top = float(np.max(score[:, column]))
                if np.isfinite(top):
                    state.best[metric] = max(state.best.get(metric, -np.inf), top * 1.0)


def _gather(scan: Scan) -> dict[int, list[Parts]]:
    """The parts of each group by its index: of all its units, or where there are several processes, one of each."""
    processes, mine = scan.settings.processes, {}
    for unit in scan.units:
        if unit.index in scan.parts:
            mine.setdefault(unit.group, []).append(scan.parts[unit.index])
    if processes.count == 1:
        return mine
    merged = {index: _merged(scan.job.kept, parts) for index, parts in mine.items()}
    everything: dict[int, list[Parts]] = {}
    for number, data in enumerate(processes.exchange("parts", journals.pack(merged))):
        for index, parts in (merged if number == processes.index else journals.unpack(data)).items():
            everything.setdefault(index, []).append(parts)
    return everything


def _merged(kept: tuple[Reduction, ...], parts: list[Parts]) -> Parts:
    """Several parts of a group as one, for each reduction."""
    if not parts:
        return [reduction.extract(reduction.init()) for reduction in kept]
    return [reduction.merge([part[index] for part in parts]) for index, reduction in enumerate(kept)]


def _result(scan: Scan, parts: dict[int, list[Parts]], resumed: int, compiled: float, wall: float) -> ScanResult:
    prepared, kept, processes = scan.job.prepared, scan.job.kept, scan.settings.processes
    found = [
        group_result(prepared, index, kept, _merged(kept, parts.get(index, [])))
        for index in range(len(prepared.groups))
    ]
    infeasible: dict[str, int] = {}
    for group in found:
        for reason, count in group.counts.items():
            if reason != "feasible":
                infeasible[reason] = infeasible.get(reason, 0) + count
    total = prepared.configurations
    return ScanResult(
        space=prepared.space,
        configurations=total,
        feasible=sum(group.counts.get("feasible", 0) for group in found),
        infeasible=infeasible,
        compile_s=compiled,
        wall_s=wall,
        configurations_per_s=(total - resumed) / wall,
        groups=found,
        resumed=resumed,
        lost_bytes=scan.lost,
        processes=processes.count,
        devices=len(scan.job.devices),
        backend=scan.identity["backend"],
        table=None if scan.table is None else str(scan.table.path),
    )


__all__ = ["Scan", "Settings", "run"]
