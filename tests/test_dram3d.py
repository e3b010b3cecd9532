"""Stacked DRAM: standards' figures, scaling laws, gradients, the command line and its round trip to an estimate."""

from __future__ import annotations

import json
import math

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxperf.cli.specs_dram3d import TIER
from jaxperf.dram3d import (
    data_pin_count,
    die_capacity,
    interface_power,
    pad_count,
    peak_bandwidth,
    power_limited_rate,
    stacked_memory,
)
from jaxperf.spec.library import find, validate

from .commands import Call

GB, MM2, UM = 1e9, 1e-6, 1e-6

HYBRID = {
    "--die-area-mm2": 100,
    "--pitch-um": 10,
    "--data-pin-fraction": 0.4,
    "--data-rate-gbps": 0.5,
    "--dies": 8,
    "--stacks": 5,
    "--capacity-per-die-GB": 2,
}


@pytest.mark.parametrize(
    ("pins", "gigabits", "dies", "die_gigabits", "gigabytes_per_s", "gigabytes"),
    [
        pytest.param(1024, 2.4, 12, 16, 307.2, 24, id="HBM2, JESD235B, 2018: 307 GB/s, 24 GB 12-high"),
        pytest.param(1024, 6.4, 12, 16, 819.2, 24, id="HBM3, JESD238, 2022: 819 GB/s; SK hynix 12-high 24 GB"),
        pytest.param(1024, 6.4, 16, 32, 819.2, 64, id="HBM3, JESD238, 2022: up to 64 GB, 32 Gb 16-high"),
        pytest.param(1024, 10, 12, 24, 1280, 36, id="HBM3E, Samsung 12H, 2024: 1,280 GB/s, 36 GB"),
        pytest.param(2048, 8, 16, 32, 2048, 64, id="HBM4, JESD270-4, 2025: 2 TB/s, 64 GB"),
        pytest.param(2048, 11, 12, 24, 2816, 36, id="HBM4, Micron 12-high, 2025: over 2.8 TB/s above 11 Gb/s"),
    ],
)
def test_stacks_of_the_standards(pins, gigabits, dies, die_gigabits, gigabytes_per_s, gigabytes):
    """Interface width times rate a pin, and dies times their capacity (16 Gb = 2 GB, as the standards count)."""
    memory = stacked_memory(pins, gigabits * 1e9, dies, die_gigabits / 8 * GB)
    assert math.isclose(memory.bandwidth, gigabytes_per_s * GB, rel_tol=1e-12)
    assert math.isclose(memory.capacity, gigabytes * GB, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("pitch", "per_mm2"),
    [
        pytest.param(50, 400, id="microbumps at 50 um"),
        pytest.param(10, 10_000, id="Intel Foveros Direct"),
        pytest.param(0.9, 1.2e6, id="TSMC SoIC-UHD, Chen et al., ECTC 2020"),
    ],
)
def test_pad_densities_in_the_literature(pitch, per_mm2):
    assert math.isclose(pad_count(1 * MM2, pitch * UM), per_mm2, rel_tol=0.03)


def test_an_hbm_interface_uses_a_small_share_of_the_pads_its_pitch_admits():
    """Why `--data-pins` exists: 1,024 pins are 4 % of the 27,000 bumps that 55 um admit on an 82 mm2 die."""
    admitted = pad_count(82 * MM2, 55 * UM)
    assert 0.03 < 1024 / admitted < 0.05


def test_a_fine_pitch_is_bound_by_power_not_by_pads():
    """A published example takes 1e7 pins at 8 Gb/s for 10 TB/s. They are 10 PB/s, and 53 kW at 0.66 pJ/bit (Wang et
    al., VLSI 2023); 100 W would leave 15 Mb/s a pin, 19 TB/s in all."""
    pins = data_pin_count(100 * MM2, 2 * UM, 0.4)
    bandwidth = peak_bandwidth(pins, 8e9)
    assert math.isclose(bandwidth, 1e16, rel_tol=1e-9)
    assert math.isclose(interface_power(bandwidth, 0.66e-12), 52.8e3, rel_tol=1e-9)
    rate = power_limited_rate(pins, 0.66e-12, 100.0)
    assert math.isclose(interface_power(peak_bandwidth(pins, rate), 0.66e-12), 100.0, rel_tol=1e-9)
    assert math.isclose(peak_bandwidth(pins, rate), 18.94e12, rel_tol=1e-3)


def test_density_of_a_published_hybrid_bonded_die():
    """Niu et al., ISSCC 2022: 64 Mb/mm2, so 100 mm2 hold 6.4 Gb, 0.8 GB."""
    assert math.isclose(die_capacity(100 * MM2, 64e6 / MM2), 0.8 * GB, rel_tol=1e-12)


