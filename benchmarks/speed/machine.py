"""What the machine's cores can do at most, measured in the same run: multiply-adds in vectors, bytes read from memory.

Honest to this extent. The multiply-adds are a loop of XLA's own vector code over an array that stays in the first
cache, one copy a core, and beside it BLAS's matrix product; the larger counts, and is within some ten per cent of what
the data sheet says where the clock is known. A cost model adds, multiplies, divides and selects, seldom a multiply and
an add that fuse, so half of this peak is the most that it could reach. Reading is a dot product of two arrays beyond
the last cache, in as many threads as there are cores. Neighbours on a shared machine lower both."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_ELEMENTS = 2048
_CHAINS, _DEPTH = 8, 8
_ROUNDS = 2048
_SQUARE = 1024
_SLICE_BYTES = 64 * 2**20


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fastest(work: Callable[[int], Any], repeats: int = 8) -> float:
    """The shortest time of `work` done by every core at once [s]."""
    count = cores()
    best = float("inf")
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))
        for _ in range(repeats):
            started = time.perf_counter()
            list(pool.map(work, range(count)))
            best = min(best, time.perf_counter() - started)
    return best


def vector_peak() -> dict[str, float]:
    """FLOP/s of vector multiply-adds and of BLAS's matrix product, at the default width of floats, on all cores."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    def chain(values: Any, factor: Any, addend: Any) -> Any:
        def once(_: Any, x: Any) -> Any:
            parts = [x] + [x * factor + (addend + index) for index in range(1, _CHAINS)]
            for _ in range(_DEPTH):
                parts = [part * factor + addend for part in parts]
            return functools.reduce(lambda total, part: part * factor + total, parts)

        return jax.lax.fori_loop(0, _ROUNDS, once, values)

    run = jax.jit(chain)
    real = np.dtype(jnp.result_type(float))
    constants = jnp.asarray(0.999, real), jnp.asarray(0.001, real)
    arrays = [jnp.full(_ELEMENTS, 1 + index, real) for index in range(cores())]
    seconds = fastest(lambda index: run(arrays[index], *constants).block_until_ready())
    made = _CHAINS * _DEPTH + 2 * (_CHAINS - 1)
    loop = 2 * made * _ROUNDS * _ELEMENTS * cores() / seconds
    square = np.ones((_SQUARE, _SQUARE), real)
    best = float("inf")
    for _ in range(12):
        started = time.perf_counter()
        np.matmul(square, square)
        best = min(best, time.perf_counter() - started)
    return {"loop": loop, "matrix": 2 * _SQUARE**3 / best}


def read_bandwidth() -> float:
    """Bytes/s that all cores read from memory together."""
    import numpy as np

    length = _SLICE_BYTES // 8
    arrays = [(np.ones(length, np.float32), np.ones(length, np.float32)) for _ in range(cores())]
    seconds = fastest(lambda index: np.dot(*arrays[index]))
    return _SLICE_BYTES * cores() / seconds


def measure() -> dict[str, float]:
    """Peaks of the cores that this process may use."""
    peaks = vector_peak()
    return {
        "vector_loop_flops_per_s": peaks["loop"],
        "matrix_product_flops_per_s": peaks["matrix"],
        "vector_peak_flops_per_s": max(peaks.values()),
        "read_bytes_per_s": read_bandwidth(),
    }
