"""The JSON form of a system: its device and the fabric that joins them."""

from __future__ import annotations

import math

from ...constants import (
    AXES,
    COLLECTIVE_ALGORITHMS,
    DIM_SLOTS,
    DTYPES,
    MEMORY_KINDS,
    MEMORY_SLOTS,
    SPILL_KINDS,
    TIER_SLOTS,
)
from ...errors import InputError
from ..schema import Flag, Listing, Number, Section, Table, Text
from .common import SOURCES


def _peaks_rule(device: dict, where: str) -> None:
    if not any(device["peak_TFLOPS"].get(dtype) for dtype in DTYPES):
        raise InputError(f"{where}.peak_TFLOPS: at least one of {', '.join(DTYPES)} must be given")
    if device["main_memory"] not in device["memory"]:
        raise InputError(
            f"{where}.main_memory: '{device['main_memory']}' is no tier of memory; "
            f"choose one of {', '.join(device['memory'])}"
        )
    kind = device["memory"][device["main_memory"]]["kind"]
    if kind in SPILL_KINDS:
        raise InputError(
            f"{where}.main_memory: '{device['main_memory']}' is {kind} memory, which only takes what is offloaded; "
            "choose a memory of the device"
        )
    tiers = list(device["memory"].items())
    for (name, tier), (faster, before) in zip(tiers[1:], tiers, strict=False):
        if tier["bandwidth_GBps"] > before["bandwidth_GBps"]:
            raise InputError(
                f"{where}.memory.{name}.bandwidth_GBps: {tier['bandwidth_GBps']:g} is more than the "
                f"{before['bandwidth_GBps']:g} of '{faster}' before it; list the fastest tier first"
            )


DEVICE = Section(
    {
        "name": Text(),
        "peak_TFLOPS": Table(
            Number(low=0, high=1e9, above=True, optional=True, unit="TFLOP/s, dense"), keys=DTYPES, least=1
        ),
        "memory": Table(
            Section(
                {
                    "kind": Text(MEMORY_KINDS),
                    "capacity_GB": Number(low=0, high=1e9, above=True, unit="GB = 1e9 bytes"),
                    "bandwidth_GBps": Number(low=0, high=1e9, above=True, unit="GB/s"),
                    "sustained_share": Number(low=0, high=1, above=True, default=None, optional=True),
                }
            ),
            least=1,
            most=MEMORY_SLOTS,
        ),
        "main_memory": Text(),
        "chip": Text(default=None, optional=True),
        "tdp_W": Number(low=0, high=1e6, default=None, optional=True, above=True, unit="W"),
        "price_per_hour_USD": Number(low=0, high=1e6, default=None, optional=True, unit="USD per device-hour"),
    },
    rules=(_peaks_rule,),
)
"""One device. `chip`: the chip that it is a unit of, where several units (CPU, GPU, NPU) share that chip's memory."""

TIER = Section(
    {
        "name": Text(),
        "topology": Text(("crossbar", "full-mesh", "torus", "mesh")),
        "dims": Listing(Number(low=1, high=1e6, integer=True), default=[], most=DIM_SLOTS),
        "devices": Number(low=1, high=1e7, integer=True, unit="devices reached, inner tiers included"),
        "bandwidth_GBps": Number(low=0, high=1e7, above=True, unit="GB/s, one-way, per port"),
        "ports": Number(low=1, high=1e4, default=1, integer=True),
        "alpha_us": Number(low=0, high=1e6, unit="microseconds a message"),
        "alpha_factor": Number(low=1, high=1e4, default=1.0),
        "bandwidth_share": Number(low=0, high=1, above=True, default=1.0),
        "oversubscription": Number(low=1, high=1e4, default=1.0),
        "in_network": Text(("none", "reduction", "multicast"), default="none"),
        "switch_alpha_us": Number(low=0, high=1e6, default=None, optional=True, unit="microseconds through the switch"),
        "algorithms": Listing(Text(COLLECTIVE_ALGORITHMS), default=None, optional=True),
        "axes": Listing(Text(AXES), default=list(AXES), least=1),
    }
)
"""One level of a fabric. `alpha_factor` and `bandwidth_share` are contention: α is multiplied by the one, bandwidth by
the other; `oversubscription` divides bandwidth. `in_network`: switches that add up (`reduction`), or multicast units
that the devices drive (`multicast`), with `switch_alpha_us` for α where it differs. `algorithms` that its software
offers beside the ring; `axes` that use it (by default all)."""


def _fabric_rule(system: dict, where: str) -> None:
    reach = 1
    for index, tier in enumerate(system["fabric"]):
        if tier["devices"] < reach:
            raise InputError(
                f"{where}: fabric[{index}].devices: {tier['devices']} is less than the {reach} that the tier inside "
                "reaches; list tiers innermost first"
            )
        dims, grid = tier.get("dims", []), tier["topology"] in ("torus", "mesh")
        product = math.prod(dims)
        if grid and not dims:
            raise InputError(f"{where}: fabric[{index}].dims: a {tier['topology']} needs its dimensions, as in [4, 4]")
        if dims and not grid:
            raise InputError(f"{where}: fabric[{index}].dims: a {tier['topology']} has none; leave them out")
        if dims and product * reach != tier["devices"]:
            beyond = f" of {reach} devices each" if reach > 1 else ""
            raise InputError(
                f"{where}: fabric[{index}].dims: {dims} multiply to {product}{beyond}, not to {tier['devices']} devices"
            )
        if grid and tier.get("in_network", "none") != "none":
            raise InputError(f"{where}: fabric[{index}].in_network: a {tier['topology']} has no switch; choose none")
        if grid and tier.get("algorithms"):
            raise InputError(f"{where}: fabric[{index}].algorithms: a {tier['topology']} runs its own; leave them out")
        reach = tier["devices"]
    seen = [tier["name"] for tier in system["fabric"]]
    for name in seen:
        if seen.count(name) > 1:
            raise InputError(f"{where}: fabric: two tiers are called '{name}'; a chain of tiers names each once")
    for axis in AXES:
        if not any(axis in tier.get("axes", AXES) for tier in system["fabric"]):
            raise InputError(f"{where}: fabric: no tier serves {axis}; name it in the axes of one")
    if system["devices"] > reach:
        raise InputError(f"{where}: devices: {system['devices']} is more than the {reach} that the fabric reaches")


SYSTEM = Section(
    {
        "kind": Text(("system",)),
        "name": Text(),
        "aliases": Listing(Text(), default=[]),
        "device": DEVICE,
        "devices": Number(low=1, high=1e6, integer=True, unit="devices of the node or scale-up domain"),
        "fabric": Listing(TIER, least=1, most=TIER_SLOTS),
        "exact_today": Flag(default=True),
        "approximation": Text(default=None, optional=True),
        "note": Text(default=None, optional=True),
        "sources": SOURCES,
    },
    rules=(_fabric_rule,),
)
