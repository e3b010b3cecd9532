"""`jaxperf estimate`: one configuration, as tables or as JSON."""

from __future__ import annotations

import argparse
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ..constants import UTILISATION
from .common import Configuration, add_configuration, build, print_json, read_configuration

if TYPE_CHECKING:
    from ..phases.breakdown import Columns
    from ..phases.end_to_end import Metrics


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

PARTS = ("compute", "memory", "network", "overhead")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    add_configuration(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--breakdown", action="store_true", help="time, work and bound of every operator")
    output.add_argument("--closed-form", action="store_true", help="the first-look closed forms in place of the model")
    output.add_argument("--json", action="store_true", help="one JSON object on stdout, breakdown included")


def run(arguments: argparse.Namespace) -> int:
    """Price the configuration and print it; 1 where it is infeasible.

    **Raises** `InputError` for a name, a layout or a number that is wrong.
    """
    configuration = read_configuration(arguments)
    if arguments.closed_form:
        result = closed_form(configuration)
    else:
        metrics, phases = price(configuration, arguments.json or arguments.breakdown)
        result = describe(configuration, metrics, phases)
    if arguments.json:
        print_json(result)
    else:
        from . import estimate_tables

        estimate_tables.show(configuration, result)
    return 0 if result.get("feasible", True) else 1


def price(configuration: Configuration, rows: bool) -> tuple[Metrics, dict[str, Columns] | None]:
    """`Metrics` and, where `rows` are wanted, the breakdown, as numbers on the host.

    The two are compiled beside each other, in threads; a breakdown that nobody reads is not compiled.
    """
    pytrees = build(configuration)
    import jax

    from ..compiling import quick
    from ..phases.breakdown import breakdown_columns
    from ..phases.end_to_end import evaluate

    def compute(function: Any) -> Any:
        return jax.device_get(quick(function)(*pytrees))

    if not rows:
        return compute(evaluate), None
    with ThreadPoolExecutor(2) as threads:
        metrics, phases = threads.map(compute, (evaluate, breakdown_columns))
    return metrics, phases


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
            "usable_bytes": utilisation(configuration) * memory.capacity,
        },
        "bound": {"prefill": BOUNDS[int(m.prefill_bound)], "decode": BOUNDS[int(m.decode_bound)]},
        "parts": {
            phase: {f"{part}_s": getattr(cost, part) for part in PARTS}
            for phase, cost in (("prefill", m.prefill), ("decode", m.decode))
        },
        "approximations": approximations(configuration),
    }
    if phases is not None:
        document["breakdown"] = [row for name, columns in phases.items() for row in _rows(name, columns)]
    return _numbers(document)


def explain(configuration: Configuration, metrics: Metrics) -> str:
    """Why a configuration is infeasible, and what would fit."""
    from ..phases.end_to_end import REASONS

    reason, memory = REASONS[int(metrics.reason)], metrics.memory
    if reason == "out of memory":
        usable = utilisation(configuration) * memory.capacity
        text = f"{reason}: {memory.total / 1e9:.1f} GB a device, of which {usable / 1e9:.1f} GB may be filled"
        if metrics.max_batch >= 1:
            return f"{text}; beside these activations a batch of {int(metrics.max_batch)} fits"
        return f"{text}; not one sequence fits: use more devices, narrower formats or shorter sequences"
    if reason == "longer than the model's context":
        limit = configuration.model.document["max_context_tokens"]
        tokens = configuration.isl + configuration.osl
        return f"{reason}: isl + osl is {tokens} tokens, {configuration.model.name} reads at most {limit}"
    for name, target, found in (
        ("TTFT", configuration.slo_ttft, metrics.ttft),
        ("TPOT", configuration.slo_tpot, metrics.tpot),
    ):
        if reason.startswith(name) and target is not None:
            return f"{reason}: {found * 1e3:.4g} ms, wanted at most {target * 1e3:.4g} ms"
    return reason


def utilisation(configuration: Configuration) -> float:
    """The share of a device's memory that the engine may fill."""
    return UTILISATION if configuration.engine is None else configuration.engine.document["memory_utilisation"]


def approximations(configuration: Configuration) -> list[str]:
    """What of the model or the system is priced only roughly today, a sentence each."""
    texts = []
    for spec in (configuration.model, configuration.system):
        if not spec.document["exact_today"]:
            texts.append(f"{spec.name}: {spec.document['approximation'] or 'priced by a first approximation today.'}")
    return texts


def closed_form(configuration: Configuration) -> dict:
    """The closed forms for a first look at one decode iteration, as JSON: seconds, ratios, tokens per second."""
    pytrees = build(configuration)
    from ..closed_form import iteration

    model, system, deployment, workload = pytrees
    found = iteration(model, system, deployment, workload.batch)
    return {
        "model": configuration.model.name,
        "system": configuration.system.name,
        "closed_form": _numbers({name: getattr(found, name) for name in CLOSED_FORM}),
    }


def _rows(phase: str, columns: Columns) -> list[dict]:
    """The rows of a phase that exist, as JSON: the first field of a row is how often it runs."""
    from ..phases.breakdown import split

    rows = []
    for name, row in split(columns).items():
        if row.count > 0:
            parts = [getattr(row, part) for part in PARTS]
            rows.append(
                {
                    "phase": phase,
                    "operator": name,
                    "count": row.count,
                    "flops": row.flops,
                    "bytes": row.bytes,
                    "time_s": row.time,
                    "intensity": row.flops / row.bytes if row.bytes > 0 else math.nan,
                    "bound": PARTS[parts.index(max(parts))],
                }
            )
    return rows


def _numbers(value: Any) -> Any:
    """Array scalars as Python numbers, whole ones as whole numbers where they count something."""
    if isinstance(value, dict):
        converted = {key: _numbers(item) for key, item in value.items()}
        for key in ("max_batch", "count"):
            if isinstance(converted.get(key), float):
                converted[key] = round(converted[key])
        return converted
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if hasattr(value, "dtype") else value
