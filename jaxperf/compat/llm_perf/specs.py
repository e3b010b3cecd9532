"""The JSON specs of llm_perf: reading, spelling, and what its loader derives from them."""

from __future__ import annotations

import math
import os
from typing import Any

from ...errors import InputError, nearest
from ...spec.library import read_json
from ...spec.schema import REQUIRED, with_defaults
from .documents import KINDS

Path = str | os.PathLike

_IN_NETWORK_ALIASES = {"nvls": "sharp_class", "sharp": "sharp_class"}
_SUSTAINED = {"sram": 1.0, "hbm": 0.92, "lpddr5": 0.85, "lpddr": 0.85}
"""Sustained share of a memory tier listed without one, by its name; 1 for any other name (its default)."""

_PHASES = ("decode", "prefill")


def load_spec(kind: str, path: Path) -> dict:
    """One spec file of the tool, in the form that `evaluate` takes.

    **Arguments:** `kind`, one of model, system, partition, tuner, overhead, disagg, paging; the `path` of its JSON.

    **Raises** `InputError` naming file, key, value and what is allowed.
    """
    document = checked(kind, read_json(path), os.fspath(path))
    return _as_loaded(document, os.fspath(path)) if kind == "system" else document


def load_inputs(
    model: Path,
    system: Path,
    partition: Path,
    tuner: Path,
    overhead: Path | None = None,
    disagg: Path | None = None,
    paging: Path | None = None,
) -> dict:
    """The inputs of `evaluate` from the tool's spec files; without the last three nothing is charged for them.

    **Raises** `InputError` naming file, key, value and what is allowed.
    """
    paths = {
        "model": model,
        "system": system,
        "partition": partition,
        "tuner": tuner,
        "overhead": overhead,
        "disagg": disagg,
        "paging": paging,
    }
    inputs = {kind: load_spec(kind, path) for kind, path in paths.items() if path is not None}
    _check_placement(inputs, os.fspath(tuner))
    return prepared(inputs)


def prepared(inputs: Any, where: str = "inputs") -> dict:
    """Inputs checked and complete: defaults filled in, absent documents empty, the memory tiers that count listed.

    **Raises** `InputError` naming the key, the value and what is allowed.
    """
    if not isinstance(inputs, dict):
        raise InputError(f"{where}: expected an object with {', '.join(KINDS)}, got {type(inputs).__name__}")
    for key in inputs:
        if key not in KINDS:
            raise InputError(f"{where}: unknown key '{key}'; {nearest(str(key), KINDS)}")
    for kind, form in KINDS.items():
        if kind not in inputs and form.default is REQUIRED:
            raise InputError(f"{where}: the key '{kind}' is missing; a case has {', '.join(KINDS)}")
    documents = {kind: checked(kind, inputs.get(kind) or {}, f"{where}.{kind}") for kind in KINDS}
    device = documents["system"]["device"]
    device["memory_tiers"] = memory_tiers(device)
    _check_placement(documents, f"{where}.tuner")
    return documents


def checked(kind: str, document: Any, where: str) -> dict:
    """A document of one kind, checked and with defaults filled in; `where` is the file or key to name in errors.

    **Raises** `InputError` naming the place, the key, the value and what is allowed.
    """
    if not isinstance(document, dict):
        raise InputError(f"{where}: expected an object, got {type(document).__name__}")
    document = _spelled(_cleaned(document))
    schema = document.pop("schema", f"llm_perf.{kind}")
    if not isinstance(schema, str) or not schema.startswith(f"llm_perf.{kind}"):
        raise InputError(f"{where}: schema: {schema!r}; expected 'llm_perf.{kind}'")
    KINDS[kind].check(document, where)
    return with_defaults(KINDS[kind], document)


def memory_tiers(device: dict) -> list[dict]:
    """The memory tiers of a device, fastest first: those listed, or SRAM and HBM from the short fields, at full
    bandwidth."""
    if device["memory_tiers"] is not None:
        return [
            {**tier, "eta_beta": 1.0 if tier["eta_beta"] is None else tier["eta_beta"]}
            for tier in device["memory_tiers"]
        ]
    if device["tiers"]:
        return [
            {
                **tier,
                "eta_beta": _SUSTAINED.get(tier["name"].lower(), 1.0) if tier["eta_beta"] is None else tier["eta_beta"],
            }
            for tier in device["tiers"]
        ]
    main = {"name": "hbm", "capacity_GB": device["hbm_capacity_GB"], "bandwidth_GBps": device["hbm_bandwidth_GBps"]}
    tiers = [main]
    if device["sram_capacity_MB"] is not None:
        fast = {"capacity_GB": device["sram_capacity_MB"] / 1e3, "bandwidth_GBps": device["sram_bandwidth_TBps"] * 1e3}
        tiers = [{"name": "sram", **fast}, main]
    return [{**tier, "alpha_us": 0.0, "eta_beta": 1.0} for tier in tiers]


