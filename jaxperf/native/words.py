"""Columns of whole numbers packed into 64-bit words, and where sorted words begin to differ: loops over memory, a
nanosecond a number."""

from __future__ import annotations

import functools

import numpy as np

from .jit import Library, library
from .levels import ATTRIBUTES

SPARE = 64
"""Numbers behind the words of `pack`, in the same memory."""

_BLOCK = 2**16  # words that stay in the cache while column after column is added

_LOOP = """define void @{name}(ptr noalias %a) #0 {{
entry:
  %count = load i64, ptr %a, align 8
  %p1 = getelementptr i64, ptr %a, i64 1
  %p2 = getelementptr i64, ptr %a, i64 2
  %p3 = getelementptr i64, ptr %a, i64 3
  %p4 = getelementptr i64, ptr %a, i64 4
  %first = load ptr, ptr %p1, align 8
  %second = load ptr, ptr %p2, align 8
  %third = load ptr, ptr %p3, align 8
  %shift = load i64, ptr %p4, align 8
{before}  br label %next
next:
  %n = phi i64 [ 0, %entry ], [ %n_after, %one ]
{carried}  %more = icmp slt i64 %n, %count
  br i1 %more, label %one, label %end
one:
{body}  %n_after = add i64 %n, {step}
  br label %next
end:
{after}  ret void
}}
"""

# seen[column[n]] = 1
_SURVEY = """  %from = getelementptr i32, ptr %first, i64 %n
  %value = load i32, ptr %from, align 4
  %wide = zext i32 %value to i64
  %to = getelementptr i8, ptr %second, i64 %wide
  store i8 1, ptr %to, align 1
"""

# words[n] |= table[column[n]] << shift
_LOOKED = """  %from = getelementptr i32, ptr %first, i64 %n
  %value = load i32, ptr %from, align 4
  %wide = zext i32 %value to i64
  %rank_at = getelementptr i32, ptr %third, i64 %wide
  %rank = load i32, ptr %rank_at, align 4
  %long = zext i32 %rank to i64
  %part = shl i64 %long, %shift
  %to = getelementptr i64, ptr %second, i64 %n
  %old = load i64, ptr %to, align 8
  %new = or i64 %old, %part
  store i64 %new, ptr %to, align 8
"""

# words[n] |= column[n] << shift, eight at a time
_SHIFTED_BEFORE = """  %shift_one = insertelement <8 x i64> poison, i64 %shift, i64 0
  %shifts = shufflevector <8 x i64> %shift_one, <8 x i64> poison, <8 x i32> zeroinitializer
"""
_SHIFTED = """  %from = getelementptr i32, ptr %first, i64 %n
  %value = load <8 x i32>, ptr %from, align 4
  %long = zext <8 x i32> %value to <8 x i64>
  %part = shl <8 x i64> %long, %shifts
  %to = getelementptr i64, ptr %second, i64 %n
  %old = load <8 x i64>, ptr %to, align 8
  %new = or <8 x i64> %old, %part
  store <8 x i64> %new, ptr %to, align 8
"""

# begins[k++] = n where words[n] >> shift is another than before; begins[k] is written each time, kept or not
_EDGES_CARRIED = """  %k = phi i64 [ 0, %entry ], [ %k_after, %one ]
  %last = phi i64 [ -1, %entry ], [ %key, %one ]
"""
_EDGES = """  %from = getelementptr i64, ptr %first, i64 %n
  %word = load i64, ptr %from, align 8
  %key = lshr i64 %word, %shift
  %other = icmp ne i64 %key, %last
  %to = getelementptr i64, ptr %second, i64 %k
  store i64 %n, ptr %to, align 8
  %more_by = zext i1 %other to i64
  %k_after = add i64 %k, %more_by
"""


@functools.cache
def _functions() -> Library:
    def loop(name: str, body: str, before: str = "", carried: str = "", after: str = "", step: int = 1) -> str:
        return _LOOP.format(name=name, body=body, before=before, carried=carried, after=after, step=step)

    text = [
        loop("survey", _SURVEY),
        loop("looked", _LOOKED),
        loop("shifted", _SHIFTED, before=_SHIFTED_BEFORE, step=8),
        loop("edges", _EDGES, carried=_EDGES_CARRIED, after="  store i64 %k, ptr %third, align 8\n"),
        ATTRIBUTES,
    ]
    return library("\n".join([*text, ""]), ("survey", "looked", "shifted", "edges"))


def _call(name: str, count: int, first: int, second: int, third: int = 0, shift: int = 0) -> None:
    arguments = np.asarray([count, first, second, third, shift], np.int64)
    _functions().functions[name](arguments.ctypes.data)


def present(column: np.ndarray, largest: int) -> np.ndarray:
    """Which numbers up to the `largest` a column of int32 holds, [number]."""
    seen = np.zeros(largest + 1, bool)
    _call("survey", len(column), column.ctypes.data, seen.ctypes.data)
    return seen


def pack(columns: list[np.ndarray], tables: list[np.ndarray | None], shifts: list[int]) -> np.ndarray:
    """Σ column << shift, or table[column] << shift where there is a table, of columns of int32: int64 words, with room
    for `SPARE` more behind them."""
    count = len(columns[0])
    words = np.zeros(count + SPARE, np.int64)
    for first in range(0, count, _BLOCK):
        size = min(_BLOCK, count - first)
        whole = size // 8 * 8
        for column, table, shift in zip(columns, tables, shifts, strict=True):
            from_, to = column.ctypes.data + 4 * first, words.ctypes.data + 8 * first
            if table is not None:
                _call("looked", size, from_, to, table.ctypes.data, shift)
                continue
            _call("shifted", whole, from_, to, shift=shift)
            rest = slice(first + whole, first + size)
            words[rest] |= column[rest].astype(np.int64) << shift
    return words[:count]


def edges(words: np.ndarray, shift: int) -> np.ndarray:
    """Where sorted words begin to differ in the bits from `shift` on, and their number at the end."""
    begins, found = np.empty(len(words) + 1, np.int64), np.zeros(1, np.int64)
    _call("edges", len(words), words.ctypes.data, begins.ctypes.data, found.ctypes.data, shift)
    count = int(found[0])
    return np.append(begins[:count], len(words))
