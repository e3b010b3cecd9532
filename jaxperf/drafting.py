"""Names in, a `Speculation` out: which model drafts for which, checked."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import equinox as eqx

from .errors import InputError
from .load import Name, load_model
from .phases.drafts import MOST_DRAFTED, Speculation, chain, prediction_layer, tree
from .spec.deployment import Deployment, Parallelism, build_precision
from .spec.library import Spec, find
from .spec.model import as_arrays, build_model
from .stages.memory import parameters

DEFAULT_LENGTH = 4
"""Tokens that a draft model drafts unless told otherwise."""

MOST_VERIFIED = 1024
"""Nodes of the largest tree of candidates."""

PADDING = 0.01
"""Share by which two vocabularies that hold the same tokens may differ: engines pad embeddings to round sizes."""


def check_acceptance(acceptance: float | Sequence[float], levels: int) -> None:
    """Check that an acceptance is a chance, or that there is one for each of `levels`.

    **Raises** `InputError` otherwise.
    """
    if isinstance(acceptance, Sequence) and len(acceptance) != levels:
        raise InputError(f"acceptance: {len(acceptance)} values for {levels} drafted levels; give one, or one a level")
    for value in acceptance if isinstance(acceptance, Sequence) else [acceptance]:
        if isinstance(value, (int, float)) and not 0 <= value <= 1:
            raise InputError(f"acceptance: {value:g} is out of range; choose a chance from 0 to 1")


def check_length(length: float, what: str = "draft length") -> None:
    """Check a number of drafted tokens. **Raises** `InputError` where it is out of range."""
    if isinstance(length, (int, float)) and not (1 <= length <= MOST_DRAFTED and length == int(length)):
        raise InputError(f"{what}: {length:g} is out of range; choose a whole number from 1 to {MOST_DRAFTED}")


def check_tree(widths: Sequence[int]) -> None:
    """Check the candidates a level of a tree. **Raises** `InputError` for none, or for too many."""
    if not 1 <= len(widths) <= MOST_DRAFTED:
        raise InputError(f"draft tree: {len(widths)} levels; choose 1 to {MOST_DRAFTED}")
    for width in widths:
        if width < 1 or width != int(width):
            raise InputError(f"draft tree: a width of {width} is out of range; choose whole numbers from 1")
    nodes = sum(math.prod(widths[: level + 1]) for level in range(len(widths)))
    if nodes + 1 > MOST_VERIFIED:
        raise InputError(f"draft tree: {nodes + 1:,} nodes to verify; choose widths for at most {MOST_VERIFIED:,}")


def check_draft(target: Spec, draft: Spec) -> None:
    """Check that one model can draft for another: fewer parameters, and the same vocabulary up to padding.

    **Raises** `InputError` otherwise.
    """
    sizes = [parameters(build_model(spec.document)).total for spec in (draft, target)]
    if sizes[0] >= sizes[1]:
        raise InputError(
            f"draft: {draft.name} has {sizes[0]:,} parameters, its target {target.name} {sizes[1]:,}; "
            "choose a smaller draft model"
        )
    mine, other = (spec.document["vocabulary_size"] for spec in (draft, target))
    if abs(mine - other) > PADDING * other:
        raise InputError(
            f"draft: {draft.name} has a vocabulary of {mine:,} tokens, its target {target.name} one of {other:,}; "
            "choose a draft model with the same tokenizer"
        )


def check_prediction(target: Spec) -> None:
    """Check that a model predicts several tokens itself. **Raises** `InputError` where it does not."""
    if not target.document["mtp_layers"]:
        raise InputError(f"mtp: {target.name} has no multi-token-prediction layers in its spec; choose a draft model")


def draft_deployment(draft: Name, deployment: Deployment, tp: float | None = None) -> Deployment:
    """How a draft model runs on its target's devices: `tp` of its own (by default the target's), one pipeline stage, on
    every attention replica; its own weight formats, the target's KV format, engine and efficiency."""
    layout = deployment.parallelism
    precision = as_arrays(build_precision(find("model", draft).document["precision"]))
    precision = eqx.tree_at(lambda p: p.kv_cache, precision, deployment.precision.kv_cache)
    one = layout.tp / layout.tp
    degrees = Parallelism(layout.tp if tp is None else tp, one, one, one, layout.attention_dp, layout.replicas)
    return eqx.tree_at(lambda d: (d.parallelism, d.precision), deployment, (as_arrays(degrees), precision))


def speculation(
    target: Name,
    deployment: Deployment,
    acceptance: float | Sequence[float],
    *,
    draft: Name | None = None,
    length: float | None = None,
    tree_widths: Sequence[int] | None = None,
    tp: float | None = None,
    mtp: float | None = None,
) -> Speculation:
    """A `Speculation` with array leaves, for `jaxperf.speculate`.

    **Arguments:** the `target` model and its `deployment`; `acceptance`, the chance that a drafted token is accepted,
    or one a level; and either

    - a `draft` model with the `length` of its chain (4 by default) or the `tree_widths` of a tree of candidates, and a
      `tp` of its own; or
    - `mtp`, the tokens that the target's own prediction layers draft, its last layer again where it has fewer.

    **Raises** `InputError` for a chance, a length or a tree out of range, and a draft that does not suit its target.
    """
    spec = find("model", target)
    if (draft is None) == (mtp is None):
        raise InputError("speculation: give either a draft model or mtp, the tokens that the model itself drafts")
    if mtp is not None:
        check_length(mtp, "mtp")
        check_acceptance(acceptance, int(mtp))
        check_prediction(spec)
        own = eqx.tree_at(lambda d: d.parallelism.pp, deployment, deployment.parallelism.tp / deployment.parallelism.tp)
        drawn = chain(prediction_layer(load_model(target)), own, acceptance, mtp, 1.0)
        copies = as_arrays(min(mtp, spec.document["mtp_layers"]))
        return eqx.tree_at(lambda s: s.copies, drawn, copies)
    assert draft is not None
    if tree_widths is not None and length is not None:
        raise InputError("speculation: a draft has a length or the widths of a tree; give one of them")
    length = DEFAULT_LENGTH if length is None else length
    levels: Any = length if tree_widths is None else len(tree_widths)
    if tree_widths is not None:
        check_tree(tree_widths)
    check_length(levels)
    check_acceptance(acceptance, int(levels))
    check_draft(spec, find("model", os.fspath(draft)))
    model, runs = load_model(draft), draft_deployment(draft, deployment, tp)
    if tree_widths is None:
        return chain(model, runs, acceptance, length)
    return tree(model, runs, acceptance, tree_widths)
