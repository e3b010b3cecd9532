"""Values of a space's keys as a person writes them: lists, ranges, names, formats, lengths; each checked on its own."""

from __future__ import annotations

import itertools
import math
from typing import Any

from ..errors import InputError, nearest
from ..spec.documents import KINDS
from ..spec.library import find, get_path, set_path

MAXIMISED = (
    "output_tokens_per_s_per_device",
    "output_tokens_per_s_per_user",
    "output_tokens_per_s",
    "decode_tokens_per_s",
    "requests_per_s",
    "max_batch",
    "mfu",
    "mbu",
)
MINIMISED = ("ttft", "tpot", "e2e", "price_per_million_tokens", "joules_per_token", "devices")
"""Metrics that an objective may name; the first list is maximised, the second minimised (times in seconds)."""

UNTIMED = ("devices", "device.price_per_hour_USD", "device.tdp_W", "device.name")
"""Paths that change no time and so span no axis."""


def metric(name: str, where: str = "objective") -> str:
    """The metric that a name means (`tpot_s` and `tpot` are one). **Raises** `InputError` with the nearest."""
    for candidate in (name, name.removesuffix("_s"), name.removesuffix("_USD")):
        if candidate in MAXIMISED or candidate in MINIMISED:
            return candidate
    raise InputError(f"{where}: no metric is called '{name}'; {nearest(name, MAXIMISED + MINIMISED)}")


def metrics(names: tuple[str, ...], where: str, most: int) -> tuple[str, ...]:
    """One to `most` metrics, each once. **Raises** `InputError` otherwise."""
    if not 1 <= len(names) <= most:
        counts = " or ".join(("one", "two", "three")[:most]) if most <= 3 else f"one to {most}"
        raise InputError(f"{where}: {len(names)} are given; expected {counts}")
    chosen = tuple(metric(name, where) for name in names)
    for name in chosen:
        if chosen.count(name) > 1:
            raise InputError(f"{where}: '{name}' stands twice")
    return chosen


def integers(key: str, value: Any, where: str, low: int = 1) -> tuple[int, ...]:
    """A list of whole numbers, or a table {from, to, step} or {from, to, factor}."""
    if isinstance(value, dict):
        return _range(key, value, where)
    items = value if isinstance(value, list) else [value]
    if not items:
        raise InputError(f"{where}: {key}: the list is empty")
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int):
            raise InputError(f"{where}: {key}: {item!r} is no whole number; expected whole numbers from {low}")
        if item < low or item > 10**8:
            raise InputError(f"{where}: {key}: {item} is out of range; expected whole numbers from {low} to 1e8")
    if len(set(items)) != len(items):
        twice = next(item for item in items if items.count(item) > 1)
        raise InputError(f"{where}: {key}: {twice} stands twice")
    return tuple(items)


def _range(key: str, value: dict, where: str) -> tuple[int, ...]:
    extra = set(value) - {"from", "to", "step", "factor"}
    if extra or not {"from", "to"} <= set(value):
        raise InputError(f"{where}: {key}: a range needs from and to, and step or factor; got {sorted(value)}")
    for part in value.values():
        integers(key, [part], where)
    if "step" in value and "factor" in value:
        raise InputError(f"{where}: {key}: a range has a step or a factor, not both")
    start, stop, step, factor = value["from"], value["to"], value.get("step", 1), value.get("factor")
    if factor is not None and factor < 2:
        raise InputError(f"{where}: {key}: factor: {factor} is out of range; choose 2 or more")
    if start > stop:
        raise InputError(f"{where}: {key}: from {start} is above to {stop}")
    if factor is None:
        return tuple(range(start, stop + 1, step))
    return tuple(itertools.takewhile(lambda x: x <= stop, (start * factor**i for i in itertools.count())))


def strings(key: str, value: Any, where: str) -> tuple[str, ...]:
    """A name or a list of names."""
    items = value if isinstance(value, list) else [value]
    for item in items:
        if not isinstance(item, str):
            raise InputError(f"{where}: {key}: {item!r} is no name")
    if not items:
        raise InputError(f"{where}: {key}: the list is empty")
    return tuple(items)


