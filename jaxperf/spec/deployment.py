"""How a model is laid out and run: parallel degrees, number formats, engine settings, efficiencies."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from ..block_formats import FILES, MULTI_HEAD, file_precision, mixed_bytes
from ..constants import (
    BLANKET_CLASSES,
    BLOCK_TOKENS,
    DTYPE_BYTES,
    DTYPES,
    FORMATS,
    GIGA,
    KV_FORMATS,
    MEMORY_KINDS,
    MICRO,
    UTILISATION,
    WEIGHT_CLASSES,
)
from ..errors import InputError, nearest
from ..ops import Scalar
from .documents.calibration import EFFICIENCY_FIELDS
from .options import ExpertPlacement, Options, build_expert_placement, build_options
from .system import Software, build_software


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


EVERY_ALGORITHM = Software(*[1] * 7)
"""Whatever a tier admits."""


class Placement(eqx.Module):
    """Where weights and KV cache lie. `weights_in`, `kv_cache_in`: the kind of memory that a class is pinned to, an
    index of `MEMORY_KINDS`, −1 where it fills the fastest first. Flags 0 or 1: `kv_first` fills KV cache before
    weights; `offload_*` lets a class spill to host memory or SSD."""

    weights_in: Scalar = -1.0
    kv_cache_in: Scalar = -1.0
    kv_first: Scalar = 0.0
    offload_weights: Scalar = 0.0
    offload_kv_cache: Scalar = 0.0

    @property
    def pinned_weights(self) -> Scalar:
        """1 where the weights are pinned to one kind of memory."""
        return jnp.where(self.weights_in < 0, 0.0, 1.0)

    @property
    def pinned_kv_cache(self) -> Scalar:
        """1 where the KV cache is pinned to one kind of memory."""
        return jnp.where(self.kv_cache_in < 0, 0.0, 1.0)


class Engine(eqx.Module):
    """Runtime knobs: chunk [tokens of each prompt in a pass, infinite = whole prompt], share of memory that may be
    filled, reserve [bytes a device], KV block [tokens], share of the T×T score square that a causal kernel executes
    (½ = perfect skipping), `mla_absorbed` how latent attention prefills (1 absorbed, 0 expanded, −1 whichever is
    cheaper), overlap ρ of communication with computation, overlap of host work with the device.

    `contiguous_tokens`: what every sequence reserves at once where the KV cache is not paged [tokens], 0 where it is.
    Framework overhead: `kernel_launch` [s a kernel], `kernels_per_layer` and `kernels_per_collective`; `tokenise`
    [s a prompt token], `schedule` [s a request], `detokenise` [s an output token]. `kernels_per_layer` is −1 where the
    operator table counts them. Of the KV cache decode keeps a share `kv_kept` of the tokens (eviction) at a share
    `kv_width` of the width (low rank). `collectives` that its communication library offers, of those that a tier
    admits. `options`, `experts`, `two_batch` and `forwards` are None where none is in use, which is a program of its
    own: `experts` that are not equally popular or have copies, `two_batch` 1 where two halves of a batch take turns,
    so that one computes while the other communicates, `forwards` 1 where a token is sent to a node once and forwarded
    there to the ranks that have its experts.
    """

    chunk: Scalar = float("inf")
    memory_utilisation: Scalar = UTILISATION
    reserve: Scalar = 0.0
    block_tokens: Scalar = BLOCK_TOKENS
    contiguous_tokens: Scalar = 0.0
    causal_work: Scalar = 0.5
    mla_absorbed: Scalar = -1.0
    overlap: Scalar = 0.0
    host_overlap: Scalar = 0.0
    kernel_launch: Scalar = 0.0
    kernels_per_layer: Scalar = 0.0
    kernels_per_collective: Scalar = 0.0
    tokenise: Scalar = 0.0
    schedule: Scalar = 0.0
    detokenise: Scalar = 0.0
    placement: Placement = Placement()
    collectives: Software = EVERY_ALGORITHM
    options: Options | None = None
    kv_kept: Scalar = 1.0
    kv_width: Scalar = 1.0
    experts: ExpertPlacement | None = None
    two_batch: Scalar | None = None
    forwards: Scalar | None = None


class Efficiency(eqx.Module):
    """From datasheet to measured. Shares lie in (0, 1], times are ≥ 0, so no prediction beats the physical bound.

    `gemm_compute` is e_c's ceiling, `gemm_*_half` the rows, columns and depth at which half of it is reached;
    `memory_bytes_half` the bytes at which half of a bandwidth share is reached; `operator_time` t_0 [s], to which
    `attention_time` adds for an attention core [s] (splits, reductions: several kernels); `latent_decode_compute` is
    what a decode step's core reaches on a latent cache (absorbed MLA), where all query heads share one latent head and
    fill the tiles that `attention_decode_compute` knows as mostly empty;
    collectives have their latency scaled up and their bandwidth scaled down, and each takes `collective_time` besides
    (its launch and synchronisation) [s]; `host_*` in seconds a step, a sequence, a
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
    latent_decode_compute: Scalar
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
    collective_time: Scalar = 0.0
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


