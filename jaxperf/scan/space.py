"""What a scan runs over: axes, constraints, objectives; and the list of layouts that can exist at all."""

from __future__ import annotations

import itertools
import math
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..constants import BLANKET_CLASSES, FORMATS, KV_FORMATS
from ..errors import InputError, nearest
from ..spec.documents import KINDS
from ..spec.library import Spec, find, get_path, set_path, specs_folder

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

DEGREES = ("tp", "pp", "ep", "cp", "attention_dp")


def objective_name(name: str) -> str:
    """The metric that an objective names (`tpot_s` and `tpot` are one). **Raises** `InputError` with the nearest."""
    for candidate in (name, name.removesuffix("_s"), name.removesuffix("_USD")):
        if candidate in MAXIMISED or candidate in MINIMISED:
            return candidate
    raise InputError(f"objective: no metric is called '{name}'; {nearest(name, MAXIMISED + MINIMISED)}")


@dataclass(frozen=True)
class Space:
    """A product of axes with its constraints. Lists are axes; `None` in `weights` or `kv` means the model's own.

    `workloads` are (isl, osl) pairs; `chunk` in tokens of a prompt (None = whole); `fields` maps a path in the system's
    JSON, such as `device.memory.hbm.bandwidth_GBps`, to values; targets in seconds.
    """

    models: tuple[str, ...]
    systems: tuple[str, ...]
    workloads: tuple[tuple[int, int], ...] = ((1024, 1024),)
    tp: tuple[int, ...] = (1, 2, 4, 8)
    pp: tuple[int, ...] = (1,)
    ep: tuple[int, ...] = (1,)
    cp: tuple[int, ...] = (1,)
    attention_dp: tuple[int, ...] = (1,)
    batch: tuple[int, ...] = tuple(range(1, 257))
    chunk: tuple[int | None, ...] = (None,)
    weights: tuple[str | None, ...] = (None,)
    kv: tuple[str | None, ...] = (None,)
    fields: tuple[tuple[str, tuple[float, ...]], ...] = ()
    max_devices: int = 64
    slo_ttft: float = math.inf
    slo_tpot: float = math.inf
    objectives: tuple[str, str] = ("output_tokens_per_s_per_device", "output_tokens_per_s_per_user")
    efficiency: str = "default"
    engine: str | None = None
    name: str = field(default="space", compare=False)


def _integers(key: str, value: Any, where: str, low: int = 1) -> tuple[int, ...]:
    """A list of whole numbers, or a table {from, to, step} or {from, to, factor}."""
    if isinstance(value, dict):
        extra = set(value) - {"from", "to", "step", "factor"}
        if extra or not {"from", "to"} <= set(value):
            raise InputError(f"{where}: {key}: a range needs from and to, and step or factor; got {sorted(value)}")
        for part in value.values():
            _integers(key, [part], where)
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


def _names(key: str, value: Any, where: str) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    for item in items:
        if not isinstance(item, str):
            raise InputError(f"{where}: {key}: {item!r} is no name")
    if not items:
        raise InputError(f"{where}: {key}: the list is empty")
    return tuple(items)


