"""Cases in, the tool's outputs back: grouped by structure, one compiled program each, many at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ...compiling import quick
from ...errors import InputError
from .build import Structure, build_case, structure_of
from .case import Case
from .documents import ALL_REDUCE_ALGORITHMS
from .figures import figures
from .specs import prepared
from .work import unsharded_prefill_flops

_BLOCKS = (1, 32, 512)
"""Cases that a program takes at once; the last block of a list is padded with its last case."""

_INTEGERS = {
    ("decode", "latency", "B"),
    ("prefill", "latency", "B_prefill"),
    ("prefill", "latency", "chunk_size"),
    ("prefill", "latency", "n_chunks"),
    ("kv_paging", "N_blocks_per_seq"),
    ("kv_paging", "max_sequences"),
}


@functools.cache
def _program() -> Any:
    return quick(jax.vmap(figures))


def evaluate(inputs: dict) -> dict:
    """Everything that llm_perf (commit fdc49cc) returns for one case, by its own equations.

    **Arguments:** `inputs` with `model`, `system`, `partition`, `tuner` and, if they count, `overhead`, `disagg`,
    `paging`, each in the form of the tool's specs; see `load_inputs` for files.

    **Returns:** `decode`, `prefill`, `e2e`, `kv_paging`, nested and named as the tool does: seconds, bytes, FLOP,
    tokens/s; a batch without bound is infinite. Double precision, whatever JAX's default is.

    **Raises** `InputError` naming key, value and what is allowed.
    """
    return evaluate_cases([inputs])[0]


def evaluate_cases(cases: Sequence[dict]) -> list[dict]:
    """`evaluate` for many cases: those of equal structure (see `Structure`) run at once in one compiled program."""
    return [outputs for outputs, _ in evaluate_with_algorithms(cases)]


def resolve_algorithms(inputs: dict) -> dict[str, str]:
    """The collective algorithm of each phase, `auto` replaced by what it stands for."""
    return evaluate_with_algorithms([inputs])[0][1]


def evaluate_with_algorithms(cases: Sequence[dict]) -> list[tuple[dict, dict[str, str]]]:
    """For each case its outputs and its resolved algorithms (see `evaluate` and `resolve_algorithms`)."""
    where = [f"case {index}" if len(cases) > 1 else "inputs" for index in range(len(cases))]
    ready = [prepared(inputs, place) for inputs, place in zip(cases, where, strict=True)]
    groups: dict[Structure, list[int]] = {}
    for index, inputs in enumerate(ready):
        groups.setdefault(structure_of(inputs), []).append(index)
    results: list[Any] = [None] * len(ready)
    for structure, members in groups.items():
        built = [build_case(ready[index], structure) for index in members]
        for index, found in zip(members, _evaluated(built), strict=True):
            results[index] = _outputs(found, ready[index], where[index])
    return results


def _evaluated(cases: list[Case]) -> Iterator[dict]:
    """The figures of cases of one structure, in blocks, as nested dicts of numpy scalars and arrays."""
    start = 0
    while start < len(cases):
        left = len(cases) - start
        size = next((block for block in _BLOCKS if block >= left), _BLOCKS[-1])
        block = cases[start : start + size]
        padded = block + [block[-1]] * (size - len(block))
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *padded)
        with jax.enable_x64(True):
            found = jax.device_get(_program()(stacked))
        for index in range(len(block)):
            yield jax.tree.map(lambda leaf, index=index: leaf[index], found)
        start += size


def _outputs(found: dict, inputs: dict, where: str) -> tuple[dict, dict[str, str]]:
    """The tool's types and shapes: Python numbers, lists of the true length, exact integers."""
    placement = inputs["tuner"]["placement"]
    if not found["possible"]:
        wanted = ", ".join(f"{key} {name}" for key, name in placement.items() if key != "auto_priority")
        raise InputError(f"{where}.tuner.placement: {wanted}: what is pinned there does not fit in that memory tier")
    algorithms = {key: ALL_REDUCE_ALGORITHMS[int(code)] for key, code in found["algorithms"].items()}
    for phase, part in (("decode", "comm"), ("prefill", "comm")):
        for key, value in found[phase][part].items():
            if math.isnan(value) and key.startswith(("t_TP", "t_EP")):
                name = f"{key[2:4].lower()}_algorithm_{phase}"
                raise InputError(f"{where}.tuner.{name}: '{algorithms[name]}' is none that this fabric can run")
    outputs = _plain({key: found[key] for key in ("decode", "prefill", "e2e", "kv_paging")}, ())
    tiers = outputs["decode"]["memory"]["M_resident_per_tier"]
    outputs["decode"]["memory"]["M_resident_per_tier"] = tiers[: len(inputs["system"]["device"]["memory_tiers"])]
    outputs["prefill"]["flops"] = {**_unsharded(inputs), **outputs["prefill"]["flops"]}
    return outputs, algorithms


def _plain(node: Any, path: tuple[str, ...]) -> Any:
    if isinstance(node, dict):
        return {key: _plain(item, (*path, key)) for key, item in node.items()}
    if node.dtype == bool:
        return bool(node)
    if path in _INTEGERS:
        return int(node)
    return node.tolist()


def _unsharded(inputs: dict) -> dict:
    model, prompt = inputs["model"], int(inputs["tuner"]["S_input"])
    hidden, dense_width = int(model["H"]), int(model["I_dense"])
    kv_width = model["n_kv"] * (hidden / model["n_q"])
    projections, attention, feed_forward = unsharded_prefill_flops(hidden, kv_width, dense_width, prompt)
    return {
        "F_proj_prefill": projections,
        "F_attn_kv_prefill": attention,
        "F_ffn_prefill": feed_forward,
        "F_layer_prefill": projections + attention + feed_forward,
    }
