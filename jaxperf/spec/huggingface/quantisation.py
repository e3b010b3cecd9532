"""Formats of a Hugging Face checkpoint: from `quantization_config` and hf_quant_config.json to one format a class.

Formats and their names: transformers' quantisation documentation (fp8, mxfp4, awq, gptq, compressed-tensors), and
NVIDIA Model Optimizer's hf_quant_config.json (modelopt)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from ...errors import InputError, nearest
from .config import shown

ALGORITHMS = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "FP8_PB_WO": "fp8-block",
    "FP8_BLOCK_SCALES": "fp8-block",
    "MXFP8": "mxfp8",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_NVFP4": "nvfp4-w4a16",
    "MXFP4": "mxfp4",
    "W4A8_MXFP4_FP8": "mxfp4-w4a8",
    "W4A16_AWQ": "int4",
    "W4A16": "int4",
    "W8A16": "int8",
    "W8A8_SQ_PER_CHANNEL": "int8-w8a8",
    "INT8_SQ": "int8-w8a8",
}
"""Model Optimizer's algorithms and jaxperf's formats."""

KV_ALGORITHMS = {"FP8": "fp8", "INT8": "int8", "NVFP4": "nvfp4", "NONE": None}

METHODS = (
    *("fp8", "fbgemm_fp8", "modelopt", "modelopt_fp4", "compressed-tensors", "mxfp4"),
    *("awq", "gptq", "auto-round", "bitsandbytes"),
)


@dataclass(frozen=True)
class Scheme:
    """How one source quantises: the format of matrices that nothing else speaks of (None: as they are), formats by
    module and its ancestors, the modules left as they are, the cache's format, and formats of whole classes."""

    file: str
    usual: str | None = None
    by_module: dict[str, str] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()
    kv_cache: str | None = None
    by_class: dict[str, str] = field(default_factory=dict)


def scheme_of(entry: dict, file: str) -> Scheme:
    """The `Scheme` of a `quantization_config`, or of the `quantization` in an hf_quant_config.json.

    **Raises** `InputError` for a method or an algorithm that is not known.
    """
    method = entry.get("quant_method")
    if method is None and entry.get("quant_algo") is not None:
        method = "modelopt"
    if method not in METHODS:
        raise InputError(f"{file}: quant_method: {shown(method)} is not known; {nearest(shown(method), METHODS)}")
    excluded = next(
        (entry[key] for key in ("ignore", "exclude_modules", "modules_to_not_convert") if entry.get(key)), []
    )
    if not isinstance(excluded, list) or not all(isinstance(item, str) for item in excluded):
        raise InputError(f"{file}: exclude list: expected a list of module names")
    made = partial(Scheme, file, excluded=tuple(excluded), kv_cache=_cache(entry, file))
    if method in ("fp8", "fbgemm_fp8"):
        usual = "fp8-block" if entry.get("weight_block_size") else "fp8"
        overrides = _by_module(entry, file)
        if overrides or entry.get("moe_quant_algo"):  # experts requantised over an fp8 checkpoint
            return Scheme(file, usual, overrides, (), _cache(entry, file))
        return made(usual)
    if method.startswith("modelopt"):
        algorithm = entry.get("quant_algo")
        if algorithm == "MIXED_PRECISION":
            return made(None, _by_module(entry, file))
        return made(_algorithm(algorithm, file))
    if method == "mxfp4":
        return made(None, by_class={"routed_experts": "mxfp4"})
    if method == "compressed-tensors":
        return _compressed_tensors(entry, file, made)
    bits = 4 if entry.get("load_in_4bit") else 8 if entry.get("load_in_8bit") else entry.get("bits", 4)
    return made(_integer(bits, entry.get("group_size", 128), file))


def _algorithm(name: object, file: str) -> str:
    if not isinstance(name, str) or name.upper() not in ALGORITHMS:
        raise InputError(f"{file}: quant_algo: {shown(name)} is not known; {nearest(shown(name), ALGORITHMS)}")
    return ALGORITHMS[name.upper()]


