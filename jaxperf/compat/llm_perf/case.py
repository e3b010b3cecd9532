"""A case as a pytree of numbers: one structure for every model, system, layout and choice of algorithms.

Lists of unequal length are padded; names of algorithms, topologies and placements become codes (`build`). So one
compiled program serves nearly all cases, and vmap serves many at once."""

from __future__ import annotations

import equinox as eqx

from ...ops import Scalar


class Model(eqx.Module):
    """Sizes [elements] and counts; `experts` 0 and `moe_layers` 0 for a dense model; `width` [bytes per element]."""

    layers: Scalar
    hidden: Scalar
    query_heads: Scalar
    kv_heads: Scalar
    dense_width: Scalar
    vocabulary: Scalar
    width: Scalar
    moe: Scalar
    experts: Scalar
    experts_per_token: Scalar
    expert_width: Scalar
    moe_layers: Scalar

    @property
    def kv_width(self) -> Scalar:
        """Elements of a token's keys, or of its values, in one layer: Hkv·(D/Hq)."""
        return self.kv_heads * (self.hidden / self.query_heads)


class Chain(eqx.Module):
    """Fabric tiers that a collective may cross, innermost first; arrays over the tiers, padded with absent ones.

    `ports` ranks joined, α and the switch's α [s], `bandwidth` a port [bytes/s], contention η_α and η_β, `grid` 1 for a
    torus or a mesh that is not full, `wrap` 1 unless a mesh, `in_network` the index in `IN_NETWORK`, `dims`.
    """

    present: Scalar
    ports: Scalar
    alpha: Scalar
    switch_alpha: Scalar
    bandwidth: Scalar
    alpha_scale: Scalar
    bandwidth_share: Scalar
    grid: Scalar
    wrap: Scalar
    in_network: Scalar
    dims: Scalar


class Memory(eqx.Module):
    """Memory tiers, fastest first, padded with empty ones: capacity [bytes], bandwidth with its share [bytes/s], `last`
    1 on the slowest. `weights_pin` and `kv_pin` are 1 on the tier that a class is pinned to, 0 everywhere if `auto`."""

    capacity: Scalar
    bandwidth: Scalar
    last: Scalar
    weights_pin: Scalar
    kv_pin: Scalar
    kv_first: Scalar


class Device(eqx.Module):
    """Peak at two bytes [FLOP/s], main memory [bytes] for paging, and the memory tiers."""

    peak: Scalar
    main_capacity: Scalar
    memory: Memory


class Layout(eqx.Module):
    """Parallel degrees, and the devices of the system."""

    pp: Scalar
    tp: Scalar
    ep: Scalar
    sp: Scalar
    devices: Scalar


class Tuner(eqx.Module):
    """What is run and how. Algorithms are indices in `ALL_REDUCE_ALGORITHMS`; `launch` [s] a kernel; the curve gives
    the share of peak FLOPs over sequences a pipeline stage."""

    context: Scalar
    batch: Scalar
    prompt: Scalar
    prefill_batch: Scalar
    chunk: Scalar
    tp_decode: Scalar
    tp_prefill: Scalar
    ep_decode: Scalar
    ep_prefill: Scalar
    tp_collectives: Scalar
    ep_collectives: Scalar
    sp_collectives: Scalar
    in_network: Scalar
    overlap: Scalar
    layer_kernels: Scalar
    collective_kernels: Scalar
    hop_kernels: Scalar
    launch: Scalar
    launch_overlap: Scalar
    curve_batch: Scalar
    curve_share: Scalar


class Serving(eqx.Module):
    """Per-request and per-step overheads [s], KV handoff (α [s], bytes/s, repacking), paging [tokens, bytes]."""

    schedule: Scalar
    tokenise: Scalar
    graph: Scalar
    sample: Scalar
    detokenise: Scalar
    disaggregated: Scalar
    local_alpha: Scalar
    local_repack: Scalar
    local_repack_scale: Scalar
    remote_alpha: Scalar
    remote_bandwidth: Scalar
    requests: Scalar
    request_time: Scalar
    remote_overlap: Scalar
    remote_repack: Scalar
    remote_repack_scale: Scalar
    block_tokens: Scalar
    reserve: Scalar


class Case(eqx.Module):
    """Everything that a case's figures depend on."""

    model: Model
    device: Device
    layout: Layout
    tp: Chain
    ep: Chain
    sp: Chain
    pp: Chain
    tuner: Tuner
    serving: Serving
