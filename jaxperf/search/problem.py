"""What is sought: an objective, limits, and which degrees, sizes and hardware fields may move and how far."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError, nearest
from ..load import Name, deployment, workload
from ..spec.library import find
from ..spec.model import Model, as_arrays, build_model
from ..spec.system import build_system
from .factors import SLOTS, field_value, powers
from .relax import LAYOUT, METRICS, UNLIMITED, Case

MOST_BATCH = 512
"""Largest batch that a search tries unless told otherwise."""

ALIASES = {
    "tokens_per_s_per_device": "output_tokens_per_s_per_device",
    "tokens_per_s": "output_tokens_per_s",
    "tokens_per_s_per_user": "output_tokens_per_s_per_user",
    "throughput": "output_tokens_per_s_per_device",
    "ttft": "ttft_s",
    "tpot": "tpot_s",
    "e2e": "e2e_s",
    "price": "price_per_million_tokens",
    "energy": "joules_per_token",
    "dp_attention": "attention_dp",
    "dp-attention": "attention_dp",
}
"""Short spellings of metrics and variables."""


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


def metric_name(text: str) -> str:
    """A metric's name from its name or a short spelling. **Raises** `InputError` with the nearest names."""
    name = ALIASES.get(text.strip(), text.strip())
    if name not in METRICS:
        raise InputError(f"no metric is called '{text.strip()}'; {nearest(text.strip(), [*METRICS, *ALIASES])}")
    return name


def parse_constraint(text: str) -> tuple[str, bool, float]:
    """`tpot_s<0.03` as (metric, is an upper limit, value). **Raises** `InputError` that says what is expected."""
    match = re.fullmatch(r"\s*([\w.\-]+)\s*(<=|>=|<|>)\s*(\S+)\s*", text)
    try:
        value = float(match[3]) if match else math.nan
    except ValueError:
        value = math.nan
    if match is None or not (math.isfinite(value) and value > 0):
        raise InputError(f"'{text}' is no constraint; expected a metric, < or >, and a number above 0: 'tpot_s<0.03'")
    return metric_name(match[1]), match[2].startswith("<"), value


def parse_free(text: str) -> tuple[str, tuple[float, float] | None]:
    """`batch` or `batch=1:256` as (variable, bounds). **Raises** `InputError` for bounds that are none."""
    name, equals, bounds = text.strip().partition("=")
    name = ALIASES.get(name.strip(), name.strip())
    if not equals:
        return name, None
    try:
        low, high = (float(part) for part in bounds.split(":"))
    except ValueError:
        raise InputError(f"'{text}': expected bounds as {name}=LOW:HIGH") from None
    if not 0 < low <= high or not math.isfinite(high):
        raise InputError(f"'{text}': bounds {low:g}:{high:g} are out of range; expected 0 < LOW <= HIGH")
    return name, (low, high)


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    return [n for n in range(1, number + 1) if number % n == 0]


def allowed_values(model: Model, devices: int, isl: float) -> dict[str, list[int]]:
    """Every value that each variable of `LAYOUT` may take: tp divides the heads, ep the experts, pp ≤ layers.

    **Arguments:** a `model` of plain numbers, the most `devices`, the prompt length `isl` [tokens] that caps a chunk.
    """
    groups = [group for group in model.groups if group.count]
    heads = [
        int(g.attention.state_value_heads if g.attention.linear else g.attention.query_heads)
        for g in groups
        if g.attention.present
    ]
    experts = [int(g.feed_forward.experts) for g in groups if g.feed_forward.experts]
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
    if objective == "price_per_million_tokens" and document["device"]["price_per_hour_USD"] is None:
        raise InputError(f"{system_spec.name} states no price; set device.price_per_hour_USD in a spec of your own")
    if objective == "joules_per_token" and document["device"]["tdp_W"] is None:
        raise InputError(f"{system_spec.name} states no power; set device.tdp_W in a spec of your own")
    devices = int(document["devices"] if max_devices is None else max_devices)
    if devices < 1:
        raise InputError(f"max_devices: {devices} is out of range; choose a whole number from 1")
    devices = min(devices, int(document["fabric"][-1]["devices"]))

    wanted = dict(parse_free(text) for text in free)
    fixed = {name: int(layout.get(name) or 1) for name in LAYOUT[:5]}
    fixed |= {"batch": int(batch), "chunk": int(min(layout.get("chunk") or isl, isl))}
    choices = {}
    for name, allowed in allowed_values(plain, devices, isl).items():
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

    limits = [parse_constraint(text) for text in constraints]
    upper, lower = np.full(len(METRICS), UNLIMITED), np.full(len(METRICS), -UNLIMITED)
    for metric, is_upper, value in limits:
        index = list(METRICS).index(metric)
        side, tighter = (upper, min) if is_upper else (lower, max)
        side[index] = tighter(side[index], math.log(value))
    one_hot = np.zeros(len(METRICS))
    one_hot[list(METRICS).index(objective)] = METRICS[objective][1]
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
        objective=one_hot,
        upper=upper,
        lower=lower,
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
