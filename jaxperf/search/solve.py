"""The compiled programs of a search: annealed descent of many restarts, slopes at a point, exact scores of points."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..compiling import mapped, quick
from ..ops import Scalar
from .factors import SLOTS
from .relax import LAYOUT, Case, relaxed, relaxed_logs, scored

SIZE = len(LAYOUT) + SLOTS
"""Coordinates of a point: log2 of the layout's values, then the hardware's."""

_HOT, _COLD = 0.3, 0.02  # temperatures at the start and the end
_LIGHT, _HEAVY = 5.0, 50.0  # weights of the penalty at the start and the end
_RATE = 0.2  # of Adam, in log2 or log units a step
_UNFUSED = {"xla_disable_hlo_passes": "fusion"}
_BUFFER, _BLOCK = 65536, 1024  # points of one call of the scorer, and points priced side by side


def compiled(function: Callable, **settings: Any) -> Callable:
    """`jax.jit` for derivatives of `evaluate`, on a CPU without the fusion pass.

    Fusion computes shared values anew in every consumer, and not always rounded alike; the derivative of a maximum,
    which asks which argument equals it, then loses terms. Without fusion it also compiles in half the time.
    """
    return jax.jit(function, compiler_options=_UNFUSED if jax.default_backend() == "cpu" else None, **settings)


def value_and_slopes(function: Callable[[Scalar], Scalar], point: Scalar) -> tuple[Scalar, Scalar]:
    """A function's value and gradient in forward mode: few inputs, and it compiles in half of reverse mode's time."""
    basis = jnp.eye(point.shape[0], dtype=point.dtype)
    values, slopes = jax.vmap(lambda direction: jax.jvp(function, (point,), (direction,)))(basis)
    return values[0], slopes


@functools.partial(mapped, axes=(None, 0, None, None, None), compile_=compiled, patience=5e-3)
def _directional(case: Case, point: Scalar, directions: Scalar, temperature: Scalar, weight: Scalar) -> Scalar:
    """Derivatives of the relaxed objective along some directions at every point, [points, directions]."""

    def along(direction: Scalar) -> Scalar:
        return jax.jvp(lambda p: relaxed(case, p, temperature, weight), (point,), (direction,))[1]

    return jax.vmap(along)(directions)


def _directions(free: np.ndarray) -> np.ndarray:
    """Unit vectors of the free coordinates, [8 or SIZE, SIZE]: few shapes, so few programs; the rest are zeros."""
    count = int(free.sum())
    padded = 8 if count <= 8 else SIZE
    rows = np.zeros((padded, SIZE))
    rows[np.arange(count), np.flatnonzero(free)] = 1.0
    return rows


def descend(case: Case, start: np.ndarray, low: np.ndarray, high: np.ndarray, steps: int) -> np.ndarray:
    """Annealed projected Adam from every start.

    **Arguments:** `start`, `low`, `high`, [restarts, SIZE]: starts and boxes (equal bounds pin a coordinate, and
    nothing is differentiated along it).

    **Returns:** end points [restarts, SIZE].
    """
    optimiser = optax.adam(optax.cosine_decay_schedule(_RATE, steps))
    points, lowest, highest = (jnp.asarray(array, float) for array in (start, low, high))
    directions = jnp.asarray(_directions(np.any(low < high, axis=0)), float)

    @jax.jit
    def move(points: Scalar, state: Any, slopes: Scalar) -> tuple[Scalar, Any]:
        gradient = jnp.nan_to_num(slopes @ directions, posinf=0.0, neginf=0.0)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to whole numbers
            updates, state = optimiser.update(gradient, state, points)
        return optax.projections.projection_box(optax.apply_updates(points, updates), lowest, highest), state

    state = optimiser.init(points)
    for progress in np.linspace(0.0, 1.0, steps):
        temperature = jnp.asarray(_HOT * (_COLD / _HOT) ** progress, float)
        weight = jnp.asarray(_LIGHT * (_HEAVY / _LIGHT) ** progress, float)
        points, state = move(points, state, _directional(case, points, directions, temperature, weight))
    return np.array(points, float)


@functools.partial(quick, compile_=compiled)
def _slopes(case: Case, point: Scalar, temperature: Scalar) -> tuple[Scalar, Scalar]:
    return value_and_slopes(lambda moved: relaxed_logs(case, moved, temperature), point)


def slopes(case: Case, point: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of the relaxed metrics and of the excesses over limits, [k], and their slopes [SIZE, k].

    **Arguments:** `point` [SIZE], log2 of the layout's values, then logarithms of the hardware's multiples.
    """
    values, jacobian = _slopes(case, jnp.asarray(point, float), jnp.asarray(temperature, float))
    return np.asarray(values, float), np.asarray(jacobian, float)


def _scored(case: Case, point: Scalar) -> Scalar:
    return jnp.stack(scored(case, point[: len(LAYOUT)], point[len(LAYOUT) :]))


@quick
def _score_buffer(case: Case, points: Scalar, blocks: Scalar) -> Scalar:
    def block(index: Scalar, results: Scalar) -> Scalar:
        rows = jax.lax.dynamic_slice(points, (index * _BLOCK, 0), (_BLOCK, SIZE))
        found = jax.vmap(functools.partial(_scored, case))(rows)
        return jax.lax.dynamic_update_slice(results, found, (index * _BLOCK, 0))

    return jax.lax.fori_loop(0, blocks, block, jnp.zeros((_BUFFER, 2), points.dtype))


def _score_blocks(case: Case, points: Scalar) -> np.ndarray:
    """Scores of any number of points with one program of XLA's."""
    results = []
    for first in range(0, len(points), _BUFFER):
        part = np.asarray(points[first : first + _BUFFER])
        buffer = np.ones((_BUFFER, SIZE))
        buffer[:, len(LAYOUT) :] = 0.0
        buffer[: len(part)] = part
        found = _score_buffer(case, jnp.asarray(buffer, float), jnp.asarray(-(-len(part) // _BLOCK)))
        results.append(np.asarray(found[: len(part)], float))
    return np.concatenate(results)


_scores = mapped(_scored, (None, 0), otherwise=_score_blocks)


def score(case: Case, points: np.ndarray) -> np.ndarray:
    """Exact scores of points, any number of them, with one program.

    **Arguments:** `points` [n, SIZE]: the layout's values themselves, then logarithms of the hardware's multiples.

    **Returns:** [n, 2]: the objective to minimise (sign·log metric), and the excess over the limits (0 = feasible).
    """
    if not len(points):
        return np.zeros((0, 2))
    return np.asarray(_scores(case, jnp.asarray(points, float)), float)


def rank(scores: np.ndarray) -> np.ndarray:
    """One number to sort by, [n]: the objective where feasible; every infeasible point is worse, by its excess."""
    return np.where(scores[:, 1] > 0, 1e6 + scores[:, 1], scores[:, 0])
