"""What is sought: an objective, limits, and which degrees, sizes and hardware fields may move and how far."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError, nearest
from ..load import Name, deployment, workload
from ..spec.documents.engine import redundant_experts
from ..spec.library import Spec, find
from ..spec.model import Model, as_arrays, build_model
from ..spec.system import build_system
from .factors import SLOTS, field_value, powers
from .parse import metric_name, parse_constraint, parse_free
from .relax import LAYOUT, METRICS, UNLIMITED, Case

MOST_BATCH = 512
"""Largest batch that a search tries unless told otherwise."""


@dataclass(frozen=True)
class Problem:
    """A search problem on the host. `choices` gives every variable of `LAYOUT` its allowed values, ascending (one value
    where it is fixed); `paths` the free hardware fields with their `current` values and the `low` and `high` multiples
    allowed; `costs` what a unit of each costs out of `budget` (None: no budget); `case` the arrays of the kernels."""

    model: str
    system: str
    objective: str
    limits: tuple[str, ...]
    max_devices: int
    choices: dict[str, tuple[int, ...]]
    paths: tuple[str, ...]
    current: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    costs: tuple[float, ...] | None
    budget: float | None
    case: Case

    @property
    def sign(self) -> int:
        """1 where less of the objective is better, −1 where more is."""
        return METRICS[self.objective][1]

    @property
    def free(self) -> tuple[str, ...]:
        """Names of what may move."""
        return tuple(name for name, allowed in self.choices.items() if len(allowed) > 1) + self.paths


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    return [n for n in range(1, number + 1) if number % n == 0]


def allowed_values(model: Model, devices: int, isl: float, redundant: int = 0) -> dict[str, list[int]]:
    """Every value that each variable of `LAYOUT` may take: tp divides the heads, ep the experts, pp ≤ layers.

    **Arguments:** a `model` of plain numbers, the most `devices`, the prompt length `isl` [tokens] that caps a chunk,
    and `redundant` copies of experts.
    """
    groups = [group for group in model.groups if group.count]
    heads = [
        int(g.attention.state_value_heads if g.attention.linear else g.attention.query_heads)
        for g in groups
        if g.attention.present
    ]
    experts = [int(g.feed_forward.experts) + redundant for g in groups if g.feed_forward.experts]
    whole = list(range(1, devices + 1))
    prompt = max(int(isl), 1)
    chunks = {2**power for power in range(7, prompt.bit_length()) if 2**power < prompt} | {prompt}
    return {
        "tp": [n for n in divisors(math.gcd(*heads)) if n <= devices] if heads else whole,
        "pp": [n for n in whole if n <= model.layers],
        "ep": [n for n in divisors(math.gcd(*experts)) if n <= devices] if experts else [1],
        "cp": whole,
        "attention_dp": whole,
        "batch": list(range(1, MOST_BATCH + 1)),
        "chunk": sorted(chunks),
    }


def define(
    model: Name,
    system: Name,
    *,
    objective: str = "output_tokens_per_s_per_device",
    constraints: Iterable[str] = (),
    free: Iterable[str] = ("tp", "pp", "ep", "batch"),
    max_devices: int | None = None,
    budget: float | None = None,
    costs: Mapping[str, float] | None = None,
    isl: float = 1024,
    osl: float = 1024,
    batch: int = 1,
    slo_ttft: float | None = None,
    slo_tpot: float | None = None,
    **layout: Any,
) -> Problem:
    """A validated `Problem`.

    **Arguments:**

    - `objective`: a metric of `METRICS`; times, price and energy are minimised, rates are maximised.
    - `constraints`: texts such as `tpot_s<0.03`.
    - `free`: `tp, pp, ep, cp, attention_dp, batch, chunk` and paths of the system's fields, each with bounds where
      wanted: `batch=1:256`, `device.memory.hbm.bandwidth_GBps=1000:8000` (by default a quarter to four times).
    - `max_devices` of the instance (by default the system's); `budget` shared by the fields in `costs` (path → cost of
      a unit).
    - lengths [tokens], `batch`, targets [s]; further arguments as in `jaxperf.deployment`, degrees that are not free
      among them.

    **Raises** `InputError` for names and values that make no sense.
    """
    model_spec, system_spec = find("model", model), find("system", system)
    plain, document = build_model(model_spec.document), system_spec.document
    objective = metric_name(objective)
    _check_stated(objective, system_spec)
    devices = int(document["devices"] if max_devices is None else max_devices)
    if devices < 1:
        raise InputError(f"max_devices: {devices} is out of range; choose a whole number from 1")
    devices = min(devices, int(document["fabric"][-1]["devices"]))

    wanted = dict(parse_free(text) for text in free)
    fixed = {name: int(layout.get(name) or 1) for name in LAYOUT[:5]}
    fixed |= {"batch": int(batch), "chunk": int(min(layout.get("chunk") or isl, isl))}
    engine = None if layout.get("engine") is None else find("engine", layout["engine"]).document
    copies = redundant_experts(engine, layout.get("settings"))
    choices = {}
    for name, allowed in allowed_values(plain, devices, isl, copies).items():
        choices[name] = (
            _choose(name, allowed, fixed[name], wanted.pop(name, None)) if name in wanted else (fixed[name],)
        )
    paths = tuple(wanted)
    for path in paths:
        if "." not in path:
            raise InputError(f"'{path}' cannot be free; {nearest(path, LAYOUT)} (or a path of the system's fields)")
    current = tuple(field_value(document, path) for path in paths)
    bounds = [wanted[path] or (value / 4, value * 4) for path, value in zip(paths, current, strict=True)]
    _check_budget(paths, budget, costs)

    budgeted, full = np.zeros(SLOTS), np.zeros(SLOTS)
    for index, (path, value) in enumerate(zip(paths, current, strict=True)):
        if budget is not None and costs and path in costs:
            budgeted[index], full[index] = 1.0, math.log(budget / (costs[path] * value))
    case = Case(
        model=plain,
        system=build_system(document),
        exponents=powers(document, build_system, paths, SLOTS),
        deployment=deployment(model, system=os.fspath(system), **{k: v for k, v in layout.items() if k != "chunk"}),
        workload=workload(isl, osl, batch, 1, slo_ttft, slo_tpot),
        **_limits(objective, constraints),
        devices=float(devices),
        budgeted=budgeted,
        full=full,
    )
    return Problem(
        model=model_spec.name,
        system=system_spec.name,
        objective=objective,
        limits=tuple(constraints),
        max_devices=devices,
        choices=choices,
        paths=paths,
        current=current,
        low=tuple(low / value for (low, _), value in zip(bounds, current, strict=True)),
        high=tuple(high / value for (_, high), value in zip(bounds, current, strict=True)),
        costs=None if budget is None or costs is None else tuple(costs.get(path, 0.0) for path in paths),
        budget=budget,
        case=as_arrays(case),
    )


def _limits(objective: str, constraints: Iterable[str]) -> dict[str, np.ndarray]:
    """The objective and the limits as the arrays of a `Case`."""
    names = list(METRICS)
    upper, lower = np.full(len(names), UNLIMITED), np.full(len(names), -UNLIMITED)
    for metric, is_upper, value in map(parse_constraint, constraints):
        index = names.index(metric)
        if is_upper:
            upper[index] = min(upper[index], math.log(value))
        else:
            lower[index] = max(lower[index], math.log(value))
    one_hot = np.zeros(len(names))
    one_hot[names.index(objective)] = METRICS[objective][1]
    return {"objective": one_hot, "upper": upper, "lower": lower}


def _check_stated(objective: str, system: Spec) -> None:
    device = system.document["device"]
    for metric, key, what in (
        ("price_per_million_tokens", "price_per_hour_USD", "price"),
        ("joules_per_token", "tdp_W", "power"),
    ):
        if objective == metric and device[key] is None:
            raise InputError(f"{system.name} states no {what}; set device.{key} in a spec of your own")


def _choose(name: str, allowed: list[int], fixed: int, bounds: tuple[float, float] | None) -> tuple[int, ...]:
    """The allowed values inside the bounds; a batch may go beyond the default range when bounds say so."""
    if bounds is None:
        return tuple(allowed)
    low, high = bounds
    if name == "batch":
        allowed = list(range(max(math.ceil(low), 1), math.floor(high) + 1))
    inside = tuple(value for value in allowed if low <= value <= high)
    if not inside:
        raise InputError(f"{name}={low:g}:{high:g} holds no allowed value; allowed are {allowed[:12]}")
    return inside


def _check_budget(paths: tuple[str, ...], budget: float | None, costs: Mapping[str, float] | None) -> None:
    if (budget is None) != (not costs):
        raise InputError("a budget needs the cost of a unit of each field that shares it, and costs need a budget")
    for path, cost in (costs or {}).items():
        if path not in paths:
            raise InputError(f"{path} has a cost but is not free; free are {', '.join(paths) or 'no hardware fields'}")
        if not (math.isfinite(cost) and cost > 0):
            raise InputError(f"{path}: a cost of {cost} is out of range; expected a number above 0")
    if budget is not None and not (math.isfinite(budget) and budget > 0):
        raise InputError(f"budget: {budget} is out of range; expected a number above 0")
