"""What hardware is: a device, its memory, and the links between devices. SI units inside."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx

from ..constants import (
    AXES,
    COLLECTIVE_ALGORITHMS,
    DIM_SLOTS,
    DTYPE_BYTES,
    DTYPE_FALLBACK,
    DTYPES,
    GIGA,
    MEMORY_KINDS,
    MEMORY_SLOTS,
    MICRO,
    SPILL_KINDS,
    SUSTAINED_SHARE,
    TERA,
    TIER_SLOTS,
)
from ..ops import Scalar


class MemoryTier(eqx.Module):
    """One memory of a device: capacity [bytes], bandwidth [bytes/s], `sustained` share η of it that long reads reach.

    Flags 0 or 1: `main` holds activations and reserve; `spill` (host, SSD) is used only where offloading is asked for.
    `kind` indexes `MEMORY_KINDS`; an empty slot has capacity 0 and kind −2.
    """

    capacity: Scalar
    bandwidth: Scalar
    sustained: Scalar
    main: Scalar
    spill: Scalar
    kind: Scalar


class Memory(eqx.Module):
    """The memories of a device, `MEMORY_SLOTS` of them, fastest first."""

    tiers: tuple[MemoryTier, ...]

    @property
    def capacity(self) -> Scalar:
        """Capacity of the main memory [bytes]."""
        return sum(tier.main * tier.capacity for tier in self.tiers)

    @property
    def bandwidth(self) -> Scalar:
        """Bandwidth of the main memory [bytes/s]."""
        return sum(tier.main * tier.bandwidth for tier in self.tiers)

    @property
    def sustained(self) -> Scalar:
        """Sustained share of the main memory's bandwidth."""
        return sum(tier.main * tier.sustained for tier in self.tiers)


class Device(eqx.Module):
    """One device: dense peaks by `DTYPES` [FLOP/s] (absent types filled with what runs instead), the activation width
    of a GEMM in each type [bytes], memory, power [W], price [USD per hour] (NaN where unknown)."""

    peak: tuple[Scalar, ...]
    activation_bytes: tuple[Scalar, ...]
    memory: Memory
    power: Scalar
    price: Scalar


class Axes(eqx.Module):
    """Which parallel axes use a tier, 0 or 1 each."""

    tp: Scalar
    cp: Scalar
    ep: Scalar
    pp: Scalar


class Software(eqx.Module):
    """Which collective algorithms a tier admits beside ring and pairwise exchange, 0 or 1 each (see
    `COLLECTIVE_ALGORITHMS`); `in_network` and `multicast` for switches that add up, and those that devices drive."""

    double_tree: Scalar
    halving_doubling: Scalar
    direct: Scalar
    bruck: Scalar
    hardware_exchange: Scalar
    in_network: Scalar
    multicast: Scalar


def build_software(named: list[str], in_network: Any, multicast: Any) -> Software:
    """A `Software` of plain numbers from the names of its algorithms."""
    flags = {name.replace("-", "_"): int(name in named) for name in COLLECTIVE_ALGORITHMS if name != "ring"}
    return Software(**flags, in_network=in_network, multicast=multicast)


class Tier(eqx.Module):
    """One level of the fabric: devices reached (inner tiers included), bandwidth one-way per port [bytes/s], ports per
    device, latency per message and through the switch [s], contention and oversubscription included.

    Flags 0 or 1: `full_mesh`; `grid` for a torus or mesh, `wrap` for a torus, whose `dims` count the domains that the
    tiers inside reach. `software` that it admits, `axes` that use it.
    """

    reach: Scalar
    bandwidth: Scalar
    ports: Scalar
    alpha: Scalar
    switch_alpha: Scalar
    full_mesh: Scalar
    grid: Scalar
    wrap: Scalar
    dims: tuple[Scalar, ...]
    software: Software
    axes: Axes

    @property
    def device_bandwidth(self) -> Scalar:
        """Bandwidth of a device over all its ports, one-way [bytes/s]."""
        return self.bandwidth * self.ports


class System(eqx.Module):
    """A node or scale-up domain of `devices` equal devices. `fabric` has `TIER_SLOTS` tiers, innermost first."""

    device: Device
    devices: Scalar
    fabric: tuple[Tier, ...]

    @property
    def reach(self) -> Scalar:
        """Devices that the outermost tier reaches."""
        return self.fabric[-1].reach


