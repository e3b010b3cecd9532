"""The operator table of a layer in the form in which it takes least time: latent attention has two."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..ops import Ops, Scalar, choose
from ..spec.model import LayerGroup
from .latency import operator_timing
from .operators import AttentionCore, Operator, layer_table
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

    def table(absorbed: bool) -> dict[str, Operator]:
        shape = attention_shape(attention, plan.model.hidden_size, tp, absorbed, ops)
        return layer_table(group, shape, plan, work, ops)

    if work.decode:
        return table(True)
    expanded = table(False)
    absorbed = table(True)
    wanted = plan.deployment.engine.mla_absorbed

    def stacked(name: str) -> Operator:
        """Both forms of an operator, absorbed first; they differ in what is static, too."""
        pairs = zip(jax.tree.leaves(absorbed[name]), jax.tree.leaves(expanded[name]), strict=True)
        both = [jnp.stack([jnp.asarray(leaf, float) for leaf in pair]) for pair in pairs]
        return jax.tree.unflatten(jax.tree.structure(expanded[name]), both)

    forms = {name: stacked(name) for name in DIFFERING}

    def time(operators: dict[str, Operator]) -> Scalar:
        return sum(operator_timing(operator, plan, work, ops).time for operator in operators.values())

    def compared() -> Scalar:
        times = jax.vmap(time)(forms)
        return choose(wanted < 0, choose(times[0] < times[1], 1.0, 0.0), wanted)

    has_two_forms = attention.latent * (1 - attention.direct) > 0
    shape = jax.eval_shape(compared)
    chosen = jax.lax.cond(has_two_forms, compared, lambda: jnp.zeros(shape.shape, shape.dtype)) > 0
    picked = jax.tree.map(lambda leaf: choose(chosen, leaf[0], leaf[1]), forms)
    return expanded | picked


def core_shape(table: dict[str, Operator]) -> AttentionShape:
    """The shape of the attention in a layer's table."""
    core = table["attention"]
    assert isinstance(core, AttentionCore)
    return core.shape
