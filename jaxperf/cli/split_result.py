"""Layers split over a GPU and its host: priced, and as `estimate --gpu-layers --json` prints it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .breakdown_rows import numbers
from .common import Configuration, build, print_json
from .output import compile_cache
from .remarks import approximations, explain_limits
from .split import Splitting, read_split

if TYPE_CHECKING:
    from ..phases.split import Spent, Split

PLACES = ("gpu", "cpu", "bus", "runtime")
"""Where the time of a phase goes; the largest part is its bound."""


def run_split(arguments: argparse.Namespace) -> int:
    """Price every number of layers on the GPU and print them; 1 where none of them is feasible.

    **Raises** `InputError` for options that are wrong.
    """
    asked = read_split(arguments)
    result = describe_split(asked)
    if arguments.json:
        print_json(result)
    else:
        from .split_tables import show

        show(asked, result)
    return 0 if result["feasible"] else 1


def describe_split(asked: Splitting) -> dict[str, Any]:
    """Every split asked for, as JSON: seconds, bytes, tokens per second."""
    compile_cache()
    from ..phases.split import Bus, layer_split
    from ..spec.model import as_arrays
    from .stored import stored

    model, gpu, how, workload = build(asked.gpu)
    _, host, how_there, _ = build(asked.host)
    price, bus = stored(layer_split, "layer_split"), as_arrays(Bus(asked.bus.latency, asked.bus.bandwidth))
    found = [price(model, gpu, host, how, how_there, workload, as_arrays(layers), bus) for layers in asked.layers]
    splits = [_row(asked, layers, one) for layers, one in zip(asked.layers, found, strict=True)]
    first = asked.gpu
    return numbers(
        {
            "model": first.model.name,
            "system": first.system.name,
            "host": asked.host.system.name,
            "feasible": any(split["feasible"] for split in splits),
            "reason": None if any(split["feasible"] for split in splits) else splits[0]["reason"],
            "layers": asked.model_layers,
            "deployment": {
                "precision": first.precision,
                "chunk": first.chunk,
                "engine": None if first.engine is None else first.engine.name,
                "efficiency": {"gpu": first.efficiency, "host": asked.host.efficiency},
            },
            "workload": {
                "isl": first.isl,
                "osl": first.osl,
                "batch": first.batch,
                "prefill_batch": first.prefill_batch,
                "slo_ttft_s": first.slo_ttft,
                "slo_tpot_s": first.slo_tpot,
            },
            "bus": asked.bus.document(),
            "splits": splits,
            "approximations": list(dict.fromkeys(approximations(first) + approximations(asked.host) + remarks(asked))),
        }
    )


def remarks(asked: Splitting) -> list[str]:
    """What of a split is priced roughly, a sentence each."""
    texts, host = [], asked.host.system.name
    if asked.host_at_bound:
        factors = "the default factors are those of GPUs; --efficiency names others for both"
        texts.append(f"{host} is priced at its physical bound: {factors}")
    if min(asked.layers) < asked.model_layers:
        texts.append(
            "the host computes its layers of a prompt itself; for a long one, llama.cpp may copy them to the GPU"
        )
    return texts


def _row(asked: Splitting, layers: int, found: Split) -> dict[str, Any]:
    """One split as JSON."""
    phases = {"prefill": found.prefill, "decode": found.decode}
    return {
        "gpu_layers": layers,
        "feasible": bool(found.feasible),
        "reason": None if found.feasible else _reason(asked.gpu, found),
        "metrics": {
            "ttft_s": found.ttft,
            "tpot_s": found.tpot,
            "e2e_s": found.e2e,
            "output_tokens_per_s_per_user": found.output_tokens_per_s_per_user,
        },
        "memory": {
            "gpu_bytes": found.gpu_bytes,
            "gpu_usable_bytes": found.gpu_usable,
            "host_bytes": found.cpu_bytes,
            "host_usable_bytes": found.cpu_usable,
        },
        "bound": {phase: _bound(spent) for phase, spent in phases.items()},
        "parts": {phase: {f"{part}_s": getattr(spent, part) for part in PLACES} for phase, spent in phases.items()},
    }


def _bound(spent: Spent) -> str:
    return max(PLACES, key=lambda part: getattr(spent, part))


def _reason(configuration: Configuration, found: Split) -> str:
    """Why a split is infeasible."""
    from ..phases.end_to_end import REASONS

    reason = REASONS[int(found.reason)]
    if reason != "out of memory":
        return explain_limits(configuration, reason, found.ttft, found.tpot)
    rooms = (
        ("on the GPU", found.gpu_bytes, found.gpu_usable, "put fewer layers there"),
        ("on the host", found.cpu_bytes, found.cpu_usable, "put more layers on the GPU"),
    )
    full = [room for room in rooms if room[1] > room[2]]
    advice = full[0][3] if len(full) == 1 else "use narrower formats or shorter sequences"
    sizes = [
        f"{held / 1e9:.1f} GB {place}, of which {room / 1e9:.1f} GB may be filled" for place, held, room, _ in full
    ]
    return f"{reason}: {' and '.join(sizes)}; {advice}"
