"""`jaxperf estimate --gpu-layers N --host SYSTEM`: layers split over a GPU and the host's CPU. The options, checked."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

from ..errors import InputError
from .common import Configuration, read_configuration
from .links import Way, host_bus, same_chip
from .pair import DELAYS, SPEEDS, refuse_others
from .values import between, option_type, parse_whole

NEEDED = ("host", "bus_GBps", "bus_latency_us")
"""Options that mean something only beside `--gpu-layers`."""

NOT_PRICED = ("weights_in", "kv_in", "offload", "lora_rank", "kv_kept", "kv_rank", "prefix_hit", "breakdown")
"""Options that a split does not price."""


@dataclass(frozen=True)
class Splitting:
    """A split, checked: the GPU's configuration and the host's, the numbers of layers on the GPU, the bus, and
    whether the host is priced at its physical bound for want of factors."""

    gpu: Configuration
    host: Configuration
    layers: tuple[int, ...]
    bus: Way
    host_at_bound: bool

    @property
    def model_layers(self) -> int:
        """Layers of the model."""
        return count_layers(self.gpu)


def count_layers(configuration: Configuration) -> int:
    """Layers of a configuration's model."""
    return sum(group["count"] for group in configuration.model.document["layer_groups"])


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(parse_whole(part.strip(), low=0, high=100_000) for part in text.split(",")))


def add_split(parser: argparse.ArgumentParser) -> None:
    """Add the options of a split."""
    group = parser.add_argument_group("layers split over a GPU and its host, as in llama.cpp")
    layers = option_type(_numbers)
    group.add_argument("--gpu-layers", type=layers, metavar="N,N,…", help="layers on the GPU of --system; or several")
    group.add_argument("--host", metavar="NAME", help="system of the CPU that has the other layers")
    group.add_argument("--bus-GBps", type=between(*SPEEDS), metavar="GBPS", help="between the two, one way")
    group.add_argument("--bus-latency-us", type=between(*DELAYS), metavar="US", help="of a hop")


def check_split(arguments: argparse.Namespace) -> None:
    """**Raises** `InputError` for options that do not go together with `--gpu-layers`, or not without it."""
    if arguments.gpu_layers is None:
        for name in NEEDED:
            if getattr(arguments, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} is for layers on two devices; give --gpu-layers, too")
        return
    refuse_others(arguments, "--gpu-layers", ("compare", "closed_form"))
    for name in NOT_PRICED:
        if getattr(arguments, name) not in (None, False):
            raise InputError(f"--gpu-layers does not price --{name.replace('_', '-')}; leave it out")
    for name in ("tp", "pp", "ep", "cp", "attention_dp", "replicas"):
        degree = getattr(arguments, name)
        if degree != 1:
            option = name.replace("attention_dp", "dp-attention")
            raise InputError(f"--{option}: {degree}, but --gpu-layers splits over one GPU and its host; choose 1")
    if arguments.host is None:
        raise InputError("--host is missing: the system of the CPU that has the other layers, such as ryzen-ai-cpu")


def read_split(arguments: argparse.Namespace) -> Splitting:
    """A split of `--system` and `--host`. Of efficiency factors that nobody named, the host takes only those fitted to
    it: the default ones are of GPU kernels, which waste most of a tile on one row, and a CPU has no such tiles.

    **Raises** `InputError` for names and numbers that are wrong.
    """
    gpu = read_configuration(arguments)
    try:
        host = read_configuration(argparse.Namespace(**{**vars(arguments), "system": arguments.host}))
    except InputError as error:
        raise InputError(f"--host: {error}") from None
    at_bound = arguments.efficiency is None and host.efficiency == "default"
    if at_bound:
        host = replace(host, efficiency="ideal", report={})
    most = count_layers(gpu)
    for layers in arguments.gpu_layers:
        if layers > most:
            raise InputError(f"--gpu-layers: {layers} is more than the layers of {gpu.model.name}; choose 0 to {most}")
    if same_chip(gpu.system, host.system):
        raise InputError(
            f"--host: {gpu.system.name} and {host.system.name} share the memory of one chip; a split divides the "
            "layers over two memories"
        )
    bus = host_bus(gpu.system, arguments.bus_GBps, arguments.bus_latency_us)
    return Splitting(gpu, host, arguments.gpu_layers, bus, at_bound)
