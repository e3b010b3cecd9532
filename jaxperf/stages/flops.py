"""Stage 2: operations. A multiply-add is 2 FLOP."""

from __future__ import annotations

from ..ops import Ops, Scalar
from .operators import AttentionCore, Elementwise, Gemm, Operator
from .shapes import Pass, visible_pairs


def attention_flops(core: AttentionCore, work: Pass, prior: Scalar, ops: Ops) -> Scalar:
    """FLOPs of one layer's attention core on one rank, for a chunk that follows `prior` tokens [FLOP].

    2·pairs·(dk + dv)·heads/cp a sequence, plus the state update of linear attention.
    """
    shape = core.shape
    pairs = work.sequences * visible_pairs(work.new_tokens, prior, core.window, core.causal_work, ops)
    scores = 2 * pairs * (shape.score_size + shape.value_size) * shape.heads / core.cp
    return core.present * (scores + work.rows * shape.state_flops)


def flops(operator: Operator, work: Pass, ops: Ops) -> Scalar:
    """FLOPs of one operator in one chunk of a pass, attention at the mean over chunks [FLOP].

    GEMM: 2·copies·m·n·k. Element-wise operators count none: they are bound by their bytes.
    """
    if isinstance(operator, Gemm):
        return operator.present * 2 * operator.copies * operator.m * operator.n * operator.k
    if isinstance(operator, Elementwise):
        return 0.0 * operator.row_bytes
    first = attention_flops(operator, work, work.prior, ops)
    last = attention_flops(operator, work, work.last_context - work.new_tokens, ops)
    return (first + last) / 2
