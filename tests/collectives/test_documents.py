"""What the loader and the command line refuse in a fabric or a memory, and how."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxperf.errors import InputError
from jaxperf.spec.library import find, names, validate

from .fabrics import document, tier

Change = Callable[[dict], None]


def _first(**changes) -> Change:
    return lambda doc: doc["fabric"][0].update(changes)


def _memory(**changes) -> Change:
    return lambda doc: doc["device"]["memory"]["hbm"].update(changes)


def _second(**changes) -> Change:
    return lambda doc: doc["fabric"].append(tier(**(dict(name="far", devices=64) | changes)))


FAULTS: dict[str, tuple[Change, list[str]]] = {
    "unknown topology": (_first(topology="tours"), ["fabric[0].topology", "'tours'", "torus"]),
    "unknown axis": (_first(axes=["tp", "dp"]), ["fabric[0].axes[1]", "'dp'", "tp, cp, ep, pp"]),
    "no axes": (_first(axes=[]), ["fabric[0].axes"]),
    "unknown algorithm": (_first(algorithms=["double-trees"]), ["fabric[0].algorithms[0]", "double-tree"]),
    "unknown reduction": (_first(in_network="sharp"), ["fabric[0].in_network", "reduction"]),
    "unknown field": (_first(bandwith_GBps=1.0), ["bandwith_GBps", "bandwidth_GBps"]),
    "no bandwidth": (_first(bandwidth_GBps=0), ["fabric[0].bandwidth_GBps", "above 0"]),
    "negative latency": (_first(alpha_us=-1.0), ["fabric[0].alpha_us", "-1.0", "from 0"]),
    "no ports": (_first(ports=0), ["fabric[0].ports", "from 1"]),
    "contention that speeds up": (_first(alpha_factor=0.5), ["fabric[0].alpha_factor", "from 1"]),
    "more than the bandwidth": (_first(bandwidth_share=1.5), ["fabric[0].bandwidth_share", "to 1"]),
    "undersubscribed": (_first(oversubscription=0.5), ["fabric[0].oversubscription", "from 1"]),
    "dimensions of a switch": (_first(dims=[2, 4]), ["fabric[0].dims", "crossbar"]),
    "torus without dimensions": (_first(topology="torus"), ["fabric[0].dims", "[4, 4]"]),
    "dimensions that do not fit": (
        _first(topology="torus", dims=[4, 4]),
        ["fabric[0].dims", "multiply to 16", "8 devices"],
    ),
    "too many dimensions": (_first(topology="torus", dims=[2, 2, 2, 1]), ["fabric[0].dims"]),
    "a switch in a torus": (_first(topology="torus", dims=[8], in_network="reduction"), ["fabric[0].in_network"]),
    "two tiers of one name": (_second(name="links"), ["two tiers", "'links'"]),
    "outermost first": (_second(devices=4), ["fabric[1].devices", "innermost first"]),
    "an axis that nothing serves": (_first(axes=["tp", "cp", "ep"]), ["no tier serves pp"]),
    "more devices than the fabric": (lambda doc: doc.update(devices=9), ["devices", "9", "8"]),
    "empty memory": (_memory(capacity_GB=0), ["memory.hbm.capacity_GB", "above 0"]),
    "memory of no speed": (_memory(bandwidth_GBps=0), ["memory.hbm.bandwidth_GBps"]),
    "unknown memory": (_memory(kind="hmb"), ["memory.hbm.kind", "hbm"]),
    "share above one": (_memory(sustained_share=1.1), ["memory.hbm.sustained_share"]),
    "share of nothing": (_memory(sustained_share=0), ["memory.hbm.sustained_share"]),
    "main memory that is none": (lambda doc: doc["device"].update(main_memory="sram"), ["main_memory", "hbm"]),
    "slowest memory first": (
        lambda doc: doc["device"]["memory"].update(sram=dict(kind="sram", capacity_GB=1.0, bandwidth_GBps=9000.0)),
        ["memory.sram.bandwidth_GBps", "fastest"],
    ),
}


def _broken(change: Change) -> dict:
    faulty = copy.deepcopy(document(tier(), devices=8))
    change(faulty)
    return faulty


def test_the_document_is_good_without_a_fault():
    assert validate(document(tier(), devices=8), "good.json").name == "example"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault: str):
    change, words = FAULTS[fault]
    with pytest.raises(InputError) as caught:
        validate(_broken(change), "broken.json")
    assert "broken.json" in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_the_command_line_refuses_them_with_one_line_each(tmp_path: Path):
    """Exit 2, a line for each file, no traceback; a good file beside them is still named."""
    files = []
    for index, (change, _) in enumerate(FAULTS.values()):
        files.append(tmp_path / f"fault{index}.json")
        files[-1].write_text(json.dumps(_broken(change)))
    good = tmp_path / "good.json"
    good.write_text(json.dumps(document(tier(), devices=8)))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    environment.pop("JAXPERF_DEBUG", None)
    command = [sys.executable, "-m", "jaxperf", "specs", "validate", *map(str, files), str(good)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert str(good) in result.stdout
    for path, (_, words) in zip(files, FAULTS.values(), strict=True):
        (line,) = [line for line in result.stderr.splitlines() if f"{path.name}:" in line or f"{path.name} " in line]
        assert all(word in line for word in words)


@pytest.mark.parametrize("name", names("system"))
def test_shipped_links_state_their_latency_and_its_source(name: str):
    """A device that stands alone has none."""
    described = find("system", name).document
    for index, link in enumerate(described["fabric"]):
        assert link["alpha_us"] > 0 or link["devices"] == 1
        places = (f"fabric[{index}].alpha_us", f"fabric[{index}]", "fabric")
        assert any(place in described["sources"] for place in places)