PARAMETERS = ("area", "pitch", "fraction", "rate", "dies", "die_capacity", "stacks", "energy")
VALUES = st.tuples(
    st.floats(10 * MM2, 1000 * MM2),
    st.floats(0.5 * UM, 100 * UM),
    st.floats(0.05, 1.0),
    st.floats(1e8, 2e10),
    st.integers(1, 16).map(float),
    st.floats(0.1 * GB, 10 * GB),
    st.integers(1, 12).map(float),
    st.floats(1e-14, 1e-11),
)
EXPONENTS = {
    "bandwidth": dict(area=1, pitch=-2, fraction=1, rate=1, stacks=1),
    "capacity": dict(dies=1, die_capacity=1, stacks=1),
    "power": dict(area=1, pitch=-2, fraction=1, rate=1, stacks=1, energy=1),
    "data_pins": dict(area=1, pitch=-2, fraction=1, stacks=1),
}


def price(area, pitch, fraction, rate, dies, die_capacity, stacks, energy):
    return stacked_memory(data_pin_count(area, pitch, fraction), rate, dies, die_capacity, stacks, energy)


@given(VALUES, st.floats(0.1, 10.0))
def test_scaling_laws(values, factor):
    """Every result is a product of powers: linear in area and rate, inverse in the pitch squared; dies add capacity
    and no bandwidth."""
    before = price(*values)
    for index, name in enumerate(PARAMETERS):
        changed = list(values)
        changed[index] *= factor
        after = price(*changed)
        for result, exponents in EXPONENTS.items():
            ratio = getattr(after, result) / getattr(before, result)
            assert math.isclose(ratio, factor ** exponents.get(name, 0), rel_tol=1e-9), (result, name)


@given(VALUES)
def test_gradients_are_the_exponents_of_the_laws(values):
    """d result/d x = k·result/x: finite, and right where a rounded pad count would give 0."""
    for result, exponents in EXPONENTS.items():
        value, slopes = jax.value_and_grad(lambda v, result=result: getattr(price(*v), result))(list(values))
        for name, x, slope in zip(PARAMETERS, values, slopes, strict=True):
            expected = exponents.get(name, 0) * float(value) / x
            assert math.isclose(float(slope), expected, rel_tol=1e-4), (result, name)


def test_interfaces_multiply_pins():
    assert data_pin_count(1e-4, 1e-5, 0.5, interfaces=4) == 4 * data_pin_count(1e-4, 1e-5, 0.5)


def options(**changes: object) -> list[object]:
    """The words of `HYBRID` with some options changed; None leaves one out."""
    chosen = {**HYBRID, **{"--" + name.replace("_", "-"): value for name, value in changes.items()}}
    return [word for option, value in chosen.items() if value is not None for word in (option, value)]


