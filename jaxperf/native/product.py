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
    """The module of a product: `rows(a)`, `tiles(a)` and `listed(a)`, each of the address of its arguments, the first
    for another target than the others. The rows' inputs that are read stand at `places` among their lines; runs leave
    `total` scores in place of the highest."""
    declared: set[str] = set()
    parts = [
        rows_function(wanted.graph, wanted.found, places, target, declared),
        tile_function(wanted, of_tiles, declared, total),
        _tiles(wanted, of_tiles),
        _listed(wanted, of_tiles),
    ]
    return "\n".join([*parts, *sorted(declared), ATTRIBUTES, ""])


TOGETHER = 32
"""Rows that take turns at each stretch of batches: what they have in common is computed once for them, so that those of
a layout should be neighbours."""


def _outer(name: str, used: tuple[str, ...], body: str, wanted: Wanted, target: Target) -> str:
    """A function that calls `tile`, from its entry on, with the arguments that it uses by name."""

    def argument(name: str) -> str:
        at = TILE_ARGUMENTS.index(name)
        return f"  %p_{name} = getelementptr i64, ptr %a, i64 {at}\n  %{name} = load i64, ptr %p_{name}, align 8"

    loads = "\n".join(map(argument, used))
    room = max(len(kept(wanted.graph, wanted.found)), 1) * most_vectors(target) * target.lanes
    return f"""define void @{name}(ptr noalias %a) #0 {{
entry:
{loads}
  %kept = alloca {target.scalar}, i64 {room}, align 64
  %total = getelementptr i64, ptr %a, i64 {len(TILE_ARGUMENTS)}
  %length = mul i64 %vectors, {target.lanes}
{body}
end:
  ret void
}}"""


_TILE = "call void @tile(ptr %a, ptr %total, ptr %kept"


def _tiles(wanted: Wanted, target: Target) -> str:
    """`tiles`: all stretches of some rows and chunks."""
    body = f"""  %of_changes = inttoptr i64 %changes to ptr
  %padded = mul i64 %stretches, %length
  br label %next
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
  %height_stretch = mul i64 %u, {max(target.lanes // RUN, 1)}
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
  {_TILE}, i64 %change, i64 %r, i64 %u, i64 0, i64 %chunks, i64 %height, i64 %runs, i64 %score, i64 %padded)
  %r_after = add i64 %r, 1
  br label %next_row"""
    return _outer("tiles", ("rows", "stretches", "runs", "chunks", "changes", "vectors"), body, wanted, target)


def _listed(wanted: Wanted, target: Target) -> str:
    """`listed`: some stretches, each with its row and chunk."""
    lists = ("listed_rows", "listed_chunks", "listed_stretches")
    reads = "\n".join(
        f"  %{name}_at = getelementptr i64, ptr %of_{name}, i64 %l\n  %the_{name} = load i64, ptr %{name}_at, align 8"
        for name in lists
    )
    addresses = "\n".join(f"  %of_{name} = inttoptr i64 %{name} to ptr" for name in lists)
    body = f"""{addresses}
  br label %next
next:
  %l = phi i64 [ 0, %entry ], [ %l_after, %listed ]
  %more = icmp slt i64 %l, %rows
  br i1 %more, label %listed, label %end
listed:
{reads}
  %the_end = add i64 %the_listed_chunks, 1
  %the_score = mul i64 %l, %length
  %the_height = mul i64 %l, {max(target.lanes // RUN, 1)}
  {_TILE}, i64 0, i64 %the_listed_rows, i64 %the_listed_stretches, i64 %the_listed_chunks, i64 %the_end,
    i64 %the_height, i64 0, i64 %the_score, i64 0)
  %l_after = add i64 %l, 1
  br label %next"""
    return _outer("listed", ("rows", "vectors", *lists), body, wanted, target)
