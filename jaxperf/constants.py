"""Constants of the field, each once, with its source. Plain Python: importing this does not import JAX."""

from __future__ import annotations

from typing import Final, NamedTuple

from .block_formats import BLOCKS, MIXES, block_bytes

GIGA: Final = 1e9
TERA: Final = 1e12
MICRO: Final = 1e-6

GROUP_SLOTS: Final = 4
"""Layer groups that a model may have; unused slots hold a group of zero layers and cost nothing."""

PLACE_BITS: Final = 24
"""Layers in a word of a group's places: a float32 holds so many bits."""

PLACE_WORDS: Final = 6
"""Words of a group's places."""

TIER_SLOTS: Final = 3
"""Fabric tiers that a system may have; unused slots add no reach and no time."""

DIM_SLOTS: Final = 3
"""Dimensions that a torus or mesh may have; unused ones have size 1."""

MEMORY_SLOTS: Final = 4
"""Memory tiers that a device may have; unused slots hold nothing."""

SUSTAINED_SHARE: Final = {
    "sram": 1.0,
    "hbm": 0.92,
    "gddr": 0.92,
    "lpddr": 0.85,
    "ddr": 0.85,
    "host": 0.85,
    "ssd": 0.85,
}
"""Share of a memory's peak bandwidth that long reads sustain, by kind, where a spec does not say. SRAM, HBM and LPDDR
are planning figures in common use; the other kinds take that of the nearest one (estimates)."""

MEMORY_KINDS: Final = tuple(SUSTAINED_SHARE)
"""Kinds of memory, in the order of the codes that kernels use."""

SPILL_KINDS: Final = ("host", "ssd")
"""Kinds that hold weights or KV cache only where offloading is asked for."""

COLLECTIVE_ALGORITHMS: Final = (
    "ring",
    "double-tree",
    "halving-doubling",
    "direct",
    "bruck",
    "hardware-exchange",
)
"""Collective algorithms that a tier of switched links may admit. `direct`: one-shot and two-shot all-reduce and
exchanges in which everyone addresses everyone at once; `hardware-exchange`: exchanges alone, that a switch or the
network cards do (one-sided writes to everyone, posted at once). Ring and pairwise exchange are always possible."""

AXES: Final = ("tp", "cp", "ep", "pp")
"""Parallel axes that a tier of a fabric may serve."""

DTYPES: Final = ("fp32", "bf16", "fp16", "fp8", "int8", "fp4")
"""Arithmetic types of a GEMM, the columns of a device's peak table (dense, without sparsity)."""

DTYPE_BYTES: Final = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5}

DTYPE_FALLBACK: Final = {
    "fp32": ("fp32", "bf16", "fp16"),
    "bf16": ("bf16", "fp16", "fp32", "int8"),
    "fp16": ("fp16", "bf16", "fp32", "int8"),
    "fp8": ("fp8", "bf16", "fp16", "fp32", "int8"),
    "int8": ("int8", "bf16", "fp16", "fp32"),
    "fp4": ("fp4", "bf16", "fp16", "fp32", "int8"),
}
"""What a GEMM runs in where the device lacks the type: weights stay narrow, arithmetic moves to the next wider one."""


class Format(NamedTuple):
    """How a class of weights is stored: bytes per element with its scales, and the type of its GEMM."""

    bytes: float
    dtype: str
    meaning: str


