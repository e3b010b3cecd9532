"""Stage 2: operations. A multiply-add is 2 FLOP."""

from __future__ import annotations

from ..ops import Ops, Scalar
from .operators import AttentionCore, Elementwise, Gemm, Operator
from .shapes import Pass, chunk_pairs, visible_pairs


def attention_flops(core: AttentionCore, work: Pass, prior: Scalar, ops: Ops) -> Scalar:
    """FLOPs of one layer's attention core on one rank, for a chunk that follows `prior` tokens [FLOP].

    2·pairs·(dk + dv)·heads/cp a sequence, each query scoring at most its window or its indexer's choice; 2·Hi·di for
    every pair that an indexer scores (DeepSeek-V3.2: in fp8, so counted as what the core's peak does in that time);
    and the state update of linear attention.
    """
    shape = core.shape
    scored = visible_pairs(work.new_tokens, prior, core.reach, core.causal_work, ops)
    scored = scored + core.chunked * (chunk_pairs(core.window, work, prior) - scored)
    indexed = visible_pairs(work.new_tokens, prior, core.window, core.causal_work, ops)
    work_of_pairs = 2 * scored * (shape.score_size + shape.value_size) * shape.heads + indexed * core.index_flops
    return core.present * (work.sequences * work_of_pairs / core.cp + work.rows * shape.state_flops)


def flops(operator: Operator, work: Pass, ops: Ops) -> Scalar:
    """FLOPs of one operator in one chunk of a pass, attention at the mean over chunks [FLOP].

    GEMM: 2·copies·m·n·k. Element-wise operators count none, as they are bound by their bytes, unless they say so.
    """
    if isinstance(operator, Gemm):
        return operator.present * 2 * operator.copies * operator.m * operator.n * operator.k
    if isinstance(operator, Elementwise):
        return operator.present * operator.rows * operator.row_flops + 0.0 * operator.row_bytes
    first = attention_flops(operator, work, work.prior, ops)
    last = attention_flops(operator, work, work.last_context - work.new_tokens, ops)
    return (first + last) / 2