def specs(kind: str, key: str, value: Any, where: str) -> tuple[str, ...]:
    """Names of specs, each once, aliases resolved; paths of JSON files stay paths."""
    names = strings(key, value, where)
    found = [find(kind, name) for name in names]
    return tuple(dict.fromkeys(n if n.endswith(".json") else spec.name for n, spec in zip(names, found, strict=True)))


def positive(key: str, value: Any, where: str) -> float:
    """A finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InputError(f"{where}: {key}: {value!r} is out of range; expected a finite number above 0")
    return float(value)


def single(key: str, value: Any, where: str) -> Any:
    """One value, no list or table."""
    if isinstance(value, (list, dict)):
        raise InputError(f"{where}: {key}: expected one value, got {value!r}")
    return value


def formats(key: str, value: Any, where: str, known: dict) -> tuple[str | None, ...]:
    """Number formats; `model`, the model's own, becomes None."""
    names = strings(key, value, where)
    for name in names:
        if name != "model" and name not in known:
            raise InputError(f"{where}: {key}: no format is called '{name}'; {nearest(name, [*known, 'model'])}")
    return tuple(None if name == "model" else name for name in names)


def workloads(document: dict, where: str) -> tuple[tuple[int, int], ...]:
    """(isl, osl) pairs from `workloads`, or the product of `isl` and `osl`."""
    if "workloads" not in document:
        isl = integers("isl", document.get("isl", 1024), where)
        return tuple(itertools.product(isl, integers("osl", document.get("osl", 1024), where)))
    if "isl" in document or "osl" in document:
        raise InputError(f"{where}: workloads and isl/osl name the same axis; give one of them")
    value = document["workloads"]
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: workloads: expected a list of names or [isl, osl] pairs")
    pairs: list[tuple[int, int]] = []
    for item in value:
        if isinstance(item, str):
            named = find("workload", item).document
            pairs.append((named["isl"], named["osl"]))
        elif isinstance(item, list) and len(item) == 2:
            pairs.append((integers("isl", [item[0]], where)[0], integers("osl", [item[1]], where)[0]))
        else:
            raise InputError(f"{where}: workloads: {item!r} is neither a workload's name nor an [isl, osl] pair")
    return tuple(dict.fromkeys(pairs))


def chunk_axis(value: Any, where: str) -> tuple[int | None, ...]:
    """Chunk sizes [tokens]; `whole`, no chunking, becomes None."""
    if isinstance(value, dict):
        return integers("chunk", value, where)
    items = value if isinstance(value, list) else [value]
    tokens = [item for item in items if item != "whole"]
    whole = [None] if "whole" in items else []
    return (*(integers("chunk", tokens, where) if tokens or not whole else ()), *whole)


def field_values(path: str, numbers: list, systems: tuple[str, ...], where: str) -> tuple[float, ...]:
    """The values of one field of the systems, each checked against the schema of every system."""
    if path in UNTIMED:
        raise InputError(f"{where}: '{path}' changes no time, so it is no axis")
    for system in systems:
        try:
            document = find("system", system).document
            get_path(document, path)
            for number in numbers:
                positive(path, number, where)
                KINDS["system"].check(set_path(document, path, number), f"{system}.json")
        except InputError as error:
            raise InputError(f"{where}: '{path}' of {system}: {error}") from None
    return tuple(float(number) for number in numbers)


def fields(value: Any, systems: tuple[str, ...], where: str) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """Axes over fields of the systems, from a table of path = [values]."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: fields: expected a table of path = [values]")
    axes = []
    for path, items in value.items():
        numbers = items if isinstance(items, list) else [items]
        if not numbers:
            raise InputError(f"{where}: fields: {path}: the list is empty")
        checked = field_values(path, numbers, systems, f"{where}: fields")
        if len(set(checked)) != len(checked):
            raise InputError(f"{where}: fields: {path}: a value stands twice")
        axes.append((path, checked))
    return tuple(axes)
