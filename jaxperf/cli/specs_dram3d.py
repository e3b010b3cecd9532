"""`jaxperf specs dram3d`: stacked DRAM from its physical parameters, and a system with it as main memory."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..constants import GIGA, MICRO
from ..errors import InputError
from ..spec.library import find, names, read_json, save
from .output import print_json, quiet_jax
from .values import option_type, whole

if TYPE_CHECKING:
    from ..dram3d import StackedMemory

TIER = "dram3d"
"""Name of the memory tier that `--into` writes."""

SQUARE_MILLIMETRE, PICO = 1e-6, 1e-12
MOST_PINS = 10**12

DIE = ("die_area_mm2", "pitch_um", "data_pin_fraction")
UNITS = {
    "data_pins": "data pins a stack",
    "die_area_mm2": "mm2 a die",
    "pitch_um": "um pitch",
    "data_pin_fraction": "of the pads for data",
    "interfaces": "interfaces a stack",
    "data_rate_gbps": "Gb/s a pin",
    "dies": "dies a stack",
    "stacks": "stacks",
    "capacity_per_die_GB": "GB a die",
    "density_Gbit_per_mm2": "Gbit/mm2",
    "energy_pJ_per_bit": "pJ/bit",
    "power_W": "W at most",
}
"""The physical parameters, by the name of their option, and what follows their value in a sentence."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the action."""
    pins = parser.add_argument_group("interface: --die-area-mm2, --pitch-um and --data-pin-fraction, or --data-pins")
    _number(pins, "--die-area-mm2", 1e-3, 1e5, "area of a die")
    _number(pins, "--pitch-um", 1e-2, 1e4, "pitch of bonds, bumps or TSVs, centre to centre")
    _number(pins, "--data-pin-fraction", 0.0, 1.0, "share of the pads that carry data; 0.3 to 0.5 is usual")
    pins.add_argument(
        "--data-pins",
        type=whole(high=MOST_PINS),
        metavar="N",
        help="data pins of a stack that a standard fixes (1024 for HBM3, 2048 for HBM4)",
    )
    pins.add_argument(
        "--interfaces",
        type=whole(high=1024),
        default=1,
        metavar="N",
        help="interfaces of a stack to the logic die: 1 shared by its dies (default), up to one a die",
    )
    _number(pins, "--data-rate-gbps", 1e-3, 1e4, "rate of a pin in Gb/s", required=True)
    stack = parser.add_argument_group("stack")
    stack.add_argument("--dies", type=whole(high=1024), required=True, metavar="N", help="dies in a stack")
    stack.add_argument("--stacks", type=whole(high=1024), default=1, metavar="N", help="stacks of a device (default 1)")
    capacity = stack.add_mutually_exclusive_group()
    _number(capacity, "--capacity-per-die-GB", 1e-6, 1e6, "capacity of a die, 1 GB = 1e9 bytes")
    _number(capacity, "--density-Gbit-per-mm2", 1e-6, 1e4, "bits per area of a die; needs --die-area-mm2")
    _number(stack, "--energy-pJ-per-bit", 1e-6, 1e6, "energy of the interface")
    _number(stack, "--power-W", 1e-6, 1e6, "most power of the interfaces of a device: the pins slow down to keep it")
    into = parser.add_argument_group("output")
    into.add_argument("--into", metavar="SYSTEM", help="a system whose main memory the stacks replace")
    into.add_argument("--out", metavar="PATH.json", help="where that system goes")
    into.add_argument("--name", metavar="NAME", help="its name (default: that of the file)")
    into.add_argument("--force", action="store_true", help="overwrite the file")
    into.add_argument("--json", action="store_true", help="print one JSON object")


def _number(group: Any, option: str, low: float, high: float, text: str, required: bool = False) -> None:
    """Add an option that takes a number in (0, high] or [low, high]."""
    group.add_argument(option, type=_between(low, high), required=required, metavar="X", help=text)


def _between(low: float, high: float) -> Callable[[str], Any]:
    """An argparse `type`: a number from `low` (above it where it is 0) to `high`."""

    def parse(text: str) -> float:
        expected = f"expected a number {'above 0' if low == 0 else f'from {low:g}'} to {high:g}"
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"'{text}' is no number; {expected}") from None
        if math.isnan(value) or value < low or value > high or value == 0:
            raise ValueError(f"{text} is out of range; {expected}")
        return value

    return option_type(parse)


def run(arguments: argparse.Namespace) -> int:
    """Price the stacks, write the system that was asked for, print. **Raises** `InputError` for what does not fit."""
    _check(arguments)
    system = None if arguments.into is None else find("system", arguments.into)
    quiet_jax()
    memory, pads, limit = _price(arguments)
    if system is not None:
        save(with_stack(read_json(system.path), arguments, memory), arguments.out)
    if arguments.json:
        print_json(
            {
                "parameters": {name: getattr(arguments, name) for name in UNITS},
                "pads_per_die": pads,
                "data_pins": memory.data_pins,
                "data_rate_bits_per_s": memory.data_rate,
                "bandwidth_bytes_per_s": memory.bandwidth,
                "capacity_bytes": memory.capacity,
                "power_W": memory.power,
                "limited_by": limit,
                "written": arguments.out,
            }
        )
        return 0
    of = "" if pads is None else f" (of {pads:,.0f} pads a die)"
    print(f"data pins  {memory.data_pins:,.0f}{of}")
    print(f"bandwidth  {memory.bandwidth / GIGA:,.6g} GB/s, peak, limited by the {limit}")
    print("capacity   " + ("unknown" if memory.capacity is None else f"{memory.capacity / GIGA:,.6g} GB"))
    if memory.power is not None:
        print(f"power      {memory.power:,.6g} W of the interfaces at {memory.data_rate / GIGA:.4g} Gb/s a pin")
    if arguments.out is not None:
        print(f"written to {arguments.out}")
    return 0


