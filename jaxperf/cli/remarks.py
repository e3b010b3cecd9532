"""What `jaxperf estimate` says in words: why a configuration is infeasible, and what of it is priced roughly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .common import Configuration

if TYPE_CHECKING:
    from ..phases.end_to_end import Metrics


def explain(configuration: Configuration, metrics: Metrics) -> str:
    """Why a configuration is infeasible, and what would fit."""
    from ..phases.end_to_end import REASONS

    reason, memory = REASONS[int(metrics.reason)], metrics.memory
    if reason == "out of memory":
        text = f"{reason}: {memory.total / 1e9:.1f} GB a device, of which {memory.usable / 1e9:.1f} GB may be filled"
        if metrics.max_batch >= 1:
            return f"{text}; beside these activations a batch of {int(metrics.max_batch)} fits"
        return f"{text}; not one sequence fits: use more devices, narrower formats or shorter sequences"
    return explain_limits(configuration, reason, metrics.ttft, metrics.tpot)


def explain_limits(configuration: Configuration, reason: str, ttft: float, tpot: float) -> str:
    """A reason of `phases.end_to_end.REASONS` with the limit that is passed: the context, or a target [s]."""
    if reason == "longer than the model's context":
        limit = configuration.model.document["max_context_tokens"]
        tokens = configuration.isl + configuration.osl
        return f"{reason}: isl + osl is {tokens} tokens, {configuration.model.name} reads at most {limit}"
    for name, target, found in (("TTFT", configuration.slo_ttft, ttft), ("TPOT", configuration.slo_tpot, tpot)):
        if reason.startswith(name) and target is not None:
            return f"{reason}: {found * 1e3:.4g} ms, wanted at most {target * 1e3:.4g} ms"
    return reason


def approximations(configuration: Configuration) -> list[str]:
    """What of the model or the system is priced only roughly today, a sentence each."""
    texts = []
    for spec in (configuration.model, configuration.system):
        if not spec.document["exact_today"]:
            texts.append(f"{spec.name}: {spec.document['approximation'] or 'priced by a first approximation today.'}")
    return texts


def remarks(metrics: Metrics) -> list[str]:
    """What of this very configuration is priced roughly, a sentence each."""
    if metrics.aligned > 0:
        return []
    return [
        "a parallel group does not fill whole dimensions of the torus or mesh: its collectives are priced as one ring"
    ]
