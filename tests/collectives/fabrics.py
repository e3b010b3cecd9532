"""Fabrics of a few tiers, from documents as users write them, and one compiled program that prices collectives."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from jaxperf.collectives.topology import Axis, Collective, collective_time
from jaxperf.compiling import quick
from jaxperf.ops import EXACT, Ops
from jaxperf.spec.deployment import IDEAL, build_efficiency
from jaxperf.spec.library import validate
from jaxperf.spec.model import as_arrays
from jaxperf.spec.system import Tier, build_system

KINDS: tuple[Collective, ...] = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "broadcast")
MICRO, GIGA = 1e-6, 1e9


def tier(name: str = "links", devices: int = 8, **more: Any) -> dict:
    """A crossbar of 8 devices, 100 GB/s and 1 µs, in the JSON form; anything may be changed."""
    common = dict(topology="crossbar", bandwidth_GBps=100.0, alpha_us=1.0, algorithms=[])
    return dict(name=name, devices=devices) | common | more


def document(*tiers: dict, devices: int | None = None) -> dict:
    """A system document with these tiers."""
    return dict(
        kind="system",
        name="example",
        device=dict(
            name="example",
            peak_TFLOPS=dict(bf16=1000.0),
            memory=dict(hbm=dict(kind="hbm", capacity_GB=80.0, bandwidth_GBps=3000.0)),
            main_memory="hbm",
        ),
        devices=min(tier["devices"] for tier in tiers) if devices is None else devices,
        fabric=list(tiers),
        sources={path: {"source": "an example of the tests"} for path in ("device", "devices", "fabric")},
    )


def fabric(*tiers: dict) -> tuple[Tier, ...]:
    """The tiers of a validated document, with array leaves."""
    return as_arrays(build_system(validate(document(*tiers), "example.json").document)).fabric


_IDEAL = as_arrays(build_efficiency(IDEAL))


def ideal() -> Any:
    """The efficiency of the physical bound, with array leaves."""
    return _IDEAL


@functools.cache
def all_times(axis: Axis) -> quick:
    """The program that gives times of all kinds of collectives of one axis [s]."""

    def each(size: Any, ranks: Any, stride: Any, links: tuple[Tier, ...], efficiency: Any, ops: Ops) -> list[Any]:
        return [collective_time(kind, size, ranks, stride, links, efficiency, ops, axis) for kind in KINDS]

    return quick(each)


def times(
    links: Iterable[Tier], size: float, ranks: float, stride: float = 1, axis: Axis = "tp", ops: Ops = EXACT
) -> dict[str, float]:
    """Times by kind [s]."""
    numbers = [jnp.asarray(number, float) for number in (size, ranks, stride)]
    found = all_times(axis)(*numbers, tuple(links), ideal(), ops)
    return {kind: float(time) for kind, time in zip(KINDS, found, strict=True)}
