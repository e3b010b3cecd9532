r"""Fit an `Efficiency` to measured latencies, by the gradient of `evaluate` itself: there is no second physics.

Minimised is \(\sum_i \rho(r_i/s) + \sum_j ((u_j - \bar u_j)/\sigma_j)^2\) with the residual
\(r_i = \log t_i^{pred} - \log t_i\), a loss ρ that grows linearly for outliers, and weak priors at the defaults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optimistix

from .measurements import Measurement
from .parameters import spreads, to_document, to_efficiency, to_unbounded
from .rows import Row, compiled, distinct, row_time, stack

NOISE = 0.05
"""Scale s of log residuals: five per cent is what a good fit leaves, and where the loss turns from square to linear."""

MAX_STEPS = 500


def robust(scaled: Any) -> Any:
    """z·√(2/(1 + √(1 + z²))): its square is z² near 0 and 2|z| far out (pseudo-Huber), and it is smooth."""
    return scaled * jnp.sqrt(2 / (1 + jnp.sqrt(1 + scaled**2)))


def with_jacobian(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same function, whose derivative is its forward-mode Jacobian computed in one go: the solver then compiles one
    copy of the physics instead of several."""

    def both(point: Any) -> tuple[Any, Any]:
        jacobian, value = jax.jacfwd(lambda p: (function(p),) * 2, has_aux=True)(point)
        return value, jacobian

    wrapped = jax.custom_jvp(lambda point: both(point)[0])

    @wrapped.defjvp
    def rule(primals: tuple, tangents: tuple) -> tuple[Any, Any]:  # pyright: ignore[reportUnusedFunction]
        value, jacobian = both(primals[0])
        return value, jacobian @ tangents[0]

    return wrapped


def least_squares(residuals: Callable[[Any], Any], centre: Any, spread: Any) -> tuple[Any, Any, Any]:
    """Minimise Σ robust residuals² + Σ ((u − centre)/spread)² by Levenberg–Marquardt; traceable.

    **Returns:** the minimiser, whether the solver converged, and the Jacobian of the residuals there.
    """
    measured = with_jacobian(residuals)

    def stacked(point: Any, _: Any) -> Any:
        return measured(point), (point - centre) / spread

    solver = optimistix.LevenbergMarquardt(rtol=1e-6, atol=1e-8, linear_solver=lineax.Normal(lineax.Cholesky()))
    solution = optimistix.least_squares(stacked, solver, centre, max_steps=MAX_STEPS, throw=False)
    # The solver's own last Jacobian (data rows first): computing it anew would compile the physics again.
    jacobian = solution.state.f_info.jac.as_matrix()[: -centre.size]
    return solution.value, solution.result == optimistix.RESULTS.successful, jacobian


@compiled
def _solve(rows: Row, centre: Any) -> tuple[Any, Any, Any]:
    def residuals(unbounded: Any) -> Any:
        efficiency = to_efficiency(unbounded)
        times = jax.vmap(lambda row: row_time(row, efficiency))(rows)
        return robust((jnp.log(times) - rows.log_value) / NOISE) * rows.weight

    return least_squares(residuals, centre, jnp.asarray(spreads(), centre.dtype))


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
        unbounded, converged, jacobian = _solve(stack(distinct(measurements)), jnp.asarray(to_unbounded(start)))
        document = {name: float(value) for name, value in to_document(unbounded).items()}
        singular = np.linalg.svd(np.asarray(jacobian) * spreads(), compute_uv=False)
    return Fit(document, bool(converged), [float(value) for value in singular])
