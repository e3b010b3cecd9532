"""From the tool's documents to a `Case`: units, codes, padding."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from ...constants import GIGA, MICRO, TERA
from .case import Case, Chain, Device, Layout, Memory, Model, Serving, Tuner
from .documents import ALL_REDUCE_ALGORITHMS, IN_NETWORK
from .specs import chain, reach

_FABRIC_SLOTS, _DIM_SLOTS, _MEMORY_SLOTS, _CURVE_SLOTS = 8, 4, 4, 8


class Structure(NamedTuple):
    """Lengths of a case's padded lists: tiers of a fabric chain, dimensions of a tier, memory tiers, curve points."""

    fabric: int
    dims: int
    memory: int
    curve: int


def structure_of(inputs: dict) -> Structure:
    """The padded lengths that a prepared case needs: the usual ones, doubled until they suffice."""
    system = inputs["system"]
    tiers = [tier for name in system["collective_fabrics"] for tier in chain(system, name)]
    longest = max(len(chain(system, name)) for name in system["collective_fabrics"])

    def slots(least: int, needed: int) -> int:
        while least < needed:
            least *= 2
        return least

    return Structure(
        slots(_FABRIC_SLOTS, longest),
        slots(_DIM_SLOTS, max(len(tier["dims"] or ()) for tier in tiers)),
        slots(_MEMORY_SLOTS, len(system["device"]["memory_tiers"])),
        slots(_CURVE_SLOTS, len(inputs["tuner"]["tensor_core_efficiency"])),
    )


def build_case(inputs: dict, structure: Structure) -> Case:
    """The `Case` of prepared inputs, leaves double-precision arrays of the structure's lengths."""
    system, tuner = inputs["system"], inputs["tuner"]
    chains = {name.lower(): _chain(chain(system, name), structure) for name in system["collective_fabrics"]}
    partition = {axis.lower(): inputs["partition"][axis] for axis in ("PP", "TP", "EP", "SP")}
    case = Case(
        model=_model(inputs["model"]),
        device=_device(system["device"], tuner["placement"], structure),
        layout=Layout(**partition, devices=system["num_devices"]),
        **chains,
        tuner=_tuner(tuner, structure),
        serving=_serving(inputs["overhead"], inputs["disagg"], inputs["paging"]),
    )
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), case, is_leaf=lambda leaf: isinstance(leaf, list))


def _padded(values: list, length: int, fill: Any) -> list:
    return [*values, *[fill] * (length - len(values))]


def _model(document: dict) -> Model:
    moe = document["moe"]
    layers = document["L"]
    sizes = moe or {"n_experts": 0, "k_active": 0, "I_moe": 0, "n_moe_layers": 0}
    return Model(
        layers=layers,
        hidden=document["H"],
        query_heads=document["n_q"],
        kv_heads=document["n_kv"],
        dense_width=document["I_dense"],
        vocabulary=document["vocab_size"],
        width=document["bytes_per_param"],
        moe=int(moe is not None),
        experts=sizes["n_experts"],
        experts_per_token=sizes["k_active"],
        expert_width=sizes["I_moe"],
        moe_layers=0 if moe is None else sizes["n_moe_layers"] or layers,
    )


def _chain(tiers: list[dict], structure: Structure) -> Chain:
    def column(values: list, fill: Any) -> list:
        return _padded(values, structure.fabric, fill)

    grids = [tier["topology"] != "crossbar" and not tier["full"] for tier in tiers]
    dims = [(tier["dims"] or []) if grid else [] for tier, grid in zip(tiers, grids, strict=True)]
    return Chain(
        present=column([1] * len(tiers), 0),
        ports=column([reach(tier) for tier in tiers], 1),
        alpha=column([tier["alpha_us"] * MICRO for tier in tiers], 0),
        switch_alpha=column([(tier["inc_alpha_us"] or tier["alpha_us"]) * MICRO for tier in tiers], 0),
        bandwidth=column([tier["bw_per_port_GBps"] * GIGA for tier in tiers], 1),
        alpha_scale=column([tier["eta_alpha"] for tier in tiers], 1),
        bandwidth_share=column([tier["eta_beta"] for tier in tiers], 1),
        grid=column([int(grid) for grid in grids], 0),
        wrap=column([int(tier["topology"] != "mesh" or tier["full"]) for tier in tiers], 1),
        in_network=column(
            [IN_NETWORK.index(tier["inc"]) if tier["topology"] == "crossbar" else 0 for tier in tiers], 0
        ),
        dims=[_padded(sides, structure.dims, 1) for sides in column(dims, [])],
    )


