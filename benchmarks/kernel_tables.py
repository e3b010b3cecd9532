"""Rows of NVIDIA aiconfigurator's kernel tables as jaxperf's operators: which rows count, what columns mean."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SYSTEMS = {
    "a100_sxm": "a100-80gb-8",
    "h100_sxm": "h100-sxm-8",
    "h200_sxm": "h200-8",
    "b200_sxm": "b200-8",
    "b300_sxm": "b300-8",
    "gb200": "gb200-nvl72",
    "gb300": "gb300-nvl72",
    "l40s": "l40s-8",
}
"""Their names of systems and ours. All-reduces of PCIe systems (L40S) are left out: a node's topology decides them."""

LATENT = "latent decode"
SCORED_ONLY = (f"{LATENT} fp8 cache", f"{LATENT} A100")
"""Classes that are compared, never fitted. Over an fp8 cache B200's kernels multiply in fp8, up to 1.3 of the bf16 peak
that jaxperf grants a core. A100's reach 0.1 (vLLM, Triton) and 0.28 (TensorRT-LLM) of it with 64 heads and more, and a
quarter of the bandwidth with fewer; Hopper and Blackwell, whose engines have kernels for MLA, agree on 0.6."""

CLASSES = ("gemm bf16", "gemm fp8", "attention prefill", "attention decode", LATENT, "all-reduce", *SCORED_ONLY)
GEMM, PREFILL, DECODE, ALL_REDUCE, LATENT_DECODE = range(5)
KV_RANK, ROPE = 512, 64
"""DeepSeek-V3's latent and rotary elements of a cached token (arXiv:2412.19437): what the MLA tables measured."""


class Kernel(NamedTuple):
    """One measured kernel: system, class, kind, five sizes (see the readers), width of its narrow operand [bytes per
    element], seconds."""

    system: Any
    name: Any
    kind: Any
    sizes: Any
    width: Any
    seconds: Any


def read_kernels(folder: Path, rows: int) -> list[Kernel]:
    """`rows` kernels of each table and number type, evenly spread over their size, without chance."""
    found: list[Kernel] = []

    def work(kernel: Kernel) -> float:
        return kernel.sizes[0] * kernel.sizes[1] * kernel.sizes[2]

    for path in sorted(folder.glob("*.csv.gz")):
        if path.name.startswith("all_systems"):
            continue
        system, engine, op = path.name.removesuffix(".csv.gz").split("__")
        if op == "gemm":
            found += _spread(_gemms(path, SYSTEMS[system], engine), rows, work)
        elif op == "attn_prefill":
            found += _spread(_prefills(path, SYSTEMS[system]), rows, work)
        elif op == "attn_decode":
            found += _spread(_decodes(path, SYSTEMS[system]), rows, _cache_bytes)
        elif op == "mla_decode":
            found += _spread(_latent_decodes(path, SYSTEMS[system]), rows, lambda k: k.sizes[0] * k.sizes[1])
    return found + _spread(_all_reduces(folder), rows, lambda k: k.sizes[0])


def _spread(kernels: Iterator[Kernel], rows: int, size: Callable[[Kernel], float]) -> list[Kernel]:
    groups: dict[tuple, list[Kernel]] = {}
    for kernel in kernels:
        groups.setdefault((kernel.system, kernel.name, kernel.width), []).append(kernel)
    chosen = []
    for group in groups.values():
        group.sort(key=lambda kernel: (size(kernel), kernel.sizes, kernel.seconds))
        step = max(1.0, len(group) / rows)
        chosen += [group[int(index * step)] for index in range(min(rows, len(group)))]
    return chosen


