"""The operator table of a layer in the form in which it takes least time: latent attention has two."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..ops import Ops, Scalar, choose, optional
from ..spec.model import LayerGroup
from .latency import operator_timing
from .operators import AttentionCore, Operator, attention_rows, layer_table
from .plan import Plan
from .shapes import AttentionShape, Pass, attention_shape

DIFFERING = ("latent up", "attention")
"""The operators in which absorbed and expanded latent attention differ."""


def best_table(group: LayerGroup, plan: Plan, work: Pass, ops: Ops) -> dict[str, Operator]:
    """The operators of one layer for a pass (see `layer_table`).

    Latent attention decodes absorbed. In prefill it takes the cheaper of absorbed, whose scores are wide but need no
    keys, and expanded, which rebuilds keys and values of every visible token, again for each chunk and cached prefix;
    or the one that the engine asks for.
    """
    tp, attention = plan.deployment.parallelism.tp, group.attention

    def shaped(absorbed: Scalar) -> AttentionShape:
        return attention_shape(attention, plan.model.hidden_size, tp, absorbed, ops)

    if work.decode:
        return layer_table(group, shaped(1.0), plan, work, ops)
    wanted = plan.deployment.engine.mla_absorbed

    def time(absorbed: Scalar) -> Scalar:
        rows = attention_rows(group, shaped(absorbed), plan, work)
        return sum(operator_timing(rows[name], plan, work, ops).time for name in DIFFERING)

    def compared() -> Scalar:
        times = jax.vmap(time)(jnp.asarray([1.0, 0.0]))
        return choose(wanted < 0, choose(times[0] < times[1], 1.0, 0.0), wanted)

    has_two_forms = attention.latent * (1 - attention.direct) > 0
    absorbed = optional(has_two_forms, compared, 0.0)
    return layer_table(group, shaped(absorbed), plan, work, ops)


def core_shape(table: dict[str, Operator]) -> AttentionShape:
    """The shape of the attention in a layer's table."""
    core = table["attention"]
    assert isinstance(core, AttentionCore)
    return core.shape
