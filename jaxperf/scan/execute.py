"""Runs the units of a scan: blocks one after the other on the devices of this process, a few units at a time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from . import absorb
from .engine import Arguments, Program, program, wanted_metrics
from .host import host_block, padded
from .inputs import axis_indices, block_arguments, group_inputs
from .native import Kernels
from .plan import Prepared, Shape, Unit
from .reduce import Part, Reduction

GROWTH = 8
"""How much more room a reduction gets where a single block filled it."""

Sink = Callable[[Unit, int, list[Any], Any], None]
"""What takes a block of a table: the unit, the block's number, columns of scores, reason codes."""


@dataclass
class Progress:
    """Passed to a scan's callback after every block: configurations done (of `total`) and of those that this run did,
    seconds since it began, the unit at work, feasible among those of finished units, best scores so far."""

    done: int
    total: int
    seconds: float
    group: str
    fresh: int = 0
    feasible: int = 0
    counted: int = 0
    best: dict[str, float] = field(default_factory=dict)


@dataclass
class Job:
    """What all units of a scan share; `kernels` where blocks are machine code on this processor, not XLA's."""

    prepared: Prepared
    shape: Shape
    kept: tuple[Reduction, ...]
    columns: tuple[str, ...]
    devices: tuple[Any, ...]
    axes: bool
    kernels: Kernels | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    placed: dict[int, Any] = field(default_factory=dict)
    hints: dict[tuple[int, int], Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


CHECK_S = 1.0
"""How often a scan asks whether the other processes live [s]: it waits for the answer."""


def step_of(job: Job, kept: tuple[Reduction, ...] | None = None) -> Program:
    """The compiled step of a job (with other room for its reductions, where given)."""
    return program(kept or job.kept, job.columns, job.shape, job.devices)


def _placement(job: Job, spread: bool) -> Any:
    """Where arrays go: the one device, or all of them, `spread` along the leading axis or the same on each."""
    if len(job.devices) == 1:
        return job.devices[0]
    mesh = jax.sharding.Mesh(np.asarray(job.devices), ("device",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*(("device",) if spread else ())))


def _inputs(job: Job, index: int) -> Any:
    """Model and inputs of a group on the devices; the last few groups' stay there."""
    with job.lock:
        if index not in job.placed:
            if len(job.placed) >= 8:
                job.placed.pop(next(iter(job.placed)))
            job.placed[index] = jax.device_put(group_inputs(job.prepared, index), _placement(job, spread=False))
        return job.placed[index]


def _arguments(job: Job, unit: Unit, number: int) -> Arguments:
    """The arguments of a block, or of as many as there are devices, stacked; beyond the unit's end there is nothing."""
    group = job.prepared.groups[unit.group]
    beyond = group.blocks(job.shape)
    blocks = [
        block_arguments(job.prepared, group, group.part(n if n < unit.end else beyond, job.shape), job.shape, job.axes)
        for n in range(number, number + len(job.devices))
    ]
    return blocks[0] if len(blocks) == 1 else jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)


def _states(job: Job, kept: tuple[Reduction, ...], hints: list[Any]) -> Any:
    """First states on the devices, where a step leaves the next ones too: one program serves both."""
    states = tuple(reduction.init(hint) for reduction, hint in zip(kept, hints, strict=True))
    if len(job.devices) > 1:
        states = jax.tree.map(lambda leaf: np.stack([leaf] * len(job.devices)), states)
    return jax.device_put(states, _placement(job, spread=True))


def _by_device(job: Job, states: Any) -> list[Any]:
    """The states of each device, on the host."""
    states = jax.device_get(states)
    if len(job.devices) == 1:
        return [states]
    return [jax.tree.map(lambda leaf, d=d: leaf[d], states) for d in range(len(job.devices))]


def native_job(
    prepared: Prepared, shape: Shape, kept: tuple[Reduction, ...], columns: tuple[str, ...], devices: tuple[Any, ...]
) -> Job:
    """A job whose blocks are machine code on this processor, made for all models at once.

    **Raises** `NoKernelError` where there is none for them.
    """
    kernels = Kernels(prepared, wanted_metrics(kept, columns))
    kernels.make()
    prepared.kernels = kernels
    return Job(prepared, shape, kept, columns, devices, any(map(absorb.needs_axes, kept)), kernels)


def _run_natively(job: Job, kernels: Kernels, unit: Unit, tick: Callable[[int], None], sink: Sink | None) -> list[Part]:
    """`run_unit` on this processor, block by block. What a unit knows rules out much of the next one's."""
    group = job.prepared.groups[unit.group]
    everything = sink is not None or any(map(absorb.needs_everything, job.kept))
    hints = [job.hints.get((unit.group, index)) for index in range(len(job.kept))]
    found = [absorb.begin(reduction, hint) for reduction, hint in zip(job.kept, hints, strict=True)]
    for number in range(unit.first, unit.end):
        if job.stop.is_set():
            raise KeyboardInterrupt
        part = group.part(number, job.shape)
        axes = None
        if job.axes:
            axes = axis_indices(job.prepared, group.rows.take(np.arange(part.row[0], sum(part.row))))
        block = host_block(kernels, unit.group, part, everything, axes)
        found = [absorb.absorb(reduction, held, block) for reduction, held in zip(job.kept, found, strict=True)]
        if sink is not None:
            sink(unit, number, *padded(block, job.shape, job.columns))
        tick(part.configurations)
    with job.lock:
        for index, held in enumerate(found):
            job.hints[unit.group, index] = held.guard
    return [held.part for held in found]


