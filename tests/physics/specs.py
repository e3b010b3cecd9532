"""Specs for tests: documents of small models and machines, and one compiled `evaluate` for all of them."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxperf.compiling import quick
from jaxperf.ops import Smooth
from jaxperf.phases.end_to_end import Metrics, evaluate
from jaxperf.spec.deployment import (
    IDEAL,
    Deployment,
    Engine,
    Parallelism,
    build_efficiency,
    build_precision,
    precision_document,
)
from jaxperf.spec.documents import KINDS
from jaxperf.spec.library import find, validate
from jaxperf.spec.model import Model, as_arrays, build_model
from jaxperf.spec.schema import with_defaults
from jaxperf.spec.system import System, build_system
from jaxperf.spec.workload import Workload

SOURCES = {"hidden_size": {"source": "an example of the tests"}}

evaluate_jit = quick(jax.jit(evaluate))
"""One program for every spec of the tests: ideal efficiency, true maxima."""


@quick
def evaluate_smooth(
    model: Model, system: System, deployed: Deployment, work: Workload, temperature: jax.Array
) -> Metrics:
    """`evaluate` relaxed; the temperature is traced."""
    return evaluate(model, system, deployed, work, Smooth(temperature))


def attention(query_heads: int = 8, kv_heads: int = 8, head_size: int = 64, **more: Any) -> dict:
    """Grouped-query attention of a document."""
    return dict(kind="grouped-query", query_heads=query_heads, kv_heads=kv_heads, head_size=head_size) | more


def latent(query_heads: int = 8, **more: Any) -> dict:
    """Latent attention of a document."""
    sizes = dict(head_size=64, value_head_size=64, rope_head_size=32, kv_rank=128)
    return dict(kind="latent", query_heads=query_heads) | sizes | more


def dense(width: int = 2048, kind: str = "gated") -> dict:
    """A dense feed-forward of a document."""
    return dict(kind=kind, width=width)


def experts(count: int = 16, chosen: int = 2, width: int = 512, shared: int = 0) -> dict:
    """An expert feed-forward of a document."""
    return dict(kind="gated", experts=count, experts_per_token=chosen, expert_width=width, shared_width=shared)


def group(count: int, attention: dict, feed_forward: dict, **place: Any) -> dict:
    """A group of layers of a document."""
    return dict(count=count, attention=attention, feed_forward=feed_forward) | place


def model_document(*groups: dict, hidden: int = 512, vocabulary: int = 32000, tied: bool = False) -> dict:
    """A validated model document."""
    document = dict(
        kind="model",
        name="example",
        hidden_size=hidden,
        vocabulary_size=vocabulary,
        tied_embeddings=tied,
        layer_groups=list(groups),
        exact_today=True,
        sources=SOURCES,
    )
    return validate(document, "example").document


def model(*groups: dict, **more: Any) -> Model:
    """A `Model` with array leaves."""
    return as_arrays(build_model(model_document(*groups, **more)))


def system(name: str = "h100-sxm-8", **device: float) -> System:
    """A shipped system, with `bandwidth`, `capacity` or `compute` multiplied by factors."""
    built = build_system(find("system", name).document)
    memories = tuple(
        eqx.tree_at(
            lambda t: (t.bandwidth, t.capacity),
            tier,
            (tier.bandwidth * device.get("bandwidth", 1.0), tier.capacity * device.get("capacity", 1.0)),
        )
        for tier in built.device.memory.tiers
    )
    scaled = eqx.tree_at(
        lambda s: (s.device.memory.tiers, s.device.peak),
        built,
        (memories, tuple(peak * device.get("compute", 1.0) for peak in built.device.peak)),
    )
    slower = device.get("alpha", 1.0)
    fabric = tuple(
        eqx.tree_at(
            lambda t: (t.alpha, t.switch_alpha, t.bandwidth),
            tier,
            (tier.alpha * slower, tier.switch_alpha * slower, tier.bandwidth * device.get("link", 1.0)),
        )
        for tier in scaled.fabric
    )
    return as_arrays(eqx.tree_at(lambda s: s.fabric, scaled, fabric))


def deployment(
    efficiency: dict | None = None,
    weights: str | None = None,
    kv: str | None = None,
    engine: Engine | None = None,
    **degrees: float,
) -> Deployment:
    """A `Deployment` with array leaves, ideal unless an efficiency is given; no reserve."""
    default = with_defaults(KINDS["model"], model_document(group(1, attention(), dense())))["precision"]
    return as_arrays(
        Deployment(
            parallelism=Parallelism(**degrees),
            precision=build_precision(precision_document(default, weights, kv)),
            engine=Engine() if engine is None else engine,
            efficiency=build_efficiency({**IDEAL, **(efficiency or {})}),
        )
    )


def workload(isl: float = 1024, osl: float = 128, batch: float = 8, prefill_batch: float = 1) -> Workload:
    """A `Workload` with array leaves."""
    return as_arrays(Workload(isl, osl, batch, prefill_batch))


def priced(described: Model, machine: System, deployed: Deployment, work: Workload) -> Metrics:
    """`evaluate` of one configuration, compiled once for all tests."""
    return evaluate_jit(described, machine, deployed, work)


def total(values: Any) -> float:
    """A scalar of the kernels as a Python float."""
    return float(jnp.asarray(values))
