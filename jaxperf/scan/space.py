"""What a scan runs over: axes, constraints, objectives, in their TOML form and as a `Space`."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..constants import FORMATS, KV_FORMATS
from ..errors import InputError, nearest
from ..spec.library import find, specs_folder
from . import parse
from .parse import MAXIMISED, MINIMISED
from .sampling import Sampling, build_sampling

__all__ = ["DEGREES", "MAXIMISED", "MINIMISED", "Space", "build_space", "load_space", "read_space"]

DEGREES = ("tp", "pp", "ep", "cp", "attention_dp")

_DEVICE, _USER = _PAIRED = ("output_tokens_per_s_per_device", "output_tokens_per_s_per_user")


@dataclass(frozen=True)
class Space:
    """A product of axes with its constraints. Lists are axes; `None` in `weights` or `kv` means the model's own.

    `workloads` are (isl, osl) pairs; `chunk` in tokens of a prompt (None = whole); `fields` maps a path in the system's
    JSON, such as `device.memory.hbm.bandwidth_GBps`, to values, `sampling` draws others; targets in seconds.
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
    sampling: Sampling = field(default_factory=Sampling)
    max_devices: int = 64
    slo_ttft: float = math.inf
    slo_tpot: float = math.inf
    objectives: tuple[str, ...] = _PAIRED
    efficiency: str = "default"
    engine: str | None = None
    name: str = field(default="space", compare=False)


def _objectives(value: Any, where: str) -> tuple[str, ...]:
    """Two or three objectives; a single one is paired with throughput a user, or a device where it is that itself."""
    chosen = parse.metrics(parse.strings("objectives", value, where), f"{where}: objectives", 3)
    first, *others = chosen
    return chosen if others else (first, _DEVICE if first == _USER else _USER)


def _one(key: str, value: Any, where: str, read: Callable[[str, Any, str], Any]) -> Any:
    """A value that is no list."""
    return read(key, parse.single(key, value, where), where)


_READERS: dict[str, Callable[[str, Any, str], Any]] = {
    **dict.fromkeys((*DEGREES, "batch"), parse.integers),
    "chunk": lambda key, value, where: parse.chunk_axis(value, where),
    "weights": lambda key, value, where: parse.formats(key, value, where, FORMATS),
    "kv": lambda key, value, where: parse.formats(key, value, where, KV_FORMATS),
    "max_devices": lambda key, value, where: _one(key, value, where, parse.integers)[0],
    "objectives": lambda key, value, where: _objectives(value, where),
    "efficiency": lambda key, value, where: _one(key, value, where, parse.strings)[0],
    "engine": lambda key, value, where: _one(key, value, where, parse.strings)[0],
}
"""How the value of a key is read, where that needs no other key."""

KEYS = (
    *("models", "systems", "workloads", "isl", "osl", *DEGREES, "batch", "chunk", "weights", "kv", "fields"),
    *("random", "max_devices", "slo_ttft_ms", "slo_tpot_ms", "objectives", "efficiency", "engine"),
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
    models = parse.specs("model", "models", document["models"], where)
    systems = parse.specs("system", "systems", document["systems"], where)
    given = {key: read(key, document[key], where) for key, read in _READERS.items() if key in document}
    given["workloads"] = parse.workloads(document, where)
    for key in ("slo_ttft_ms", "slo_tpot_ms"):
        if key in document:
            given[key.removesuffix("_ms")] = parse.positive(key, document[key], where) / 1e3
    if "fields" in document:
        given["fields"] = parse.fields(document["fields"], systems, where)
    if "random" in document:
        taken = tuple(path for path, _ in given.get("fields", ()))
        given["sampling"] = build_sampling(document["random"], systems, taken, where)
    space = Space(models=models, systems=systems, name=where, **given)
    _check_known(space, where)
    return space


def _check_known(space: Space, where: str) -> None:
    """Refuses an engine that is not known, and an objective of price or power that no system states a figure for."""
    for name in space.objectives:
        check_stated(space, name, f"{where}: objectives")
    if space.engine is not None:
        find("engine", space.engine)


def check_stated(space: Space, name: str, where: str) -> None:
    """Refuses a metric of price or power that no system of the space states a figure for."""
    field_of = {"price_per_million_tokens": "price_per_hour_USD", "joules_per_token": "tdp_W"}.get(name)
    devices = [find("system", system).document["device"] for system in space.systems]
    if field_of and all(device[field_of] is None for device in devices):
        raise InputError(f"{where}: '{name}' needs {field_of}, which no system of the space states")


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