def _positive(key: str, value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InputError(f"{where}: {key}: {value!r} is out of range; expected a finite number above 0")
    return float(value)


def _formats(key: str, value: Any, where: str, known: dict) -> tuple[str | None, ...]:
    names = _names(key, value, where)
    for name in names:
        if name != "model" and name not in known:
            raise InputError(f"{where}: {key}: no format is called '{name}'; {nearest(name, [*known, 'model'])}")
    return tuple(None if name == "model" else name for name in names)


def _workloads(value: Any, where: str) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: workloads: expected a list of names or [isl, osl] pairs")
    pairs: list[tuple[int, int]] = []
    for item in value:
        if isinstance(item, str):
            document = find("workload", item).document
            pairs.append((document["isl"], document["osl"]))
        elif isinstance(item, list) and len(item) == 2:
            isl, osl = _integers("isl", [item[0]], where)[0], _integers("osl", [item[1]], where)[0]
            pairs.append((isl, osl))
        else:
            raise InputError(f"{where}: workloads: {item!r} is neither a workload's name nor an [isl, osl] pair")
    return tuple(dict.fromkeys(pairs))


KEYS = (
    *("models", "systems", "workloads", "isl", "osl", *DEGREES, "batch", "chunk", "weights", "kv", "fields"),
    *("max_devices", "slo_ttft_ms", "slo_tpot_ms", "objectives", "efficiency", "engine"),
)


def build_space(document: dict, where: str) -> Space:
    """A `Space` from its TOML form.

    **Arguments:** the parsed `document`; `where` it came from, named in errors.

    **Raises** `InputError` that names file, key, value, allowed range and the nearest valid name.
    """
    for key in document:
        if key not in KEYS:
            raise InputError(f"{where}: unknown key '{key}'; {nearest(key, KEYS)}")
    for key in ("models", "systems"):
        if key not in document:
            raise InputError(f"{where}: the key '{key}' is missing; expected a list of names")
    models = tuple(
        dict.fromkeys(
            find("model", n).name if not n.endswith(".json") else n for n in _names("models", document["models"], where)
        )
    )
    systems = tuple(
        dict.fromkeys(
            find("system", n).name if not n.endswith(".json") else n
            for n in _names("systems", document["systems"], where)
        )
    )
    space = Space(models=models, systems=systems, name=where)
    changes: dict[str, Any] = {}
    for key in (*DEGREES, "batch"):
        if key in document:
            changes[key] = _integers(key, document[key], where)
    if "chunk" in document:
        changes["chunk"] = _chunk_axis(document["chunk"], where)
    if "workloads" in document:
        changes["workloads"] = _workloads(document["workloads"], where)
    elif "isl" in document or "osl" in document:
        isl = _integers("isl", document.get("isl", 1024), where)
        osl = _integers("osl", document.get("osl", 1024), where)
        changes["workloads"] = tuple(itertools.product(isl, osl))
    if "workloads" in document and ("isl" in document or "osl" in document):
        raise InputError(f"{where}: workloads and isl/osl name the same axis; give one of them")
    if "weights" in document:
        changes["weights"] = _formats("weights", document["weights"], where, FORMATS)
    if "kv" in document:
        changes["kv"] = _formats("kv", document["kv"], where, KV_FORMATS)
    if "fields" in document:
        changes["fields"] = _fields(document["fields"], systems, where)
    if "max_devices" in document:
        changes["max_devices"] = _integers(
            "max_devices", _single("max_devices", document["max_devices"], where), where
        )[0]
    for key in ("slo_ttft_ms", "slo_tpot_ms"):
        if key in document:
            changes[key.removesuffix("_ms")] = _positive(key, document[key], where) / 1e3
    if "objectives" in document:
        names = _names("objectives", document["objectives"], where)
        if not 1 <= len(names) <= 2:
            raise InputError(f"{where}: objectives: {len(names)} are given; expected one or two")
        chosen = [objective_name(name) for name in names]
        other = (
            "output_tokens_per_s_per_user"
            if chosen[0] != "output_tokens_per_s_per_user"
            else "output_tokens_per_s_per_device"
        )
        changes["objectives"] = tuple(chosen) if len(chosen) == 2 else (chosen[0], other)
        if changes["objectives"][0] == changes["objectives"][1]:
            raise InputError(f"{where}: objectives: '{chosen[0]}' stands twice")
    for key in ("efficiency", "engine"):
        if key in document:
            changes[key] = _names(key, _single(key, document[key], where), where)[0]
    space = replace(space, **changes)
    _check_known(space, where)
    if space.engine is not None:
        find("engine", space.engine)
    return space


def _check_known(space: Space, where: str) -> None:
    """Refuses a price or power objective that no system of the space states a figure for."""
    needs = {"price_per_million_tokens": "price_per_hour_USD", "joules_per_token": "tdp_W"}
    for name in space.objectives:
        field_of = needs.get(name)
        devices = [find("system", system).document["device"] for system in space.systems]
        if field_of and all(device[field_of] is None for device in devices):
            raise InputError(f"{where}: objectives: '{name}' needs {field_of}, which no system of the space states")


def _chunk_axis(value: Any, where: str) -> tuple[int | None, ...]:
    if isinstance(value, dict):
        return _integers("chunk", value, where)
    items = value if isinstance(value, list) else [value]
    tokens = [item for item in items if item != "whole"]
    whole = [None] if "whole" in items else []
    return (*(_integers("chunk", tokens, where) if tokens or not whole else ()), *whole)


def _single(key: str, value: Any, where: str) -> Any:
    if isinstance(value, (list, dict)):
        raise InputError(f"{where}: {key}: expected one value, got {value!r}")
    return value


UNTIMED = ("devices", "device.price_per_hour_USD", "device.tdp_W", "device.name")
"""Paths that change no time and so span no axis."""


def _fields(value: Any, systems: tuple[str, ...], where: str) -> tuple[tuple[str, tuple[float, ...]], ...]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: fields: expected a table of path = [values]")
    axes = []
    for path, items in value.items():
        numbers = items if isinstance(items, list) else [items]
        if not numbers:
            raise InputError(f"{where}: fields: {path}: the list is empty")
        if path in UNTIMED:
            raise InputError(f"{where}: fields: '{path}' changes no time, so it is no axis")
        for system in systems:
            try:
                get_path(find("system", system).document, path)
                for number in numbers:
                    _positive(path, number, where)
                    KINDS["system"].check(set_path(find("system", system).document, path, number), f"{system}.json")
            except InputError as error:
                raise InputError(f"{where}: fields: '{path}' of {system}: {error}") from None
        axes.append((path, tuple(_positive(f"fields: {path}", number, where) for number in numbers)))
    return tuple(axes)


def read_space(path: str | os.PathLike | None = None) -> dict:
    """The TOML form of a space from a file, or of the embedded default. **Raises** `InputError` with file and place."""
    if path is not None and not os.fspath(path):
        raise InputError("the name of the space's file is empty")
    where = specs_folder() / "spaces" / "default.toml" if path is None else Path(path)
    try:
        return tomllib.loads(where.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{where}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: not valid TOML: {error}") from None


def load_space(path: str | os.PathLike | None = None) -> Space:
    """A space from a TOML file, or the embedded default. **Raises** `InputError` that says what is wrong and where."""
    return build_space(read_space(path), "default space" if path is None else os.fspath(path))


@dataclass(frozen=True)
class SystemPoint:
    """One system with its `fields` set: the document to build from, and what to call it."""

    name: str
    document: dict
    values: tuple[tuple[str, float], ...]


def system_points(space: Space) -> list[SystemPoint]:
    """Every system of a space with every combination of its spec fields."""
    points = []
    for name in space.systems:
        document = find("system", name).document
        for values in itertools.product(*[items for _, items in space.fields]):
            chosen = tuple((path, value) for (path, _), value in zip(space.fields, values, strict=True))
            changed = document
            for path, value in chosen:
                changed = set_path(changed, path, value)
            points.append(SystemPoint(find("system", name).name, changed, chosen))
    return points


def layouts(space: Space, model: Spec, system: dict) -> Iterator[tuple[int, ...]]:
    """The layouts (tp, pp, ep, cp, attention_dp) of a space that can exist: degrees that divide what they split, no
    more stages than layers, no more devices than allowed or reached. Others are not evaluated."""
    groups = model.document["layer_groups"]
    depth = sum(group["count"] for group in groups)
    experts = [g["feed_forward"]["experts"] for g in groups if g["feed_forward"]["experts"]]
    heads = [
        g["attention"]["state_value_heads"] or g["attention"]["query_heads"]
        for g in groups
        if g["attention"]["kind"] != "none"
    ]
    limit = min(space.max_devices, max(tier["devices"] for tier in system["fabric"]))
    for tp, pp, ep, cp, dpa in itertools.product(space.tp, space.pp, space.ep, space.cp, space.attention_dp):
        ranks = tp * cp * dpa
        if ranks * pp > limit or pp > depth or any(count % tp for count in heads):
            continue
        if ep > 1 and (not experts or ranks % ep or any(count % ep for count in experts)):
            continue
        yield tp, pp, ep, cp, dpa


def precisions(space: Space, model: Spec) -> list[tuple[str | None, str | None]]:
    """The (weights, kv) pairs of a space that differ for this model."""
    seen: dict[tuple, tuple[str | None, str | None]] = {}
    own = model.document["precision"]
    for weights, kv in itertools.product(space.weights, space.kv):
        classes = tuple(weights or own[name] for name in BLANKET_CLASSES)
        seen.setdefault((classes, kv or own["kv_cache"]), (weights, kv))
    return list(seen.values())


def chunks(space: Space, isl: int) -> list[int]:
    """The chunk sizes of a space that differ for a prompt of that length [tokens]; the whole prompt is one chunk."""
    return sorted({isl if chunk is None else min(chunk, isl) for chunk in space.chunk})
