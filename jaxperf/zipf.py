"""Zipf's law of popularity, p_r ∝ r^−s by rank, over any number of items, in a few groups."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .ops import Scalar, clamp, larger


def ranks_in_groups(items: Scalar, first: int, groups: int) -> tuple[jax.Array, jax.Array]:
    """Ranks from 1 and how many of the `items` each stands for, [first + groups] both: the first ranks by themselves,
    all later ones in groups of equal ratio.

    A part of an item counts where `items` is not whole, so that what is summed over them is continuous in it.
    """
    single = jnp.arange(1.0, first + 0.5)
    start = first + 0.5
    reach = larger((items + 0.5) / start, 1.0)
    edges = start * reach ** jnp.linspace(0.0, 1.0, groups + 1)
    ranks = jnp.concatenate([single, jnp.sqrt(edges[1:] * edges[:-1])])
    return ranks, jnp.concatenate([clamp(items - single + 1, 0.0, 1.0), edges[1:] - edges[:-1]])


def zipf_weights(exponent: Scalar, ranks: jax.Array, counts: jax.Array) -> jax.Array:
    """r^−s, so scaled that the weights of all items sum to 1."""
    weights = ranks**-exponent
    return weights / larger(jnp.sum(counts * weights), 1e-30)
