"""What moving a prompt's KV cache from where it was prefilled to where it is decoded takes, and two pools together."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

from ..ops import EXACT, Ops, Scalar, choose, larger
from ..spec.deployment import Deployment, Parallelism
from ..spec.model import LayerGroup, Model, stack_groups
from ..spec.system import Memory
from ..spec.workload import Workload
from ..stages.memory import layer_kv_bytes
from ..stages.placement import main_rate
from .end_to_end import Metrics


class Link(eqx.Module):
    """The way between two pools: latency α [s], bandwidth one-way between a pair of devices [bytes/s], `streams`, pairs
    that send at once, `request_time` of one work request [s], and `overlap`, the share of prefill behind which the
    transfer hides (layer by layer: up to 1)."""

    alpha: Scalar
    bandwidth: Scalar
    streams: Scalar = 1.0
    request_time: Scalar = 0.0
    overlap: Scalar = 0.0


class Handoff(eqx.Module):
    """A handoff of one prompt: `time` that it adds to TTFT [s], what `transfer` and `repack` take by themselves [s],
    `size` [bytes], and the number of work `requests`."""

    time: Scalar
    transfer: Scalar
    repack: Scalar
    size: Scalar
    requests: Scalar


def kv_cache_bytes(model: Model, deployment: Deployment, tokens: Scalar, ops: Ops = EXACT) -> Scalar:
    """KV cache and recurrent state of one sequence over a whole instance, every replicated part once [bytes]."""
    once = eqx.tree_at(lambda d: d.parallelism, deployment, Parallelism(*[jnp.ones(())] * 6))
    groups: LayerGroup = stack_groups(model)
    sizes = jax.vmap(lambda group: group.count * layer_kv_bytes(group, tokens, once, ops))(groups)
    return jnp.sum(sizes)


def same_layout(source: Parallelism, target: Parallelism, heads: Scalar, ops: Ops = EXACT) -> Scalar:
    """1 where both sides split the KV cache alike over tp (at most `heads` ways), cp and pp, so that no device needs
    to gather or scatter: shards map one to one."""
    parts = ((ops.minimum(source.tp, heads), ops.minimum(target.tp, heads)), (source.cp, target.cp))
    alike = 1.0
    for mine, other in (*parts, (source.pp, target.pp)):
        alike = alike * choose(jnp.abs(mine - other) < 0.5, 1.0, 0.0)
    return alike


def repack_time(read: Scalar, written: Scalar, devices: Scalar, memory: Memory, share: Scalar) -> Scalar:
    """Time to read a KV cache of `read` bytes and to write it as `written` bytes, shared by `devices`, in main memory
    [s]: (M_in + M_out)/(N·BW·e)."""
    return (read + written) / (devices * main_rate(memory, share))


def replica_devices(layout: Parallelism) -> Scalar:
    """Devices that hold the cache of one prompt: those of one attention replica, tp·cp·pp."""
    return layout.tp * layout.cp * layout.pp


def handoff_time(
    size: Scalar, requests: Scalar, repack: Scalar, prefill_time: Scalar, link: Link, ops: Ops = EXACT
) -> Scalar:
    """max(0, α + n_wr·τ_wr + M/(BW·streams) + t_repack − ρ·t_prefill) [s].

    **Arguments:** `size` M [bytes], `requests` n_wr, `repack` [s], `prefill_time` behind which the share ρ =
    `link.overlap` hides. A co-located handoff is one with an infinite bandwidth: α + t_repack.
    """
    exposed = link.alpha + requests * link.request_time + size / (link.bandwidth * link.streams) + repack
    return ops.at_least(exposed - link.overlap * prefill_time, 0.0)


def handoff(
    model: Model,
    prefill: Deployment,
    decode: Deployment,
    target: Memory,
    workload: Workload,
    prefill_time: Scalar,
    link: Link,
    ops: Ops = EXACT,
) -> Handoff:
    """The handoff of one prompt between two instances [s].

    A work request moves one block of one layer: n_wr = Σ_layers ⌈min(isl, w)/block⌉/(devices of the replica that send),
    for they send at once. Where the two sides split or hold the cache differently, it is repacked on the decode side:
    read as it came and written as it is kept, in main memory. What a side holds counts its eviction and its rank.
    """
    size, written = (_held(model, side, workload.isl, ops) for side in (prefill, decode))
    heads = _widest_heads(model)
    engine = prefill.engine
    tokens = engine.kv_kept * workload.isl
    blocks = sum(
        g.count * ops.ceil_divide(ops.minimum(tokens, g.attention.window), engine.block_tokens) for g in model.groups
    )
    requests = blocks / larger(replica_devices(prefill.parallelism), 1.0)
    apart = 1 - same_layout(prefill.parallelism, decode.parallelism, heads, ops)
    converted = choose(jnp.abs(written - size) > 1e-6 * size, 1.0, apart)
    share, devices = decode.efficiency.elementwise_memory, replica_devices(decode.parallelism)
    repack = converted * repack_time(size, written, devices, target, share)
    time = handoff_time(size, requests, repack, prefill_time, link, ops)
    return Handoff(time, size / (link.bandwidth * link.streams), repack, size, requests)


def _held(model: Model, deployment: Deployment, tokens: Scalar, ops: Ops) -> Scalar:
    """The cache of a prompt of some `tokens` as a side holds it: the share of them that it keeps, at its width
    [bytes]."""
    engine = deployment.engine
    narrow = eqx.tree_at(lambda d: d.precision.kv_cache, deployment, deployment.precision.kv_cache * engine.kv_width)
    return kv_cache_bytes(model, narrow, engine.kv_kept * tokens, ops)


def _widest_heads(model: Model) -> Scalar:
    """Key/value heads that split over tp: the most of any layer; 1 for latent attention, whose cache is replicated."""
    most = 1.0
    for group in model.groups:
        a = group.attention
        most = larger(choose(group.count > 0, (1 - a.latent) * a.kv_heads, 0.0), most)
    return most


class Disaggregated(eqx.Module):
    """A prefill pool and a decode pool of some instances each. `ttft`, `tpot`, `e2e` [s] of a request; requests/s that
    both pools and the link carry (the smallest rate), output tokens per second in all and per device, `devices` of
    both, `ratio`, instances of the prefill pool for one of the decode pool at which both are equally busy, and the
    shares of the time in which each pool and the link are busy at that rate: one of them is 1."""

    ttft: Scalar
    tpot: Scalar
    e2e: Scalar
    requests_per_s: Scalar
    output_tokens_per_s: Scalar
    output_tokens_per_s_per_device: Scalar
    devices: Scalar
    ratio: Scalar
    prefill_busy: Scalar
    decode_busy: Scalar
    link_busy: Scalar


def disaggregated(
    prefill: Metrics,
    decode: Metrics,
    moved: Handoff,
    workload: Workload,
    prefill_devices: Scalar,
    decode_devices: Scalar,
    prefill_instances: Scalar = 1.0,
    decode_instances: Scalar = 1.0,
    lanes: Scalar | None = None,
) -> Disaggregated:
    """Two pools, each with its own layout, precision and hardware, rate-matched.

    **Arguments:** `Metrics` of an instance of each pool (the prefill pool's at its prompts per pass, the decode pool's
    at its batch), the `Handoff` between them, devices of an instance, and how many instances there are;
    `lanes`, prompts that the link carries at once, each at the handoff's speed (None: as many as there are).

    A prefill instance carries prompts/t_prefill requests a second, a decode instance B/((osl − 1)·TPOT). After the
    first token a request takes what it takes on the decode instance alone, detokenising included.
    """
    prefill_rate = workload.prefill_batch / prefill.prefill.time
    decode_rate = workload.batch / (larger(workload.osl - 1, 1.0) * decode.tpot)
    requests = EXACT.minimum(prefill_instances * prefill_rate, decode_instances * decode_rate)
    if lanes is not None:
        requests = EXACT.minimum(requests, lanes / moved.transfer)
    ttft = prefill.ttft + moved.time
    devices = prefill_instances * prefill_devices + decode_instances * decode_devices
    tokens = requests * workload.osl
    return Disaggregated(
        ttft=ttft,
        tpot=decode.tpot,
        e2e=ttft + decode.e2e - decode.ttft,
        requests_per_s=requests,
        output_tokens_per_s=tokens,
        output_tokens_per_s_per_device=tokens / devices,
        devices=devices,
        ratio=decode_rate / prefill_rate,
        prefill_busy=requests / (prefill_instances * prefill_rate),
        decode_busy=requests / (decode_instances * decode_rate),
        link_busy=0.0 * requests if lanes is None else requests * moved.transfer / lanes,
    )
