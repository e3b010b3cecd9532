"""Gradients do not depend on how XLA fuses: latency is homogeneous of degree one in all times, under every option."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from jaxperf.load import deployment, evaluate, load_model, load_system, workload

TIMES = (
    "operator_time",
    "attention_time",
    "collective_time",
    "host_step_time",
    "host_sequence_time",
    "host_token_time",
)


OPTIONS = [None, {"xla_backend_optimization_level": 0}, {"xla_disable_hlo_passes": "fusion"}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_latency_grows_in_proportion_to_all_times(options, rtol):
    model, system, work = load_model("deepseek-v3"), load_system("h100-sxm-8"), workload(2048, 256, 64)
    laid_out = deployment("deepseek-v3", tp=8, chunk=512)

    def logs(scale):
        device = system.device
        memories = tuple(
            eqx.tree_at(lambda t: t.bandwidth, tier, tier.bandwidth / scale) for tier in device.memory.tiers
        )
        slower = eqx.tree_at(
            lambda d: (d.memory.tiers, d.peak), device, (memories, tuple(peak / scale for peak in device.peak))
        )
        fabric = tuple(
            eqx.tree_at(
                lambda t: (t.bandwidth, t.alpha, t.switch_alpha),
                tier,
                (tier.bandwidth / scale, tier.alpha * scale, tier.switch_alpha * scale),
            )
            for tier in system.fabric
        )
        scaled = eqx.tree_at(lambda s: (s.device, s.fabric), system, (slower, fabric))
        factors = laid_out.efficiency
        factors = eqx.tree_at(
            lambda e: [getattr(e, t) for t in TIMES], factors, [getattr(factors, t) * scale for t in TIMES]
        )
        metrics = evaluate(model, scaled, eqx.tree_at(lambda d: d.efficiency, laid_out, factors), work)
        return jnp.log(jnp.stack([metrics.ttft, metrics.tpot]))

    one = jnp.ones(())
    slopes = jax.jit(jax.jacfwd(logs), compiler_options=options)(one)
    assert slopes.tolist() == pytest.approx([1.0, 1.0], rel=rtol)