FORMATS: Final = {
    "fp32": Format(4.0, "fp32", "IEEE single"),
    "bf16": Format(2.0, "bf16", "bfloat16"),
    "fp16": Format(2.0, "fp16", "IEEE half"),
    "fp8": Format(1.0, "fp8", "W8A8, one scale a tensor or channel"),
    "fp8-block": Format(1.0 + 4.0 / (128 * 128), "fp8", "W8A8, an fp32 scale for each 128 x 128 block"),
    "int8": Format(1.0 + 2.0 / 128, "bf16", "W8A16, an fp16 scale for each 128 weights"),
    "int8-w8a8": Format(1.0, "int8", "W8A8, one scale a channel"),
    "int4": Format(0.5 + 2.5 / 128, "bf16", "W4A16, an fp16 scale and a 4-bit zero for each 128 weights"),
    "nvfp4": Format(0.5 + 1.0 / 16, "fp4", "W4A4, an fp8 scale for each 16 weights"),
    "mxfp4": Format(0.5 + 1.0 / 32, "fp4", "W4A4, an 8-bit exponent for each 32 weights"),
    "fp4": Format(0.5, "fp4", "W4A4, scales not counted"),
    "mxfp8": Format(1.0 + 1.0 / 32, "fp8", "W8A8, an 8-bit exponent for each 32 weights"),
    "int4-group32": Format(0.5 + 2.0 / 32, "bf16", "W4A16, an fp16 scale for each 32 weights"),
    "nvfp4-w4a16": Format(0.5 + 1.0 / 16, "bf16", "W4A16, an fp8 scale for each 16 weights"),
    "mxfp4-w4a16": Format(0.5 + 1.0 / 32, "bf16", "W4A16, an 8-bit exponent for each 32 weights"),
    "mxfp4-w4a8": Format(0.5 + 1.0 / 32, "fp8", "W4A8, an 8-bit exponent for each 32 weights"),
    "int4-group64": Format(0.5 + 2.0 / 64, "bf16", "W4A16, an fp16 scale for each 64 weights"),
    "int4-group128": Format(0.5 + 2.0 / 128, "bf16", "W4A16, an fp16 scale for each 128 weights"),
    "int4-group32-zero": Format(0.5 + 2.5 / 32, "bf16", "W4A16, an fp16 scale and a 4-bit zero for each 32 weights"),
    "int4-group64-zero": Format(0.5 + 2.5 / 64, "bf16", "W4A16, an fp16 scale and a 4-bit zero for each 64 weights"),
    **{
        name: Format(block_bytes(name), "bf16", f"{name.upper()} of llama.cpp: {size} B for {count} weights")
        for name, (size, count) in BLOCKS.items()
    },
    **{name: Format(size, "bf16", f"{name.upper()} of llama.cpp, a mix of types") for name, size in MIXES.items()},
}
"""Weight and KV formats. Scale sizes: OCP Microscaling v1.0 (mxfp4), NVIDIA Blackwell NVFP4 (16 per fp8 scale),
AWQ/GPTQ at group 128 (int4), DeepSeek-V3 block scales (fp8-block), llama.cpp (see `block_formats`)."""

KV_FORMATS: Final = {
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.5,
    "nvfp4": 0.5 + 1.0 / 16,
    "int4-group32": 0.5 + 4.0 / 32,
    "int4-group64": 0.5 + 4.0 / 64,
    "int4-group128": 0.5 + 4.0 / 128,
    "q8_0": block_bytes("q8_0"),
    "q4_0": block_bytes("q4_0"),
}
"""Bytes per element of a KV cache: int8 and int4 without scales, int4 groups with an fp16 scale and an fp16 zero each
(KIVI, arXiv:2402.02750), nvfp4 with its fp8 scales, llama.cpp's blocks with theirs."""

WEIGHT_CLASSES: Final = (
    "attention",
    "feed_forward",
    "shared_experts",
    "routed_experts",
    "router",
    "embedding",
    "lm_head",
)
"""Classes of weights that may differ in format."""

BLANKET_CLASSES: Final = ("attention", "feed_forward", "shared_experts", "routed_experts")
"""What one `--weights` sets; router, embedding and LM head keep the model's own format, usually bf16."""

UTILISATION: Final = 0.9
"""Share of device memory that an engine may fill (vLLM's `gpu_memory_utilization` default)."""

BLOCK_TOKENS: Final = 16
"""Tokens in a KV cache block (vLLM's default)."""

TABLE_COLUMNS: Final = {
    "system": "library name, alias or path of a system",
    "engine": "library name, alias or path of an engine; empty = none",
    "model": "library name, alias or path of a model",
    "tp": "tensor parallel degree (default 1)",
    "pp": "pipeline parallel degree (default 1)",
    "ep": "expert parallel degree (default 1)",
    "cp": "context parallel degree (default 1)",
    "attention_dp": "attention data parallel degree (default 1)",
    "chunk": "tokens of each prompt in a pass of chunked prefill; empty = whole prompts",
    "weights": "weight format; empty = the model's own",
    "kv": "KV cache format; empty = the model's own",
    "batch": "sequences in flight (default 1)",
    "prefill_batch": "prompts prefilled together (default: batch, as static batches are)",
    "isl": "prompt tokens",
    "osl": "output tokens",
    "metric": "ttft_s, tpot_s or e2e_s",
    "value": "measured seconds",
    "deployment": "any name; rows of one name are held out together (default: the configuration without osl)",
}
"""Columns of a table and what they mean. `system`, `model`, `isl`, `osl`, `metric` and `value` are required."""
