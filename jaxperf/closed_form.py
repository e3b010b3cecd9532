"""Closed forms for a first look: a few multiplications that place a deployment before the model prices it.

Generic arithmetic: Python numbers and arrays alike. They leave out what `evaluate` counts (communication latency,
activations, attention's FLOPs, uneven ranks), so they are other formulas, not a second copy of it. Sources: NanoFlow,
arXiv:2408.12757 (three resources and their ratios); CSE 599K lecture notes on LLM serving; kipply, "Transformer
Inference Arithmetic", 2022; Google DeepMind, "How to Scale Your Model" (the scaling book), 2025."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from .ops import Scalar
from .spec.deployment import Deployment
from .spec.model import Model
from .spec.system import System
from .stages.memory import kv_elements_per_token, parameters
from .stages.plan import arithmetic

BOUNDS = ("compute", "memory", "network")
"""What a deployment is bound by, by code."""


def memory_time(memory_bytes: Scalar, bandwidth: Scalar) -> Scalar:
    """Time to read some bytes once [s]: bytes/BW, both of one device or both of all. A full memory once a step is
    NanoFlow's T_mem and the scaling book's slowest step."""
    return memory_bytes / bandwidth


def compute_time(parameters: Scalar, tokens: Scalar, flops: Scalar) -> Scalar:
    """Time of the matrix products of some tokens [s]: 2·P·B/R, with R the peak of all devices [FLOP/s] (kipply)."""
    return 2 * parameters * tokens / flops


def network_bytes(devices: Scalar, tokens: Scalar, hidden: Scalar, layers: Scalar, width: Scalar) -> Scalar:
    """Bytes that tensor parallelism moves over all links in one pass [bytes]: 4(N−1)·B·D·L·b.

    Two all-reduces a layer, each 2(N−1)·B·D·b over all devices (NanoFlow, section 3).
    """
    return 4 * (devices - 1) * tokens * hidden * layers * width


def network_time(
    devices: Scalar, tokens: Scalar, hidden: Scalar, layers: Scalar, width: Scalar, bandwidth: Scalar
) -> Scalar:
    """Time of tensor parallelism's all-reduces [s]: `network_bytes` over the one-way bandwidth of all devices."""
    return network_bytes(devices, tokens, hidden, layers, width) / bandwidth


def optimal_throughput(parameters: Scalar, flops: Scalar) -> Scalar:
    """Tokens/s that a device cannot exceed where all is compute-bound [tokens/s]: R/(2P).

    LLaMA-2-70B on A100 at R = 260 TFLOP/s (measured GEMM peak): 1857 (NanoFlow, section 3).
    """
    return flops / (2 * parameters)


def ridge_point(flops: Scalar, bandwidth: Scalar) -> Scalar:
    """Arithmetic intensity at which computing takes as long as reading [FLOP/byte]: R/BW."""
    return flops / bandwidth


def critical_batch(
    ridge: Scalar, weight_bytes: Scalar = 2, experts: Scalar = 1, experts_per_token: Scalar = 1
) -> Scalar:
    """Tokens at which a weight's GEMM turns compute-bound [tokens]: ridge·b/2·E/k.

    A weight of b bytes serves 2 FLOP a token; of E experts a token uses k (scaling book, inference).
    """
    return ridge * weight_bytes / 2 * experts / experts_per_token


def decode_step_time(weight_bytes: Scalar, batch: Scalar, kv_bytes: Scalar, bandwidth: Scalar) -> Scalar:
    """Time of a memory-bound decode step [s]: (W + B·kv)/BW, `kv_bytes` of one sequence (scaling book, inference)."""
    return (weight_bytes + batch * kv_bytes) / bandwidth


def turning_batch(
    weight_bytes: Scalar, flops: Scalar, flops_per_token: Scalar, bandwidth: Scalar, kv_bytes: Scalar
) -> Scalar:
    """B* [sequences], the batch at which decode turns compute-bound: W·R/(f·BW − kv·R), infinite where reading a
    sequence's KV cache takes longer than computing its token."""
    spare = flops_per_token * bandwidth - kv_bytes * flops
    if isinstance(spare, (int, float)):
        return weight_bytes * flops / spare if spare > 0 else float("inf")
    return jnp.where(spare > 0, weight_bytes * flops / jnp.where(spare > 0, spare, 1.0), jnp.inf)


def sequential_time(operators: list[tuple[Scalar, ...]]) -> Scalar:
    """Operators one after another [s]: Σ over operators of the largest of its (compute, memory, network) times."""
    return sum(_largest(*times) for times in operators)


def overlapped_time(operators: list[tuple[Scalar, ...]]) -> Scalar:
    """All resources busy at once [s]: the largest of the summed times (NanoFlow's optimum)."""
    return _largest(*(sum(times) for times in zip(*operators, strict=True)))


def request_rate(batch: Scalar, step_time: Scalar, output_tokens: Scalar) -> Scalar:
    """Requests that a full batch completes [requests/s]: B/(t_step·osl), prefill left out (scaling book, serving)."""
    return batch / (step_time * output_tokens)


def revenue(tokens: Sequence[Scalar], prices: Sequence[Scalar]) -> Scalar:
    """What tokens of several kinds bring in [USD]: Σ tokens·price, prices in USD per million tokens.

    Cached input, input and output tokens at a price each, as services charge them.
    """
    return sum(count * price for count, price in zip(tokens, prices, strict=True)) / 1e6


def freed_tokens(batch: Scalar, prompt_tokens: Scalar, output_tokens: Scalar) -> Scalar:
    """Tokens of KV cache that finished requests free in every step of a steady batch [tokens]: B·(P + G)/G, with B/G
    requests that finish a step (scaling book, applied inference)."""
    return request_rate(batch, 1, output_tokens) * (prompt_tokens + output_tokens)


