"""What a scan is asked to keep, as a list of reductions."""

from __future__ import annotations

from dataclasses import dataclass

from .inputs import axis_sizes
from .pareto import Pareto
from .pareto3 import Pareto3
from .plan import Prepared
from .reduce import Best, Counts, Reduction
from .space import check_stated
from .spread import Histogram, Marginals, Top


@dataclass(frozen=True)
class Keep:
    """What to keep of each group beside counts by reason: the exact `frontier` of the objectives, or without it only
    the best of each; the `top` best rows of each objective; `quantiles` of metrics; the best by axis value
    (`marginals`). Nothing that is not asked for costs anything."""

    frontier: bool = True
    top: int = 0
    quantiles: tuple[str, ...] = ()
    marginals: bool = False


def reductions(prepared: Prepared, keep: Keep) -> tuple[Reduction, ...]:
    """The reductions that give what is to be kept. **Raises** `InputError` for a metric that no system can have."""
    objectives = prepared.space.objectives
    for metric in keep.quantiles:
        check_stated(prepared.space, metric, "quantiles")
    found: list[Reduction] = [Counts()]
    if not keep.frontier:
        found.append(Best(objectives))
    elif len(objectives) == 2:
        found.append(Pareto((objectives[0], objectives[1])))
    else:
        found.append(Pareto3((objectives[0], objectives[1], objectives[2])))
    if keep.top:
        found += [Top(metric, keep.top) for metric in objectives]
    found += [Histogram(metric) for metric in keep.quantiles]
    if keep.marginals:
        found.append(Marginals(objectives, axis_sizes(prepared)))
    return tuple(found)
