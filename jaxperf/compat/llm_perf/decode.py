"""llm_perf's decode step. Results bear the tool's own names: seconds, bytes, FLOP, tokens/s.

Source: its documentation/modeling/decode.md §3–7, commit fdc49cc."""

from __future__ import annotations

from ...closed_form import turning_batch
from ...ops import EXACT, larger
from ...stages.latency import roofline
from . import stage, work
from .case import Case
from .placement import held, memory_time, place


def decode(case: Case, routes: stage.Routes) -> stage.Figures:
    """A decode step of the whole batch; PP stages share it, so that PP ≤ B divides its weight-read time."""
    model, layout, tuner, memory = case.model, case.layout, case.tuner, case.device.memory
    batch, context, peak = tuner.batch, tuner.context, stage.peak_flops(case)
    usage = held(model, layout, memory, batch, context)
    token_flops = work.linear_flops(model, layout) + work.attention_flops(model, layout, 1.0, context - 1)
    weights, cache = work.weight_bytes(model, layout), work.kv_bytes(model, layout, context)

    sizes = stage.message_sizes(case, batch, batch * context)
    network = stage.stage_collectives(case, routes, sizes, tuner.tp_decode, tuner.ep_decode)

    placed = place(memory, weights, batch * cache)
    compute = batch * token_flops / peak
    share = stage.compute_share(tuner, batch / layout.pp)
    derated = stage.divided(compute, share)
    read = memory_time(memory, placed)
    local = roofline(derated, read, None, EXACT)
    per_stage = stage.hidden_behind(local, network.stage, tuner.overlap)
    launches, head = stage.launch_time(case), stage.head_time(case, batch)
    bubble = larger(layout.pp / batch, 1.0)
    step = stage.hidden_behind(per_stage, launches, tuner.launch_overlap) * bubble + head
    replicas = EXACT.floor_divide(layout.devices, layout.pp * layout.tp * layout.ep * layout.sp)
    rate = batch / step
    return {
        "possible": placed.possible,
        "memory": {
            "M_theta_device": usage.weights,
            "M_act_device": usage.activations,
            "M_kv_device": usage.kv_cache,
            "M_total_device": usage.weights + usage.activations + usage.kv_cache,
            "fits_in_HBM": usage.fits,
            "M_resident_per_tier": usage.tiers,
        },
        "flops": {
            "F_token_device": token_flops,
            "F_layer_per_device": token_flops / (model.layers / layout.pp),
            "F_step_device": batch * token_flops,
        },
        "traffic": {
            "T_theta": weights,
            "T_kv": cache,
            "T_token_eff": weights + cache,
            "T_step_eff": weights + batch * cache,
        },
        "comm": {
            "t_PP": network.pp,
            "t_TP": network.tp,
            "t_EP": network.ep,
            "t_SP": network.sp,
            "t_comm_stage": network.stage,
            **{f"msg_{axis.upper()}_bytes": size for axis, size in sizes.items()},
        },
        "latency": {
            "t_compute": compute,
            "t_compute_eff": derated,
            "eta_TC": share,
            "t_mem": read,
            "t_local": local,
            "t_comm": network.stage,
            "t_stage": per_stage,
            "t_SW": launches,
            "t_LM": head,
            "t_step_user": step,
            "pp_bubble_factor": bubble,
            "TPS_single": rate,
            "TTPS": replicas * rate,
            "B": batch,
            "TPOT": step,
            "B_star": turning_batch(weights, peak, token_flops, memory.bandwidth[0], cache),
        },
    }