def test_the_command_prints_the_figures(call: Call):
    done = call("specs", "dram3d", *options(energy_pJ_per_bit=0.88), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert math.isclose(found["pads_per_die"], 1e6, rel_tol=1e-9)
    assert math.isclose(found["data_pins"], 2e6, rel_tol=1e-9)
    assert math.isclose(found["bandwidth_bytes_per_s"], 2e6 * 0.5e9 / 8, rel_tol=1e-9)
    assert math.isclose(found["capacity_bytes"], 80 * GB, rel_tol=1e-12)
    assert math.isclose(found["power_W"], 2e6 * 0.5e9 * 0.88e-12, rel_tol=1e-9)
    assert found["limited_by"] == "pins" and found["written"] is None
    text = call("specs", "dram3d", *options())
    assert text.returncode == 0 and "125,000 GB/s" in text.stdout and "80 GB" in text.stdout


def test_a_standard_interface_by_its_pins(call: Call):
    words = ["--data-pins", 2048, "--data-rate-gbps", 8, "--dies", 12, "--stacks", 8, "--json"]
    found = json.loads(call("specs", "dram3d", *words).stdout)
    assert math.isclose(found["bandwidth_bytes_per_s"], 16.384e12, rel_tol=1e-12)
    assert found["capacity_bytes"] is None and found["power_W"] is None and found["pads_per_die"] is None


def test_a_power_limit_slows_the_pins(call: Call):
    found = json.loads(call("specs", "dram3d", *options(energy_pJ_per_bit=0.88, power_W=100), "--json").stdout)
    assert found["limited_by"] == "power"
    assert math.isclose(found["power_W"], 100, rel_tol=1e-9)
    assert math.isclose(found["bandwidth_bytes_per_s"], 100 / 0.88e-12 / 8, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(pitch_um=0), "--pitch-um: 0 is out of range"),
        (dict(pitch_um=None), "--pitch-um is missing"),
        (dict(data_pin_fraction=1.2), "--data-pin-fraction: 1.2 is out of range"),
        (dict(data_pin_fraction=0), "--data-pin-fraction: 0 is out of range"),
        (dict(die_area_mm2=-100), "--die-area-mm2: -100 is out of range"),
        (dict(data_rate_gbps="fast"), "'fast' is no number"),
        (dict(data_rate_gbps="nan"), "nan is out of range"),
        (dict(data_rate_gbps=None), "--data-rate-gbps"),
        (dict(dies=None), "--dies"),
        (dict(dies=2.5), "2.5 is no whole number"),
        (dict(stacks=0), "--stacks: 0 is out of range"),
        (dict(interfaces=9), "9 is more than the 8 dies a stack"),
        (dict(capacity_per_die_GB=0), "--capacity-per-die-GB: 0 is out of range"),
        (dict(density_Gbit_per_mm2=0.2), "not allowed with"),
        (dict(data_pins=1024), "--data-pins stands in place of"),
        (dict(power_W=100), "--power-W needs --energy-pJ-per-bit"),
        (dict(out="x.json"), "--out needs --into"),
        (dict(into="h100-sxm-8"), "--into needs --out"),
        (dict(into="h100-sxm-9", out="x.json"), "no system is called 'h100-sxm-9'"),
        (dict(into="h100-sxm-8", out="x.txt"), "must end in .json"),
        (dict(into="h100-sxm-8", out="x.json", name="b200-8"), "is a system of the library"),
        (dict(into="h100-sxm-8", out="x.json", capacity_per_die_GB=None), "--into needs a capacity"),
    ],
)
def test_bad_input_ends_in_one_line(call: Call, changes, says):
    done = call("specs", "dram3d", *options(**changes))
    assert done.returncode == 2 and done.stdout == ""
    assert says in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_a_system_with_stacks_is_valid_and_faster_pins_lower_tpot(call: Call, tmp_path):
    """specs dram3d --into -> specs validate -> estimate: the round trip."""
    times = []
    for rate in (0.01, 0.02):
        path = tmp_path / f"h100-stacked-{rate}.json"
        made = call("specs", "dram3d", *options(data_rate_gbps=rate), "--into", "h100-sxm-8", "--out", path)
        assert (made.returncode, made.stderr) == (0, "") and f"written to {path}" in made.stdout
        assert call("specs", "validate", path).returncode == 0
        done = call("estimate", "--model", "llama-3.1-8b", "--system", path, "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert math.isclose(found["memory"]["capacity_bytes"], 80 * GB, rel_tol=1e-6)
        times.append(found["metrics"]["tpot_s"])
    assert times[1] < times[0]


def test_a_stack_slower_than_another_memory_stands_behind_it(call: Call, tmp_path):
    """Tiers are listed fastest first: a slow stack in place of the Corsair's SRAM comes after its LPDDR."""
    path = tmp_path / "slow.json"
    words = ["--data-pins", 1024, "--data-rate-gbps", 0.4, "--dies", 4, "--capacity-per-die-GB", 2]
    assert call("specs", "dram3d", *words, "--into", "d-matrix-corsair-8", "--out", path).returncode == 0
    device = validate(json.loads(path.read_text()), str(path)).document["device"]
    assert list(device["memory"]) == ["lpddr", TIER] and device["main_memory"] == TIER


def test_the_written_system_says_where_its_figures_come_from(call: Call, tmp_path):
    path = tmp_path / "stacked.json"
    words = ["specs", "dram3d", *options(), "--into", "h100", "--out", path, "--name", "h100-stacked-8"]
    assert call(*words).returncode == 0
    written, base = json.loads(path.read_text()), find("system", "h100-sxm-8").document
    assert validate(written, str(path)).name == "h100-stacked-8" and "aliases" not in written
    device = written["device"]
    assert device["main_memory"] == TIER and "hbm" not in device["memory"]
    assert math.isclose(device["memory"][TIER]["bandwidth_GBps"], 125_000, rel_tol=1e-9)
    assert device["peak_TFLOPS"]["bf16"] == base["device"]["peak_TFLOPS"]["bf16"]
    assert not any(path.startswith("device.memory.hbm") for path in written["sources"])
    source = written["sources"][f"device.memory.{TIER}"]
    assert source["estimate"] is True
    assert all(part in source["source"] for part in ("dram3d", "100 mm2 a die", "10 um pitch", "0.5 Gb/s a pin"))

    before = path.read_bytes()
    again = call(*words)
    assert again.returncode == 2 and "--force" in again.stderr and path.read_bytes() == before
    assert call(*words, "--force").returncode == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["stacked.json"]
