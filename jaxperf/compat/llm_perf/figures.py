"""All figures of a case: both phases, KV handoff, what a user sees, paging. Results bear the tool's own names.

Source: its documentation/modeling/prefill.md §6, e2e.md, framework.md, kv.md, commit fdc49cc."""

from __future__ import annotations

import jax.numpy as jnp

from ...ops import Scalar, larger
from . import work
from .case import Case, Layout
from .decode import decode
from .placement import held, paging
from .prefill import prefill
from .stage import Figures, make_routes, resolve


def handoff(case: Case, prefill_time: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """(time until decode may begin [s], repacking in it [s], the whole model's keys and values of a prompt [bytes])."""
    serving = case.serving
    size = work.kv_bytes(case.model, Layout(1.0, 1.0, 1.0, 1.0, 1.0), case.tuner.prompt)

    def repacked(bandwidth: Scalar, scale: Scalar) -> Scalar:
        return jnp.where(bandwidth > 0, size / jnp.where(bandwidth > 0, bandwidth, 1.0) * scale, 0.0)

    local = repacked(serving.local_repack, serving.local_repack_scale)
    remote = repacked(serving.remote_repack, serving.remote_repack_scale)
    linked = serving.remote_bandwidth > 0
    latency = serving.remote_alpha + serving.requests * serving.request_time
    transfer = latency + size / jnp.where(linked, serving.remote_bandwidth, 1.0) + remote
    hidden = jnp.where(jnp.isfinite(prefill_time), serving.remote_overlap * prefill_time, jnp.inf)
    away = jnp.where(linked, larger(transfer - hidden, 0.0), 0.0)
    apart = serving.disaggregated > 0
    time = jnp.where(apart, away, serving.local_alpha + local)
    return time, jnp.where(apart, jnp.where(linked, remote, 0.0), local), size


def end_to_end(case: Case, decoded: Figures, prefilled: Figures) -> Figures:
    """What a user and an operator see; TTFT holds a decode step after prefill."""
    step, total = decoded["latency"]["TPOT"], decoded["latency"]["TTPS"]
    serving, whole = case.serving, prefilled["latency"]["t_prefill"]
    wait, repack, size = handoff(case, whole)
    schedule = serving.schedule + serving.tokenise
    graph = jnp.where(decoded["latency"]["t_SW"] > 0, 0.0, serving.graph)
    around = schedule + wait + step
    return {
        "TTFT": around + whole,
        "TTFT_chunked": around + prefilled["latency"]["t_prefill_chunked"],
        "TPOT": step,
        "throughput_per_gpu": total / case.layout.devices,
        "interactivity": 1 / step,
        "TTPS": total,
        "t_handoff": wait,
        "t_repack": repack,
        "M_KV_total": size,
        "t_sched": schedule,
        "t_framework_per_step": graph + serving.sample + serving.detokenise,
    }


def kv_paging(case: Case) -> Figures:
    """Paged KV cache of a device."""
    model, layout, tuner = case.model, case.layout, case.tuner
    usage = held(model, layout, case.device.memory, tuner.batch, tuner.context)
    pages = paging(model, layout, case.device.main_capacity, case.serving, tuner.context, usage)
    return {
        "M_block": pages.block,
        "N_blocks_per_seq": pages.blocks,
        "phi_avg": pages.inflation,
        "M_HBM_KV_avail": pages.free,
        "max_sequences": pages.sequences,
        "S_max": pages.longest,
    }


def figures(case: Case) -> Figures:
    """Every figure of a case, as the tool nests and names them; the algorithms as codes, `possible` by phase."""
    routes = make_routes(case)
    case = resolve(case, routes)
    decoded, prefilled = decode(case, routes), prefill(case, routes)
    tuner = case.tuner
    return {
        "algorithms": {
            "tp_algorithm_decode": tuner.tp_decode,
            "tp_algorithm_prefill": tuner.tp_prefill,
            "ep_algorithm_decode": tuner.ep_decode,
            "ep_algorithm_prefill": tuner.ep_prefill,
        },
        "possible": decoded.pop("possible") & prefilled.pop("possible"),
        "decode": decoded,
        "prefill": prefilled,
        "e2e": end_to_end(case, decoded, prefilled),
        "kv_paging": kv_paging(case),
    }
