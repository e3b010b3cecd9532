"""Names in, pytrees out: the few calls with which a notebook starts."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from typing import Any

from .compiling import quick
from .constants import MEMORY_KINDS
from .errors import InputError, nearest
from .phases.end_to_end import Metrics, evaluate
from .spec.deployment import (
    IDEAL,
    Deployment,
    Efficiency,
    Parallelism,
    build_efficiency,
    build_engine,
    build_precision,
    complete_efficiency,
    precision_document,
)
from .spec.documents.engine import ENGINE, OFFLOADED
from .spec.library import find
from .spec.model import Model, as_arrays, build_model
from .spec.schema import with_defaults
from .spec.system import System, build_system
from .spec.workload import Slo, Workload

Name = str | os.PathLike
_DESCRIPTION = ("kind", "name", "aliases", "note", "sources")
ENGINE_SETTINGS = {key: kind for key, kind in ENGINE.fields.items() if key not in _DESCRIPTION}
"""Fields of an engine's JSON form that one configuration may set for itself."""


def load_model(name: Name) -> Model:
    """A `Model` with array leaves, by library name, alias, Hugging Face id or path of a JSON file.

    **Raises** `InputError` with the nearest names.
    """
    return as_arrays(build_model(find("model", name).document))


def load_system(name: Name) -> System:
    """A `System` with array leaves, by library name, alias or path of a JSON file.

    **Raises** `InputError` with the nearest names.
    """
    return as_arrays(build_system(find("system", name).document))


@functools.cache
def _calibration(name: str) -> dict:
    return find("calibration", name).document


def efficiency_document_of(source: Name, system: str | None = None, engine: str | None = None) -> dict:
    """The JSON form of an efficiency.

    **Arguments:** `ideal` (the physical bound), `default` (fitted class values), or a calibration's name or path; of
    a calibration, its most specific group that fits `system` and `engine`.

    **Raises** `InputError` where a calibration has no group for that system and engine.
    """
    text = os.fspath(source)
    if text == "ideal":
        return dict(IDEAL)
    groups = _calibration(text)["groups"]

    def matches(group: dict) -> bool:
        def same(mine: str | None, wanted: str | None, kind: str) -> bool:
            return mine is None or (wanted is not None and find(kind, mine).name == find(kind, wanted).name)

        return same(group["system"], system, "system") and same(group["engine"], engine, "engine")

    found = sorted(
        (group for group in groups if matches(group)),
        key=lambda group: (group["system"] is None) + (group["engine"] is None),
    )
    if not found:
        known = ", ".join(f"{g['system']} with {g['engine']}" for g in groups)
        raise InputError(f"{text}: no factors for {system} with {engine}; it holds {known}")
    return complete_efficiency(found[0]["efficiency"])


def load_efficiency(source: Name = "default", system: str | None = None, engine: str | None = None) -> Efficiency:
    """An `Efficiency` with array leaves (see `efficiency_document_of`)."""
    return as_arrays(build_efficiency(efficiency_document_of(source, system, engine)))


