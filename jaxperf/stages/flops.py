"""Stage 2: operations. A multiply-add is 2 FLOP."""

from __future__ import annotations

from ..ops import Ops, Scalar
from .operators import AttentionCore, Elementwise, Gemm, Operator
from .shapes import Pass, chunk_pairs, visible_pairs


def recent_pairs(core: AttentionCore, work: Pass, ops: Ops) -> Scalar:
    """Query-key pairs of a chunk with the recent tokens beside a compressed cache, as so many pairs with its entries:
    the mean over the chunks of a pass [pairs]."""
    tokens = work.new_tokens * work.chunks
    pairs = visible_pairs(tokens, work.prior, core.recent, 0.5, ops) / ops.at_least(work.chunks, 1.0)
    return pairs * core.recent_weight


def attention_flops(core: AttentionCore, work: Pass, prior: Scalar, ops: Ops) -> Scalar:
    """FLOPs of one layer's attention core on one rank, for a chunk that follows `prior` tokens [FLOP].

    2·pairs·(dk + dv)·heads/cp a sequence, each query scoring at most its window or its indexer's choice, and beside a
    compressed cache the recent tokens as they are (the mean over chunks); 2·Hi·di for every pair that an indexer scores
    (DeepSeek-V3.2: in fp8, so counted as what the core's peak does in that time); and the state update of recurrent
    layers, in prefill by chunks.
    """
    shape = core.shape
    scored = visible_pairs(work.new_tokens, prior, core.reach, core.causal_work, ops)
    scored = scored + core.chunked * (chunk_pairs(core.window, work, prior) - scored) + recent_pairs(core, work, ops)
    indexed = visible_pairs(work.new_tokens, prior, core.window, core.causal_work, ops)
    work_of_pairs = 2 * scored * (shape.score_size + shape.value_size) * shape.heads + indexed * core.index_flops
    state = shape.state_flops if work.decode else shape.chunk_flops
    return core.present * (work.sequences * work_of_pairs / core.cp + work.rows * state)


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
