r"""The only place that knows hard from relaxed.

Kernels never call `max`, `ceil` or a comparison on a quantity that may be relaxed; they ask an `ops` object:

- `Exact`: true maximum, ceiling and comparisons on arrays. What `estimate` and `scan` use.
- `Smooth(temperature)`: a differentiable relaxation that tends to `Exact` as the temperature tends to 0. The maximum
  is the p-norm with \(p = 1/\tau\), computed in logs, so that there is no scale to choose:
  \(\max \le \mathrm{soft} \le n^\tau \max\). Ceiling and floor keep their value and take the gradient of the quotient.
- `Counting`: Python integers, exact to the unit at any size. What parameter counts and KV sizes are checked with.

All arguments are non-negative by construction: overlaps are written as the maximum of two times, never as a
difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

Scalar = Any
"""A JAX scalar in kernels, a Python number in exact counts."""

_SAME = 1e-3  # degrees that differ by less are the same
_TINY = 1e-30  # below every time, byte count and FLOP count; keeps logarithms and their gradients finite


def choose(condition: Scalar, left: Scalar, right: Scalar) -> Scalar:
    """`left` where the condition holds, else `right`: `jnp.where`, which traces a call of its own, as one select where
    the shapes are alike."""
    real = next((jnp.result_type(side) for side in (left, right) if hasattr(side, "dtype")), jnp.result_type(float))
    sides = [side if hasattr(side, "dtype") else np.asarray(side, real) for side in (left, right)]
    shape = np.shape(condition)
    if hasattr(condition, "dtype") and all(side.shape == shape and side.dtype == real for side in sides):
        return jax.lax.select_n(condition, sides[1], sides[0])
    return jnp.where(condition, left, right)


def larger(left: Scalar, right: Scalar) -> Scalar:
    """max(left, right) as a choice. The derivative of XLA's own maximum asks which argument equals the result; where
    fused code computes an argument twice with different rounding, neither does, and the gradient is lost."""
    return choose(left > right, left, right)


def smaller(left: Scalar, right: Scalar) -> Scalar:
    """min(left, right) as a choice (see `larger`)."""
    return choose(left < right, left, right)


def clamp(value: Scalar, low: Scalar, high: Scalar) -> Scalar:
    """`value` held between `low` and `high` (see `larger`)."""
    return smaller(larger(value, low), high)


class Exact(eqx.Module):
    """True maximum, minimum, ceiling and comparisons."""

    def maximum(self, *values: Scalar) -> Scalar:
        """The largest value."""
        result = values[0]
        for value in values[1:]:
            result = larger(result, value)
        return result

    def minimum(self, *values: Scalar) -> Scalar:
        """The smallest value."""
        result = values[0]
        for value in values[1:]:
            result = smaller(result, value)
        return result

    def at_least(self, value: Scalar, low: Scalar) -> Scalar:
        """max(value, low) where low is a structural limit (one head, no fewer than zero): exact when relaxed, too."""
        return larger(value, low)

    def cheapest(self, *costs: Scalar) -> Scalar:
        """The smallest cost among alternatives."""
        return self.minimum(*costs)

    def ceil_divide(self, numerator: Scalar, denominator: Scalar) -> Scalar:
        """⌈numerator / denominator⌉ of whole numbers; the half keeps it exact under XLA's reciprocal (n < 2^22)."""
        return jnp.ceil((numerator - 0.5) / denominator)

    def floor_divide(self, numerator: Scalar, denominator: Scalar) -> Scalar:
        """⌊numerator / denominator⌋ of whole numbers."""
        return jnp.floor((numerator + 0.5) / denominator)

    def ceil_log2(self, value: Scalar) -> Scalar:
        """⌈log2 value⌉ of a whole number from 1 to 2^22; the half keeps it exact where log2 is not."""
        return jnp.ceil(jnp.log2(larger(value - 0.5, 0.75)))

    def floor(self, value: Scalar) -> Scalar:
        """⌊value⌋ of a real number."""
        return jnp.floor(value)

    def straight_through(self, hard: Scalar, soft: Scalar) -> Scalar:
        """The hard value (under `Smooth`: the hard value with the gradient of the soft one)."""
        return hard

    def above(self, left: Scalar, right: Scalar) -> Scalar:
        """1 where left > right, else 0 (under `Smooth`: a sigmoid in log2)."""
        return jnp.asarray(left > right, jnp.result_type(float))

    def covers(self, reach: Scalar, needed: Scalar) -> Scalar:
        """1 where a reach is at least what is needed, else 0 (under `Smooth`: halfway at √2 of the reach)."""
        return jnp.asarray(needed < reach * (1 + _SAME), jnp.result_type(float))