def engine_document(
    engine: Name | None,
    weights_in: str | None = None,
    kv_in: str | None = None,
    offload: str | Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> dict:
    """The JSON form of an engine (of defaults where None), with where it puts weights and KV cache, and with
    `settings`, fields of an engine's JSON form, in place of its own.

    **Raises** `InputError` for a kind of memory, a class or a setting that is not known.
    """
    document = with_defaults(ENGINE, {} if engine is None else find("engine", engine).document)
    for key, value in (settings or {}).items():
        if key not in ENGINE_SETTINGS:
            raise InputError(f"settings: unknown key '{key}'; {nearest(key, ENGINE_SETTINGS)}")
        ENGINE_SETTINGS[key].check(value, f"settings: {key}")
        document = document | {key: with_defaults(ENGINE_SETTINGS[key], value)}
    offload = [offload] if isinstance(offload, str) else list(offload)
    for name, value, known in (("weights_in", weights_in, MEMORY_KINDS), ("kv_in", kv_in, MEMORY_KINDS)):
        if value is not None and value not in known:
            raise InputError(f"{name}: '{value}' is no kind of memory; {nearest(value, known)}")
    for value in offload:
        if value not in OFFLOADED:
            raise InputError(f"offload: '{value}' is not one of {', '.join(OFFLOADED)}; {nearest(value, OFFLOADED)}")
    placement = dict(document["placement"])
    placement |= {key: value for key, value in (("weights", weights_in), ("kv_cache", kv_in)) if value is not None}
    return document | {"placement": placement, "offload": offload or document["offload"]}


def deployment(
    model: Name,
    *,
    tp: float = 1,
    pp: float = 1,
    ep: float = 1,
    cp: float = 1,
    attention_dp: float = 1,
    replicas: float = 1,
    weights: str | None = None,
    kv: str | None = None,
    chunk: float | None = None,
    engine: Name | None = None,
    weights_in: str | None = None,
    kv_in: str | None = None,
    offload: str | Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
    efficiency: Efficiency | Name = "default",
    system: str | None = None,
) -> Deployment:
    """A `Deployment` with array leaves.

    **Arguments:** parallel degrees; `weights`, a format for attention and all feed-forward weights, and `kv`, one for
    the KV cache (by default what the model's own `model` spec says); `chunk` of chunked prefill [tokens of a prompt];
    an `engine` by name; `weights_in` and `kv_in`, the kind of memory that a class is pinned to; `offload`, what may
    spill to host memory or SSD (`weights`, `kv-cache`); `settings`, fields of an engine's JSON form that apply in place
    of the engine's own, such as `{"attention": "eager", "lora": {"rank": 16}}`; an `efficiency`: `default`, `ideal`, a
    calibration's name or path, or an `Efficiency`.
    """
    degrees = {"tp": tp, "pp": pp, "ep": ep, "cp": cp, "attention_dp": attention_dp, "replicas": replicas}
    for name, value in degrees.items():
        if isinstance(value, (int, float)) and value < 1:
            raise InputError(f"{name}: {value} is out of range; choose a whole number from 1")
    described = find("model", model).document
    precision = precision_document(described["precision"], weights, kv, described["layer_groups"])
    if not isinstance(efficiency, Efficiency):
        efficiency = build_efficiency(
            efficiency_document_of(efficiency, system, None if engine is None else os.fspath(engine))
        )
    return as_arrays(
        Deployment(
            parallelism=Parallelism(**degrees),
            precision=build_precision(precision),
            engine=build_engine(engine_document(engine, weights_in, kv_in, offload, settings), chunk),
            efficiency=efficiency,
        )
    )


def workload(
    isl: float,
    osl: float,
    batch: float = 1,
    prefill_batch: float = 1,
    slo_ttft: float | None = None,
    slo_tpot: float | None = None,
    prefix_hit: float = 0,
) -> Workload:
    """A `Workload` with array leaves: prompt and output tokens, sequences in flight, targets [s], and the tokens at the
    start of every prompt whose KV cache is found.

    **Raises** `InputError` for a number out of range.
    """
    if isinstance(prefix_hit, (int, float)) and isinstance(isl, (int, float)) and not 0 <= prefix_hit <= isl:
        raise InputError(f"prefix_hit: {prefix_hit} is out of range; choose 0 to {isl}, the length of the prompt")
    for name, value in {"isl": isl, "osl": osl, "batch": batch, "prefill_batch": prefill_batch}.items():
        if isinstance(value, (int, float)) and value < 1:
            raise InputError(f"{name}: {value} is out of range; choose a whole number from 1")
    targets = Slo(
        float("inf") if slo_ttft is None else slo_ttft,
        float("inf") if slo_tpot is None else slo_tpot,
    )
    return as_arrays(Workload(isl, osl, batch, prefill_batch, targets, prefix_hit))


evaluate_quick = quick(evaluate)
"""`evaluate`, compiled fast. One program serves every model, system, deployment and workload."""


def estimate(
    model: Name,
    system: Name,
    *,
    isl: float = 1024,
    osl: float = 1024,
    batch: float = 1,
    prefill_batch: float = 1,
    slo_ttft: float | None = None,
    slo_tpot: float | None = None,
    prefix_hit: float = 0,
    **layout: Any,
) -> Metrics:
    """`Metrics` of one configuration by names; further arguments as in `deployment`.

    For example `jaxperf.estimate("llama-3.1-70b", "h100-sxm-8", tp=8, batch=64).tpot`.
    """
    known = set(deployment.__kwdefaults__ or ())
    for key in layout:
        if key not in known:
            raise InputError(f"estimate: unknown argument '{key}'; {nearest(key, known)}")
    return evaluate_quick(
        load_model(model),
        load_system(system),
        deployment(model, system=os.fspath(system), **layout),
        workload(isl, osl, batch, prefill_batch, slo_ttft, slo_tpot, prefix_hit),
    )
