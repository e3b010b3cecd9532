"""What users ask: prompt and output lengths, sequences in flight, latency targets."""

from __future__ import annotations

import equinox as eqx

from ..ops import Scalar


class Slo(eqx.Module):
    """Latency targets [s]; infinite = none."""

    ttft: Scalar = float("inf")
    tpot: Scalar = float("inf")


class Workload(eqx.Module):
    """`isl` prompt tokens, `osl` output tokens (the first comes out of prefill), `batch` sequences in flight in one
    instance, `prefill_batch` prompts prefilled together when TTFT is timed, `prefix_hit` tokens at the start of every
    prompt whose KV cache is found (at least one token is always computed)."""

    isl: Scalar
    osl: Scalar
    batch: Scalar = 1
    prefill_batch: Scalar = 1
    slo: Slo = Slo()
    prefix_hit: Scalar = 0