class Smooth(eqx.Module):
    """The relaxation at a temperature τ in (0, 1]; the temperature is traced, so annealing does not recompile."""

    temperature: Any

    def maximum(self, *values: Scalar) -> Scalar:
        """p-norm with p = 1/τ: hard ≤ soft ≤ hard·n^τ."""
        logs = jnp.stack([jnp.log(larger(value, _TINY)) for value in values])
        return jnp.exp(self.temperature * logsumexp(logs / self.temperature, axis=0))

    def minimum(self, *values: Scalar) -> Scalar:
        """The smallest value, exactly: a structural limit (a window, a head count) has no scale to soften."""
        return Exact().minimum(*values)

    def at_least(self, value: Scalar, low: Scalar) -> Scalar:
        """max(value, low), exactly: a structural limit."""
        return larger(value, low)

    def cheapest(self, *costs: Scalar) -> Scalar:
        """n^τ·(Σ c^(−1/τ))^(−τ): hard ≤ soft ≤ hard·n^τ."""
        logs = jnp.stack([jnp.log(larger(cost, _TINY)) for cost in costs])
        return jnp.exp(self.temperature * (math.log(len(costs)) - logsumexp(-logs / self.temperature, axis=0)))

    def ceil_divide(self, numerator: Scalar, denominator: Scalar) -> Scalar:
        """The ceiling, with the gradient of the quotient."""
        return self.straight_through(Exact().ceil_divide(numerator, denominator), numerator / denominator)

    def floor_divide(self, numerator: Scalar, denominator: Scalar) -> Scalar:
        """The floor, with the gradient of the quotient."""
        return self.straight_through(Exact().floor_divide(numerator, denominator), numerator / denominator)

    def ceil_log2(self, value: Scalar) -> Scalar:
        """The ceiling, with the gradient of log2."""
        return self.straight_through(Exact().ceil_log2(value), jnp.log2(larger(value, 1.0)))

    def floor(self, value: Scalar) -> Scalar:
        """The floor, with the gradient of the value."""
        return self.straight_through(jnp.floor(value), value)

    def straight_through(self, hard: Scalar, soft: Scalar) -> Scalar:
        """The hard value with the gradient of the soft one."""
        return soft + jax.lax.stop_gradient(hard - soft)

    def above(self, left: Scalar, right: Scalar) -> Scalar:
        """sigmoid((log2 left − log2 right)/τ)."""
        ratio = jnp.log2(larger(left, _TINY)) - jnp.log2(larger(right, _TINY))
        return jax.nn.sigmoid(ratio / self.temperature)

    def covers(self, reach: Scalar, needed: Scalar) -> Scalar:
        """The sigmoid of `above`, its middle half an octave beyond the reach, so that an exact fit is a fit."""
        return self.above(reach * math.sqrt(2), needed)


