"""Prefill on one system, decode on another: priced, and as `estimate --decode --json` prints it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from . import estimate as verb
from .breakdown_rows import numbers, phase_rows
from .common import build, print_json
from .output import compile_cache
from .pair import Pair, read_pair
from .prefix import describe_prefix
from .remarks import explain, explain_limits

if TYPE_CHECKING:
    from ..phases.end_to_end import Metrics
    from ..phases.handoff import Handoff
    from ..phases.hybrid import Hybrid
    from ..phases.pools import Pools


def run_pair(arguments: argparse.Namespace) -> int:
    """Price both sides and print them together; 1 where one of them, or the pair, is infeasible.

    **Raises** `InputError` for options that are wrong, naming the side.
    """
    pair = read_pair(arguments)
    result = describe_pair(pair, arguments.json or arguments.breakdown)
    if arguments.prefix_hit is not None:
        result["prefix"] = numbers(describe_prefix(pair.prefill))
    if arguments.json:
        print_json(result)
    else:
        from .pair_tables import show

        show(pair, result)
    return 0 if result["feasible"] else 1


def describe_pair(pair: Pair, rows: bool) -> dict[str, Any]:
    """Both sides and what they do together, as JSON: seconds, bytes, rates per second."""
    compile_cache()
    from ..phases.breakdown import breakdown_columns
    from ..phases.end_to_end import evaluate
    from ..phases.pools import decoding, filling
    from ..spec.model import as_arrays
    from .stored import stored

    built = [build(side) for side in pair.sides]
    workload = built[1][3]
    served = as_arrays((filling(built[0][3]), decoding(workload)))
    sides = [(*pytrees[:3], work) for pytrees, work in zip(built, served, strict=True)]
    price = stored(evaluate, "evaluate")
    metrics = [price(*side) for side in sides]
    link = as_arrays([pair.way.latency, pair.way.bandwidth, pair.way.streams, pair.way.request, pair.way.overlap])
    common = (built[0][0], *as_arrays(metrics))
    how = (sides[0][2], sides[1][2])
    documents = [verb.describe(side, found, None) for side, found in zip(pair.sides, metrics, strict=True)]
    if pair.way.shared:
        from ..phases.hybrid import Sharing, on_one_memory

        sharing = as_arrays(Sharing(copies=pair.copies, alpha=pair.way.latency))
        found = stored(on_one_memory, "on_one_memory")(*common, *how, sides[1][1].device.memory, workload, sharing)
        result = _document(pair, documents, found.handoff) | _on_one_chip(pair, metrics, found)
    else:
        from ..phases.handoff import Link
        from ..phases.pools import pools

        systems, instances = (sides[0][1], sides[1][1]), as_arrays(pair.instances)
        found = stored(pools, "pools")(*common, systems, how, workload, Link(*link), instances)
        result = _document(pair, documents, found.handoff) | _apart(pair, metrics, found)
    result["metrics"] |= _both(metrics)
    if rows:
        table = stored(breakdown_columns, "breakdown_columns")
        phases = [(name, table(*side)[name]) for name, side in zip(("prefill", "decode"), sides, strict=True)]
        result["breakdown"] = [row for name, columns in phases for row in phase_rows(name, columns)]
    return numbers(result)


def _document(pair: Pair, documents: list[dict], moved: Handoff) -> dict[str, Any]:
    """What a pair of pools and two units of one chip have in common."""
    first, second = documents
    kept = ("system", "feasible", "reason", "deployment", "device", "memory")
    return {
        "model": first["model"],
        "system": f"{first['system']} + {second['system']}",
        "feasible": False,
        "reason": None,
        "workload": first["workload"] | {"batch": pair.decode.batch},
        "metrics": {},
        "prefill": {key: first[key] for key in kept},
        "decode": {key: second[key] for key in kept},
        "link": pair.way.document()
        | {
            "shared_memory": pair.way.shared,
            "streams": pair.way.streams,
            "request_s": pair.way.request,
            "overlap": pair.way.overlap,
        },
        "handoff": {
            "time_s": moved.time,
            "transfer_s": moved.transfer,
            "repack_s": moved.repack,
            "bytes": moved.size,
            "requests": moved.requests,
        },
        "bound": {"prefill": first["bound"]["prefill"], "decode": second["bound"]["decode"]},
        "parts": {"prefill": first["parts"]["prefill"], "decode": second["parts"]["decode"]},
        "approximations": list(dict.fromkeys(first["approximations"] + second["approximations"])) + _remarks(pair),
    }


def _both(metrics: list[Metrics]) -> dict[str, Any]:
    """What each side does by itself, of the metrics that `estimate` prints."""
    first, second = metrics
    return {"prefill_s": first.prefill.time, "decode_step_s": second.decode.time, "mfu": first.mfu, "mbu": second.mbu}


def _apart(pair: Pair, metrics: list[Metrics], found: Pools) -> dict[str, Any]:
    """Two pools over a link."""
    both = found.together
    return {
        "feasible": bool(found.feasible),
        "reason": _reason(pair, metrics, int(found.reason), both.ttft, both.tpot),
        "metrics": {
            "ttft_s": both.ttft,
            "tpot_s": both.tpot,
            "e2e_s": both.e2e,
            "output_tokens_per_s": both.output_tokens_per_s,
            "output_tokens_per_s_per_device": both.output_tokens_per_s_per_device,
            "output_tokens_per_s_per_user": found.output_tokens_per_s_per_user,
            "decode_tokens_per_s": found.decode_tokens_per_s,
            "requests_per_s": both.requests_per_s,
            "usd_per_million_tokens": found.price_per_million_tokens,
            "joules_per_token": found.joules_per_token,
        },
        "pools": {
            "prefill_instances": pair.instances[0],
            "decode_instances": pair.instances[1],
            "devices": both.devices,
            "prefill_instances_per_decode_instance": both.ratio,
            "prefill_busy": both.prefill_busy,
            "decode_busy": both.decode_busy,
            "link_busy": both.link_busy,
        },
    }


def _on_one_chip(pair: Pair, metrics: list[Metrics], found: Hybrid) -> dict[str, Any]:
    """Two units of one chip."""
    sizes = f"{found.total / 1e9:.1f} GB in the shared memory, of which {found.usable / 1e9:.1f} GB may be filled"
    sizes += f"; the weights are in it {pair.copies} times" if pair.copies > 1 else ""
    return {
        "feasible": bool(found.feasible),
        "reason": _reason(pair, metrics, int(found.reason), found.ttft, found.tpot, sizes),
        "metrics": {
            "ttft_s": found.ttft,
            "tpot_s": found.tpot,
            "e2e_s": found.e2e,
            "output_tokens_per_s": found.output_tokens_per_s,
            "output_tokens_per_s_per_user": found.output_tokens_per_s_per_user,
            "decode_tokens_per_s": found.decode_tokens_per_s,
            "requests_per_s": found.requests_per_s,
        },
        "shared_memory": {
            "weights_bytes": found.weights,
            "weights_copies": pair.copies,
            "total_bytes": found.total,
            "usable_bytes": found.usable,
        },
    }


def _reason(
    pair: Pair, metrics: list[Metrics], code: int, ttft: float, tpot: float, sizes: str | None = None
) -> str | None:
    """Why a pair is infeasible, by its code in `REASONS`, naming the side or the `sizes` in a shared memory; None where
    it is feasible."""
    from ..phases.end_to_end import REASONS

    reason = REASONS[code]
    if code == 0:
        return None
    if sizes is not None and reason == "out of memory":
        return f"{reason}: {sizes}"
    for label, side, alone in zip(("prefill", "decode"), pair.sides, metrics, strict=True):
        if not alone.feasible:
            return f"{label} side: {explain(side, alone)}"
    return explain_limits(pair.prefill, reason, ttft, tpot)


def _remarks(pair: Pair) -> list[str]:
    """What of a pair is priced roughly, or leaves devices idle, a sentence each."""
    texts, replicas = [], pair.prefill.layout["attention_dp"]
    if pair.prefill.prefill_batch < replicas:
        idle = f"{pair.prefill.prefill_batch} of {replicas} attention replicas of a prefill instance"
        texts.append(f"only {idle} have a prompt; --prefill-batch {replicas} fills them all")
    if pair.way.shared:
        texts.append("the units take turns; at work together they would share the memory's bandwidth")
    return texts