def _check(given: argparse.Namespace) -> None:
    """Refuse what is missing or contradicts itself, without JAX."""
    missing = [_option(name) for name in DIE if getattr(given, name) is None]
    if given.data_pins is None and missing:
        raise InputError(f"specs dram3d: {missing[0]} is missing; give it, or --data-pins of a standard")
    if given.data_pins is not None and (given.pitch_um is not None or given.data_pin_fraction is not None):
        raise InputError("specs dram3d: --data-pins stands in place of --pitch-um and --data-pin-fraction; drop one")
    if given.interfaces > given.dies:
        raise InputError(f"specs dram3d: --interfaces: {given.interfaces} is more than the {given.dies} dies a stack")
    if given.density_Gbit_per_mm2 is not None and given.die_area_mm2 is None:
        raise InputError("specs dram3d: --density-Gbit-per-mm2 needs --die-area-mm2")
    if given.power_W is not None and given.energy_pJ_per_bit is None:
        raise InputError("specs dram3d: --power-W needs --energy-pJ-per-bit")
    if given.into is None:
        for name in ("out", "name"):
            if getattr(given, name) is not None:
                raise InputError(f"specs dram3d: --{name} needs --into, the system that gets the memory")
        return
    if given.capacity_per_die_GB is None and given.density_Gbit_per_mm2 is None:
        raise InputError("specs dram3d: --into needs a capacity: --capacity-per-die-GB or --density-Gbit-per-mm2")
    if given.out is None:
        raise InputError("specs dram3d: --into needs --out, a PATH.json for the new system")
    if not given.out.lower().endswith(".json"):
        raise InputError(f"specs dram3d: --out: '{given.out}' must end in .json, so that --system takes it")
    if Path(given.out).exists() and not given.force:
        raise InputError(f"specs dram3d: {given.out} exists; add --force, or --out another file")
    if _name(given) in names("system"):
        raise InputError(f"specs dram3d: --name: '{_name(given)}' is a system of the library; choose another")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _name(given: argparse.Namespace) -> str:
    return Path(given.out).stem if given.name is None else given.name


def _price(given: argparse.Namespace) -> tuple[StackedMemory, float | None, str]:
    """The stacks, the pads of a die (none where a standard fixes the pins), and what limits the bandwidth."""
    from .. import dram3d

    area = None if given.die_area_mm2 is None else given.die_area_mm2 * SQUARE_MILLIMETRE
    pads = None
    if given.data_pins is not None:
        pins = given.data_pins * given.interfaces
    else:
        pitch = given.pitch_um * MICRO
        pads = dram3d.pad_count(area, pitch)
        pins = dram3d.data_pin_count(area, pitch, given.data_pin_fraction, given.interfaces)
    capacity = None if given.capacity_per_die_GB is None else given.capacity_per_die_GB * GIGA
    if given.density_Gbit_per_mm2 is not None:
        capacity = dram3d.die_capacity(area, given.density_Gbit_per_mm2 * GIGA / SQUARE_MILLIMETRE)
    rate, limit = given.data_rate_gbps * GIGA, "pins"
    energy = None if given.energy_pJ_per_bit is None else given.energy_pJ_per_bit * PICO
    if given.power_W is not None:
        coolest = dram3d.power_limited_rate(given.stacks * pins, energy, given.power_W)
        rate, limit = min((rate, limit), (coolest, "power"))
    memory = dram3d.stacked_memory(pins, rate, given.dies, capacity or 0.0, given.stacks, energy or 0.0)
    unknown = {name: None for name, value in (("capacity", capacity), ("power", energy)) if value is None}
    return dataclasses.replace(memory, **unknown), pads, limit


def with_stack(document: dict, given: argparse.Namespace, memory: StackedMemory) -> dict:
    """A system's document with the stacks in place of its main memory, under a name of its own, marked an estimate."""
    device, old = document["device"], document["device"]["main_memory"]
    if TIER in device["memory"] and old != TIER:
        raise InputError(f"specs dram3d: --into: {document['name']} has a memory '{TIER}' besides its main memory")
    tier = {
        "kind": "hbm",
        "capacity_GB": float(memory.capacity) / GIGA,
        "bandwidth_GBps": float(memory.bandwidth) / GIGA,
    }
    tiers = {TIER: tier, **{name: entry for name, entry in device["memory"].items() if name != old}}
    tiers = dict(sorted(tiers.items(), key=lambda item: -item[1]["bandwidth_GBps"]))  # a rule of the schema
    changed = {"name": f"{device['name']} with stacked DRAM", "memory": tiers, "main_memory": TIER}
    gone = f"device.memory.{old}"
    sources = {
        path: source
        for path, source in document["sources"].items()
        if path != gone and not path.startswith((f"{gone}.", "device.memory.dram3d"))
    }
    sources[f"device.memory.{TIER}"] = {
        "source": f"jaxperf specs dram3d, peak from physical parameters: {_parameters(given)}; no measurement",
        "date": datetime.date.today().isoformat(),
        "estimate": True,
    }
    note = f"{document['name']} with its main memory replaced; power and price are still those of the original."
    earlier = document.get("note")
    return {
        **{key: value for key, value in document.items() if key != "aliases"},
        "name": _name(given),
        "device": {**device, **changed},
        "note": f"{earlier} {note}" if earlier else note,
        "sources": sources,
    }


def _parameters(given: argparse.Namespace) -> str:
    """The parameters that were given, in words."""
    values = {name: getattr(given, name) for name in UNITS}
    return ", ".join(f"{value:g} {UNITS[name]}" for name, value in values.items() if value is not None)