class Counting:
    """Exact arithmetic on Python integers and fractions, with the interface of `Exact`."""

    def maximum(self, *values: Scalar) -> Scalar:
        """The largest value."""
        return max(values)

    def minimum(self, *values: Scalar) -> Scalar:
        """The smallest value."""
        return min(values)

    def at_least(self, value: Scalar, low: Scalar) -> Scalar:
        """max(value, low)."""
        return max(value, low)

    def cheapest(self, *costs: Scalar) -> Scalar:
        """The smallest cost among alternatives."""
        return min(costs)

    def ceil_divide(self, numerator: Scalar, denominator: Scalar) -> Scalar:
        """⌈numerator / denominator⌉."""
        return math.ceil(Fraction(numerator) / Fraction(denominator))

    def floor_divide(self, numerator: Scalar, denominator: Scalar) -> Scalar:
        """⌊numerator / denominator⌋."""
        return math.floor(Fraction(numerator) / Fraction(denominator))

    def ceil_log2(self, value: Scalar) -> Scalar:
        """⌈log2 value⌉."""
        return (math.ceil(value) - 1).bit_length()

    def floor(self, value: Scalar) -> Scalar:
        """⌊value⌋."""
        return math.floor(value)

    def straight_through(self, hard: Scalar, soft: Scalar) -> Scalar:
        """The hard value."""
        return hard

    def above(self, left: Scalar, right: Scalar) -> Scalar:
        """1 where left > right, else 0."""
        return int(left > right)

    def covers(self, reach: Scalar, needed: Scalar) -> Scalar:
        """1 where a reach is at least what is needed, else 0."""
        return int(needed <= reach)


Ops = Exact | Smooth | Counting


def settle(value: Scalar, alive: Scalar) -> Scalar:
    """The same value, computed once at its own shape.

    Under nested vmaps a quantity that does not depend on the inner axes is small; left alone, XLA would fuse its whole
    computation into every element of the large result that uses it. A branch on `alive`, a traced number that is
    always above 0 and never vmapped, is a wall that fusion does not cross (an optimisation barrier is none on CPU).
    """
    return jax.lax.cond(alive > 0, lambda v: v, jnp.zeros_like, value)


def settle_together(tree: Any, alive: Scalar) -> Any:
    """`settle` for all numbers of a pytree at once; they should depend on the same axes. Python numbers stay as they
    are; arrays must be scalars."""
    leaves, structure = jax.tree.flatten(tree)
    real = jnp.result_type(float)
    places = [index for index, leaf in enumerate(leaves) if hasattr(leaf, "dtype")]
    packed = settle(jnp.stack([jnp.asarray(leaves[index], real) for index in places]), alive)
    for index, leaf in zip(places, unstack(packed), strict=True):
        leaves[index] = leaf
    return jax.tree.unflatten(structure, leaves)


def reals(*trees: Any) -> Any:
    """The pytrees with what came in as Python integers as reals: products of counts soon leave 32 bits. Integer arrays,
    which stand for choices, stay."""

    def real(leaf: Any) -> Any:
        counts = getattr(leaf, "weak_type", False) and jnp.issubdtype(leaf.dtype, jnp.integer)
        return jnp.asarray(leaf, float) if counts else leaf

    return jax.tree.map(real, trees)


def optional(condition: Scalar, compute: Callable[[], Any], otherwise: Any) -> Any:
    """Scalars that are computed where a condition holds, else a pytree of numbers; skipped at run time unless the
    condition is vmapped."""
    real = jnp.result_type(float)

    def as_real(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, real), tree)

    return jax.lax.cond(condition, lambda: as_real(compute()), lambda: as_real(otherwise))


def unstack(array: Scalar) -> list[Scalar]:
    """The entries of an array along its first axis: one operation for all, and one each."""
    return [jax.lax.squeeze(part, (0,)) for part in jax.lax.split(array, [1] * array.shape[0])]


def stack(items: Sequence[Any]) -> Any:
    """Pytrees of equal structure as one, whose leaves have a leading axis."""
    real = jnp.result_type(float)
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf, real) for leaf in leaves]), *items)


def apart(tree: Any) -> list[Any]:
    """The opposite of `stack`; a leaf that is a Python number is everybody's."""
    leaves, structure = jax.tree.flatten(tree)
    number = next(leaf.shape[0] for leaf in leaves if hasattr(leaf, "dtype"))
    parts = [unstack(leaf) if hasattr(leaf, "dtype") else [leaf] * number for leaf in leaves]
    return [jax.tree.unflatten(structure, items) for items in zip(*parts, strict=True)]


EXACT = Exact()
"""The one instance that everything uses unless told otherwise."""
