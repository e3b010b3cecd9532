"""What joins two sides, given or read from a spec: the link between two pools, the bus between a GPU and its host."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..constants import GIGA, MICRO
from ..errors import InputError
from ..spec.library import Spec

if TYPE_CHECKING:
    from ..spec.system import Tier


@dataclass(frozen=True)
class Way:
    """A link or a bus: `bandwidth` one way [bytes/s], infinite within one memory, `latency` [s], where both are from
    (`origin`, in words), and of a link the `streams` at once, `request` time [s] and `overlap` with prefill."""

    bandwidth: float
    latency: float
    origin: str
    streams: int = 1
    request: float = 0.0
    overlap: float = 0.0

    @property
    def shared(self) -> bool:
        """Whether both sides are on one memory, so that nothing is sent."""
        return math.isinf(self.bandwidth)

    def document(self) -> dict[str, Any]:
        """As `--json` prints a bus."""
        return {
            "bandwidth_bytes_per_s": None if self.shared else self.bandwidth,
            "latency_s": self.latency,
            "origin": self.origin,
        }


def same_chip(first: Spec, second: Spec) -> bool:
    """Whether two systems are units of one chip and share its memory."""
    chip = first.document["device"]["chip"]
    return chip is not None and chip == second.document["device"]["chip"]


def _within_host(tier: dict[str, Any]) -> bool:
    """Whether a tier of a fabric joins the devices of one host: PCIe, as its name says."""
    return tier["name"].startswith("pcie")


def _tier(system: Spec, index: int) -> Tier:
    from ..spec.system import build_system

    return build_system(system.document).fabric[index]


def pool_link(
    systems: tuple[Spec, Spec], devices: tuple[int, int], bandwidth: float | None, latency: float | None
) -> Way:
    """The link between two pools: as given [GB/s between a pair of devices, us], else as their fabrics have it.

    Not given, a pair sends at the rate of the slower of the two outermost tiers, over all ports of a device; within one
    system it reaches the devices of both pools, otherwise it must leave both nodes.

    **Arguments:** the two systems, the `devices` of each pool, and what was given.

    **Raises** `InputError` where the specs state no such tier.
    """
    alike = systems[0].name == systems[1].name
    outermost = [system.document["fabric"][-1] for system in systems]
    leaves = [
        sum(devices) <= tier["devices"]
        if alike
        else tier["devices"] > system.document["devices"] and not _within_host(tier)
        for system, tier in zip(systems, outermost, strict=True)
    ]
    tiers = [_tier(system, -1) for system in systems]
    rates = [tier.device_bandwidth for tier in tiers]
    slower = rates.index(min(rates))
    stated = max(tier.alpha for tier in tiers) if all(leaves) else None
    if bandwidth is not None:
        return _given(bandwidth, latency, stated)
    if not all(leaves):
        lacking = systems[leaves.index(False)].name
        what = f"the {sum(devices)} devices of both pools" if alike else "it with another system"
        raise InputError(f"no tier of {lacking}'s fabric joins {what}; give --link-GBps, one way between two devices")
    origin = f"assumed: {outermost[slower]['name']} of {systems[slower].name}"
    found = Way(rates[slower], stated or 0.0, origin)
    return found if latency is None else replace(found, latency=latency * MICRO, origin=f"{origin}; latency given")


def _given(bandwidth: float, latency: float | None, stated: float | None) -> Way:
    """A way of a given rate [GB/s], of a given latency [us], else of the one that a spec states [s], else of none."""
    if latency is not None:
        return Way(bandwidth * GIGA, latency * MICRO, "given")
    if stated is None:
        return Way(bandwidth * GIGA, 0.0, "rate given, no latency stated")
    return Way(bandwidth * GIGA, stated, "rate given, latency as in the spec")


def host_bus(gpu: Spec, bandwidth: float | None, latency: float | None) -> Way:
    """The bus between a GPU and its host: as given [GB/s, us], else the GPU's link to host memory or its PCIe tier.

    **Raises** `InputError` where the GPU's spec states neither.
    """
    hosts = [tier for tier in gpu.document["device"]["memory"].values() if tier["kind"] == "host"]
    slots = [index for index, tier in enumerate(gpu.document["fabric"]) if _within_host(tier)]
    slot = _tier(gpu, slots[0]) if slots else None
    stated = None if slot is None else slot.alpha
    if bandwidth is not None:
        return _given(bandwidth, latency, stated)
    alpha = (stated or 0.0) if latency is None else latency * MICRO
    if hosts:
        silent = ", no latency stated" if latency is None and stated is None else ""
        return Way(hosts[0]["bandwidth_GBps"] * GIGA, alpha, f"link of {gpu.name} to host memory{silent}")
    if slot is not None:
        return Way(slot.device_bandwidth, alpha, f"{gpu.document['fabric'][slots[0]]['name']} of {gpu.name}")
    raise InputError(f"{gpu.name} states no link to a host in its spec; give --bus-GBps, one way")
