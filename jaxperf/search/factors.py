"""Fields of a spec as factors: how every array of a pytree depends on the numbers in its JSON document.

A loader turns a document into arrays by products alone (bandwidth times ports times 1e9), so each array is a constant
times a power of each field. The powers are found once on the host by scaling the field and building again. After that
a compiled program moves any set of fields without knowing their names: one program serves every system and every
choice of fields."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..ops import Scalar
from ..spec.library import get_path, set_path

SLOTS = 4
"""Hardware fields that one search may move; unused slots move nothing."""


def field_value(document: dict, path: str) -> float:
    """The number at a path. **Raises** `InputError` where there is none."""
    value = get_path(document, path)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{path}: {value!r} is no number, so it cannot be moved")
    return float(value)


def powers(document: dict, build: Callable[[dict], Any], paths: tuple[str, ...], slots: int) -> Any:
    """The pytree of `build(document)` with, for each leaf, its power of each field, [slots].

    **Arguments:** the validated `document`, its `build` function, the `paths` of fields, at most `slots` of them.

    **Raises** `InputError` for a path that leads to no number, and for a field that no array depends on.
    """
    if len(paths) > slots:
        raise InputError(f"{len(paths)} fields are free, but at most {slots} can be: {', '.join(paths)}")
    columns = []
    for path in paths:
        value = field_value(document, path) or 1.0
        at = [jax.tree.leaves(build(set_path(document, path, value * scale))) for scale in (1.0, 2.0, 3.0)]
        column = [_power(one, two, three, path) for one, two, three in zip(*at, strict=True)]
        if not any(column):
            raise InputError(f"{path}: nothing that is computed depends on this field")
        columns.append(column)
    tree = build(document)
    rows = np.zeros((len(jax.tree.leaves(tree)), slots), np.float32)
    for index, column in enumerate(columns):
        rows[:, index] = column
    return jax.tree.unflatten(jax.tree.structure(tree), list(rows))


def _power(one: Any, two: Any, three: Any, path: str) -> float:
    one, two, three = float(one), float(two), float(three)
    if one == two or not (math.isfinite(one) and one > 0):
        return 0.0
    power = round(math.log2(two / one))
    if not math.isclose(three / one, 3.0**power, rel_tol=1e-6) or not math.isclose(two / one, 2.0**power, rel_tol=1e-6):
        raise InputError(f"{path}: what is computed is no power of this field, so it cannot be moved")
    return float(power)


def scaled(tree: Any, exponents: Any, logs: Scalar) -> Any:
    """The pytree with every field multiplied by exp(logs): leaf·exp(Σ power·log), unchanged at logs = 0.

    **Arguments:** the base `tree`, its `exponents` [slots] a leaf (see `powers`), `logs` [slots].
    """

    def scale(leaf: Scalar, power: Scalar) -> Scalar:
        if jnp.issubdtype(jnp.result_type(leaf), jnp.integer):
            return leaf
        factor = jnp.exp(jnp.sum(power.astype(logs.dtype) * logs))
        finite = jnp.isfinite(leaf)  # infinity times 1 is itself, but its derivative is no number
        return jnp.where(finite, jnp.where(finite, leaf, 0.0) * factor, leaf)

    return jax.tree.map(scale, tree, exponents)