def complete_efficiency(document: dict) -> dict:
    """The JSON form of an efficiency with every share: where `latent_decode_compute` is absent or null, as in
    older calibrations, it is that document's `attention_decode_compute`."""
    if document.get("latent_decode_compute") is not None:
        return dict(document)
    return document | {"latent_decode_compute": document["attention_decode_compute"]}


def build_efficiency(document: dict) -> Efficiency:
    """An `Efficiency` of plain numbers from its JSON form (microseconds become seconds), see `complete_efficiency`."""
    document = complete_efficiency(document)
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


def weight_format(name: str, mix: dict | None = None) -> WeightFormat:
    """The `WeightFormat` of a format's name, as wide as a `mix` of formats where one is given.

    **Raises** `InputError` with the nearest names.
    """
    if name not in FORMATS:
        raise InputError(f"no weight format is called '{name}'; {nearest(name, FORMATS)}")
    found = FORMATS[name]
    width = found.bytes
    if mix is not None:
        width = mixed_bytes(mix["shares"], {key: form.bytes for key, form in FORMATS.items()})
    return WeightFormat(bytes=width, dtype=jnp.asarray(DTYPES.index(found.dtype), jnp.int32))


def kv_bytes(name: str) -> float:
    """Bytes per element of a KV format's name. **Raises** `InputError` with the nearest names."""
    if name not in KV_FORMATS:
        raise InputError(f"no KV format is called '{name}'; {nearest(name, KV_FORMATS)}")
    return KV_FORMATS[name]


def precision_document(
    document: dict, weights: str | None = None, kv: str | None = None, layer_groups: list[dict] | None = None
) -> dict:
    """The model's own precision with a blanket weight format (attention and all feed-forward classes) and KV format.

    A type of GGUF file sets embedding and LM head, too, and mixes attention's formats as the model's `layer_groups`
    ask (without them as for multi-head attention).
    """
    chosen = dict(document)
    if weights is not None:
        weights = weights if weights in FORMATS else weights.lower()  # llama.cpp writes Q4_K_M
        weight_format(weights)
        mixes = {name: mix for name, mix in (chosen.pop("mixes", None) or {}).items() if name not in BLANKET_CLASSES}
        chosen |= dict.fromkeys(BLANKET_CLASSES, weights)
        if weights in FILES:
            found = file_precision(weights, MULTI_HEAD if layer_groups is None else layer_groups)
            mixes = found.pop("mixes", {})
            chosen |= found
        chosen |= {"mixes": mixes} if mixes else {}
    if kv is not None:
        kv_bytes(kv)
        chosen["kv_cache"] = kv
    return chosen


def build_precision(document: dict) -> Precision:
    """A `Precision` of plain numbers from its JSON form (class name → format name)."""
    mixes = document.get("mixes") or {}
    return Precision(
        **{name: weight_format(document[name], mixes.get(name)) for name in WEIGHT_CLASSES},
        kv_cache=kv_bytes(document["kv_cache"]),
        activations=DTYPE_BYTES[document["activations"]],
    )


def build_placement(document: dict) -> Placement:
    """A `Placement` of plain numbers from the `placement` and `offload` of an engine's document."""

    def pinned(kind: str | None) -> float:
        return -1.0 if kind is None else float(MEMORY_KINDS.index(kind))

    chosen = document["placement"]
    return Placement(
        weights_in=pinned(chosen["weights"]),
        kv_cache_in=pinned(chosen["kv_cache"]),
        kv_first=float(chosen["order"] == "kv-cache-first"),
        offload_weights=float("weights" in document["offload"]),
        offload_kv_cache=float("kv-cache" in document["offload"]),
    )


def _collectives(named: list[str] | None) -> Software:
    if named is None:
        return EVERY_ALGORITHM
    return build_software(named, int("in-network" in named), 1)


def build_engine(document: dict | None = None, chunk: float | None = None) -> Engine:
    """An `Engine` of plain numbers from a validated document (defaults when None) and a chunk size [tokens]."""
    limit = float("inf") if chunk is None else float(chunk)
    if document is None:
        return Engine(chunk=limit)
    same = ["memory_utilisation", "block_tokens", "causal_work", "overlap", "host_overlap"]
    same += ["kernels_per_collective"]
    counted = document["kernels_per_layer"] is None
    times = ["kernel_launch", "tokenise", "schedule", "detokenise"]
    return Engine(
        chunk=limit,
        reserve=document["reserve_GB"] * GIGA,
        contiguous_tokens=document["contiguous_tokens"] or 0.0,
        mla_absorbed={"cheapest": -1.0, "expanded": 0.0, "absorbed": 1.0}[document["mla_prefill"]],
        placement=build_placement(document),
        collectives=_collectives(document["collectives"]),
        options=build_options(document),
        experts=build_expert_placement(document),
        two_batch=1.0 if document["two_batch_overlap"] else None,
        forwards=1.0 if document["expert_forwarding"] else None,
        kernels_per_layer=-1.0 if counted else document["kernels_per_layer"],
        kv_kept=document["kv_kept_share"],
        kv_width=document["kv_rank_share"],
        **{name: document[name] for name in same},
        **{name: document[f"{name}_us"] * MICRO for name in times},
    )
