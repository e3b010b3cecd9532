"""α–β cost of one collective over one tier: G ranks, α seconds a message, β seconds a byte.

M is the full vector of an all-reduce, the gathered result of an all-gather or reduce-scatter, and what a rank sends in
total for an all-to-all [bytes]. Every function returns seconds; collectives are 0 at G = 1.
Source: Thakur, Rabenseifner, Gropp 2005; no software all-reduce beats 2(G−1)/G·Mβ (Patarasuk & Yuan 2009)."""

from __future__ import annotations

from ..ops import Scalar


def ring_all_gather(size: Scalar, ranks: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """Ring all-gather or reduce-scatter [s]: (G−1)·α + (G−1)/G·M·β."""
    return (ranks - 1) * (alpha + size / ranks * beta)


def ring_all_reduce(size: Scalar, ranks: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """Ring all-reduce [s]: 2(G−1)·α + 2(G−1)/G·M·β."""
    return 2 * ring_all_gather(size, ranks, alpha, beta)


def pairwise_all_to_all(size: Scalar, ranks: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """Pairwise all-to-all [s]: (G−1)·α + (G−1)/G·M·β."""
    return (ranks - 1) * (alpha + size / ranks * beta)


def point_to_point(size: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """One message [s]: α + M·β."""
    return alpha + size * beta
