"""What the JSON specs of llm_perf may say, checked strictly: file, key, value, what is allowed."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from ...errors import InputError, nearest
from ...spec.schema import REQUIRED, Flag, Listing, Number, Section, Table, Text

TOPOLOGIES = ("crossbar", "torus", "mesh")
IN_NETWORK = ("none", "sharp_class", "hw_a2a")
ALL_REDUCE_ALGORITHMS = ("ring", "tree", "tree_pipelined", "inc", "torus-dim-ring", "auto")
"""Names of an all-reduce in the order of their codes: three in software, two that a fabric decides, and `auto`."""
EXCHANGE_ALGORITHMS = ("ring", "tree", "inc", "torus-dim-ring", "auto")
COLLECTIVES = ("TP", "EP", "SP", "PP")

MOST = 10**9
"""More of anything that is counted (tokens, layers, devices) than any case has."""
LARGEST = 1e12
"""The largest figure that is measured, in the unit of its key; no product of such figures leaves double precision."""
MOST_CHUNKS = 10**6
"""Chunks of a prompt, which are priced one after another."""
_MOST_DIMS = 16

_NAME = Text(default="unnamed")


def _count(low: int = 1, default: Any = REQUIRED) -> Number:
    return Number(low, MOST, integer=True, default=default)


def _figure(unit: str, default: Any = REQUIRED, above: bool = False) -> Number:
    return Number(0, LARGEST, above=above, unit=unit, default=default)


def _factor() -> Number:
    return Number(1, LARGEST, default=1.0)


_COUNT = _count()
_WHOLE = _count(0, default=0)
_MICROSECONDS = _figure("µs", default=0.0)


def _bandwidth(default: Any = REQUIRED) -> Number:
    return _figure("GB/s", default, above=True)


def _share(default: Any = 1.0, above: bool = True) -> Number:
    return Number(0, 1, above=above, default=default)


def _tier_shape(tier: dict, where: str) -> None:
    """A switch needs its ports, a torus or mesh its dims; where both stand they agree."""
    if tier.get("topology", "crossbar") == "crossbar":
        if "ports" not in tier:
            raise InputError(f"{where}: the key 'ports' is missing; a crossbar needs the ranks that it joins")
        if "dims" in tier:
            raise InputError(f"{where}.dims: {tier['dims']} on a crossbar; expected ports, or topology torus or mesh")
        return
    if "dims" not in tier:
        raise InputError(f"{where}: the key 'dims' is missing; a {tier['topology']} needs its dimensions")
    if tier.get("full", False) and len(tier["dims"]) != 1:
        raise InputError(f"{where}.dims: {tier['dims']} for a full mesh; expected one number")
    product = math.prod(tier["dims"])
    if product > MOST:
        raise InputError(f"{where}.dims: {tier['dims']} multiply to {product:.4g}; expected at most {MOST:g} ranks")
    if "ports" in tier and tier["ports"] != product:
        raise InputError(f"{where}.dims: {tier['dims']} multiply to {product}, but ports is {tier['ports']}")


_TIER = Section(
    {
        "name": _NAME,
        "topology": Text(TOPOLOGIES, default="crossbar"),
        "ports": _count(default=None),
        "dims": Listing(_COUNT, least=1, most=_MOST_DIMS, default=None),
        "full": Flag(default=False),
        "bw_per_port_GBps": _bandwidth(),
        "alpha_us": _figure("µs"),
        "eta_alpha": _factor(),
        "eta_beta": _share(),
        "inc": Text(IN_NETWORK, default="none"),
        "inc_alpha_us": _MICROSECONDS,
        "oversubscription": _factor(),
    },
    rules=(_tier_shape,),
)

_MEMORY_TIER = Section(
    {
        "name": Text(),
        "capacity_GB": _figure("GB", above=True),
        "bandwidth_GBps": _bandwidth(),
        "alpha_us": _MICROSECONDS,
        "eta_beta": _share(default=None),
    }
)


def _distinct_tiers(device: dict, where: str) -> None:
    for key in ("memory_tiers", "tiers"):
        names = [tier["name"] for tier in device.get(key, ())]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"{where}.{key}: two tiers are called '{name}'")
    if ("sram_capacity_MB" in device) != ("sram_bandwidth_TBps" in device):
        raise InputError(f"{where}: sram_capacity_MB and sram_bandwidth_TBps stand together or not at all")


_DEVICE = Section(
    {
        "name": _NAME,
        "hbm_capacity_GB": _figure("GB", above=True),
        "hbm_bandwidth_GBps": _bandwidth(),
        "peak_flops_TF": _figure("TFLOP/s, dense, two bytes", above=True),
        "sram_capacity_MB": _figure("MB", default=None, above=True),
        "sram_bandwidth_TBps": _figure("TB/s", default=None, above=True),
        "tiers": Listing(_MEMORY_TIER, default=()),
        "memory_tiers": Listing(_MEMORY_TIER, least=1, default=None),
    },
    rules=(_distinct_tiers,),
)


def _chains(system: dict, where: str) -> None:
    """Every chain names fabrics that exist, none twice: a chain that comes back to a fabric has no outermost tier."""
    fabrics = system["fabrics"]
    for collective, chain in system["collective_fabrics"].items():
        place = f"{where}.collective_fabrics.{collective}"
        for index, name in enumerate(chain):
            if name not in fabrics:
                raise InputError(f"{place}: no fabric is called '{name}'; {nearest(name, fabrics)}")
            if name in chain[:index]:
                raise InputError(f"{place}: the chain {' → '.join(chain)} is a cycle: it comes back to '{name}'")


_SYSTEM = Section(
    {
        "name": _NAME,
        "num_devices": _COUNT,
        "device": _DEVICE,
        "fabrics": Table(Section({"name": _NAME, "tiers": Listing(_TIER, least=1)}), least=1),
        "collective_fabrics": Section({name: Listing(Text(), least=1) for name in COLLECTIVES}),
    },
    rules=(_chains,),
)


def _heads(model: dict, where: str) -> None:
    moe = model.get("moe")
    if moe is not None and moe["k_active"] > moe["n_experts"]:
        raise InputError(f"{where}.moe.k_active: {moe['k_active']} of {moe['n_experts']} experts; expected no more")
    if moe is not None and moe.get("n_moe_layers", 0) > model["L"]:
        raise InputError(f"{where}.moe.n_moe_layers: {moe['n_moe_layers']} of {model['L']} layers; expected no more")


_MOE = Section(
    {
        "n_experts": _COUNT,
        "k_active": _COUNT,
        "I_moe": _COUNT,
        "n_moe_layers": _WHOLE,
    },
    default=None,
)

_MODEL = Section(
    {
        "name": _NAME,
        "L": _COUNT,
        "H": _COUNT,
        "n_q": _COUNT,
        "n_kv": _COUNT,
        "I_dense": _count(0),
        "vocab_size": _COUNT,
        "max_seq_len": _COUNT,
        "bytes_per_param": Number(1e-3, 1e3, unit="bytes"),
        "moe": _MOE,
    },
    rules=(_heads,),
)

_PARTITION = Section({"name": _NAME, **dict.fromkeys(("PP", "TP", "EP", "SP"), _COUNT)})


def _efficiency_curve(tuner: dict, where: str) -> None:
    for key in tuner.get("tensor_core_efficiency", {}):
        if not re.fullmatch("0*[1-9][0-9]{0,9}", key) or int(key) > MOST:
            raise InputError(
                f"{where}.tensor_core_efficiency: the key {key[:40]!r} is no whole number from 1 to {MOST:g}"
            )


def _chunks(tuner: dict, where: str) -> None:
    """A prompt in chunks takes time in proportion to their number."""
    prompt, size = tuner.get("S_input", 0), tuner.get("chunk_size", 0)
    if size and prompt > size * MOST_CHUNKS:
        least = -(-int(prompt) // MOST_CHUNKS)
        raise InputError(
            f"{where}.chunk_size: {size} cuts S_input {prompt} into more than {MOST_CHUNKS:g} chunks; "
            f"expected 0 (none) or {least} to {MOST:g}"
        )


_TUNER = Section(
    {
        "name": _NAME,
        "S_decode": _count(default=2048),
        **{
            f"tp_algorithm{phase}": Text(ALL_REDUCE_ALGORITHMS, default="ring") for phase in ("", "_decode", "_prefill")
        },
        **{f"ep_algorithm{phase}": Text(EXCHANGE_ALGORITHMS, default="ring") for phase in ("", "_decode", "_prefill")},
        "n_TP_collectives": _count(0, default=2),
        "n_EP_collectives": _count(0, default=2),
        "n_SP_collectives": _count(0, default=1),
        "overlap_factor": _share(0.0, above=False),
        "B_decode": _count(default=1),
        "S_input": _WHOLE,
        "B_prefill": _count(default=1),
        "chunk_size": _WHOLE,
        "torus_algorithm": Text(("ring",), default="ring"),
        "inc_enabled": Flag(default=True),
        "placement": Section(
            {
                "weights_tier": Text(default="auto"),
                "kv_tier": Text(default="auto"),
                "auto_priority": Text(("weights", "kv"), default="weights"),
            },
            default={},
        ),
        "kernels_per_layer_compute": _count(0, default=10),
        "kernels_per_collective_call": _count(0, default=2),
        "kernels_per_pp_hop": _count(0, default=2),
        "kernel_launch_us": _figure("µs", default=1.5),
        "sw_overlap_factor": _share(1.0, above=False),
        "tensor_core_efficiency": Table(_share(above=False), default={}),
    },
    rules=(_efficiency_curve, _chunks),
)

_OVERHEAD = Section(
    {
        "name": _NAME,
        **{f"t_{part}_us": _MICROSECONDS for part in ("sched", "tok", "graph", "sample", "detok")},
    },
    default={},
)

_DISAGGREGATION = Section(
    {
        "name": _NAME,
        "disaggregated": Flag(default=False),
        "colo_alpha_us": _MICROSECONDS,
        "colo_repack_GBps": _figure("GB/s", default=0.0),
        "colo_repack_eta": Number(0, LARGEST, default=1.0),
        "inter_alpha_us": _MICROSECONDS,
        "inter_bandwidth_GBps": _figure("GB/s", default=0.0),
        "N_WR": _WHOLE,
        "tau_WR_us": _MICROSECONDS,
        "overlap_rho_KV": _share(0.0, above=False),
        "repack_GBps": _figure("GB/s", default=0.0),
        "repack_eta": Number(0, LARGEST, default=1.0),
    },
    default={},
)

_PAGING = Section(
    {
        "name": _NAME,
        "block_size": _count(default=16),
        "beam_width": _count(default=1),
        "system_overhead_GB": _figure("GB", default=1.5),
    },
    default={},
)

KINDS: Final[dict[str, Section]] = {
    "model": _MODEL,
    "system": _SYSTEM,
    "partition": _PARTITION,
    "tuner": _TUNER,
    "overhead": _OVERHEAD,
    "disagg": _DISAGGREGATION,
    "paging": _PAGING,
}
"""What a case consists of; the last three may be absent."""
