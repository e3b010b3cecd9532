"""JAX's primitives in NumPy: what one instruction of a tape does (see `jaxperf.tape`). Only those that have the same
meaning for every input that a traced program gives them; what is absent here is left to the compiler."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any
"""A NumPy array or scalar."""

Kernel = Callable[..., Any]


def _select(which: Array, *cases: Array) -> Array:
    if np.ndim(which) == 0:
        return cases[int(which)]
    return np.where(which, cases[1], cases[0]) if len(cases) == 2 else np.choose(which, cases)


_COPIED = 16384  # elements up to which a copy is made in place of a view


def _broadcast(value: Array, *, shape: tuple[int, ...], broadcast_dimensions: tuple[int, ...]) -> Array:
    sides = [1] * len(shape)
    for dimension, size in zip(broadcast_dimensions, np.shape(value), strict=True):
        sides[dimension] = size
    value = np.asarray(value).reshape(sides)
    size = math.prod(shape)
    if value.size == size or size > _COPIED:
        return np.broadcast_to(value, shape) if value.size != size else value
    filled = np.empty(shape, value.dtype)  # numpy.broadcast_to takes longer for a small array
    filled[...] = value
    return filled


def _convert(value: Array, *, new_dtype: np.dtype) -> Array:
    value = np.asarray(value)
    if not (np.issubdtype(value.dtype, np.floating) and np.issubdtype(new_dtype, np.integer)):
        return value.astype(new_dtype)[()]
    bounds = np.iinfo(new_dtype)  # what does not fit is the nearest that does, what is no number is 0
    inside = np.where((value > bounds.min) & (value < bounds.max), value, 0).astype(new_dtype)
    low, high = np.asarray(bounds.min, new_dtype), np.asarray(bounds.max, new_dtype)
    return np.where(value >= bounds.max, high, np.where(value <= bounds.min, low, inside))[()]


def _polynomial(value: Array, *coefficients: Array, unroll: int | None = None) -> Array:
    """Horner's rule, the lowest coefficient first; how a loop would be unrolled plays no part."""
    del unroll
    result = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        result = result * value + coefficient
    return result


def _ones(value: Array) -> Array:
    value = np.asarray(value)
    bits = value.view(f"u{value.itemsize}") if value.dtype.kind == "i" else value  # of a negative one, all of its bits
    return np.bitwise_count(bits).astype(value.dtype)[()]


def _reshape(value: Array, *, new_sizes: tuple[int, ...], dimensions: tuple[int, ...] | None) -> Array:
    return np.reshape(value if dimensions is None else np.transpose(value, dimensions), new_sizes)


def _slice(value: Array, *, start_indices: Any, limit_indices: Any, strides: Any) -> Array:
    steps = strides or (1,) * len(start_indices)
    return value[tuple(slice(*each) for each in zip(start_indices, limit_indices, steps, strict=True))]


def _starts(value: Array, sizes: tuple[int, ...], starts: tuple[Array, ...]) -> tuple[slice, ...]:
    held = [min(max(int(s), 0), side - size) for s, side, size in zip(starts, value.shape, sizes, strict=True)]
    return tuple(slice(start, start + size) for start, size in zip(held, sizes, strict=True))


def _dynamic_slice(value: Array, *starts: Array, slice_sizes: tuple[int, ...]) -> Array:
    return value[_starts(value, slice_sizes, starts)]


def _dynamic_update_slice(value: Array, update: Array, *starts: Array) -> Array:
    changed = np.array(value)
    changed[_starts(changed, np.shape(update), starts)] = update
    return changed


def _gather(
    value: Array,
    starts: Array,
    *,
    slice_sizes: tuple[int, ...],
    places: tuple[int, ...],
    dropped: tuple[int, ...],
    kept: tuple[int, ...],
) -> Array:
    """Slices of a value that begin at `starts` [..., dimension of `places`], held inside it; the dimensions `dropped`
    are of length 1 and go, the others stand at `kept` in the result."""
    batch = np.ndim(starts) - 1
    index: list[Array] = []
    for dimension, size in enumerate(slice_sizes):
        along = np.arange(size).reshape([-1 if d == dimension else 1 for d in range(len(slice_sizes))])
        if dimension in places:
            first = np.clip(starts[..., places.index(dimension)], 0, value.shape[dimension] - size)
            along = first.reshape(first.shape + (1,) * len(slice_sizes)) + along
        index.append(along)
    found = np.squeeze(value[tuple(np.broadcast_arrays(*index))], tuple(batch + d for d in dropped))
    return np.moveaxis(found, range(batch, found.ndim), kept)


