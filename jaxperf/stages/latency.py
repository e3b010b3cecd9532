r"""Stage 5: roofline latency of operators, layers and pipeline stages.

An operator takes \(\mathrm{pnorm}(\mathrm{flop}/(e_c R),\ \mathrm{bytes}/(e_m BW)) + t_0\). Two assemblies of the same
table: `operator` (a sum of maxima, the default) and `phase` (a maximum of sums, the classical bound)."""

from __future__ import annotations

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from ..ops import Exact, Ops, Scalar, apart, choose, clamp, larger, settle_together, stack
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
    of one copy, seconds and FLOPs of one row (its KV cache apart, `cached`), seconds besides; attention counts
    sequences as rows. Weights and KV cache as if read from main memory."""

    compute: Scalar
    weights: Scalar
    rows: Scalar
    cached: Scalar
    fixed: Scalar
    overhead: Scalar
    flops: Scalar
    needed_weights: Scalar
    needed_rows: Scalar


def row_costs(operator: Operator, plan: Plan, work: Pass, ops: Ops) -> RowCosts:
    """`RowCosts` of an operator, from its FLOPs and traffic at one row of one copy.

    e_m = m_max·bytes/(bytes + b0), so the time of an operator's traffic is (bytes + b0)/(m_max·BW).
    """
    efficiency, rates = plan.deployment.efficiency, plan.rates
    overhead = operator.present * efficiency.operator_time
    half = operator.present * efficiency.memory_bytes_half
    if isinstance(operator, AttentionCore):
        once = eqx.tree_at(lambda w: (w.rows, w.sequences), work, (work.new_tokens, 1.0))
        counted = attention_flops(operator, once, once.prior, ops)
        moved = attention_bytes(operator, once, once.prior, ops)
        inverse = 1 / rates.attention
        compute = counted / (_decode_core_share(efficiency, operator, work.new_tokens) * operator.peak)
        overhead = overhead + operator.present * efficiency.attention_time
        rest = (moved.total - moved.kv_cache) * inverse
        cached = moved.kv_cache * inverse
        return RowCosts(compute, 0.0, rest, cached, half * inverse, overhead, counted, 0.0, moved.kv_cache)
    if isinstance(operator, Elementwise):
        once = eqx.tree_at(lambda o: o.rows, operator, 1.0)
        moved = traffic(once, work, ops)
        inverse = 1 / rates.elementwise
        counted = flops(once, work, ops) if operator.counts_operations else 0.0
        compute = counted / (efficiency.gemm_compute * operator.peak) if operator.counts_operations else 0.0
        return RowCosts(compute, 0.0, moved.total * inverse, 0.0, half * inverse, overhead, counted, 0.0, 0.0)
    once = eqx.tree_at(lambda o: (o.copies, o.m), operator, (1.0, 1.0))
    counted, moved = flops(once, work, ops), traffic(once, work, ops)
    inverse = 1 / rates.gemm
    return RowCosts(
        compute=gemm_row_time(operator, efficiency),
        weights=moved.weights * inverse,
        rows=moved.activations * inverse,
        cached=0.0,
        fixed=half * inverse,
        overhead=overhead,
        flops=counted,
        needed_weights=moved.weights,
        needed_rows=0.0,
    )


def _decode_core_share(efficiency: Efficiency, core: AttentionCore, tokens: Scalar) -> Scalar:
    """Share of the peak that attention's core reaches in a decode step, e·clamp(e_prefill/e, 1, T).

    A tile of a decode kernel is mostly empty, as one token has few query heads on a key/value head; the T tokens of a
    verify pass fill it, up to what prefill reaches. On a latent cache all query heads share one head, so e is a factor
    of its own (`latent_decode_compute`), an indexer's scores included; where that is above prefill's, more tokens gain
    nothing.
    """
    absorbed = core.shape.absorbed
    share = absorbed * efficiency.latent_decode_compute + (1 - absorbed) * efficiency.attention_decode_compute
    if isinstance(tokens, float) and tokens == 1.0:
        return share
    return share * clamp(efficiency.attention_prefill_compute / share, 1.0, tokens)


def operator_timing(operator: Operator, plan: Plan, work: Pass, ops: Ops) -> Timing:
    """Time of one operator over all chunks of a pass (see `Timing`)."""
    if isinstance(operator, AttentionCore) and not work.decode:
        return attention_timing(operator, plan, work, ops)
    return timing_of_rows(operator, row_costs(operator, plan, work, ops), plan, work, ops)


def timing_of_rows(operator: Operator, costs: RowCosts, plan: Plan, work: Pass, ops: Ops) -> Timing:
    """`Timing` of an operator from its `RowCosts`: copies·(weights + m·rows) + fixed (weights and KV cache
    slowed down by where they lie), or copies·(m + m0)·compute."""
    efficiency = plan.deployment.efficiency
    slow, copies = plan.slowdown, 1.0
    if isinstance(operator, Gemm):
        copies, rows, padded = operator.copies, operator.m, operator.m + efficiency.gemm_rows_half
        memory = copies * (slow.weights * costs.weights + rows * costs.rows) + costs.fixed
    elif isinstance(operator, AttentionCore):
        padded = rows = work.sequences
        memory = rows * (costs.rows + slow.kv_cache * costs.cached) + costs.fixed
    else:
        padded = rows = operator.rows
        memory = rows * costs.rows + costs.fixed
    compute = copies * (padded * costs.compute)
    only_moves = isinstance(operator, Elementwise) and not operator.counts_operations
    time = memory if only_moves else roofline(compute, memory, efficiency.sharpness, ops)
    time = time + costs.overhead
    counted = copies * (rows * costs.flops)
    needed = copies * (costs.needed_weights + rows * costs.needed_rows)
    if work.decode:
        return Timing(time, compute, memory, costs.overhead, time, counted, needed)
    n = work.chunks
    return Timing(time * n, compute * n, memory * n, costs.overhead * n, time, counted * n, needed * n)


def attention_timing(core: AttentionCore, plan: Plan, work: Pass, ops: Ops) -> Timing:
    """Attention over the chunks of a prefill. From chunk to chunk both sides of its roofline grow linearly until a
    query scores all it may (its window, or the choice of an indexer), and linearly again after: not at all under a
    window, with the indexer's own work else. So the sum of maxima has a closed form: a linear run, the one chunk in
    which the reach fills, and a second run. Where windows start anew, every chunk counts as their mean."""
    efficiency = plan.deployment.efficiency
    slope = 1 / (efficiency.attention_prefill_compute * core.peak)
    inverse, slow = 1 / plan.rates.attention, plan.slowdown.kv_cache - 1
    half = core.present * efficiency.memory_bytes_half
    chunks, size = work.chunks, work.new_tokens
    whole = size * chunks, work.rows * chunks, 1.0
    together = eqx.tree_at(lambda w: (w.new_tokens, w.rows, w.chunks), work, whole)
    mean = attention_flops(core, together, work.prior, ops) / ops.at_least(chunks, 1.0)

    def sides(index: Scalar) -> _Sides:
        prior = work.prior + index * size
        moved = attention_bytes(core, work, prior, ops)
        counted = attention_flops(core, work, prior, ops)
        compute = (counted + core.chunked * (mean - counted)) * slope
        return _Sides(compute, (moved.total + slow * moved.kv_cache + half) * inverse, moved.kv_cache)

    def longer(left: Scalar, right: Scalar) -> Scalar:
        return roofline(left, right, efficiency.sharpness, ops)

    growing = jnp.floor((core.reach - work.prior + 0.5) / ops.at_least(size, 1.0))  # infinite without a limit
    growing = jax.lax.stop_gradient(ops.minimum(ops.at_least(growing, 0.0), chunks))
    straddling = ops.minimum(chunks - growing, 1.0)
    full = chunks - growing - straddling
    # The first two chunks, the one that fills the reach, the first after it, the last: one program for all five.
    end = ops.at_least(chunks - 1, 0.0)
    second = ops.minimum(1.0, ops.at_least(growing - 1, 0.0))
    places = jnp.stack([0.0 * end, second, growing, ops.minimum(growing + straddling, end), end])
    start, following, filling, after, last = apart(jax.lax.map(sides, places))
    step = 1 / ops.at_least(full - 1, 1.0)
    beyond = _Sides(*[one + (end - one) * step for one, end in zip(after.values, last.values, strict=True)])
    runs = [_Run(start, following, growing), _Run(after, beyond, full)]
    compute = sum(run.total(0) for run in runs)
    memory = sum(run.total(1) for run in runs)
    linear = sum(run.longest for run in runs)
    if not (isinstance(ops, Exact) and efficiency.sharpness is None):
        hard = larger(compute, memory)
        linear = linear * longer(compute, memory) / larger(hard, _SHORTEST)
    compute = compute + straddling * filling.compute
    overhead = core.present * (efficiency.operator_time + efficiency.attention_time)
    return Timing(
        time=linear + straddling * longer(filling.compute, filling.memory) + overhead * chunks,
        compute=compute,
        memory=memory + straddling * filling.memory,
        overhead=overhead * chunks,
        last=longer(last.compute, last.memory) + overhead,
        flops=compute / slope,
        needed_bytes=chunks * (start.needed + last.needed) / 2,
    )


class _Sides(eqx.Module):
    """One chunk of attention: compute and memory time [s], bytes of KV cache that it needs."""

    compute: Scalar
    memory: Scalar
    needed: Scalar

    @property
    def values(self) -> tuple[Scalar, Scalar, Scalar]:
        """The three in order."""
        return self.compute, self.memory, self.needed


class _Run(eqx.Module):
    """`count` chunks whose sides grow linearly, from the first two of them."""

    first: _Sides
    second: _Sides
    count: Scalar

    def total(self, side: int) -> Scalar:
        """Sum of one side over the run [s]."""
        one, two = self.first.values[side], self.second.values[side]
        return self.count * one + self.count * (self.count - 1) / 2 * (two - one)

    @property
    def longest(self) -> Scalar:
        """Sum of the longer side over the run [s]."""
        one, two = self.first, self.second
        return _sum_of_maxima(one.compute, two.compute, one.memory, two.memory, self.count)


def _sum_of_maxima(first: Scalar, next_: Scalar, other: Scalar, other_next: Scalar, count: Scalar) -> Scalar:
    """Σ_{j<N} max(a + j·a', b + j·b') for two lines given at j = 0 and 1.

    Σ b + Σ max(d, 0) with d = a − b monotone: the positive part is its best prefix or its best suffix, and both end at
    the crossing ⌈−d0/d'⌉, which is held fixed under differentiation because both lines meet there.
    """
    start, slope = first - other, (next_ - first) - (other_next - other)
    total_other = count * other + count * (count - 1) / 2 * (other_next - other)
    crossing = jnp.ceil(-start / choose(slope == 0, 1.0, slope))
    crossing = choose(slope == 0, 0.0, jax.lax.stop_gradient(clamp(crossing, 0.0, count)))
    prefix = crossing * start + crossing * (crossing - 1) / 2 * slope
    whole = count * start + count * (count - 1) / 2 * slope
    return total_other + larger(larger(prefix, whole - prefix), 0.0)


def overlapped(local: Scalar, other: Scalar, overlap: Scalar, ops: Ops) -> Scalar:
    """max(local, other + (1 − ρ)·local) [s]: a share ρ of the local work hides behind the other (ρ = 0: their sum)."""
    return ops.maximum(local, other + (1 - overlap) * local)


def gemms_of(table: dict[str, Operator]) -> dict[str, Gemm]:
    """The GEMMs of a table."""
    return {name: operator for name, operator in table.items() if isinstance(operator, Gemm)}


def table_timing(table: dict[str, Operator], plan: Plan, work: Pass, assembly: Assembly, ops: Ops) -> Timing:
    """A table's timing. `operator`: the sum over operators. `phase`: max(Σ compute, Σ memory) + Σ overhead.

    All GEMMs are priced in one batch, so that the program is small. What a decode step's rows multiply is settled first
    and multiplied one by one: a scan does that for every batch.
    """
    gemms = gemms_of(table)
    others = {name: operator for name, operator in table.items() if name not in gemms}
    together = stack(list(gemms.values())) if gemms else None
    if work.decode:
        costs = {name: row_costs(operator, plan, work, ops) for name, operator in others.items()}
        if together is not None:
            batch = eqx.filter_vmap(lambda gemm: row_costs(gemm, plan, work, ops))(together)
            costs |= dict(zip(gemms, apart(batch), strict=True))
        costs = settle_together(costs, plan.model.vocabulary_size)
        parts = [timing_of_rows(operator, costs[name], plan, work, ops) for name, operator in table.items()]
    else:
        parts = [operator_timing(operator, plan, work, ops) for operator in others.values()]
        if together is not None:
            batch = jax.vmap(lambda gemm: operator_timing(gemm, plan, work, ops))(together)
            parts.append(jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), batch))
    total, *rest = parts
    for timing in rest:
        total = total + timing
    if assembly == "operator":
        return total
    sharpness = plan.deployment.efficiency.sharpness
    bound = roofline(total.compute, total.memory, sharpness, ops) + total.overhead
    share = bound / larger(total.time, _SHORTEST)
    return eqx.tree_at(lambda t: (t.time, t.last), total, (bound, total.last * share))