def _table(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        yield from csv.DictReader(stream)


def _gemms(path: Path, system: str, engine: str) -> Iterator[Kernel]:
    """Sizes m, n, k. TensorRT-LLM's fp8 rows include the quantisation of activations and are left out."""
    for row in _table(path):
        width = {"bfloat16": 2.0, "fp8": 1.0}.get(row["dtype"])
        m, n, k = float(row["m"]), float(row["n"]), float(row["k"])
        if width is None or (width == 1 and engine.startswith("trtllm")) or min(n, k) < 512:
            continue
        name = "gemm bf16" if width == 2 else "gemm fp8"
        yield Kernel(system, name, GEMM, (m, n, k, 0.0, 0.0), width, float(row["latency_us"]) * 1e-6)


def _attention(row: dict[str, str], tokens: str) -> tuple[float, ...] | None:
    """Sequences, tokens, query heads, key/value heads, head size; None for windows and other arithmetic than bf16."""
    if row["window"] != "0" or row["dtype"] != "bfloat16" or row["head_dim"] not in ("64", "128", "256"):
        return None
    return tuple(float(row[column]) for column in ("batch", tokens, "heads", "kv_heads", "head_dim"))


_CACHE_WIDTH = {"bfloat16": 2.0, "fp8": 1.0}


def _prefills(path: Path, system: str) -> Iterator[Kernel]:
    for row in _table(path):
        sizes = _attention(row, "seq")
        if sizes is not None and sizes[1] >= 64:
            width = _CACHE_WIDTH[row["kv_dtype"]]
            yield Kernel(system, "attention prefill", PREFILL, sizes, width, float(row["latency_us"]) * 1e-6)


def _cache_bytes(kernel: Kernel) -> float:
    sequences, tokens, _, heads, size = kernel.sizes
    return sequences * tokens * heads * size * 2 * kernel.width


def _decodes(path: Path, system: str) -> Iterator[Kernel]:
    """L40S's rows below 100 MB of cache are left out: they were measured from its L2."""
    for row in _table(path):
        sizes = _attention(row, "kv_len")
        if sizes is None or sizes[1] < 64:
            continue
        seconds = float(row["latency_us"]) * 1e-6
        kernel = Kernel(system, "attention decode", DECODE, sizes, _CACHE_WIDTH[row["kv_dtype"]], seconds)
        if system != "l40s-8" or _cache_bytes(kernel) >= 100e6:
            yield kernel


def _latent_decodes(path: Path, system: str) -> Iterator[Kernel]:
    """Sequences, context, query heads on the rank, score size, value size of absorbed MLA."""
    for row in _table(path):
        context = float(row["past_kv"]) + float(row["seq"])
        if context < 64:
            continue
        sizes = (float(row["batch"]), context, float(row["heads"]), float(KV_RANK + ROPE), float(KV_RANK))
        width = _CACHE_WIDTH[row["kv_dtype"]]
        name = LATENT if width == 2 else SCORED_ONLY[0]
        name = SCORED_ONLY[1] if system == "a100-80gb-8" else name
        yield Kernel(system, name, LATENT_DECODE, sizes, width, float(row["latency_us"]) * 1e-6)


def _all_reduces(folder: Path) -> Iterator[Kernel]:
    """Sizes: elements (of 2 bytes), ranks. The fastest implementation that runs in a graph, at each size, as engines
    choose: NCCL for long messages, their own kernels for short ones."""
    best: dict[tuple, float] = {}
    for table in ("nccl", "custom_allreduce"):
        for row in _table(folder / f"all_systems__{table}.csv.gz"):
            wanted = row["op"] == "all_reduce" if table == "nccl" else not row["impl"].endswith("_eager")
            known = row["system"] in SYSTEMS and row["system"] != "l40s"
            if not (wanted and known and row["dtype"] in ("half", "bfloat16")):
                continue
            place = (SYSTEMS[row["system"]], float(row["message_elems"]), float(row["num_gpus"]))
            best[place] = min(best.get(place, 1e9), float(row["latency_us"]) * 1e-6)
    for (system, elements, ranks), seconds in sorted(best.items()):
        if elements >= 1024:
            yield Kernel(system, "all-reduce", ALL_REDUCE, (elements, ranks, 0.0, 0.0, 0.0), 2.0, seconds)


def percent(kernels: list[Kernel], times: np.ndarray, chosen_from: list[bool]) -> dict[str, dict[str, float]]:
    """Mean and median absolute percentage error by class of kernel."""
    found = {}
    for name in CLASSES:
        chosen = [i for i, k in enumerate(kernels) if k.name == name and chosen_from[i]]
        if chosen:
            off = np.abs([100 * (times[i] / kernels[i].seconds - 1) for i in chosen])
            mean, median = round(float(off.mean()), 1), round(float(np.median(off)), 1)
            found[name] = {"rows": len(chosen), "mape": mean, "median_ape": median}
    return found
