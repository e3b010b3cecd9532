r"""Stage 5: roofline latency of operators, layers and pipeline stages.

An operator takes \(\mathrm{pnorm}(\mathrm{flop}/(e_c R),\ \mathrm{bytes}/(e_m BW)) + t_0\). Two assemblies of the same
table: `operator` (a sum of maxima, the default) and `phase` (a maximum of sums, the classical bound)."""

from __future__ import annotations

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from ..ops import Exact, Ops, Scalar, clamp, larger, settle_together
from ..spec.deployment import Efficiency
from .flops import attention_flops, flops
from .operators import AttentionCore, Elementwise, Gemm, Operator
from .plan import Plan
from .shapes import Pass
from .traffic import attention_bytes, traffic

Assembly = Literal["operator", "phase"]

_SHORTEST = 1e-12  # below every time [s]; float32 holds its inverse square times any gradient that reaches it


class Timing(eqx.Module):
    """One or more operators over all chunks of a pass. Seconds: `time` (the roofline, with overheads), its sides
    `compute`, `memory` and `overhead`, and `last`, the time in the last (for attention, the longest) chunk. Besides,
    `flops` [FLOP] and `needed_bytes` of weights and KV cache [bytes]."""

    time: Scalar
    compute: Scalar
    memory: Scalar
    overhead: Scalar
    last: Scalar
    flops: Scalar
    needed_bytes: Scalar

    def __add__(self, other: Timing) -> Timing:
        return jax.tree.map(lambda mine, its: mine + its, self, other)


def roofline(compute: Scalar, memory: Scalar, sharpness: Scalar | None, ops: Ops) -> Scalar:
    """The longer of two times [s]; with a finite sharpness p their p-norm, which only adds time."""
    if sharpness is None:
        return ops.maximum(compute, memory)
    logs = [jnp.log(larger(side, 1e-30)) for side in (compute, memory)]
    return jnp.exp(jnp.logaddexp(sharpness * logs[0], sharpness * logs[1]) / sharpness)


def gemm_row_time(gemm: Gemm, efficiency: Efficiency) -> Scalar:
    """2·(n+n0)(k+k0)/(c_max·R) [s]: compute time of one row, to be multiplied by copies·(m+m0)."""
    columns, depth = gemm.n + efficiency.gemm_columns_half, gemm.k + efficiency.gemm_depth_half
    return gemm.present * 2 * columns * (depth / (efficiency.gemm_compute * gemm.peak))


def gemm_compute_time(gemm: Gemm, efficiency: Efficiency) -> Scalar:
    """2·copies·(m+m0)(n+n0)(k+k0)/(c_max·R) [s]: e_c = c_max·m/(m+m0)·n/(n+n0)·k/(k+k0) without its divisions."""
    return gemm.copies * (gemm.m + efficiency.gemm_rows_half) * gemm_row_time(gemm, efficiency)


class RowCosts(eqx.Module):
    """An operator without its rows and copies: everything about it is linear in these. Seconds and bytes of the weights
    of one copy, seconds and FLOPs of one row, seconds besides; attention counts sequences as rows."""

    compute: Scalar
    weights: Scalar
    rows: Scalar
    fixed: Scalar
    overhead: Scalar
    flops: Scalar
    needed_weights: Scalar
    needed_rows: Scalar


