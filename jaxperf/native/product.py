"""The loop nest of a product of rows × chunks × batches, as LLVM's assembly.

What depends on rows alone is computed once a row, with rows side by side in a vector; what depends on rows and chunks
once a chunk of a row; what depends on rows and batches once for all chunks, with batches side by side, and where it is
the same for neighbouring rows, once for these; the rest, a few dozen operations, for every configuration. A run of
neighbouring batches leaves only its highest scores, unless all are asked for."""

from __future__ import annotations

from .levels import ATTRIBUTES, Wanted
from .rows import rows_function
from .target import Target
from .tiles import RUN, TILE_ARGUMENTS, kept, most_vectors, tile_function


def module(wanted: Wanted, places: dict[int, int], target: Target, of_tiles: Target, total: bool = False) -> str:
    """The module of a product: `rows(a)` and `tiles(a)`, each of the address of its arguments, each for a target of its
    own. The rows' inputs that are read stand at `places` among their lines; runs leave `total` scores in place of the
    highest."""
    declared: set[str] = set()
    parts = [
        rows_function(wanted.graph, wanted.found, places, target, declared),
        tile_function(wanted, of_tiles, declared, total),
        _tiles(wanted, of_tiles),
    ]
    return "\n".join([*parts, *sorted(declared), ATTRIBUTES, ""])


TOGETHER = 32
"""Rows that take turns at each stretch of batches: what they have in common is computed once for them."""


def _tiles(wanted: Wanted, target: Target) -> str:
    """`tiles`: all stretches of some rows and chunks, or those of a list, each with its chunk."""

    def argument(name: str) -> str:
        at = TILE_ARGUMENTS.index(name)
        return f"  %p_{name} = getelementptr i64, ptr %a, i64 {at}\n  %{name} = load i64, ptr %p_{name}, align 8"

    used = ("rows", "stretches", "runs", "chunks", "changes", "vectors")
    used += ("listed_rows", "listed_chunks", "listed_stretches")
    loads = "\n".join(argument(name) for name in used)
    room = max(len(kept(wanted.graph, wanted.found)), 1) * most_vectors(target) * target.lanes
    call = "call void @tile(ptr %a, ptr %total, ptr %kept"
    per = max(target.lanes // RUN, 1)
    return f"""define void @tiles(ptr noalias %a) #0 {{
entry:
{loads}
  %kept = alloca {target.scalar}, i64 {room}, align 64
  %total = getelementptr i64, ptr %a, i64 {len(TILE_ARGUMENTS)}
  %of_changes = inttoptr i64 %changes to ptr
  %of_rows = inttoptr i64 %listed_rows to ptr
  %of_chunks = inttoptr i64 %listed_chunks to ptr
  %of_stretches = inttoptr i64 %listed_stretches to ptr
  %length = mul i64 %vectors, {target.lanes}
  %padded = mul i64 %stretches, %length
  %is_list = icmp ne i64 %listed_rows, 0
  br i1 %is_list, label %next_listed, label %next
next_listed:
  %l = phi i64 [ 0, %entry ], [ %l_after, %listed ]
  %more_listed = icmp slt i64 %l, %rows
  br i1 %more_listed, label %listed, label %end
listed:
  %row_at = getelementptr i64, ptr %of_rows, i64 %l
  %chunk_at = getelementptr i64, ptr %of_chunks, i64 %l
  %stretch_at = getelementptr i64, ptr %of_stretches, i64 %l
  %the_row = load i64, ptr %row_at, align 8
  %the_chunk = load i64, ptr %chunk_at, align 8
  %the_stretch = load i64, ptr %stretch_at, align 8
  %the_end = add i64 %the_chunk, 1
  %the_score = mul i64 %l, %length
  %the_height = mul i64 %l, {per}
  {call}, i64 0, i64 %the_row, i64 %the_stretch, i64 %the_chunk, i64 %the_end,
    i64 %the_height, i64 0, i64 %the_score, i64 0)
  %l_after = add i64 %l, 1
  br label %next_listed
next:
  %first = phi i64 [ 0, %entry ], [ %beyond, %next_stretch ]
  %beyond = add i64 %first, {TOGETHER}
  %is_last = icmp sgt i64 %beyond, %rows
  %last = select i1 %is_last, i64 %rows, i64 %beyond
  %more = icmp slt i64 %first, %rows
  br i1 %more, label %some, label %end
some:
  br label %next_stretch
next_stretch:
  %u = phi i64 [ 0, %some ], [ %u_after, %next_row ]
  %u_after = add i64 %u, 1
  %more_stretches = icmp slt i64 %u, %stretches
  br i1 %more_stretches, label %stretch, label %next
stretch:
  %score_stretch = mul i64 %u, %length
  %height_stretch = mul i64 %u, {per}
  br label %next_row
next_row:
  %r = phi i64 [ %first, %stretch ], [ %r_after, %row ]
  %more_rows = icmp slt i64 %r, %last
  br i1 %more_rows, label %row, label %next_stretch
row:
  %is_first = icmp eq i64 %r, %first
  %change_at = getelementptr i64, ptr %of_changes, i64 %r
  %change_of = load i64, ptr %change_at, align 8
  %change = select i1 %is_first, i64 0, i64 %change_of
  %row_height = mul i64 %r, %chunks
  %height_row = mul i64 %row_height, %runs
  %height = add i64 %height_row, %height_stretch
  %score_row = mul i64 %row_height, %padded
  %score = add i64 %score_row, %score_stretch
  {call}, i64 %change, i64 %r, i64 %u, i64 0, i64 %chunks, i64 %height, i64 %runs, i64 %score, i64 %padded)
  %r_after = add i64 %r, 1
  br label %next_row
end:
  ret void
}}"""
