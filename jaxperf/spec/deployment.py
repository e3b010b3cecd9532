"""How a model is laid out and run: parallel degrees, number formats, engine settings, efficiencies."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from ..constants import (
    BLANKET_CLASSES,
    BLOCK_TOKENS,
    DTYPE_BYTES,
    DTYPES,
    FORMATS,
    GIGA,
    KV_FORMATS,
    MICRO,
    UTILISATION,
    WEIGHT_CLASSES,
)
from ..errors import InputError, nearest
from ..ops import Scalar
from .documents import EFFICIENCY_FIELDS


class Parallelism(eqx.Module):
    """Degrees: tensor, pipeline, expert, context parallel, attention data parallel, replicas of the instance.

    One instance has tp·cp·attention_dp·pp devices; experts live on all tp·cp·attention_dp ranks of a stage as
    ep·moe_tp. Nesting, fastest links innermost: tp, cp, attention_dp, pp, replicas.
    """

    tp: Scalar = 1
    pp: Scalar = 1
    ep: Scalar = 1
    cp: Scalar = 1
    attention_dp: Scalar = 1
    replicas: Scalar = 1

    @property
    def ranks(self) -> Scalar:
        """Devices of one pipeline stage."""
        return self.tp * self.cp * self.attention_dp

    @property
    def instance_devices(self) -> Scalar:
        """Devices of one instance."""
        return self.ranks * self.pp


class WeightFormat(eqx.Module):
    """A stored width [bytes per element, scales included] and the index in `DTYPES` of the type its GEMM runs in."""

    bytes: Scalar
    dtype: Any


class Precision(eqx.Module):
    """Formats by class of weights, KV cache [bytes per element] and activations [bytes per element]."""

    attention: WeightFormat
    feed_forward: WeightFormat
    shared_experts: WeightFormat
    routed_experts: WeightFormat
    router: WeightFormat
    embedding: WeightFormat
    lm_head: WeightFormat
    kv_cache: Scalar
    activations: Scalar


class Engine(eqx.Module):
    """Runtime knobs: chunk [tokens of each prompt in a pass, infinite = whole prompt], share of memory that may be
    filled, reserve [bytes a device], KV block [tokens], share of the T×T score square that a causal kernel executes
    (½ = perfect skipping), overlap ρ of communication with computation, overlap of host work with the device."""

    chunk: Scalar = float("inf")
    memory_utilisation: Scalar = UTILISATION
    reserve: Scalar = 0.0
    block_tokens: Scalar = BLOCK_TOKENS
    causal_work: Scalar = 0.5
    overlap: Scalar = 0.0
    host_overlap: Scalar = 0.0


class Efficiency(eqx.Module):
    """From datasheet to measured. Shares lie in (0, 1], times are ≥ 0, so no prediction beats the physical bound.

    `gemm_compute` is e_c's ceiling, `gemm_*_half` the rows, columns and depth at which half of it is reached;
    `memory_bytes_half` the bytes at which half of a bandwidth share is reached; `operator_time` t_0 [s], to which
    `attention_time` adds for an attention core [s] (splits, reductions: several kernels);
    collectives have their latency scaled up and their bandwidth scaled down; `host_*` in seconds a step, a sequence, a
    new token. `sharpness` p of the roofline's p-norm, None for the true maximum. None for `gemm_memory`,
    `attention_memory`, `elementwise_memory` is not allowed: the ideal is 1 of the memory's own sustained share.
    """

    gemm_compute: Scalar
    gemm_memory: Scalar
    gemm_rows_half: Scalar
    gemm_columns_half: Scalar
    gemm_depth_half: Scalar
    attention_prefill_compute: Scalar
    attention_decode_compute: Scalar
    attention_memory: Scalar
    elementwise_memory: Scalar
    memory_bytes_half: Scalar
    operator_time: Scalar
    collective_latency_scale: Scalar
    collective_bandwidth: Scalar
    host_step_time: Scalar
    host_sequence_time: Scalar
    host_token_time: Scalar
    attention_time: Scalar = 0.0
    sharpness: Scalar | None = None


class Deployment(eqx.Module):
    """Everything about how a model is run on a system."""

    parallelism: Parallelism
    precision: Precision
    engine: Engine
    efficiency: Efficiency


IDEAL: dict[str, float] = {
    name: 1.0 if field.high == 1 or field.low == 1 else 0.0
    for name, field in EFFICIENCY_FIELDS.items()
    if name != "sharpness"
}
"""The physical bound in the JSON form of an efficiency: shares 1, scales 1, times 0."""


def build_efficiency(document: dict) -> Efficiency:
    """An `Efficiency` of plain numbers from its JSON form (microseconds become seconds)."""
    renamed = {
        (name.removesuffix("_us") + "_time" if name.endswith("_us") else name): (
            value * MICRO if name.endswith("_us") else value
        )
        for name, value in document.items()
    }
    return Efficiency(**renamed)


def efficiency_document(efficiency: Efficiency) -> dict:
    """The JSON form of an `Efficiency`: the inverse of `build_efficiency`."""
    document: dict[str, float | None] = {}
    for name in EFFICIENCY_FIELDS:
        attribute = name.removesuffix("_us") + "_time" if name.endswith("_us") else name
        value = getattr(efficiency, attribute)
        if value is None:
            document[name] = None
        else:
            document[name] = float(value) / MICRO if name.endswith("_us") else float(value)
    return document


def weight_format(name: str) -> WeightFormat:
    """The `WeightFormat` of a format's name. **Raises** `InputError` with the nearest names."""
    if name not in FORMATS:
        raise InputError(f"no weight format is called '{name}'; {nearest(name, FORMATS)}")
    found = FORMATS[name]
    return WeightFormat(bytes=found.bytes, dtype=jnp.asarray(DTYPES.index(found.dtype), jnp.int32))


def kv_bytes(name: str) -> float:
    """Bytes per element of a KV format's name. **Raises** `InputError` with the nearest names."""
    if name not in KV_FORMATS:
        raise InputError(f"no KV format is called '{name}'; {nearest(name, KV_FORMATS)}")
    return KV_FORMATS[name]


def precision_document(document: dict, weights: str | None = None, kv: str | None = None) -> dict:
    """The model's own precision with a blanket weight format (attention and all feed-forward classes) and KV format."""
    chosen = dict(document)
    if weights is not None:
        weight_format(weights)
        chosen |= dict.fromkeys(BLANKET_CLASSES, weights)
    if kv is not None:
        kv_bytes(kv)
        chosen["kv_cache"] = kv
    return chosen


def build_precision(document: dict) -> Precision:
    """A `Precision` of plain numbers from its JSON form (class name → format name)."""
    return Precision(
        **{name: weight_format(document[name]) for name in WEIGHT_CLASSES},
        kv_cache=kv_bytes(document["kv_cache"]),
        activations=DTYPE_BYTES[document["activations"]],
    )


def build_engine(document: dict | None = None, chunk: float | None = None) -> Engine:
    """An `Engine` of plain numbers from a validated document (defaults when None) and a chunk size [tokens]."""
    limit = float("inf") if chunk is None else chunk
    if document is None:
        return Engine(chunk=limit)
    same = ["memory_utilisation", "block_tokens", "causal_work", "overlap", "host_overlap"]
    return Engine(chunk=limit, reserve=document["reserve_GB"] * GIGA, **{name: document[name] for name in same})