def row_costs(operator: Operator, plan: Plan, work: Pass, ops: Ops) -> RowCosts:
    """`RowCosts` of an operator, from its FLOPs and traffic at one row of one copy.

    e_m = m_max·bytes/(bytes + b0), so the time of an operator's traffic is (bytes + b0)/(m_max·BW).
    """
    efficiency, bandwidth = plan.deployment.efficiency, plan.system.device.memory.bandwidth
    overhead = operator.present * efficiency.operator_time
    half = operator.present * efficiency.memory_bytes_half
    if isinstance(operator, AttentionCore):
        once = eqx.tree_at(lambda w: (w.rows, w.sequences), work, (1.0, 1.0))
        counted = attention_flops(operator, once, once.prior, ops)
        moved = attention_bytes(operator, once, once.prior, ops)
        inverse = 1 / (efficiency.attention_memory * bandwidth)
        compute = counted / (efficiency.attention_decode_compute * operator.peak)
        overhead = overhead + operator.present * efficiency.attention_time
        return RowCosts(compute, 0.0, moved.total * inverse, half * inverse, overhead, counted, 0.0, moved.kv_cache)
    if isinstance(operator, Elementwise):
        moved = traffic(eqx.tree_at(lambda o: o.rows, operator, 1.0), work, ops)
        inverse = 1 / (efficiency.elementwise_memory * bandwidth)
        return RowCosts(0.0, 0.0, moved.total * inverse, half * inverse, overhead, 0.0, 0.0, 0.0)
    once = eqx.tree_at(lambda o: (o.copies, o.m), operator, (1.0, 1.0))
    counted, moved = flops(once, work, ops), traffic(once, work, ops)
    inverse = 1 / (efficiency.gemm_memory * bandwidth)
    return RowCosts(
        compute=gemm_row_time(operator, efficiency),
        weights=moved.weights * inverse,
        rows=moved.activations * inverse,
        fixed=half * inverse,
        overhead=overhead,
        flops=counted,
        needed_weights=moved.weights,
        needed_rows=0.0,
    )


def operator_timing(operator: Operator, plan: Plan, work: Pass, ops: Ops) -> Timing:
    """Time of one operator over all chunks of a pass (see `Timing`)."""
    if isinstance(operator, AttentionCore) and not work.decode:
        return attention_timing(operator, plan, work, ops)
    return timing_of_rows(operator, row_costs(operator, plan, work, ops), plan, work, ops)


def timing_of_rows(operator: Operator, costs: RowCosts, plan: Plan, work: Pass, ops: Ops) -> Timing:
    """`Timing` of an operator from its `RowCosts`: copies·(weights + m·rows) + fixed, or copies·(m + m0)·compute."""
    efficiency = plan.deployment.efficiency
    if isinstance(operator, Gemm):
        copies, rows, padded = operator.copies, operator.m, operator.m + efficiency.gemm_rows_half
    else:
        copies, rows = 1.0, work.sequences if isinstance(operator, AttentionCore) else operator.rows
        padded = rows
    memory = copies * (costs.weights + rows * costs.rows) + costs.fixed
    compute = copies * (padded * costs.compute)
    time = memory if isinstance(operator, Elementwise) else roofline(compute, memory, efficiency.sharpness, ops)
    time = time + costs.overhead
    counted = copies * (rows * costs.flops)
    needed = copies * (costs.needed_weights + rows * costs.needed_rows)
    if work.decode:
        return Timing(time, compute, memory, costs.overhead, time, counted, needed)
    n = work.chunks
    return Timing(time * n, compute * n, memory * n, costs.overhead * n, time, counted * n, needed * n)