def _device(document: dict, placement: dict, structure: Structure) -> Device:
    tiers = document["memory_tiers"]

    def column(values: list, fill: float) -> list:
        return _padded(values, structure.memory, fill)

    def pinned(key: str) -> list:
        return column([int(tier["name"] == placement[key]) for tier in tiers], 0)

    return Device(
        peak=document["peak_flops_TF"] * TERA,
        main_capacity=document["hbm_capacity_GB"] * GIGA,
        memory=Memory(
            capacity=column([tier["capacity_GB"] * GIGA for tier in tiers], 0),
            bandwidth=column([tier["bandwidth_GBps"] * tier["eta_beta"] * GIGA for tier in tiers], 1),
            last=column([int(tier is tiers[-1]) for tier in tiers], 0),
            weights_pin=pinned("weights_tier"),
            kv_pin=pinned("kv_tier"),
            kv_first=int(placement["auto_priority"] == "kv"),
        ),
    )


def _tuner(document: dict, structure: Structure) -> Tuner:
    curve = sorted((int(key), share) for key, share in document["tensor_core_efficiency"].items()) or [(1, 1.0)]
    missing = structure.curve - len(curve)
    curve += [(curve[-1][0] + 1 + index, curve[-1][1]) for index in range(missing)]
    algorithms = {
        f"{axis}_{phase}": ALL_REDUCE_ALGORITHMS.index(document[f"{axis}_algorithm_{phase}"])
        for axis in ("tp", "ep")
        for phase in ("decode", "prefill")
    }
    return Tuner(
        context=document["S_decode"],
        batch=document["B_decode"],
        prompt=document["S_input"],
        prefill_batch=document["B_prefill"],
        chunk=document["chunk_size"],
        **algorithms,
        tp_collectives=document["n_TP_collectives"],
        ep_collectives=document["n_EP_collectives"],
        sp_collectives=document["n_SP_collectives"],
        in_network=int(document["inc_enabled"]),
        overlap=document["overlap_factor"],
        layer_kernels=document["kernels_per_layer_compute"],
        collective_kernels=document["kernels_per_collective_call"],
        hop_kernels=document["kernels_per_pp_hop"],
        launch=document["kernel_launch_us"] * MICRO,
        launch_overlap=document["sw_overlap_factor"],
        curve_batch=[batch for batch, _ in curve],
        curve_share=[share for _, share in curve],
    )


def _serving(overhead: dict, handoff: dict, paging: dict) -> Serving:
    return Serving(
        schedule=overhead["t_sched_us"] * MICRO,
        tokenise=overhead["t_tok_us"] * MICRO,
        graph=overhead["t_graph_us"] * MICRO,
        sample=overhead["t_sample_us"] * MICRO,
        detokenise=overhead["t_detok_us"] * MICRO,
        disaggregated=int(handoff["disaggregated"]),
        local_alpha=handoff["colo_alpha_us"] * MICRO,
        local_repack=handoff["colo_repack_GBps"] * GIGA,
        local_repack_scale=handoff["colo_repack_eta"],
        remote_alpha=handoff["inter_alpha_us"] * MICRO,
        remote_bandwidth=handoff["inter_bandwidth_GBps"] * GIGA,
        requests=handoff["N_WR"],
        request_time=handoff["tau_WR_us"] * MICRO,
        remote_overlap=handoff["overlap_rho_KV"],
        remote_repack=handoff["repack_GBps"] * GIGA,
        remote_repack_scale=handoff["repack_eta"],
        block_tokens=paging["block_size"],
        reserve=paging["system_overhead_GB"] * GIGA,
    )
