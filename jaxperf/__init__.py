"""jaxperf: how fast, how big and how costly LLM inference is, before anyone rents a cluster.

Importing the package is cheap; JAX is imported when something is computed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "InputError": "errors",
    "InfeasibleError": "errors",
    "Exact": "ops",
    "Smooth": "ops",
    "Workload": "spec.workload",
    "Slo": "spec.workload",
    "Parallelism": "spec.deployment",
    "Engine": "spec.deployment",
    "Precision": "spec.deployment",
    "Efficiency": "spec.deployment",
    "Deployment": "spec.deployment",
    "load_model": "load",
    "load_system": "load",
    "deployment": "load",
    "workload": "load",
    "estimate": "load",
    "evaluate": "phases.end_to_end",
    "Metrics": "phases.end_to_end",
    "speculation": "drafting",
    "speculate": "phases.speculative",
    "best_draft_length": "phases.speculative",
    "prefix_cache": "phases.prefix",
    "load_or_recompute": "phases.prefix",
    "balance": "search",
    "elasticities": "search",
    "predict": "calibrate",
}
_CALLED = ("scan", "calibrate", "search")  # packages that are called: jaxperf.scan(...)
__all__ = ["__version__", *_CALLED, *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _CALLED:
        return import_module(f".{name}", __name__)
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'jaxperf' has no attribute '{name}'")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
