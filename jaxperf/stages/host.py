"""Work of the host: what a step, a sequence and a token cost there, and launching kernels."""

from __future__ import annotations

from ..ops import Scalar
from .plan import Plan


def host_time(plan: Plan, steps: Scalar, sequences: Scalar, tokens: Scalar) -> Scalar:
    """Time of the host over some steps [s]: steps·(τ_launch·kernels + h0 + h1·sequences) + h2·tokens.

    **Arguments:** `sequences` of a step on one rank; `tokens`, new ones on one rank in all steps together. With CUDA
    graphs τ_launch is the time of a kernel inside the graph; eager, the time to launch one.
    """
    efficiency, engine = plan.deployment.efficiency, plan.deployment.engine
    step = efficiency.host_step_time + engine.kernel_launch * plan.kernels
    return steps * (step + efficiency.host_sequence_time * sequences) + efficiency.host_token_time * tokens