def _split(value: Array, *, sizes: tuple[int, ...], axis: int) -> list[Array]:
    return np.split(value, np.cumsum(sizes)[:-1], axis)


def _pad(value: Array, filling: Array, *, padding_config: Any) -> Array:
    sides = [(low, high) for low, high, _ in padding_config]
    if any(low < 0 or high < 0 for low, high in sides):  # what a slice's derivative needs back
        cut = [slice(max(-low, 0), size - max(-high, 0)) for (low, high), size in zip(sides, value.shape, strict=True)]
        value, sides = value[tuple(cut)], [(max(low, 0), max(high, 0)) for low, high in sides]
    return np.pad(value, sides, constant_values=filling)


def _iota(*, dtype: np.dtype, shape: tuple[int, ...], dimension: int) -> Array:
    sides = [1] * len(shape)
    sides[dimension] = shape[dimension]
    return np.broadcast_to(np.arange(shape[dimension], dtype=dtype).reshape(sides), shape)


def _dot(left: Array, right: Array, *, dimension_numbers: Any) -> Array:
    (contracted, other), (batch, other_batch) = dimension_numbers
    names = iter(range(52))
    lefts = [next(names) for _ in left.shape]
    rights = [next(names) for _ in right.shape]
    for mine, its in [*zip(contracted, other, strict=True), *zip(batch, other_batch, strict=True)]:
        rights[its] = lefts[mine]
    free = [lefts[i] for i in range(left.ndim) if i not in contracted and i not in batch]
    free += [rights[i] for i in range(right.ndim) if i not in other and i not in other_batch]
    return np.einsum(left, lefts, right, rights, [*(lefts[i] for i in batch), *free])


def _along(accumulate: Callable[..., Array]) -> Kernel:
    def kernel(value: Array, *, axis: int, reverse: bool) -> Array:
        if not reverse:
            return accumulate(value, axis=axis)
        return np.flip(accumulate(np.flip(value, axis), axis=axis), axis)

    return kernel


def _sum(value: Array, *, axes: Any) -> Array:
    return np.sum(value, axis=tuple(int(axis) for axis in axes), dtype=_wide(value)).astype(value.dtype)


def _cumulative_sum(value: Array, *, axis: int, reverse: bool) -> Array:
    sums = _along(lambda values, axis: np.cumsum(values, axis=axis, dtype=_wide(value)))
    return sums(value, axis=axis, reverse=reverse).astype(value.dtype)


def _wide(value: Array) -> np.dtype:
    """What long sums are kept in: NumPy adds naively along all axes but the last."""
    return np.dtype(np.float64) if value.dtype == np.float32 else value.dtype


def _over(reduce: Callable[..., Array]) -> Kernel:
    return lambda value, *, axes: reduce(value, axis=tuple(int(axis) for axis in axes))


def _first(place: Callable[..., Array]) -> Kernel:
    return lambda value, *, axes, index_dtype: place(value, axis=int(axes[0])).astype(index_dtype)


