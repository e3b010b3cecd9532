"""The JSON form of every kind of spec: fields, units, ranges, rules. Importing this does not import JAX."""

from __future__ import annotations

from typing import Any

from ..schema import Kind, Section
from .calibration import CALIBRATION, WORKLOAD
from .engine import ENGINE
from .model import MODEL
from .system import SYSTEM

KINDS: dict[str, Section] = {
    "model": MODEL,
    "system": SYSTEM,
    "engine": ENGINE,
    "workload": WORKLOAD,
    "calibration": CALIBRATION,
}


def unsourced(document: dict, kind: Kind, path: str = "") -> list[str]:
    """Paths of the figures in a document that no entry of its `sources` covers (empty when all are covered)."""
    covered = tuple(document.get("sources", {}))
    missing: list[str] = []

    def walk(value: Any, here: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                if not (here == "" and key == "sources"):
                    walk(item, f"{here}.{key}" if here else key)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                walk(item, f"{here}[{index}]")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            if not any(here == c or here.startswith((c + ".", c + "[")) for c in covered):
                missing.append(here)

    walk(document, path)
    return missing