def attention_timing(core: AttentionCore, plan: Plan, work: Pass, ops: Ops) -> Timing:
    """Attention over the chunks of a prefill. From chunk to chunk both sides of its roofline grow linearly until the
    window is full and stay constant after, so the sum of maxima has a closed form: a linear run, the one chunk in
    which the window fills, and a constant run."""
    efficiency = plan.deployment.efficiency
    slope = 1 / (efficiency.attention_prefill_compute * core.peak)
    inverse = 1 / (efficiency.attention_memory * plan.system.device.memory.bandwidth)
    half = core.present * efficiency.memory_bytes_half

    def sides(index: Scalar) -> tuple[Scalar, Scalar, Scalar]:
        prior = work.prior + index * work.new_tokens
        moved = attention_bytes(core, work, prior, ops)
        compute = attention_flops(core, work, prior, ops) * slope
        return compute, (moved.total + half) * inverse, moved.kv_cache

    def longer(left: Scalar, right: Scalar) -> Scalar:
        return roofline(left, right, efficiency.sharpness, ops)

    overhead = core.present * (efficiency.operator_time + efficiency.attention_time)
    chunks, size = work.chunks, work.new_tokens
    growing = jnp.floor((core.window - work.prior + 0.5) / ops.at_least(size, 1.0))  # infinite without a window
    growing = jax.lax.stop_gradient(ops.minimum(ops.at_least(growing, 0.0), chunks))
    straddling = ops.minimum(chunks - growing, 1.0)
    full = chunks - growing - straddling

    compute_first, memory_first, needed_first = sides(0.0)
    compute_next, memory_next, _ = sides(ops.minimum(1.0, ops.at_least(growing - 1, 0.0)))
    compute_fill, memory_fill, _ = sides(growing)
    compute_last, memory_last, needed_last = sides(ops.at_least(chunks - 1, 0.0))
    triangle = growing * (growing - 1) / 2
    compute = growing * compute_first + triangle * (compute_next - compute_first)
    memory = growing * memory_first + triangle * (memory_next - memory_first)
    linear = _sum_of_maxima(compute_first, compute_next, memory_first, memory_next, growing)
    if not (isinstance(ops, Exact) and efficiency.sharpness is None):
        hard = larger(compute, memory)
        linear = linear * longer(compute, memory) / larger(hard, _SHORTEST)
    last = longer(compute_last, memory_last)
    time = linear + straddling * longer(compute_fill, memory_fill) + full * last
    compute = compute + straddling * compute_fill + full * compute_last
    return Timing(
        time=time + overhead * chunks,
        compute=compute,
        memory=memory + straddling * memory_fill + full * memory_last,
        overhead=overhead * chunks,
        last=last + overhead,
        flops=compute / slope,
        needed_bytes=chunks * (needed_first + needed_last) / 2,
    )


def _sum_of_maxima(first: Scalar, next_: Scalar, other: Scalar, other_next: Scalar, count: Scalar) -> Scalar:
    """Σ_{j<N} max(a + j·a', b + j·b') for two lines given at j = 0 and 1.

    Σ b + Σ max(d, 0) with d = a − b monotone: the positive part is its best prefix or its best suffix, and both end at
    the crossing ⌈−d0/d'⌉, which is held fixed under differentiation because both lines meet there.
    """
    start, slope = first - other, (next_ - first) - (other_next - other)
    total_other = count * other + count * (count - 1) / 2 * (other_next - other)
    crossing = jnp.ceil(-start / jnp.where(slope == 0, 1.0, slope))
    crossing = jnp.where(slope == 0, 0.0, jax.lax.stop_gradient(clamp(crossing, 0.0, count)))
    prefix = crossing * start + crossing * (crossing - 1) / 2 * slope
    whole = count * start + count * (count - 1) / 2 * slope
    return total_other + larger(larger(prefix, whole - prefix), 0.0)


def overlapped(local: Scalar, other: Scalar, overlap: Scalar, ops: Ops) -> Scalar:
    """max(local, other + (1 − ρ)·local) [s]: a share ρ of the local work hides behind the other (ρ = 0: their sum)."""
    return ops.maximum(local, other + (1 - overlap) * local)


def table_timing(table: dict[str, Operator], plan: Plan, work: Pass, assembly: Assembly, ops: Ops) -> Timing:
    """A table's timing. `operator`: the sum over operators. `phase`: max(Σ compute, Σ memory) + Σ overhead."""
    if work.decode:
        costs = {name: row_costs(operator, plan, work, ops) for name, operator in table.items()}
        costs = settle_together(costs, plan.model.vocabulary_size)
        parts = [timing_of_rows(operator, costs[name], plan, work, ops) for name, operator in table.items()]
    else:
        parts = [operator_timing(operator, plan, work, ops) for operator in table.values()]
    total, *others = parts
    for timing in others:
        total = total + timing
    if assembly == "operator":
        return total
    sharpness = plan.deployment.efficiency.sharpness
    bound = roofline(total.compute, total.memory, sharpness, ops) + total.overhead
    share = bound / larger(total.time, _SHORTEST)
    return eqx.tree_at(lambda t: (t.time, t.last), total, (bound, total.last * share))
