"""Plain expectations that the closed forms of routing are held against: sums over binomial tails, no JAX."""

from __future__ import annotations

import math


def binomial_below(trials: int, chance: float) -> list[float]:
    """F(0), F(1), … of Bin(trials, chance), until it is 1 to 1e-12."""
    if chance >= 1:
        return [0.0] * trials + [1.0]
    values, total = [], 0.0
    for count in range(trials + 1):
        log_mass = (
            math.lgamma(trials + 1)
            - math.lgamma(count + 1)
            - math.lgamma(trials - count + 1)
            + count * math.log(chance)
            + (trials - count) * math.log1p(-chance)
        )
        total += math.exp(log_mass)
        values.append(min(total, 1.0))
        if total > 1 - 1e-12 and count > trials * chance:
            break
    return values


def expected_maximum(trials: int, chance: float, ranks: int) -> float:
    """Σ_{x≥0} 1 − F(x)^G: the expected maximum of G independent counts."""
    return math.fsum(1 - below**ranks for below in binomial_below(trials, chance))


def slowest_tokens(tokens: int, experts: int, chosen: int, ep: int) -> float:
    """Pairs on the fullest rank: Bin(T·k, 1/ep), with one expert a rank Bin(T, k/E); within what is possible."""
    total = (
        expected_maximum(tokens, chosen / experts, ep)
        if ep == experts
        else expected_maximum(tokens * chosen, 1 / ep, ep)
    )
    mean = tokens * chosen / ep
    return min(max(total, mean, 1.0), max(tokens * min(chosen, experts / ep), mean))


def slowest_experts(tokens: int, experts: int, chosen: int, ep: int) -> float:
    """Distinct experts of the busiest rank: Bin(E/ep, 1 − (1 − k/E)^T), at least one."""
    woken = 1 - (1 - chosen / experts) ** tokens
    return max(expected_maximum(experts // ep, woken, ep), 1.0)
