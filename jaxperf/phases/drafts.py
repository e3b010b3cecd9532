r"""What is drafted: a chain of tokens, or a tree of candidates, by a draft model or a model's own prediction layer.

\(p_i\) is the chance that a candidate of level i is accepted once those before it were. Leviathan et al. 2023,
arXiv:2211.17192; trees: SpecInfer, arXiv:2305.09781; multi-token prediction (MTP): DeepSeek-V3, arXiv:2412.19437."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import equinox as eqx
import jax.numpy as jnp

from ..constants import PLACE_WORDS
from ..ops import Scalar
from ..spec.deployment import Deployment
from ..spec.model import Model

MOST_DRAFTED = 32
"""Levels that a draft may have: the width of the acceptance array."""


class Speculation(eqx.Module):
    """How tokens are drafted.

    The `draft` model runs on the target's devices in its own `deployment` (one pipeline stage). `acceptance`
    [MOST_DRAFTED]: the chance that a candidate of a level is accepted once those before it were, 0 beyond the last.
    `verified` tokens of a sequence in a verify pass. The draft makes `steps` [n] passes of `rows` [n] tokens of each
    sequence. `own` is 1 where the draft is the model's own MTP layer, which shares its embedding and LM head, else 0;
    `copies` of such a layer stand in memory.
    """

    draft: Model
    deployment: Deployment
    acceptance: Scalar
    verified: Scalar
    rows: Scalar
    steps: Scalar
    own: Scalar = 0.0
    copies: Scalar = 1.0


def tokens_per_verify(acceptance: Scalar) -> Scalar:
    """Expected tokens of a round [tokens]: τ = 1 + p1 + p1·p2 + …, with one acceptance a level, [levels].

    For one acceptance a everywhere Σ_{j=0..g} a^j (Leviathan et al., equation 1), g + 1 at a = 1.
    """
    return 1 + jnp.sum(jnp.cumprod(acceptance))


def accepted_levels(acceptance: Scalar | Sequence[Scalar], levels: Scalar) -> Scalar:
    """One acceptance a level as an array [MOST_DRAFTED], 0 beyond `levels`: the same everywhere, or one given each."""
    if isinstance(acceptance, Sequence):
        given = jnp.stack([jnp.asarray(value, float) for value in acceptance])
        given = jnp.concatenate([given, jnp.zeros(MOST_DRAFTED - len(acceptance), given.dtype)])
    else:
        given = jnp.broadcast_to(jnp.asarray(acceptance, float), (MOST_DRAFTED,))
    return jnp.where(jnp.arange(MOST_DRAFTED, dtype=given.dtype) < levels, given, 0.0)


def any_accepted(acceptance: Scalar, candidates: Scalar) -> Scalar:
    """The chance that one of k candidates is accepted, each by itself with chance a: 1 − (1 − a)^k."""
    return 1 - (1 - acceptance) ** candidates


def chain(
    draft: Model, deployment: Deployment, acceptance: Scalar | Sequence[Scalar], drafts: Scalar, own: Scalar = 0.0
) -> Speculation:
    """`drafts` tokens one after another, each accepted with chance `acceptance` (one, or one a token)."""
    return Speculation(
        draft=draft,
        deployment=deployment,
        acceptance=accepted_levels(acceptance, drafts),
        verified=jnp.asarray(drafts, float) + 1,
        rows=jnp.ones(1),
        steps=jnp.reshape(jnp.asarray(drafts, float), (1,)),
        own=jnp.asarray(own, float),
        copies=jnp.ones(()),
    )


def tree(
    draft: Model,
    deployment: Deployment,
    acceptance: Scalar | Sequence[Scalar],
    widths: Sequence[int],
    own: Scalar = 0.0,
) -> Speculation:
    """A static tree in which every node of level i − 1 has `widths[i]` candidates below it.

    A level's acceptance is 1 − (1 − a)^k, or that of any candidate where one a level is given. The verify pass takes
    all nodes, the root among them; a draft pass takes the nodes of a level. As nodes of a level are priced as if they
    saw each other, attention's FLOPs are an upper bound.
    """
    nodes = [1]
    for width in widths:
        nodes.append(nodes[-1] * width)
    if not isinstance(acceptance, Sequence):
        acceptance = [any_accepted(acceptance, float(width)) for width in widths]
    return Speculation(
        draft=draft,
        deployment=deployment,
        acceptance=accepted_levels(acceptance, len(widths)),
        verified=jnp.asarray(sum(nodes), float),
        rows=jnp.asarray(nodes[:-1], float),
        steps=jnp.ones(len(widths)),
        own=jnp.asarray(own, float),
        copies=jnp.ones(()),
    )


def prediction_layer(model: Model) -> Model:
    """The draft of a model's multi-token prediction: one layer like its last, and its own embedding and LM head."""
    ends = [
        jnp.where(g.count > 0, g.first + jnp.floor((g.count - 1) / g.run) * g.period + (g.count - 1) % g.run, -1.0)
        for g in model.groups
    ]
    last = jnp.argmax(jnp.stack(ends))
    groups = tuple(
        replace(group, count=jnp.asarray(last == index, float), first=jnp.zeros(()), places=jnp.zeros(PLACE_WORDS))
        for index, group in enumerate(model.groups)
    )
    return eqx.tree_at(lambda m: m.groups, model, groups)
