r"""Which experts a batch of tokens wakes, and how uneven the ranks are, in closed form.

Routing is uniform: each token picks k of E experts. The exact expectations are sums over binomial tails; kernels use
closed forms that tests hold against those sums."""

from __future__ import annotations

import jax.numpy as jnp
from jax.scipy.special import ndtri

from ..ops import Scalar


def active_experts(tokens: Scalar, experts: Scalar, experts_per_token: Scalar) -> Scalar:
    """Expected number of distinct experts that `tokens` tokens choose [experts]: E·(1 − (1 − k/E)^T).

    Zero experts give 0. Source: uniform routing; checked by simulation (163.7 of 256 for 32 tokens, top-8).
    """
    share = experts_per_token / jnp.maximum(experts, 1.0)
    return experts * _woken(share, tokens)


def _woken(share: Scalar, tokens: Scalar) -> Scalar:
    """1 − (1 − share)^tokens, exact for small shares."""
    return -jnp.expm1(tokens * jnp.log1p(-jnp.minimum(share, 0.999999)))


def normal_score(ranks: Scalar) -> Scalar:
    """Expected maximum of n standard normals: Φ⁻¹((n − 0.375)/(n + 0.25)) (Blom 1958), 0 for one."""
    return ndtri((ranks - 0.375) / (ranks + 0.25))


def expected_maximum(mean: Scalar, variance: Scalar, skewness: Scalar, score: Scalar) -> Scalar:
    r"""Expected maximum of several like variables, from three moments and the normal score z of their number.

    Cornish–Fisher for the skew of counts: μ + σ·(z + (z² − 1)γ/6 − (2z³ − 5z)γ²/36 + (z³ − 3z)κ/24), with κ = γ² as for
    Poisson-like counts. One variable (z = 0) gives the mean. Source: Cornish & Fisher 1938.
    """
    z, square = score, skewness * skewness
    cube = z * z * z
    shifted = z + (z * z - 1) * skewness / 6 - (2 * cube - 5 * z) * square / 36 + (cube - 3 * z) * square / 24
    several = jnp.minimum(z * 1e3, 1.0)
    return mean + several * jnp.sqrt(jnp.maximum(variance, 1e-12)) * jnp.maximum(shifted, 0.0)


def slowest_rank_tokens(tokens: Scalar, experts: Scalar, experts_per_token: Scalar, ep: Scalar, score: Scalar) -> Scalar:
    """Expected token-expert pairs on the fullest of `ep` ranks [pairs], against the mean T·k/ep.

    Reference: Σ_{x≥0} 1 − F_bin(x; T·k, 1/ep)^ep; with one expert a rank Bin(T, k/E), as a token does not pick an
    expert twice. Clipped to what is possible: at least the mean and one pair, at most T·min(k, E/ep).
    """
    pairs = tokens * experts_per_token
    mean = pairs / ep
    # A token's k picks are distinct, so a rank's count is a sum over tokens of hypergeometric draws.
    local = experts / jnp.maximum(ep, 1.0)
    chance = jnp.minimum(local / jnp.maximum(experts, 1.0), 1.0)
    finite = (experts - experts_per_token) / jnp.maximum(experts - 1.0, 1.0)
    variance = mean * (1 - chance) * jnp.clip(finite, 0.0, 1.0)
    skewness = (1 - 2 * chance) / jnp.sqrt(jnp.maximum(mean * (1 - chance), 1e-6))
    estimate = expected_maximum(mean, variance, jnp.clip(skewness, 0.0, 1.5), score)
    most = tokens * jnp.minimum(experts_per_token, local)
    least = jnp.maximum(mean, jnp.minimum(1.0, pairs))
    return jnp.clip(estimate, least, jnp.maximum(most, least))


def slowest_rank_experts(tokens: Scalar, experts: Scalar, experts_per_token: Scalar, ep: Scalar, score: Scalar) -> Scalar:
    """Expected distinct experts that the busiest of `ep` ranks must read [experts].

    Reference: Σ_{x≥0} 1 − F_bin(x; E/ep, q)^ep with q = 1 − (1 − k/E)^T. Between the mean and E/ep.
    """
    local = experts / jnp.maximum(ep, 1.0)
    share = _woken(experts_per_token / jnp.maximum(experts, 1.0), tokens)
    mean = local * share
    variance = mean * (1 - share)
    skewness = (1 - 2 * share) / jnp.sqrt(jnp.maximum(variance, 1e-6))
    estimate = expected_maximum(mean, variance, jnp.clip(skewness, -1.5, 1.5), score)
    least = jnp.maximum(mean, jnp.minimum(jnp.minimum(1.0, local), tokens * experts_per_token))
    return jnp.clip(estimate, least, jnp.maximum(local, least))


def distinct_ranks(experts: Scalar, experts_per_token: Scalar, ep: Scalar) -> Scalar:
    """Expected number of ranks that hold at least one of a token's k experts [ranks].

    ep·(1 − C(E − E/ep, k)/C(E, k)), with the ratio as (1 − q/(E − (k−1)/2))^k, q = E/ep: within 1 %.
    DeepSeek-V3 at ep 8: 5.29, not 8.
    """
    local = experts / jnp.maximum(ep, 1.0)
    middle = jnp.maximum(experts - (experts_per_token - 1) / 2, 1e-6)
    missed = jnp.clip(1 - local / middle, 1e-9, 1.0) ** experts_per_token
    return ep * (1 - missed)