def _peaks(doc: dict) -> tuple[tuple[Any, ...], tuple[float, ...]]:
    given = {dtype: value for dtype, value in doc["peak_TFLOPS"].items() if value is not None}
    peaks, widths = [], []
    for dtype in DTYPES:
        runs_as = next((fallback for fallback in DTYPE_FALLBACK[dtype] if fallback in given), next(iter(given)))
        peaks.append(given[runs_as] * TERA)
        widths.append(DTYPE_BYTES[runs_as] if runs_as in ("fp8", "int8", "fp4") else 2.0)
    return tuple(peaks), tuple(widths)


def default_algorithms(tier: dict, innermost: bool) -> list[str]:
    """What the software of a tier offers where its spec does not say: peer-to-peer access, and with it everything
    direct, inside a scale-up domain; beyond it rings and double trees (as in NCCL and its relatives), and exchanges
    that the network cards do. (DeepEP's kernels take 192 and 194 µs for the same bytes among 128 and 256 GPUs, so
    nothing is paid for each peer; its README, legacy performance table.)"""
    if tier["topology"] in ("torus", "mesh"):
        return []
    return ["double-tree", "direct"] if innermost else ["double-tree", "hardware-exchange"]


def _software(doc: dict, innermost: bool) -> Software:
    named = doc["algorithms"] if doc["algorithms"] is not None else default_algorithms(doc, innermost)
    kind = doc["in_network"]
    return build_software(named, int(kind != "none"), int(kind == "multicast"))


def _tier(doc: dict, innermost: bool) -> Tier:
    alpha = doc["alpha_us"] * MICRO * doc["alpha_factor"]
    switch = doc["switch_alpha_us"]
    return Tier(
        reach=doc["devices"],
        bandwidth=doc["bandwidth_GBps"] * GIGA * doc["bandwidth_share"] / doc["oversubscription"],
        ports=doc["ports"],
        alpha=alpha,
        switch_alpha=alpha if switch is None else switch * MICRO * doc["alpha_factor"],
        full_mesh=int(doc["topology"] == "full-mesh"),
        grid=int(doc["topology"] in ("torus", "mesh")),
        wrap=int(doc["topology"] == "torus"),
        dims=tuple(doc["dims"]) + (1,) * (DIM_SLOTS - len(doc["dims"])),
        software=_software(doc, innermost),
        axes=Axes(**{axis: int(axis in doc["axes"]) for axis in AXES}),
    )


def _memory(device: dict) -> Memory:
    """The memories of a device; empty slots repeat the last one's speed, so that their arithmetic stays finite."""
    tiers = []
    for name, doc in device["memory"].items():
        share = doc["sustained_share"]
        tiers.append(
            MemoryTier(
                capacity=doc["capacity_GB"] * GIGA,
                bandwidth=doc["bandwidth_GBps"] * GIGA,
                sustained=SUSTAINED_SHARE[doc["kind"]] if share is None else share,
                main=int(name == device["main_memory"]),
                spill=int(doc["kind"] in SPILL_KINDS),
                kind=MEMORY_KINDS.index(doc["kind"]),
            )
        )
    empty = eqx.tree_at(lambda t: (t.capacity, t.main, t.spill, t.kind), tiers[-1], (0.0, 0, 0, -2))
    return Memory(tuple(tiers) + (empty,) * (MEMORY_SLOTS - len(tiers)))


def build_system(document: dict) -> System:
    """A `System` of plain numbers from a validated document; traced values in the document stay traced."""
    device = document["device"]
    peak, widths = _peaks(device)
    tiers = [_tier(tier, index == 0) for index, tier in enumerate(document["fabric"])]
    tiers += [tiers[-1]] * (TIER_SLOTS - len(tiers))
    return System(
        device=Device(
            peak=peak,
            activation_bytes=widths,
            memory=_memory(device),
            power=_or_nan(device["tdp_W"]),
            price=_or_nan(device["price_per_hour_USD"]),
        ),
        devices=document["devices"],
        fabric=tuple(tiers),
    )


def trimmed(systems: list[System], spills: bool) -> list[System]:
    """The same systems without the memory slots that nothing may use, so that a program for them carries none.

    **Arguments:** `spills`, whether host memory and SSD may hold weights or KV cache.
    """

    def used(tier: MemoryTier) -> bool:
        return tier.kind >= 0 and (spills or not tier.spill)

    counts = [sum(used(tier) for tier in system.device.memory.tiers) for system in systems]
    return [eqx.tree_at(lambda s: s.device.memory.tiers, s, s.device.memory.tiers[: max(counts)]) for s in systems]


def _or_nan(value: Any) -> Any:
    return math.nan if value is None else value
