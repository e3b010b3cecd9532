"""llm_perf's prefill: one prompt, a batch at once, and in chunks. Results bear the tool's names: seconds, bytes, FLOP.

Source: its documentation/modeling/prefill.md §1–5, commit fdc49cc."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

from ...ops import EXACT, Scalar, larger
from ...stages.latency import roofline
from . import stage, work
from .case import Case
from .placement import memory_time, place


class _Pass(eqx.Module):
    """Local time of a prefill pass without and with its launches, its parts, and what it takes with its network [s]."""

    compute: Scalar
    derated: Scalar
    read: Scalar
    local: Scalar
    time: Scalar
    possible: Scalar


def _prefill_pass(
    case: Case, counted: Scalar, cache: Scalar, share: Scalar, network: Scalar, weights: Scalar, launches: Scalar
) -> _Pass:
    tuner, memory = case.tuner, case.device.memory
    placed = place(memory, weights, cache)
    compute = counted / stage.peak_flops(case)
    derated, read = stage.divided(compute, share), memory_time(memory, placed)
    local = stage.hidden_behind(roofline(derated, read, None, EXACT), launches, tuner.launch_overlap)
    return _Pass(compute, derated, read, local, stage.hidden_behind(local, network, tuner.overlap), placed.possible)


def _chunked(case: Case, routes: stage.Routes, weights: Scalar, launches: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """(time of the chunks one after another [s], chunks, whether all can be placed), the last chunk padded to a whole
    one and the pipeline not filled."""
    model, layout, tuner = case.model, case.layout, case.tuner
    size = larger(tuner.chunk, 1.0)
    chunks = jnp.where(tuner.chunk > 0, EXACT.ceil_divide(tuner.prompt, size), 0.0)
    chunks = larger(chunks, 0.0)
    linear = size * work.chunk_linear_flops(model, layout)
    sizes = stage.message_sizes(case, size, size)
    network = stage.stage_collectives(case, routes, sizes, tuner.tp_prefill, tuner.ep_prefill).stage
    share = stage.compute_share(tuner, tuner.prefill_batch * size / layout.pp)

    def add(index: Scalar, total: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        prior = index * size
        counted = linear + work.attention_flops(model, layout, size, prior)
        cache = work.kv_bytes(model, layout, size + (prior + size))  # writes its own, reads all so far
        one = _prefill_pass(case, counted, cache, share, network, weights, launches)
        return total[0] + one.time, total[1] & one.possible

    count = chunks.astype(jnp.int32)
    zero = 0.0 * linear
    time, possible = jax.lax.fori_loop(
        0, count, lambda index, total: add(index.astype(zero.dtype), total), (zero, zero == 0)
    )
    return time, chunks, possible


def prefill(case: Case, routes: stage.Routes) -> stage.Figures:
    """Prefill of one prompt, of a batch at once, and in chunks. Communication is one stage's; the pipeline fills with
    the local time of one prompt, also for a batch."""
    model, layout, tuner = case.model, case.layout, case.tuner
    prompt, batch = tuner.prompt, tuner.prefill_batch
    weights, launches = work.weight_bytes(model, layout), stage.launch_time(case)
    counted = work.linear_flops(model, layout) * prompt + work.attention_flops(model, layout, prompt, 0.0)
    cache = work.kv_bytes(model, layout, prompt)
    share = stage.compute_share(tuner, batch * larger(prompt, 1.0) / layout.pp)

    def network_of(rows: Scalar) -> stage.Collectives:
        sizes = stage.message_sizes(case, rows, rows)
        return stage.stage_collectives(case, routes, sizes, tuner.tp_prefill, tuner.ep_prefill)

    network = network_of(prompt)
    alone = _prefill_pass(case, counted, cache, share, network.stage, weights, launches)
    together = _prefill_pass(
        case, batch * counted, batch * cache, share, network_of(batch * prompt).stage, weights, launches
    )
    warm_up = jnp.where(layout.pp > 1, (layout.pp - 1) * alone.local, 0.0)
    head = stage.head_time(case, batch)
    time = alone.time + warm_up + head
    chunked, chunks, chunks_possible = _chunked(case, routes, weights, launches)
    return {
        "possible": alone.possible & together.possible & chunks_possible,
        "flops": {"F_prefill_device": counted},
        "traffic": {
            "T_theta_device": weights,
            "T_kv_write_device": cache,
            "T_prefill_device": weights + cache,
        },
        "comm": {
            "t_TP_prefill": network.tp,
            "t_EP_prefill": network.ep,
            "t_SP_prefill": network.sp,
            "t_PP_prefill": network.pp,
            "t_prefill_comm": network.stage,
        },
        "latency": {
            "t_prefill_compute": alone.compute,
            "t_prefill_compute_eff": alone.derated,
            "eta_TC": share,
            "t_prefill_mem": alone.read,
            "t_prefill_local": alone.local,
            "t_prefill_comm": network.stage,
            "t_SW_per_stage": launches,
            "t_pipeline_warmup": warm_up,
            "t_LM_prefill": head,
            "t_prefill": time,
            "B_prefill": batch,
            "t_prefill_batched": together.time + warm_up + head,
            "chunk_size": tuner.chunk,
            "n_chunks": chunks,
            "t_prefill_chunked": jnp.where(chunks > 0, chunked + head, time),
        },
    }
