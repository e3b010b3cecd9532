"""`jaxperf estimate --decode OPTIONS`: prefill on one system, decode on another. The options, read and checked."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

from ..constants import MICRO
from ..errors import InputError
from .common import Configuration, read_configuration
from .links import Way, pool_link, same_chip
from .speculation import OPTIONS as DRAFTED
from .values import MOST_DEVICES, between, option_type, parse_share, whole

LINK = ("link_GBps", "link_latency_us", "link_streams", "link_request_us", "link_overlap")
INSTANCES = ("prefill_instances", "decode_instances")

SPEEDS = 1e-6, 1e7
"""Bandwidths that a link or a bus may have [GB/s]."""

DELAYS = 0, 1e9
"""Latencies that a link or a bus may have [us]."""

PREFILL_SIDE = ("prefill_batch", "chunk", "prefix_hit")
DECODE_SIDE = (
    *("system", "engine", "tp", "pp", "ep", "cp", "attention_dp", "weights", "kv", "efficiency", "calibration"),
    *("weights_in", "kv_in", "offload", "batch", "attention", "dequantise", "fusion"),
    *("lora_rank", "lora_adapters", "lora_mode", "kv_kept", "kv_rank"),
    *("expert_skew", "redundant_experts", "expert_placement", "two_batch_overlap", "expert_forwarding"),
)
"""Options that the decode side may have of its own, and those that only the prefill side has."""


@dataclass(frozen=True)
class Pair:
    """Two sides, checked: a configuration each, the way between them, and the instances of each pool."""

    prefill: Configuration
    decode: Configuration
    way: Way
    instances: tuple[int, int]

    @property
    def sides(self) -> tuple[Configuration, Configuration]:
        """Prefill, then decode."""
        return self.prefill, self.decode

    @property
    def copies(self) -> int:
        """Copies of the weights in a shared memory: one where both sides have them in the same formats."""
        kept = [
            {n: f for n, f in side.precision.items() if n not in ("kv_cache", "activations")} for side in self.sides
        ]
        return 1 if kept[0] == kept[1] else 2


def add_pair(parser: argparse.ArgumentParser) -> None:
    """Add the options of two sides."""
    group = parser.add_argument_group("prefill here, decode elsewhere")
    group.add_argument(
        "--decode", metavar="OPTIONS", help="the decode side's own options, such as 'system=h200-8 tp=8'"
    )
    rate, delay = between(*SPEEDS), between(*DELAYS)
    group.add_argument("--link-GBps", type=rate, metavar="GBPS", help="between a pair of devices, one way")
    group.add_argument("--link-latency-us", type=delay, metavar="US", help="of a handoff")
    streams = whole(high=MOST_DEVICES)
    group.add_argument("--link-streams", type=streams, metavar="N", help="pairs that send at once (default: all)")
    group.add_argument("--link-request-us", type=delay, metavar="US", help="of each block's work request (default 0)")
    share = option_type(parse_share)
    group.add_argument("--link-overlap", type=share, metavar="SHARE", help="of prefill that hides it (default 0)")
    for name in INSTANCES:
        side = name.split("_")[0]
        text = f"instances of the {side} pool (default 1)"
        group.add_argument(f"--{name.replace('_', '-')}", type=streams, metavar="N", help=text)


def _option(name: str) -> str:
    return f"--{name.replace('attention_dp', 'dp-attention').replace('_', '-')}"


def check_pair(arguments: argparse.Namespace) -> None:
    """**Raises** `InputError` for options that do not go together with `--decode`, or not without it."""
    if arguments.decode is None:
        for name in (*LINK, *INSTANCES):
            if getattr(arguments, name) is not None:
                raise InputError(f"{_option(name)} is for two sides; give --decode, too")
        return
    refuse_others(arguments, "--decode", ("compare", "closed_form", "gpu_layers"))
    if arguments.replicas != 1:
        raise InputError("--replicas: with --decode, give --prefill-instances and --decode-instances")


def refuse_others(arguments: argparse.Namespace, option: str, names: tuple[str, ...]) -> None:
    """**Raises** `InputError` where one of the options `names`, or speculative decoding, stands beside `option`."""
    for name in names:
        if getattr(arguments, name):
            raise InputError(f"{option} and {_option(name)} exclude each other; give one of them")
    for name in ("draft", "mtp", *DRAFTED):
        if getattr(arguments, name) is not None:
            raise InputError(f"{option} does not price speculative decoding; leave out {_option(name)}")


def read_pair(arguments: argparse.Namespace) -> Pair:
    """Both sides and what joins them.

    **Raises** `InputError` that repeats the decode side's options where they are wrong.
    """
    prefill = read_configuration(arguments)
    try:
        decode = _decode_side(arguments)
    except InputError as error:
        raise InputError(f"--decode '{arguments.decode}': {str(error).removeprefix('estimate: ')}") from None
    instances = arguments.prefill_instances or 1, arguments.decode_instances or 1
    if arguments.link_GBps is None and same_chip(prefill.system, decode.system):
        return Pair(prefill, decode, _one_chip(arguments, prefill, decode), instances)
    return Pair(prefill, decode, _link(arguments, prefill, decode, instances), instances)


def _decode_side(arguments: argparse.Namespace) -> Configuration:
    from .estimate_compare import given, merged

    found = given(arguments.decode)
    for name in found:
        if name in PREFILL_SIDE:
            raise InputError(f"{_option(name)} is for the prefill side; give it outside")
        if name == "replicas":
            raise InputError("--replicas: give --decode-instances, outside")
        if name not in DECODE_SIDE:
            raise InputError(f"{_option(name)} is for both sides; give it outside")
    return read_configuration(merged(arguments, found))


def _one_chip(arguments: argparse.Namespace, prefill: Configuration, decode: Configuration) -> Way:
    chip = prefill.system.document["device"]["chip"]
    for name in LINK + INSTANCES:
        if name != "link_latency_us" and getattr(arguments, name) is not None:
            raise InputError(
                f"{_option(name)}: {prefill.system.name} and {decode.system.name} share the memory of one chip, and "
                "nothing is sent; leave it out, or give --link-GBps for two chips"
            )
    latency = (arguments.link_latency_us or 0) * MICRO
    return Way(float("inf"), latency, f"both are units of one {chip}")


def _link(
    arguments: argparse.Namespace, prefill: Configuration, decode: Configuration, instances: tuple[int, int]
) -> Way:
    pools = prefill.devices * instances[0], decode.devices * instances[1]
    systems = prefill.system, decode.system
    found = pool_link(systems, pools, arguments.link_GBps, arguments.link_latency_us)
    most = min(side.layout["tp"] * side.layout["cp"] * side.layout["pp"] for side in (prefill, decode))
    if (arguments.link_streams or 1) > most:
        raise InputError(
            f"--link-streams: {arguments.link_streams} is more than the {most} devices that hold a prompt's KV cache "
            f"on the smaller side (tp x cp x pp); choose 1 to {most}"
        )
    return replace(
        found,
        streams=arguments.link_streams or most,
        request=(arguments.link_request_us or 0) * MICRO,
        overlap=arguments.link_overlap or 0.0,
    )
