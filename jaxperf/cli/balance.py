"""`jaxperf balance`: how a fixed budget is best split between two figures of a device."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .common import add_configuration, read_configuration
from .output import compile_cache, console, print_json, table
from .search import question_of, read_costs
from .sensitivity import label
from .values import positive

if TYPE_CHECKING:
    from ..search import Balance


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.description = (
        "The best split of a budget between two fields of the hardware, by default memory bandwidth and the peak in "
        "use, for one layout and workload. At the balance point one more unit of budget gains the same on both sides."
    )
    add_configuration(parser)
    goal = parser.add_argument_group("budget")
    goal.add_argument(
        "--budget",
        type=positive,
        default=1.0,
        metavar="X",
        help="to spend; without --cost 1 is today's design (default)",
    )
    goal.add_argument(
        "--cost", action="append", default=[], metavar="FIELD=X", help="cost of a unit of a field; give two (or none)"
    )
    goal.add_argument("--objective", default="output_tokens_per_s_per_device", metavar="METRIC", help="what is sought")
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(arguments: argparse.Namespace) -> int:
    """Find and print the balance point.

    **Raises** `InputError` for fields or costs that make no sense, `InfeasibleError` where the model does not fit.
    """
    configuration = read_configuration(arguments)
    costs = read_costs(arguments.cost)
    compile_cache()
    from ..search import balance

    found = balance(
        configuration.model.path,
        configuration.system.path,
        budget=arguments.budget,
        costs=costs,
        objective=arguments.objective,
        **question_of(configuration),
    )
    if arguments.json:
        print_json(describe(found))
    else:
        show(found)
    return 0


def describe(found: Balance) -> dict:
    """The JSON form of a balance."""
    names = [
        "objective",
        "budget",
        "values",
        "shares",
        "elasticities",
        "marginals",
        "grid_share",
        "grid_value",
        "today",
    ]
    return {
        "model": found.problem.model,
        "system": found.problem.system,
        **{name: getattr(found, name) for name in names},
        "value": found.found.value,
        "metrics": found.found.metrics,
    }


def show(found: Balance) -> None:
    """Print the balance point as a table."""
    from .estimate_tables import figure

    out, problem = console(), found.problem
    out.print(f"{problem.model} on {problem.system}, a budget of {figure(found.budget)}", markup=False)
    made = table("field", "today", "balance", "share", "marginal")
    for path, now in zip(problem.paths, problem.current, strict=True):
        made.add_row(
            label(path),
            figure(now),
            figure(found.values[path]),
            f"{found.shares[path]:.1%}",
            f"{found.marginals[path]:.3f}",
        )
    out.print(made)
    out.print(
        f"{found.objective}: {figure(found.today)} today, {figure(found.found.value)} at the balance point "
        f"({figure(found.grid_value)} at the best split of an exact grid, {found.grid_share:.1%}).",
        markup=False,
    )
