"""`jaxperf specs import`: a Hugging Face config.json becomes a model spec."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..errors import InputError
from ..spec.huggingface import import_model
from ..spec.library import save, validate
from .output import print_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the action."""
    parser.add_argument("config", metavar="CONFIG_JSON", help="the config.json of a model on Hugging Face")
    quant = "its hf_quant_config.json (default: the one beside the config, where there is one)"
    parser.add_argument("--quant", metavar="FILE", help=quant)
    parser.add_argument("--name", metavar="NAME", help="name of the model (default: from the file or its folder)")
    parser.add_argument("--out", metavar="PATH", help="write the spec there, a .json file (default: print it)")
    parser.add_argument("--force", action="store_true", help="overwrite what stands at --out")
    parser.add_argument("--json", action="store_true", help="one JSON object: spec, counts, assumptions, warnings")


def run(arguments: argparse.Namespace) -> int:
    """Import, then print or write. **Raises** `InputError` for a config that cannot be described, and where `--out`
    names something that stands there already."""
    target = None if arguments.out is None else Path(arguments.out)
    if arguments.name is not None and not arguments.name.strip():
        raise InputError("--name: the name is empty")
    if target is not None and target.suffix.lower() != ".json":
        raise InputError(f"--out: '{target}' does not end in .json; specs are found by that ending")
    if target is not None and target.exists() and not arguments.force:
        raise InputError(f"--out: '{target}' exists; choose another path, or --force to overwrite it")
    imported = import_model(arguments.config, arguments.quant, arguments.name)
    for text in imported.warnings:
        print(f"jaxperf: warning: {text}", file=sys.stderr)
    if target is not None:
        save(imported.document, target)
    if arguments.json:
        from .specs import derived

        counts = derived(validate(imported.document, arguments.config, "model"))
        lists = {"assumptions": imported.assumptions, "warnings": imported.warnings}
        print_json({"model": imported.document, **counts, **lists})
        return 0
    for text in imported.assumptions:
        print(f"jaxperf: assumed: {text}", file=sys.stderr)
    if target is None:
        print(json.dumps(imported.document, indent=2))
    else:
        print(f"{target}: model '{imported.document['name']}'")
    return 0
