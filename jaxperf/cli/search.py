"""`jaxperf search`: the best layout, batch and hardware for an objective under limits."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .common import Configuration, add_configuration, read_configuration, whole
from .output import compile_cache, console, print_json, table
from .values import positive

if TYPE_CHECKING:
    from ..search import Found, SearchResult

FREE = "tp,pp,ep,batch"
SHORT = {"attention_dp": "dpa", "batch": "b", "chunk": "c"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.description = "Find the best layout, batch and hardware: gradients first, then exact scores of what is near."
    add_configuration(parser)
    goal = parser.add_argument_group("goal")
    goal.add_argument(
        "--objective",
        default="output_tokens_per_s_per_device",
        metavar="METRIC",
        help="such as tokens_per_s_per_device (the default), tpot_s, ttft_s, price_per_million_tokens",
    )
    goal.add_argument(
        "--constraint", action="append", default=[], metavar="TEXT", help="such as 'tpot_s<0.03'; may be repeated"
    )
    goal.add_argument("--max-devices", type=whole(), metavar="N", help="devices of an instance (default: the system's)")
    goal.add_argument(
        "--free",
        default=FREE,
        metavar="LIST",
        help=f"what may move, bounds as batch=1:256 (default {FREE}; also cp, attention_dp, chunk and fields of the "
        "system such as device.memory.hbm.bandwidth_GBps)",
    )
    goal.add_argument("--budget", type=positive, metavar="X", help="what the fields with a cost may cost together")
    goal.add_argument(
        "--cost", action="append", default=[], metavar="FIELD=X", help="cost of a unit of a free field; may be repeated"
    )
    effort = parser.add_argument_group("effort")
    effort.add_argument("--restarts", type=whole(high=4096), default=64, metavar="N", help="starts (default 64)")
    effort.add_argument(
        "--steps", type=whole(high=10_000), default=120, metavar="N", help="gradient steps (default 120)"
    )
    effort.add_argument("--seed", type=whole(low=0), default=0, metavar="N", help="of the starts (default 0)")
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="one JSON object on stdout")


def question_of(configuration: Configuration) -> dict[str, Any]:
    """The keyword arguments that `jaxperf.search` and its siblings share, from a checked configuration."""
    engine = configuration.engine
    return dict(
        isl=configuration.isl,
        osl=configuration.osl,
        batch=configuration.batch,
        chunk=configuration.chunk,
        weights=configuration.weights,
        kv=configuration.kv,
        engine=None if engine is None else engine.path,
        efficiency=configuration.efficiency,
        **configuration.layout,
    )


def read_costs(texts: list[str]) -> dict[str, float] | None:
    """`FIELD=COST` texts as a table. **Raises** `InputError` for a text that is none."""
    costs = {}
    for text in texts:
        path, _, value = text.partition("=")
        try:
            costs[path.strip()] = float(value)
        except ValueError:
            raise InputError(f"--cost: '{text}' is no cost; expected FIELD=NUMBER") from None
    return costs or None


def run(arguments: argparse.Namespace) -> int:
    """Search and print the best point found.

    **Raises** `InputError` for a question that makes no sense, `InfeasibleError` where nothing meets the limits.
    """
    free = [text for text in arguments.free.split(",") if text.strip()]
    configuration = read_configuration(arguments)
    compile_cache()
    from ..search import search

    result = search(
        configuration.model.path,
        configuration.system.path,
        objective=arguments.objective,
        constraints=arguments.constraint,
        free=free,
        max_devices=arguments.max_devices,
        budget=arguments.budget,
        costs=read_costs(arguments.cost),
        slo_ttft=configuration.slo_ttft,
        slo_tpot=configuration.slo_tpot,
        restarts=arguments.restarts,
        steps=arguments.steps,
        seed=arguments.seed,
        **question_of(configuration),
    )
    if arguments.json:
        print_json(describe(result))
    else:
        show(result)
    return 0


def describe(result: SearchResult) -> dict:
    """The JSON form of a result."""
    problem = result.problem
    return {
        "model": problem.model,
        "system": problem.system,
        "objective": problem.objective,
        "constraints": list(problem.limits),
        "max_devices": problem.max_devices,
        "free": list(problem.free),
        "best": asdict(result.best),
        "runners_up": [asdict(found) for found in result.runners_up],
        "evaluations": result.evaluations,
        "gradients": result.gradients,
        "wall_s": result.wall_s,
    }


def show(result: SearchResult) -> None:
    """Print the best point and the best other layouts as tables."""
    from .estimate_tables import duration, figure

    problem, out = result.problem, console()
    goal = "least" if problem.sign > 0 else "most"
    limits = "".join(f", {text}" for text in problem.limits)
    out.print(
        f"{problem.model} on at most {problem.max_devices} of {problem.system}: {goal} {problem.objective}{limits}",
        markup=False,
    )
    answers = [result.best, *result.runners_up]
    names = [name for name in result.best.layout if name in problem.free or any(f.layout[name] > 1 for f in answers)]
    names = [name for name in names if name != "chunk" or "chunk" in problem.free]
    made = table("layout", "TTFT", "TPOT", "tok/s/dev", "memory")
    for found in answers:
        layout = " ".join(f"{SHORT.get(name, name)}{found.layout[name]}" for name in names)
        made.add_row(layout, *_row(found, duration, figure))
    out.print(made)
    if problem.paths:
        fields = table("field", "today", "best")
        for path, now in zip(problem.paths, problem.current, strict=True):
            fields.add_row(path, figure(now), figure(result.best.hardware[path]))
        out.print(fields)
    out.print(
        f"{problem.objective} {figure(result.best.value)}; {result.evaluations:,} exact evaluations, "
        f"{result.gradients:,} gradients, {duration(result.wall_s)}",
        markup=False,
    )


def _row(found: Found, duration: Any, figure: Any) -> list[str]:
    metrics = found.metrics
    used = metrics["memory_bytes"] / metrics["capacity_bytes"]
    tokens = figure(metrics["output_tokens_per_s_per_device"])
    return [duration(metrics["ttft_s"]), duration(metrics["tpot_s"]), tokens, f"{used:.0%}"]