def _integer(bits: object, group: object, file: str) -> str:
    """The format of whole-number weights with 16-bit activations."""
    if bits == 8:
        return "int8"
    if bits != 4:
        raise InputError(f"{file}: {shown(bits)} bits a weight are not known; expected 4 or 8")
    return "int4-group32" if group == 32 else "int4"


def _by_module(entry: dict, file: str) -> dict[str, str]:
    layers = entry.get("quantized_layers") or {}
    if not isinstance(layers, dict) or not all(isinstance(item, dict) for item in layers.values()):
        raise InputError(f"{file}: quantized_layers: expected an object of objects")
    return {name: _algorithm(item.get("quant_algo"), file) for name, item in layers.items()}


def _cache(entry: dict, file: str) -> str | None:
    """The format of the KV cache, None where it is not quantised."""
    algorithm = entry.get("kv_cache_quant_algo")
    if algorithm is not None:
        if not isinstance(algorithm, str) or algorithm.upper() not in KV_ALGORITHMS:
            near = nearest(shown(algorithm), KV_ALGORITHMS)
            raise InputError(f"{file}: kv_cache_quant_algo: {shown(algorithm)} is not known; {near}")
        return KV_ALGORITHMS[algorithm.upper()]
    scheme = entry.get("kv_cache_scheme")
    if scheme is None:
        return None
    if not isinstance(scheme, dict):
        raise InputError(f"{file}: kv_cache_scheme: {shown(scheme)} is no object; expected num_bits and type, or null")
    bits, kind = scheme.get("num_bits"), scheme.get("type")
    kinds = (((8, "float"), "fp8"), ((8, "int"), "int8"), ((4, "float"), "nvfp4"), ((4, "int"), "int4"))
    found = next((name for known, name in kinds if known == (bits, kind)), None)
    if found is None:
        raise InputError(f"{file}: kv_cache_scheme: {shown(bits)} bits of {shown(kind)} are not known")
    return found


def _compressed_tensors(entry: dict, file: str, made: Callable[..., Scheme]) -> Scheme:
    """Groups of targets with the bits, kind and grouping of their weights."""
    groups = entry.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise InputError(f"{file}: config_groups: expected an object with at least one group")
    formats: dict[str, str] = {}
    for name, group in groups.items():
        weights = group.get("weights") if isinstance(group, dict) else None
        if not isinstance(weights, dict):
            raise InputError(f"{file}: config_groups.{name}: no weights are described")
        weight_format = _tensor_format(weights, group.get("input_activations"), file)
        targets = group.get("targets") or ["Linear"]
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            raise InputError(f"{file}: config_groups.{name}.targets: {shown(targets)} is no list of names")
        formats |= dict.fromkeys(targets, weight_format)
    usual = formats.pop("Linear", None)
    return made(usual, formats)


def _tensor_format(weights: dict, inputs: dict | None, file: str) -> str:
    """The format of one group of compressed-tensors."""
    bits, kind, group = weights.get("num_bits"), weights.get("type"), weights.get("group_size")
    if kind == "float" and bits == 8:
        return "mxfp8" if group == 32 else "fp8-block" if weights.get("strategy") == "block" else "fp8"
    if kind == "float" and bits == 4:
        base = "mxfp4" if group == 32 else "nvfp4"
        wide = inputs is None
        narrow = isinstance(inputs, dict) and inputs.get("num_bits") == 8 and base == "mxfp4"
        return f"{base}-w4a16" if wide else f"{base}-w4a8" if narrow else base
    if kind == "int" and bits == 8 and inputs:
        return "int8-w8a8"
    if kind == "int" and bits in (4, 8):
        return _integer(bits, group, file)
    raise InputError(f"{file}: config_groups: {shown(bits)} bits of {shown(kind)} are not known")