SAME: dict[str, Kernel] = {
    "abs": np.abs,
    "add": np.add,
    "add_any": np.add,
    "and": np.bitwise_and,
    "bitcast_convert_type": lambda value, *, new_dtype: np.asarray(value).view(new_dtype)[()],
    "polynomial": _polynomial,
    "population_count": _ones,
    "shift_left": np.left_shift,
    "argmax": _first(np.argmax),
    "argmin": _first(np.argmin),
    "broadcast_in_dim": _broadcast,
    "ceil": np.ceil,
    "clamp": lambda low, value, high: np.minimum(np.maximum(value, low), high),
    "concatenate": lambda *values, dimension: np.concatenate(values, dimension),
    "convert_element_type": _convert,
    "cos": np.cos,
    "cumlogsumexp": _along(np.logaddexp.accumulate),
    "cummax": _along(np.maximum.accumulate),
    "cummin": _along(np.minimum.accumulate),
    "cumsum": _cumulative_sum,
    "empty2": lambda *, dtype: np.zeros((), dtype),
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "eq": np.equal,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "floor": np.floor,
    "gather": _gather,
    "ge": np.greater_equal,
    "gt": np.greater,
    "integer_pow": lambda value, *, y: np.power(value, y),
    "iota": _iota,
    "is_finite": np.isfinite,
    "le": np.less_equal,
    "log": np.log,
    "log2": np.log2,
    "log1p": np.log1p,
    "logistic": lambda value: np.reciprocal(1 + np.exp(-value)),
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "not": np.invert,
    "or": np.bitwise_or,
    "pad": _pad,
    "reduce_max": _over(np.max),
    "reduce_min": _over(np.min),
    "reduce_sum": _sum,
    "reshape": _reshape,
    "rev": lambda value, *, dimensions: np.flip(value, dimensions),
    "select_n": _select,
    "sign": np.sign,
    "sin": np.sin,
    "slice": _slice,
    "split": _split,
    "sqrt": np.sqrt,
    "square": np.square,
    "squeeze": lambda value, *, dimensions: np.squeeze(value, tuple(dimensions)),
    "stack": lambda *values, axis: np.stack(values, axis),
    "sub": np.subtract,
    "unstack": lambda value, *, axis: list(np.moveaxis(value, axis, 0)),
    "tanh": np.tanh,
    "transpose": lambda value, *, permutation: np.transpose(value, permutation),
}
"""Primitives that mean the same for every type of number."""

REAL: dict[str, Kernel] = {
    "cumprod": _along(np.cumprod),
    "div": np.divide,
    "dot_general": _dot,
    "pow": np.power,
    "reduce_prod": _over(np.prod),
}
"""Primitives that do for floating point alone, all of one type."""

FLAGS: dict[str, Kernel] = {"reduce_and": _over(np.all), "reduce_or": _over(np.any)}
"""Primitives that do for booleans alone."""

KERNELS = SAME | REAL | FLAGS
"""All of them, by the primitive's name."""

UNREAD = {"memory_space", "accuracy", "sharding", "out_sharding", "weak_type", "precision", "preferred_element_type"}
"""Parameters that say where or how a device computes, not what."""


EMPTY = {"concatenate", "cumsum", "reduce_sum"}
"""Primitives whose kernels do for arrays without entries."""

TYPES = {np.dtype(kind) for kind in (np.float32, np.float64, np.int32, np.int64, np.uint32, np.bool_)}
"""Types that NumPy computes with as compiled programs do."""


def parameters_of(name: str, given: dict[str, Any], read: list[Any], written: list[Any]) -> dict[str, Any] | None:
    """What a primitive's kernel takes of the parameters that it was traced with; None where none holds for them, or for
    the shapes and types of what it reads and writes."""
    types = {value.dtype for value in (*read, *written)}
    real = len(types) == 1 and all(np.issubdtype(kind, np.floating) for kind in types)
    if name not in KERNELS or (name in REAL and not real) or (name in FLAGS and types != {np.dtype(bool)}):
        return None
    empty = name not in EMPTY and any(0 in value.shape for value in read)
    if not types <= TYPES or given.get("out_dtype") is not None or empty:
        return None
    if name == "pad" and (not given["padding_config"] or any(between for _, _, between in given["padding_config"])):
        return None
    if name == "bitcast_convert_type" and read[0].dtype.itemsize != written[0].dtype.itemsize:
        return None
    if name == "gather":
        numbers = given["dimension_numbers"]
        if given["mode"].name not in ("CLIP", "PROMISE_IN_BOUNDS") or numbers.operand_batching_dims:
            return None
        return {
            "slice_sizes": given["slice_sizes"],
            "places": numbers.start_index_map,
            "dropped": numbers.collapsed_slice_dims,
            "kept": numbers.offset_dims,
        }
    return {key: value for key, value in given.items() if key not in UNREAD and key != "out_dtype"}
