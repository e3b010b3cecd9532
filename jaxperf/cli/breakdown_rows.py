"""The rows of a breakdown as JSON, and what of the device belongs beside them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..spec.library import Spec

if TYPE_CHECKING:
    from ..phases.breakdown import Columns

PARTS = ("compute", "memory", "network", "overhead")
"""What the time of an operator or of a phase is made of; the largest part is its bound."""

CLASSES = ("weights", "kv_cache", "activations")
"""Classes of bytes between memory and arithmetic."""


def phase_rows(phase: str, columns: Columns) -> list[dict[str, Any]]:
    """The rows of a phase that exist, as JSON.

    FLOPs and bytes of one rank, `time_s` and `share` of the sum of the phase's rows, `intensity` in FLOP/byte.
    """
    from ..phases.breakdown import split

    found = {name: row for name, row in split(columns).items() if row.count > 0}
    total = sum(row.time for row in found.values())
    rows = []
    for name, row in found.items():
        parts = [getattr(row, part) for part in PARTS]
        rows.append(
            {
                "phase": phase,
                "operator": name,
                "count": row.count,
                "flops": row.flops,
                "bytes": row.bytes,
                **{f"{kind}_bytes": getattr(row, f"{kind}_bytes") for kind in CLASSES},
                "time_s": row.time,
                "share": row.time / total if total > 0 else 0.0,
                "intensity": row.flops / row.bytes if row.bytes > 0 else math.nan,
                "bound": PARTS[parts.index(max(parts))],
            }
        )
    return rows


def device_facts(system: Spec) -> dict[str, Any]:
    """A system's device for `--json`: `name`, `main_memory`, peaks by type [FLOP/s], capacities [bytes] and bandwidths
    [bytes/s] by memory, bandwidths by tier of the fabric [bytes/s]."""
    from .specs import derived

    device = system.document["device"]
    return {"name": device["name"], "main_memory": device["main_memory"], **derived(system)}


def numbers(value: Any) -> Any:
    """Array scalars as Python numbers, whole ones as whole numbers where they count something."""
    if isinstance(value, dict):
        converted = {key: numbers(item) for key, item in value.items()}
        for key in ("max_batch", "count"):
            if isinstance(converted.get(key), float):
                converted[key] = round(converted[key])
        return converted
    if isinstance(value, list):
        return [numbers(item) for item in value]
    return float(value) if hasattr(value, "dtype") else value
