"""Stacked DRAM (HBM, hybrid-bonded 3-D DRAM): bandwidth and capacity from its physical parameters. SI units inside.

A bond interface offers a grid of pads, of which a share carries data at some rate a pin. The figures are peaks of the
interface: sustained bandwidth is lower (see the memory tiers' shares), and three limits stand outside the formula.
A standard may fix fewer pins than the pitch admits (HBM3 uses 1,024 for a stack whose microbumps could carry more):
pass its `data_pins`. The banks must deliver what the pads could carry. The interface burns energy with every bit, which
at micrometre pitch binds first: see `power_limited_rate`.

Counts are real numbers, not rounded down to whole pads, so that every result has a gradient; the error is less than a
pad. Sources: the pad-grid formulation is that of llm_perf (spiceMonkey/llm_perf, commit fdc49cc, modeling.dram3d), an
extension of Bai et al., AccelStack. Its worked examples at 2 and 0.9 micrometres are too low by 1,000 (1e7 pins x
8 Gb/s are 10 PB/s, not 10 TB/s), and its code multiplies by the dies of a stack although they share one face; here
that is `interfaces`, 1 by default. Stack figures: JEDEC JESD235B (HBM2), JESD238 (HBM3), JESD270-4 (HBM4)."""

from __future__ import annotations

from typing import Final

import equinox as eqx

from .ops import Scalar

BITS_PER_BYTE: Final = 8


class StackedMemory(eqx.Module):
    """All stacks of one device: data pins, rate of a pin [bit/s], peak bandwidth [bytes/s], capacity [bytes], power of
    the interface at that bandwidth [W]."""

    data_pins: Scalar
    data_rate: Scalar
    bandwidth: Scalar
    capacity: Scalar
    power: Scalar


def pad_count(die_area: Scalar, pitch: Scalar) -> Scalar:
    """Pads on the bonded face of a die: A/p², for an area [m²] and a centre-to-centre pitch [m] of a square grid.

    50 µm: 400 a mm² (microbumps), 10 µm: 10,000 (Intel Foveros Direct, 2020), 0.9 µm: 1.2 million (TSMC SoIC-UHD,
    Chen et al., ECTC 2020).
    """
    return die_area / (pitch * pitch)


def data_pin_count(die_area: Scalar, pitch: Scalar, data_pin_fraction: Scalar, interfaces: Scalar = 1) -> Scalar:
    """Data pins of one stack: n·η·A/p².

    **Arguments:** area [m²] and pitch [m] as in `pad_count`; η, the share of pads that carry data in (0, 1], the others
    being power, ground, clock, command and check bits; n, the `interfaces` to the logic die. The dies of a stack share
    one, whose face all their bits cross; n above 1 needs as many die footprints on the logic die.
    """
    return interfaces * data_pin_fraction * pad_count(die_area, pitch)


def peak_bandwidth(data_pins: Scalar, data_rate: Scalar) -> Scalar:
    """Peak bandwidth of some pins [bytes/s]: N·f/8, with f the rate of a pin [bit/s].

    HBM3: 1,024 x 6.4 Gb/s = 819 GB/s (JESD238); HBM4: 2,048 x 8 Gb/s = 2,048 GB/s (JESD270-4).
    """
    return data_pins * data_rate / BITS_PER_BYTE


def die_capacity(die_area: Scalar, density: Scalar) -> Scalar:
    """Capacity of a die [bytes]: A·ρ/8, with ρ the bits per area of the whole die [bit/m²]."""
    return die_area * density / BITS_PER_BYTE


def interface_power(bandwidth: Scalar, energy_per_bit: Scalar) -> Scalar:
    """Power of the interface at a bandwidth [W]: 8·BW·E, with E its energy [J/bit].

    Hybrid bonding: 0.88 pJ/bit (Bai et al., IEDM 2020), 0.66 (Wang et al., VLSI 2023).
    """
    return BITS_PER_BYTE * bandwidth * energy_per_bit


def power_limited_rate(data_pins: Scalar, energy_per_bit: Scalar, power: Scalar) -> Scalar:
    """Rate of a pin at which all pins together burn a power [bit/s]: P/(N·E), whatever they could carry."""
    return power / (data_pins * energy_per_bit)


def stacked_memory(
    data_pins: Scalar,
    data_rate: Scalar,
    dies: Scalar,
    die_capacity: Scalar,
    stacks: Scalar = 1,
    energy_per_bit: Scalar = 0.0,
) -> StackedMemory:
    """The memory of `stacks` equal stacks: bandwidth s·N·f/8 [bytes/s], capacity s·d·C [bytes], power [W].

    **Arguments:** `data_pins` N of one stack (see `data_pin_count`, or a standard's figure), `data_rate` f of a pin
    [bit/s], `dies` d in a stack that store data, `die_capacity` C [bytes], `energy_per_bit` of the interface [J/bit].
    More dies in a stack add capacity, not bandwidth: they share its pins.
    """
    pins = stacks * data_pins
    bandwidth = peak_bandwidth(pins, data_rate)
    return StackedMemory(
        data_pins=pins,
        data_rate=data_rate,
        bandwidth=bandwidth,
        capacity=stacks * dies * die_capacity,
        power=interface_power(bandwidth, energy_per_bit),
    )