def chain(system: dict, collective: str) -> list[dict]:
    """The fabric tiers that a collective may cross, innermost first."""
    fabrics = system["fabrics"]
    return [tier for name in system["collective_fabrics"][collective] for tier in fabrics[name]["tiers"]]


def reach(tier: dict) -> int:
    """Ranks that a fabric tier joins."""
    return tier["ports"] if tier["topology"] == "crossbar" else math.prod(tier["dims"])


def _as_loaded(system: dict, where: str) -> dict:
    """What the loader derives: memory tiers, and a switch's bandwidth share, at most the inverse of its
    oversubscription. A system whose fabric is all torus has as many devices as its dimensions multiply to."""
    for collective, names in system["collective_fabrics"].items():
        tiers = chain(system, collective)
        total = math.prod(reach(tier) for tier in tiers)
        if all(tier["topology"] == "torus" for tier in tiers) and total != system["num_devices"]:
            dims = [tier["dims"] for tier in tiers]
            raise InputError(
                f"{where}: fabrics.{names[0]}.tiers: dims {dims} multiply to {total}, but num_devices is "
                f"{system['num_devices']}; expected the same"
            )
    fabrics = {
        name: {**fabric, "tiers": [_capped(tier) for tier in fabric["tiers"]]}
        for name, fabric in system["fabrics"].items()
    }
    device = {**system["device"], "memory_tiers": memory_tiers(system["device"])}
    return {**system, "device": device, "fabrics": fabrics}


def _capped(tier: dict) -> dict:
    return {**tier, "eta_beta": min(tier["eta_beta"], 1 / tier["oversubscription"])}


def _check_placement(inputs: dict, where: str) -> None:
    names = [tier["name"] for tier in inputs["system"]["device"]["memory_tiers"]]
    for key in ("weights_tier", "kv_tier"):
        wanted = inputs["tuner"]["placement"][key]
        if wanted != "auto" and wanted not in names:
            known = ", ".join(names)
            raise InputError(
                f"{where}: placement.{key}: the device has no memory tier '{wanted}'; expected auto or one of {known}"
            )


def _cleaned(node: Any) -> Any:
    """Without nulls, which mean absent, and without comments (keys that begin with an underscore)."""
    if isinstance(node, dict):
        return {str(k): _cleaned(v) for k, v in node.items() if v is not None and not str(k).startswith("_")}
    return [_cleaned(item) for item in node] if isinstance(node, (list, tuple)) else node


def _spelled(document: dict) -> dict:
    """One spelling for what the tool's users may write in several: one algorithm for both phases, a chain of one
    fabric, older names of in-network modes."""
    document = {k: v.lower() if "_algorithm" in k and isinstance(v, str) else v for k, v in document.items()}
    for axis in ("tp", "ep"):
        if f"{axis}_algorithm" in document:
            for phase in _PHASES:
                document.setdefault(f"{axis}_algorithm_{phase}", document[f"{axis}_algorithm"])
    chains, fabrics = document.get("collective_fabrics"), document.get("fabrics")
    if isinstance(chains, dict):
        document["collective_fabrics"] = {k: [v] if isinstance(v, str) else v for k, v in chains.items()}
    if isinstance(fabrics, dict):
        document["fabrics"] = {name: _spelled_fabric(fabric) for name, fabric in fabrics.items()}
    return document


def _spelled_fabric(fabric: Any) -> Any:
    def tier(entry: Any) -> Any:
        if not isinstance(entry, dict) or not isinstance(entry.get("inc"), str):
            return entry
        mode = entry["inc"].lower()
        return {**entry, "inc": _IN_NETWORK_ALIASES.get(mode, mode)}

    if not isinstance(fabric, dict) or not isinstance(fabric.get("tiers"), list):
        return fabric
    return {**fabric, "tiers": [tier(entry) for entry in fabric["tiers"]]}
