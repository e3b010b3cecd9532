r"""Fit an `Efficiency` to measured latencies, by the gradient of `evaluate` itself: there is no second physics.

Minimised is \(\sum_i \rho(r_i/s) + \sum_j ((u_j - \bar u_j)/\sigma_j)^2\) with the residual
\(r_i = \log t_i^{pred} - \log t_i\), a loss ρ that grows linearly for outliers, and weak priors at the defaults."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from ..compiling import mapped
from .measurements import Measurement
from .parameters import spreads, to_document, to_efficiency, to_unbounded
from .rows import PATIENCE, Row, compiled, distinct, row_time, stack

NOISE = 0.05
"""Scale s of log residuals: five per cent is what a good fit leaves, and where the loss turns from square to linear."""

MAX_STEPS = 500
STEP, SLOPE, DECREASE = 1e-5, 1e-6, 1e-14
"""When the fit ends, in units of the priors' standard deviations: a step relative to the distance from the centre, the
slopes of half the sum, or the relative decrease of the sum. Steps shrink by about a half each near a minimum."""


def robust(scaled: Any) -> Any:
    """z·√(2/(1 + √(1 + z²))): its square is z² near 0 and 2|z| far out (pseudo-Huber), and it is smooth."""
    return scaled * jnp.sqrt(2 / (1 + jnp.sqrt(1 + scaled**2)))


def with_jacobian(function: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, Any]]:
    """A function of a point [n] made to return its value [m] and its forward-mode Jacobian [m, n]; traceable."""

    def both(point: Any) -> tuple[Any, Any]:
        def along(direction: Any) -> tuple[Any, Any]:
            return jax.jvp(function, (point,), (direction,))

        return jax.vmap(along, out_axes=(None, 1))(jnp.eye(point.size, dtype=point.dtype))

    return both


def least_squares(
    measured: Callable[[Any], tuple[Any, Any]], centre: Any, spread: Any
) -> tuple[np.ndarray, bool, np.ndarray]:
    """Minimise Σ residuals² + Σ ((u − centre)/spread)² in float64 by SciPy's trust region of Levenberg–Marquardt steps.

    **Arguments:** `measured`: residuals [m] and their Jacobian [m, n] at a point u [n]; `centre` and `spread` [n] of
    the priors. The search begins at the centre.

    **Returns:** the minimiser [n], whether the solver converged, and the Jacobian of the residuals there [m, n].
    """
    centre, spread = np.asarray(centre, float), np.asarray(spread, float)

    @functools.lru_cache(maxsize=1)  # SciPy asks for values first, then for the Jacobian at the same place
    def at(place: bytes) -> tuple[np.ndarray, np.ndarray]:
        values, jacobian = measured(centre + spread * np.frombuffer(place))
        return np.asarray(values, float), np.asarray(jacobian, float)

    def values(scaled: np.ndarray) -> np.ndarray:
        return np.concatenate([at(scaled.tobytes())[0], scaled])

    def slopes(scaled: np.ndarray) -> np.ndarray:
        return np.concatenate([at(scaled.tobytes())[1] * spread, np.eye(scaled.size)])

    found = scipy.optimize.least_squares(
        values,
        np.zeros(centre.size),
        slopes,  # pyright: ignore[reportArgumentType]
        method="trf",
        max_nfev=MAX_STEPS,
        xtol=STEP,
        gtol=SLOPE,
        ftol=DECREASE,
    )
    jacobian = found.jac[: -centre.size] / spread
    return centre + spread * found.x, found.status > 0, jacobian


@functools.partial(mapped, axes=(0, None), compile_=compiled, patience=PATIENCE)
def residuals_and_slopes(row: Row, point: Any) -> tuple[Any, Any]:
    """Robust residuals of stacked rows at an unbounded point [factors], and their Jacobian [rows, factors].

    A row's residual is one number, so reverse mode gives its slopes without an axis of factors.
    """

    def residual(unbounded: Any) -> Any:
        time = row_time(row, to_efficiency(unbounded))
        return robust((jnp.log(time) - row.log_value) / NOISE) * row.weight

    return jax.value_and_grad(residual)(point)


@dataclass(frozen=True)
class Fit:
    """Fitted factors in JSON form, whether the solver converged, and the singular values of the data's Jacobian in
    units of the priors' standard deviations: a value below 1 means that the prior says more than the data."""

    efficiency: dict[str, float]
    converged: bool
    singular_values: list[float]


def fit(measurements: Sequence[Measurement], start: dict[str, Any]) -> Fit:
    """The `Efficiency` that explains measurements of one group best.

    **Arguments:** the `measurements`; `start`, the JSON form of the efficiency at which fit and priors begin.
    """
    with jax.enable_x64(True):
        measured = functools.partial(residuals_and_slopes, stack(distinct(measurements)))
        unbounded, converged, jacobian = least_squares(measured, to_unbounded(start), spreads())
        document = {name: float(value) for name, value in to_document(unbounded).items()}
    singular = np.linalg.svd(jacobian * spreads(), compute_uv=False)
    return Fit(document, converged, [float(value) for value in singular])