def request_time(ttft: Scalar, tpot: Scalar, output_tokens: Scalar, first_from_prefill: bool = True) -> Scalar:
    """End-to-end time of a request [s]: TTFT + (osl − 1)·TPOT, as the first token comes out of prefill; without it,
    TTFT + osl·TPOT, the other convention in use."""
    return ttft + (output_tokens - int(first_from_prefill)) * tpot


def steady_wait(service: Scalar, rate: Scalar) -> Scalar:
    """Mean wait before a fixed service time under Poisson arrivals (M/D/1) [s]: λ·s²/(2(1 − λ·s)), for λ·s < 1.

    DistServe, arXiv:2401.09670, equations 1 to 3: TTFT = service + wait, a stage of an n-way pipeline has service/n.
    """
    return rate * service * service / (2 * (1 - rate * service))


def tokens_per_verification(acceptance: Scalar, drafts: int) -> Scalar:
    """Expected tokens of a speculative step that drafts γ tokens [tokens]: Σ_{j=0..γ} a^j.

    Leviathan et al., arXiv:2211.17192, equation 1; finite at a = 1.
    """
    return sum(acceptance**j for j in range(drafts + 1))


def verification_work(acceptance: Scalar, drafts: int) -> Scalar:
    """Operations of speculative decoding against plain decoding, drafts free: (γ + 1)/Σ a^j (Leviathan et al.)."""
    return (drafts + 1) / tokens_per_verification(acceptance, drafts)


def token_gap_spread(gap: Scalar, stall: Scalar, every: Scalar) -> Scalar:
    """Coefficient of variation of the gaps between tokens (ITL) where every n-th one is longer by a stall, as when a
    prefill comes between [1]: s·√(n − 1)/(n·g + s), with the gap g and the stall s in the same unit."""
    return stall * (every - 1) ** 0.5 / (every * gap + stall)


def devices_for_two_axes(expansion: Scalar, mesh_axes: Scalar = 3) -> Scalar:
    """Devices above which feed-forward weights that are sharded along both sides (weight-stationary in two dimensions,
    Pope et al., arXiv:2211.05102) communicate less than those sharded along the hidden side alone [devices].

    Along one side 4·B·D/(axes·W) a layer; along both 2·B·D/X + 4·B·F/Y over W with X·Y = N, at best
    √(32·D·F/N)·B/W: N > 32·(F/D)·(axes/4)², with `expansion` F/D and the axes of the mesh that a ring may use (scaling
    book, question 7 on inference; for F = 4D it prints 81, its expression gives 72).
    """
    return 32 * expansion * (mesh_axes / 4) ** 2


def loading_bandwidth(kv_bytes: Scalar, flops_to_recompute: Scalar, flops: Scalar) -> Scalar:
    """Bandwidth above which loading a cached prefix beats recomputing it [bytes/s]: kv·R/f (Mooncake, FAST 2025)."""
    return kv_bytes * flops / flops_to_recompute


class Iteration(eqx.Module):
    """One step in which every device reads its whole memory and a dense batch passes through all layers: the three
    resources' times [s], their ratios to compute, the index in `BOUNDS` of the longest, and R/(2P) [tokens/s/device].
    """

    memory_s: Scalar
    compute_s: Scalar
    network_s: Scalar
    memory_over_compute: Scalar
    network_over_compute: Scalar
    bound: Scalar
    optimal_tokens_per_s_per_device: Scalar

    @property
    def classification(self) -> str:
        """The name of the bound: compute, memory or network."""
        return BOUNDS[int(self.bound)]


def iteration(model: Model, system: System, deployment: Deployment, batch: Scalar) -> Iteration:
    """The closed forms for a deployment with `batch` tokens in a step (see `Iteration`).

    P are the active parameters, R the peak of the attention class's number type, N the tensor-parallel degree, and the
    network that of the innermost tier that reaches N devices, one-way over the devices of an instance.
    """
    layout, device = deployment.parallelism, system.device
    peak = arithmetic(deployment.precision.attention, device).peak
    devices, counted = layout.instance_devices, parameters(model)
    link = system.fabric[-1].device_bandwidth
    for tier in reversed(system.fabric[:-1]):
        link = jnp.where(tier.reach >= layout.tp, tier.device_bandwidth, link)
    memory = memory_time(device.memory.capacity, device.memory.bandwidth)
    compute = compute_time(counted.active, batch, devices * peak)
    width = deployment.precision.activations
    network = network_time(layout.tp, batch, model.hidden_size, model.layers, width, devices * link)
    return Iteration(
        memory_s=memory,
        compute_s=compute,
        network_s=network,
        memory_over_compute=memory / compute,
        network_over_compute=network / compute,
        bound=_index_of_largest(compute, memory, network),
        optimal_tokens_per_s_per_device=optimal_throughput(counted.active, peak),
    )


def kv_bytes_per_token(model: Model, width: Scalar) -> Scalar:
    """Bytes that one token adds to the KV cache of the whole model [bytes], windows not yet full."""
    return kv_elements_per_token(model) * width


def _largest(*times: Scalar) -> Scalar:
    if all(isinstance(time, (int, float)) for time in times):
        return max(times)
    result = jnp.asarray(times[0])
    for time in times[1:]:
        result = jnp.maximum(result, time)
    return result


def _index_of_largest(*times: Any) -> Scalar:
    """Index of the largest time, the first of equals."""
    return jnp.argmax(jnp.stack([jnp.asarray(time, float) for time in times]), axis=0)
