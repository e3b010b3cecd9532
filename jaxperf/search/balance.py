"""Hardware balance: how a fixed budget is best split between two figures of a device, such as bandwidth and FLOPs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..constants import DTYPE_FALLBACK, FORMATS
from ..errors import InfeasibleError, InputError
from ..load import Name
from ..spec.deployment import precision_document
from ..spec.library import find
from .factors import SLOTS, field_value
from .problem import Problem, define
from .relax import LAYOUT
from .round import WIDTH
from .run import Found, describe, why_not
from .solve import score, slopes

_TEMPERATURE = 0.02  # of the relaxation at which marginal values are taken: exact ones jump at every roofline's kink


@dataclass(frozen=True)
class Balance:
    """The balance point. By the path of a field: `values` in the spec's unit, `shares` of the budget, `elasticities` of
    the objective (d log objective / d log value), `marginals`, the relative gain from one more percent of the budget
    spent there: elasticity over share, equal at the optimum.

    `found` is what the system does there, `grid_share` the first field's share at the best point of a fine exact grid,
    `grid_value` the objective there, `today` the objective of the system as it is.
    """

    objective: str
    budget: float
    values: dict[str, float]
    shares: dict[str, float]
    elasticities: dict[str, float]
    marginals: dict[str, float]
    found: Found = field(repr=False)
    grid_share: float
    grid_value: float
    today: float
    problem: Problem = field(repr=False)


def default_fields(model: Name, system: Name, weights: str | None = None) -> tuple[str, str]:
    """Paths of the main memory's bandwidth and of the peak that the model's feed-forward weights run at."""
    document = find("system", system).document
    device = document["device"]
    formats = precision_document(find("model", model).document["precision"], weights)
    wanted = FORMATS[formats["feed_forward"]].dtype
    given = device["peak_TFLOPS"]
    runs_as = next((dtype for dtype in DTYPE_FALLBACK[wanted] if given.get(dtype)), wanted)
    return f"device.memory.{device['main_memory']}.bandwidth_GBps", f"device.peak_TFLOPS.{runs_as}"


def balance(
    model: Name,
    system: Name,
    *,
    budget: float = 1.0,
    costs: Mapping[str, float] | None = None,
    objective: str = "output_tokens_per_s_per_device",
    **question: Any,
) -> Balance:
    """The best split of a budget between two fields of the hardware, `Σ cost·value = budget`, at a fixed layout.

    At the optimum both fields' marginal values are equal. Their difference falls as the first field's share grows, so
    its root is found by bisection on gradients.

    **Arguments:** `costs` of a unit of each of two fields, by path. By default main-memory bandwidth and the peak in
    use, each at half of a budget of 1 as the system is today, so that `budget=2` doubles it. The `question` as in
    `jaxperf.search.problem.define`: `isl`, `osl`, `batch`, `tp`, ...

    **Raises** `InputError` for fields, costs or a budget that make no sense, `InfeasibleError` where the model does not
    fit.
    """
    if costs is None:
        document = find("system", system).document
        paths = default_fields(model, system, question.get("weights"))
        costs = {path: 0.5 / field_value(document, path) for path in paths}
    if len(costs) != 2:
        raise InputError(f"a balance is between two fields, but {len(costs)} have costs")
    problem = define(
        model, system, objective=objective, free=list(costs), budget=budget, costs=costs, max_devices=10**6, **question
    )
    still = np.array([problem.choices[name][0] for name in LAYOUT] + [0.0] * SLOTS, float)
    if score(problem.case, still[None])[0, 1] > 0:
        raise InfeasibleError(why_not(problem, still))

    low, high = 1e-4, 1 - 1e-4
    for _ in range(40):
        share = (low + high) / 2
        gains = _marginals(problem, _split(problem, still, share))
        low, high = (share, high) if gains[0] > gains[1] else (low, share)
    point = _split(problem, still, share)
    shares, gains = np.array([share, 1 - share]), _marginals(problem, point)
    grid_share, grid_value = grid(problem, still)
    found = describe(problem, point)
    return Balance(
        objective=problem.objective,
        budget=budget,
        values=found.hardware,
        shares=_by_path(problem, shares),
        elasticities=_by_path(problem, -problem.sign * gains * shares),
        marginals=_by_path(problem, gains),
        found=found,
        grid_share=grid_share,
        grid_value=grid_value,
        today=describe(problem, still).value,
        problem=problem,
    )


def grid(problem: Problem, point: np.ndarray, count: int = 2000) -> tuple[float, float]:
    """The best of `count` splits by exact scores: the first field's share of the budget, and the objective there."""
    splits = (np.arange(count) + 0.5) / count
    values = score(problem.case, np.stack([_split(problem, point, share) for share in splits]))[:, 0]
    best = int(np.argmin(values))
    return float(splits[best]), math.exp(problem.sign * float(values[best]))


def _by_path(problem: Problem, values: np.ndarray) -> dict[str, float]:
    return dict(zip(problem.paths, map(float, values), strict=True))


def _split(problem: Problem, point: np.ndarray, share: float) -> np.ndarray:
    """The point with a share of the budget spent on the first field and the rest on the second."""
    moved = point.copy()
    moved[WIDTH : WIDTH + 2] = np.asarray(problem.case.full, float)[:2] + np.log([share, 1 - share])
    return moved


def _marginals(problem: Problem, point: np.ndarray) -> np.ndarray:
    """[2] relative gain of the objective from one more percent of the budget spent on each field, at cold τ."""
    logs = point[WIDTH : WIDTH + 2]
    shares = np.exp(logs - np.asarray(problem.case.full, float)[:2])
    _, jacobian = slopes(problem.case, np.concatenate([np.log2(point[:WIDTH]), point[WIDTH:]]), _TEMPERATURE)
    weights = np.asarray(problem.case.objective, float)
    return -(jacobian[WIDTH : WIDTH + 2, : len(weights)] @ weights) / shares
