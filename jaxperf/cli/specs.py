"""`jaxperf specs`: the library of models, systems, engines, workloads and calibrations."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ..errors import InputError, nearest
from ..spec.library import FOLDERS, Spec, find, names, read_json, validate
from . import specs_dram3d, specs_import
from .output import print_json
from .values import one_of

KINDS = tuple(FOLDERS)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions of the verb and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="the names of all specs by kind", description="List the library.")
    listing.add_argument("kind", nargs="?", type=_kind, metavar="KIND", help=", ".join(KINDS))
    listing.add_argument("--json", action="store_true", help="one JSON object: kind -> names")

    show = actions.add_parser("show", help="one spec in full", description="Show one spec, with what follows from it.")
    show.add_argument("name", metavar="NAME", help="a name, an alias, or a PATH.json")
    show.add_argument("--json", action="store_true", help="the spec in its JSON form, with what follows from it")
    show.add_argument("--sources", action="store_true", help="where every figure comes from")

    check = actions.add_parser("validate", help="check spec files", description="Check JSON files against the schema.")
    check.add_argument("files", nargs="+", metavar="FILE", help="spec files of any kind")
    check.add_argument("--json", action="store_true", help="one JSON object: the files and their faults")

    text = "Turn a Hugging Face config.json into a model spec."
    specs_import.configure(actions.add_parser("import", help="a model spec from Hugging Face", description=text))

    text = "Bandwidth, capacity and power of stacked DRAM from its physical parameters."
    specs_dram3d.configure(actions.add_parser("dram3d", help="stacked DRAM from its parameters", description=text))


def run(arguments: argparse.Namespace) -> int:
    """Run the action. **Raises** `InputError` for a name that is not known."""
    inner = {"list": _list, "show": _show, "validate": _validate}
    return (inner | {"dram3d": specs_dram3d.run, "import": specs_import.run})[arguments.action](arguments)


def _kind(text: str) -> str:
    """A kind of spec; `models` means `model`."""
    singular = next((kind for kind, folder in FOLDERS.items() if text == folder), text)
    return one_of(KINDS, "kind of spec")(singular)


def _list(arguments: argparse.Namespace) -> int:
    kinds = KINDS if arguments.kind is None else (arguments.kind,)
    found = {kind: names(kind) for kind in kinds}
    if arguments.json:
        print_json(found)
        return 0
    for index, (kind, known) in enumerate(found.items()):
        if arguments.kind is None:
            print(("\n" if index else "") + f"{FOLDERS[kind]} ({len(known)})")
        for name in known:
            print(f"  {name}" if arguments.kind is None else name)
    return 0


def find_any(name: str) -> Spec:
    """The spec of that name among all kinds, models first. **Raises** `InputError` with the nearest names."""
    if name.lower().endswith(".json"):
        return validate(read_json(name), name)
    for kind in KINDS:
        try:
            return find(kind, name)
        except InputError as error:
            if not str(error).startswith(f"no {kind} is called"):
                raise
    known = {name for kind in KINDS for name in names(kind)}
    raise InputError(f"no spec is called '{name}'; {nearest(name, known)} (or give a path that ends in .json)")


def derived(spec: Spec) -> dict[str, Any]:
    """What follows from a spec: counts of a model, SI figures of a system. Nothing for the other kinds.

    Parameters are of the text model; the KV cache in bytes a token at the model's own width, its windows not yet full.
    """
    if spec.kind == "model":
        from .output import quiet_jax

        quiet_jax()
        from ..spec.deployment import kv_bytes
        from ..spec.model import build_model
        from ..stages.memory import index_bytes_per_token, kv_elements_per_token, parameters

        model = build_model(spec.document)
        count, width = parameters(model), kv_bytes(spec.document["precision"]["kv_cache"])
        return {
            "parameters_total": count.total,
            "parameters_active": count.active,
            "kv_bytes_per_token": kv_elements_per_token(model) * width + index_bytes_per_token(model),
        }
    if spec.kind == "system":
        device = spec.document["device"]
        peaks = device["peak_TFLOPS"]
        return {
            "peak_flops_per_s": {dtype: value * 1e12 for dtype, value in peaks.items() if value is not None},
            "memory_capacity_bytes": {name: tier["capacity_GB"] * 1e9 for name, tier in device["memory"].items()},
            "memory_bandwidth_bytes_per_s": {name: t["bandwidth_GBps"] * 1e9 for name, t in device["memory"].items()},
            "fabric_bandwidth_bytes_per_s": {
                tier["name"]: tier["bandwidth_GBps"] * 1e9 * tier["ports"] for tier in spec.document["fabric"]
            },
        }
    return {}


def _show(arguments: argparse.Namespace) -> int:
    spec = find_any(arguments.name)
    extra = derived(spec)
    if arguments.json:
        print_json({**spec.document, **extra})
        return 0
    document = {key: value for key, value in spec.document.items() if key not in ("sources", "aliases")}
    sources = spec.document.get("sources", {})
    print(f"{spec.name} ({spec.kind})")
    if "exact_today" in document:
        rough = document.get("approximation") or "priced by a first approximation today"
        print("priced exactly today" if document["exact_today"] else f"approximate: {rough}")
    for key, value in extra.items():
        if isinstance(value, dict):
            print(f"{key}: " + ", ".join(f"{name} {item:.6g}" for name, item in value.items()))
        else:
            print(f"{key}: {value:,.0f}")
    print()
    print(json.dumps(document, indent=2, ensure_ascii=False))
    if not arguments.sources:
        print(f"\n{len(sources)} sources; --sources shows them")
        return 0
    print("\nsources")
    for path, source in sources.items():
        note = ", estimate" if source["estimate"] else ""
        print(f"  {path}: {source['source']} ({source['date']}{note})")
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    """Check every file; the good ones are named on stdout, the bad ones with their fault on stderr."""
    faults: dict[str, str | None] = {}
    for path in arguments.files:
        try:
            spec = validate(read_json(path), path)
            faults[path] = None
            if not arguments.json:
                print(f"{path}: {spec.kind} '{spec.name}' is valid")
        except InputError as error:
            faults[path] = str(error)
            if not arguments.json:
                print(f"jaxperf: error: {error}", file=sys.stderr)
    bad = [path for path, fault in faults.items() if fault is not None]
    if arguments.json:
        entries = [{"path": path, "valid": fault is None, "fault": fault} for path, fault in faults.items()]
        print_json({"files": entries})
    return 2 if bad else 0
