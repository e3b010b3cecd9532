"""Closed forms of expert routing against the binomial sums that they stand for, and against drawn routings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxperf.stages.routing import (
    active_experts,
    distinct_ranks,
    normal_score,
    slowest_rank_experts,
    slowest_rank_tokens,
)

from ..reference import plain

ROUTINGS = [(8, 2), (128, 8), (256, 8), (128, 4)]
TOKENS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512, 1024, 4096]
CASES = [(t, e, k, ep) for e, k in ROUTINGS for ep in (2, 4, 8, 16, 32, 64, 128, 256) if ep <= e for t in TOKENS]


def _arrays() -> tuple[jax.Array, ...]:
    return tuple(jnp.asarray(column, float) for column in zip(*CASES, strict=True))


def test_fullest_rank_is_within_three_percent_of_the_sum():
    tokens, experts, chosen, ep = _arrays()
    found = slowest_rank_tokens(tokens, experts, chosen, ep, normal_score(ep))
    wanted = np.array([plain.slowest_tokens(*case) for case in CASES])
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=0.03)


def test_busiest_rank_reads_within_three_percent_of_the_sum():
    tokens, experts, chosen, ep = _arrays()
    found = slowest_rank_experts(tokens, experts, chosen, ep, normal_score(ep))
    wanted = np.array([plain.slowest_experts(*case) for case in CASES])
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=0.03)


@pytest.mark.parametrize(("experts", "chosen"), ROUTINGS)
@pytest.mark.parametrize("tokens", [8, 64, 256])
def test_drawn_routings(experts: int, chosen: int, tokens: int):
    """Uniform choices without replacement, counted: the sums leave out that ranks compete for the same picks."""
    random = np.random.default_rng(experts + tokens)
    trials = 400
    ranks = [ep for ep in (2, 8, 32, 128) if ep <= experts]
    pairs, distinct, reached = dict.fromkeys(ranks, 0.0), dict.fromkeys(ranks, 0.0), dict.fromkeys(ranks, 0.0)
    for _ in range(trials):
        picks = np.argpartition(random.random((tokens, experts)), chosen - 1, axis=1)[:, :chosen]
        counts = np.bincount(picks.ravel(), minlength=experts)
        for ep in ranks:
            pairs[ep] += counts.reshape(ep, -1).sum(1).max() / trials
            distinct[ep] += (counts > 0).reshape(ep, -1).sum(1).max() / trials
            homes = np.sort(picks // (experts // ep), axis=1)
            reached[ep] += (1 + (np.diff(homes, axis=1) > 0).sum(1).mean()) / trials
    for ep in ranks:
        args = (float(tokens), float(experts), float(chosen), float(ep), normal_score(float(ep)))
        assert float(slowest_rank_tokens(*args)) == pytest.approx(pairs[ep], rel=0.06)
        assert float(slowest_rank_experts(*args)) == pytest.approx(distinct[ep], rel=0.04)
        assert float(distinct_ranks(*args[1:4])) == pytest.approx(reached[ep], rel=0.02)


def test_one_rank_holds_everything():
    for tokens in (1.0, 5.0, 300.0):
        assert float(slowest_rank_tokens(tokens, 64.0, 6.0, 1.0, normal_score(1.0))) == pytest.approx(6 * tokens)
        awake = slowest_rank_experts(tokens, 64.0, 6.0, 1.0, normal_score(1.0))
        assert float(awake) == pytest.approx(max(float(active_experts(tokens, 64.0, 6.0)), 1.0), rel=1e-5)


def test_dense_layer_routes_nothing():
    for ep in (1.0, 8.0):
        assert float(slowest_rank_tokens(64.0, 0.0, 0.0, ep, normal_score(ep))) == 0.0
        assert float(slowest_rank_experts(64.0, 0.0, 0.0, ep, normal_score(ep))) == 0.0


@pytest.mark.parametrize(
    "point", [(1.0, 8.0, 2.0, 1.0), (1.0, 8.0, 2.0, 8.0), (0.0, 0.0, 0.0, 1.0), (1e5, 256.0, 8.0, 256.0)]
)
def test_gradients_are_finite(point: tuple[float, ...]):
    def both(values: jax.Array) -> jax.Array:
        score = normal_score(values[3])
        return slowest_rank_tokens(*values, score) + slowest_rank_experts(*values, score)

    assert np.isfinite(np.asarray(jax.grad(both)(jnp.asarray(point, float)))).all()