def run_unit(job: Job, unit: Unit, tick: Callable[[int], None], sink: Sink | None = None) -> list[Part]:
    """The parts of one unit, a reduction each.

    Where a frontier outgrows its room on the device, what it holds moves to the host and the block runs again, so that
    nothing is lost; where a single block fills it, it gets more room.
    """
    if job.kernels is not None:
        return _run_natively(job, job.kernels, unit, tick, sink)
    group, kept = job.prepared.groups[unit.group], job.kept
    model, inputs = _inputs(job, unit.group)
    found: list[list[Part]] = [[] for _ in kept]
    hints = [job.hints.get((unit.group, index)) for index in range(len(kept))]
    states, fresh, number = _states(job, kept, hints), True, unit.first
    while number < unit.end:
        if job.stop.is_set():
            raise KeyboardInterrupt
        new, crowding, table = step_of(job, kept)(model, inputs, _arguments(job, unit, number), states)
        crowded = int(np.max(jax.device_get(crowding)))
        if crowded == 2 and fresh:
            kept = tuple(_roomier(reduction) for reduction in kept)
            states = _states(job, kept, hints)
            continue
        if crowded:
            _drain(job, kept, states if crowded == 2 else new, found, hints)
            states, fresh = _states(job, kept, hints), True
            if crowded == 2:
                continue
        else:
            states, fresh = new, False
        if sink is not None:
            columns, reason = jax.device_get(table)
            for device in range(min(len(job.devices), unit.end - number)):
                many = len(job.devices) > 1
                sink(
                    unit,
                    number + device,
                    [c[device] if many else c for c in columns],
                    reason[device] if many else reason,
                )
        last = min(number + len(job.devices), unit.end)
        tick(sum(group.part(n, job.shape).configurations for n in range(number, last)))
        number = last
    _drain(job, kept, states, found, hints)
    with job.lock:
        for index, hint in enumerate(hints):
            job.hints[unit.group, index] = hint
    return [reduction.merge(parts) for reduction, parts in zip(kept, found, strict=True)]


def _drain(job: Job, kept: tuple[Reduction, ...], states: Any, found: list[list[Part]], hints: list[Any]) -> None:
    """Moves what the states hold to the host, and what they rule out to the hints."""
    for state in _by_device(job, states):
        for index, reduction in enumerate(kept):
            found[index].append(reduction.extract(state[index]))
            hints[index] = reduction.hint(state[index], hints[index])


def _roomier(reduction: Any) -> Any:
    """The same reduction with more room, where it has a capacity."""
    import dataclasses

    if not hasattr(reduction, "capacity"):
        return reduction
    return dataclasses.replace(reduction, capacity=GROWTH * reduction.capacity)


def compile_seconds(job: Job) -> float:
    """Compiles the program by running one block without a real configuration [s]; later calls find it in memory."""
    if job.kernels is not None:
        return job.kernels.seconds
    index = next(i for i, group in enumerate(job.prepared.groups) if len(group.rows))
    model, inputs = _inputs(job, index)
    empty = Unit(0, index, 0, 0)
    started = time.perf_counter()
    states = _states(job, job.kept, [None] * len(job.kept))
    jax.block_until_ready(step_of(job)(model, inputs, _arguments(job, empty, 0), states))
    return time.perf_counter() - started


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_units(
    job: Job,
    units: list[Unit],
    tick: Callable[[Unit, int], None],
    finished: Callable[[Unit, list[Part]], None],
    sink: Sink | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Runs units, a few at once: where one waits or reduces on one core, another computes.

    **Arguments:** `tick`, told of each block's configurations; `finished`, called for each unit in the order in which
    they end; `check`, called every `CHECK_S`, raises to end the scan. An interrupt ends every unit after its block.
    """
    workers = min(_cores() + 1, 4) if job.devices[0].platform == "cpu" else 2
    if job.kernels is not None:
        workers = _cores()
    waiting = iter(units)
    with ThreadPoolExecutor(max_workers=workers) as pool:

        def start() -> set[Future]:
            unit = next(waiting, None)
            if unit is None:
                return set()
            future = pool.submit(run_unit, job, unit, lambda count: tick(unit, count), sink)
            running[future] = unit
            return {future}

        running: dict[Future, Unit] = {}
        checked = time.perf_counter()
        try:
            for _ in range(workers + 1):  # one more, so that none waits for this thread
                start()
            while running:
                done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda f: running[f].index):
                    finished(running.pop(future), future.result())
                    start()
                if time.perf_counter() - checked > CHECK_S:
                    check()
                    checked = time.perf_counter()
        except BaseException:
            job.stop.set()
            raise
