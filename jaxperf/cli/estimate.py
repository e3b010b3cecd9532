"""`jaxperf estimate`: one configuration, as tables or as JSON."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .breakdown_rows import PARTS, device_facts, numbers, phase_rows
from .common import Configuration, add_configuration, build, print_json, read_configuration
from .engine_options import add_engine_options
from .pair import add_pair, check_pair
from .prefix import add_prefix, describe_prefix
from .remarks import approximations, explain, remarks
from .speculation import (
    Drafting,
    add_speculation,
    describe_round,
    draft_remarks,
    price_round,
    read_drafting,
    too_long_for_draft,
)
from .split import add_split, check_split

if TYPE_CHECKING:
    from ..phases.breakdown import Columns
    from ..phases.end_to_end import Metrics
    from . import Parser


CLOSED_FORM = (
    "memory_s",
    "compute_s",
    "network_s",
    "network_over_compute",
    "memory_over_compute",
    "classification",
    "optimal_tokens_per_s_per_device",
)
"""What `--closed-form` prints of `jaxperf.closed_form.iteration`."""


def configure(parser: Parser) -> None:
    """Add the options of the verb."""
    parser.quoted = ("--compare", "--decode")
    add_configuration(parser)
    add_engine_options(parser)
    add_speculation(parser)
    add_prefix(parser)
    add_pair(parser)
    add_split(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--breakdown", action="store_true", help="time, work and bound of every operator")
    output.add_argument("--closed-form", action="store_true", help="the first-look closed forms in place of the model")
    changes = "set beside it the same with other options, such as 'weights=int4 tp=4'; repeatable"
    output.add_argument("--compare", action="append", metavar="OPTIONS", help=changes)
    output.add_argument("--json", action="store_true", help="one JSON object on stdout, breakdown included")


def run(arguments: argparse.Namespace) -> int:
    """Price the configuration and print it; 1 where it is infeasible.

    **Raises** `InputError` for a name, a layout or a number that is wrong.
    """
    check_pair(arguments)
    check_split(arguments)
    if arguments.decode is not None:
        from .pair_result import run_pair

        return run_pair(arguments)
    if arguments.gpu_layers is not None:
        from .split_result import run_split

        return run_split(arguments)
    if arguments.compare:
        from .estimate_compare import run_comparison

        return run_comparison(arguments)
    configuration = read_configuration(arguments)
    drafting = read_drafting(arguments, configuration)
    if arguments.closed_form:
        result = closed_form(configuration)
    elif drafting is not None:
        result = describe_drafting(configuration, drafting, arguments.json or arguments.breakdown)
    else:
        [(metrics, phases)] = price([configuration], arguments.json or arguments.breakdown)
        result = describe(configuration, metrics, phases)
    if arguments.prefix_hit is not None and not arguments.closed_form:
        result["prefix"] = numbers(describe_prefix(configuration))
    if arguments.json:
        print_json(result)
    else:
        from . import estimate_tables

        estimate_tables.show(configuration, result)
    return 0 if result.get("feasible", True) else 1


def price(configurations: list[Configuration], rows: bool) -> list[tuple[Metrics, dict[str, Columns] | None]]:
    """`Metrics` and, where `rows` are wanted, the breakdown of each configuration, as numbers on the host.

    A breakdown that nobody reads is not traced.
    """
    from .output import compile_cache

    compile_cache()
    pytrees = [build(configuration) for configuration in configurations]

    from ..phases.breakdown import breakdown_columns
    from ..phases.end_to_end import evaluate
    from .stored import stored

    def compute(function: Any) -> list[Any]:
        program = stored(function, function.__name__)
        return [program(*arguments) for arguments in pytrees]

    if not rows:
        return [(metrics, None) for metrics in compute(evaluate)]
    return list(zip(compute(evaluate), compute(breakdown_columns), strict=True))


def describe(configuration: Configuration, metrics: Metrics, phases: dict[str, Columns] | None) -> dict:
    """Everything about one priced configuration, as `--json` prints it: seconds, bytes, rates per second."""
    from ..phases.end_to_end import BOUNDS

    m, memory = metrics, metrics.memory
    document: dict[str, Any] = {
        "model": configuration.model.name,
        "system": configuration.system.name,
        "feasible": bool(m.feasible),
        "reason": None if m.feasible else explain(configuration, metrics),
        "deployment": {
            **configuration.layout,
            "devices": configuration.devices,
            "precision": configuration.precision,
            "chunk": configuration.chunk,
            "engine": None if configuration.engine is None else configuration.engine.name,
            "efficiency": configuration.efficiency,
            "calibration_report": configuration.report,
        },
        "device": device_facts(configuration.system),
        "workload": {
            "isl": configuration.isl,
            "osl": configuration.osl,
            "batch": configuration.batch,
            "prefill_batch": configuration.prefill_batch,
            "slo_ttft_s": configuration.slo_ttft,
            "slo_tpot_s": configuration.slo_tpot,
        },
        "metrics": {
            "ttft_s": m.ttft,
            "tpot_s": m.tpot,
            "e2e_s": m.e2e,
            "prefill_s": m.prefill.time,
            "decode_step_s": m.decode.time,
            "output_tokens_per_s": m.output_tokens_per_s,
            "output_tokens_per_s_per_device": m.output_tokens_per_s_per_device,
            "output_tokens_per_s_per_user": m.output_tokens_per_s_per_user,
            "decode_tokens_per_s": m.decode_tokens_per_s,
            "requests_per_s": m.requests_per_s,
            "mfu": m.mfu,
            "mbu": m.mbu,
            "max_batch": m.max_batch,
            "usd_per_million_tokens": m.price_per_million_tokens,
            "joules_per_token": m.joules_per_token,
        },
        "memory": {
            "weights_bytes": memory.weights,
            "kv_cache_bytes": memory.kv_cache,
            "activations_bytes": memory.activations,
            "reserve_bytes": memory.reserve,
            "total_bytes": memory.total,
            "capacity_bytes": memory.capacity,
            "usable_bytes": memory.usable,
            "kv_pressure": memory.kv_pressure,
            "max_context_tokens": memory.max_context,
            "tiers": [
                {"name": name, "weights_bytes": weights, "kv_cache_bytes": kv_cache}
                for name, weights, kv_cache in zip(
                    configuration.system.document["device"]["memory"],
                    m.residency.weights,
                    m.residency.kv_cache,
                    strict=False,
                )
            ],
        },
        "bound": {"prefill": BOUNDS[int(m.prefill_bound)], "decode": BOUNDS[int(m.decode_bound)]},
        "parts": {
            phase: {f"{part}_s": getattr(cost, part) for part in PARTS}
            for phase, cost in (("prefill", m.prefill), ("decode", m.decode))
        },
        "approximations": approximations(configuration) + remarks(m),
    }
    if phases is not None:
        document["breakdown"] = [row for name, columns in phases.items() for row in phase_rows(name, columns)]
    return numbers(document)


def describe_drafting(configuration: Configuration, drafting: Drafting, rows: bool) -> dict:
    """`describe` with speculative decoding on, and what it does under `speculative`."""
    found, phases = price_round(configuration, drafting, rows)
    document = describe(configuration, found.metrics, phases)
    too_long = too_long_for_draft(configuration, drafting)
    if too_long is not None and found.metrics.memory.overflow <= 0:
        document["reason"] = too_long
    document["approximations"] += draft_remarks(configuration, drafting)
    return document | {"speculative": numbers(describe_round(configuration, drafting, found))}


def closed_form(configuration: Configuration) -> dict:
    """The closed forms for a first look at one decode iteration, as JSON: seconds, ratios, tokens per second."""
    pytrees = build(configuration)
    from ..closed_form import iteration

    model, system, deployment, workload = pytrees
    found = iteration(model, system, deployment, workload.batch)
    return {
        "model": configuration.model.name,
        "system": configuration.system.name,
        "closed_form": numbers({name: getattr(found, name) for name in CLOSED_FORM}),
    }
