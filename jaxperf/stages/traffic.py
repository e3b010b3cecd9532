"""Stage 3: bytes moved between memory and the arithmetic units, each class at its own width."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp

from ..ops import Ops, Scalar, choose, larger, smaller
from .operators import AttentionCore, Elementwise, Gemm, Operator
from .shapes import STATE_BYTES, Pass, chunk_pairs


class Bytes(eqx.Module):
    """Bytes by class: weights, KV cache (and recurrent state), activations [bytes]."""

    weights: Scalar
    kv_cache: Scalar
    activations: Scalar

    @property
    def total(self) -> Scalar:
        """All classes together [bytes]."""
        return self.weights + self.kv_cache + self.activations


def attention_bytes(core: AttentionCore, work: Pass, prior: Scalar, ops: Ops) -> Bytes:
    """Bytes of one layer's attention core on one rank, for a chunk that follows `prior` tokens [bytes].

    Reads min(prior, w − 1) cached tokens and its own, no more than its queries choose (T·top-k), and an indexer's keys
    of all of them; writes its own; the same of the recent tokens beside a compressed cache. Context-parallel ranks
    split the reads of a decode step, and in a prefill ring each streams every key past its own queries. Recurrent state
    is read once and written once, by a decode step of several drafted tokens after each, as one of them may be the last
    that is accepted; the inputs of its convolution likewise.
    """
    shape = core.shape
    visible = ops.minimum(prior, core.window - 1) + work.new_tokens
    limited = jnp.isfinite(core.reach)  # infinity times tokens has no derivative
    chosen = choose(limited, work.new_tokens * choose(limited, core.reach, 0.0), visible)
    seen = ops.minimum(visible, chosen)
    if work.decode:
        seen = seen + core.chunked * (chunk_pairs(core.window, work, prior) - seen)
    read_split = core.cp if work.decode else 1.0
    token = (
        shape.kv_elements * core.kv_width * (1 - ops.minimum(shape.rebuilt_elements, 1.0))
        + shape.rebuilt_elements * core.activation_width
    )
    turns = 1 + (work.new_tokens if work.decode else 1.0)
    state = turns * (shape.state_elements * STATE_BYTES + shape.state_inputs * core.activation_width)
    recent, written = _recent_tokens(core, work, ops)
    entry = core.recent_weight * shape.kv_elements * core.kv_width
    cache = work.sequences * (
        (seen * token + visible * core.index_bytes + recent * entry) / read_split
        + written * entry / core.cp
        + core.stored * work.new_tokens * (shape.kv_elements * core.kv_width + core.index_bytes) / core.cp
        + state
    )
    heads = shape.heads * (shape.score_size + shape.value_size) * core.recent_weight
    row = heads + shape.mixed_elements + shape.gated_elements
    return Bytes(0.0 * cache, core.present * cache, core.present * work.rows * row * core.activation_width)


def _recent_tokens(core: AttentionCore, work: Pass, ops: Ops) -> tuple[Scalar, Scalar]:
    """Recent tokens beside a compressed cache that a chunk reads, the mean over the chunks of a pass, and writes
    [tokens]."""
    present, chunks = smaller(core.recent, 1.0), ops.at_least(work.chunks, 1.0)
    full = present * (core.recent - 1)
    missing = larger(full - work.prior, 0.0)
    short = ops.minimum(ops.ceil_divide(missing, ops.at_least(work.new_tokens, 1.0)), chunks)
    missed = short * missing - work.new_tokens * short * (short - 1) / 2
    return present * (full - missed / chunks + work.new_tokens), ops.minimum(work.new_tokens, core.recent)


def traffic(operator: Operator, work: Pass, ops: Ops) -> Bytes:
    """Bytes of one operator in one chunk of a pass, attention at the mean of the first and the last chunk [bytes].

    GEMM: weights copies·n·k, input copies·m·k, output copies·m·n, each at its width.
    """
    if isinstance(operator, Gemm):
        present = operator.present * operator.copies
        weights = present * operator.n * operator.k * operator.weight_width
        inputs = present * operator.m * operator.k * operator.input_width
        outputs = present * operator.m * operator.n * operator.output_width
        return Bytes(weights, 0.0 * weights, inputs + outputs)
    if isinstance(operator, Elementwise):
        moved = operator.present * operator.rows * operator.row_bytes
        return Bytes(0.0 * moved, 0.0 * moved, moved)
    first = attention_bytes(operator, work, work.prior, ops)
    last = attention_bytes(operator, work, work.last_context - work.new_tokens, ops)
    return Bytes(
        (first.weights + last.weights) / 2,
        (first.kv_cache + last.kv_cache) / 2,
        (first.activations + last.activations) / 2,
    )
