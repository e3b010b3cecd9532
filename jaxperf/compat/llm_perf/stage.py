"""What both phases of llm_perf share: its peak, its groups and collectives of a pipeline stage, launches, LM head.

Source: its documentation/modeling/decode.md §5–7, commit fdc49cc."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from ...ops import EXACT, Scalar
from ...stages.latency import overlapped, roofline
from . import work
from .case import Case, Tuner
from .fabric import Route, all_gather, all_reduce, exchange, resolved_all_reduce, resolved_exchange, route, stage_hop

_REFERENCE_WIDTH = 2.0  # bytes per element at which a device's peak is given

Figures = dict[str, Any]


class Routes(eqx.Module):
    """The groups of a case on their fabrics. `ep_given` is of the layout's EP, `ep` of at most one rank an expert."""

    tp: Route
    sp: Route
    ep: Route
    ep_given: Route


class Collectives(eqx.Module):
    """One call of each [s], and all of a pipeline stage."""

    tp: Scalar
    ep: Scalar
    sp: Scalar
    pp: Scalar
    stage: Scalar


def hidden_behind(base: Scalar, other: Scalar, share: Scalar) -> Scalar:
    """`base` with what does not hide behind a share of it [s]; infinite where the base is."""
    finite = jnp.isfinite(base)
    return jnp.where(finite, overlapped(jnp.where(finite, base, 0.0), other, share, EXACT), jnp.inf)


def divided(above: Scalar, below: Scalar) -> Scalar:
    """above/below, infinite where below is 0."""
    return jnp.where(below > 0, above / jnp.where(below > 0, below, 1.0), jnp.inf)


def peak_flops(case: Case) -> Scalar:
    """FLOP/s at the model's width: in inverse proportion to it, on every device."""
    return case.device.peak * (_REFERENCE_WIDTH / case.model.width)


def compute_share(tuner: Tuner, sequences: Scalar) -> Scalar:
    """Share of the peak that a GEMM reaches with so many sequences, or tokens, a pipeline stage."""
    return jnp.interp(sequences, tuner.curve_batch, tuner.curve_share)


def head_time(case: Case, rows: Scalar) -> Scalar:
    """LM head on the last stage [s]: weights /TP, logits not; from the fastest memory."""
    model, tp = case.model, case.layout.tp
    counted = 2 * rows * model.hidden * model.vocabulary / tp
    moved = model.hidden * model.vocabulary * model.width / tp + rows * model.vocabulary * model.width
    return roofline(counted / peak_flops(case), moved / case.device.memory.bandwidth[0], None, EXACT)


def launch_time(case: Case) -> Scalar:
    """Kernel launches of a pipeline stage [s]; EP counts as given, also beyond the number of experts."""
    tuner, layout, model = case.tuner, case.layout, case.model

    def calls(degree: Scalar, count: Scalar) -> Scalar:
        return jnp.where(degree > 1, count, 0.0)

    collectives = calls(layout.tp, tuner.tp_collectives) + calls(layout.sp, tuner.sp_collectives)
    layer = tuner.layer_kernels + tuner.collective_kernels * collectives
    expert = tuner.collective_kernels * calls(layout.ep, tuner.ep_collectives)
    hop = calls(layout.pp, tuner.hop_kernels)
    return ((model.layers * layer + model.moe_layers * expert) / layout.pp + hop) * tuner.launch


def make_routes(case: Case) -> Routes:
    """The `Routes` of a case."""
    layout, allowed = case.layout, case.tuner.in_network
    return Routes(
        tp=route(case.tp, layout.tp, allowed),
        sp=route(case.sp, layout.sp, allowed),
        ep=route(case.ep, work.expert_ranks(case.model, layout), allowed),
        ep_given=route(case.ep, layout.ep, allowed),
    )


def resolve(case: Case, routes: Routes) -> Case:
    """The case with every `auto` replaced by what it stands for, at its phase's message size."""
    tuner, row = case.tuner, case.model.hidden * case.model.width
    prompt = tuner.prefill_batch * tuner.prompt
    return eqx.tree_at(
        lambda c: (c.tuner.tp_decode, c.tuner.tp_prefill, c.tuner.ep_decode, c.tuner.ep_prefill),
        case,
        (
            resolved_all_reduce(routes.tp, tuner.batch * row, tuner.tp_decode),
            resolved_all_reduce(routes.tp, prompt * row, tuner.tp_prefill),
            resolved_exchange(routes.ep_given, tuner.ep_decode),
            resolved_exchange(routes.ep_given, tuner.ep_prefill),
        ),
    )


def message_sizes(case: Case, rows: Scalar, gathered: Scalar) -> dict[str, Scalar]:
    """Bytes of one call of each collective, 0 where it has one rank: `rows` token rows, `gathered` cached tokens."""
    model, layout = case.model, case.layout
    row = model.hidden * model.width
    chosen = jnp.where(model.moe > 0, model.experts_per_token, 1.0)
    cached = gathered * 2 * model.kv_width / layout.tp * model.width
    return {
        "tp": jnp.where(layout.tp > 1, rows * row, 0.0),
        "ep": jnp.where(work.expert_ranks(model, layout) > 1, rows * chosen * row, 0.0),
        "sp": jnp.where(layout.sp > 1, cached, 0.0),
        "pp": jnp.where(layout.pp > 1, rows * row / layout.tp, 0.0),
    }


def stage_collectives(case: Case, routes: Routes, sizes: dict[str, Scalar], tp: Scalar, ep: Scalar) -> Collectives:
    """Times at given sizes and algorithms [s]: L/PP layers of all-reduces and gathers, exchanges in layers with
    experts, one hop."""
    model, layout, tuner = case.model, case.layout, case.tuner
    reduced = all_reduce(routes.tp, sizes["tp"], tp)
    exchanged = exchange(routes.ep, sizes["ep"], ep)
    gathered = all_gather(routes.sp, sizes["sp"])
    hop = stage_hop(case.pp, layout, sizes["pp"])
    layer = tuner.tp_collectives * reduced + tuner.sp_collectives * gathered
    stage = (model.layers * layer + model.moe_layers * tuner.ep_collectives * exchanged) / layout.pp + hop
    return Collectives(reduced, exchanged, gathered, hop, stage)
