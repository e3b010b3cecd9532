"""What hardware is: a device, its memory, and the links between devices. SI units inside."""

from __future__ import annotations

from typing import Any

import equinox as eqx

from ..constants import DTYPE_BYTES, DTYPE_FALLBACK, DTYPES, GIGA, MICRO, TERA, TIER_SLOTS
from ..ops import Scalar


class Memory(eqx.Module):
    """The memory that holds weights and KV cache: capacity [bytes] and bandwidth [bytes/s]."""

    capacity: Scalar
    bandwidth: Scalar


class Device(eqx.Module):
    """One device: dense peaks by `DTYPES` [FLOP/s] (absent types filled with what runs instead), the activation width
    of a GEMM in each type [bytes], memory, power [W], price [USD per hour] (NaN where unknown)."""

    peak: tuple[Scalar, ...]
    activation_bytes: tuple[Scalar, ...]
    memory: Memory
    power: Scalar
    price: Scalar


class Tier(eqx.Module):
    """One level of the fabric: devices reached (inner tiers included), bandwidth one-way per device [bytes/s] over all
    ports in use, latency per message [s]."""

    reach: Scalar
    bandwidth: Scalar
    alpha: Scalar


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


def _tier(doc: dict) -> Tier:
    return Tier(
        reach=doc["devices"], bandwidth=doc["bandwidth_GBps"] * GIGA * doc["ports"], alpha=doc["alpha_us"] * MICRO
    )


def build_system(document: dict) -> System:
    """A `System` of plain numbers from a validated document; traced values in the document stay traced."""
    device = document["device"]
    memory = device["memory"][device["main_memory"]]
    peak, widths = _peaks(device)
    tiers = [_tier(tier) for tier in document["fabric"]]
    tiers += [tiers[-1]] * (TIER_SLOTS - len(tiers))
    return System(
        device=Device(
            peak=peak,
            activation_bytes=widths,
            memory=Memory(
                capacity=memory["capacity_GB"] * GIGA,
                bandwidth=memory["bandwidth_GBps"] * GIGA,
            ),
            power=_or_nan(device["tdp_W"]),
            price=_or_nan(device["price_per_hour_USD"]),
        ),
        devices=document["devices"],
        fabric=tuple(tiers),
    )


def _or_nan(value: Any) -> Any:
    return float("nan") if value is None else value
