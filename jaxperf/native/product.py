"""The loop nest of a product of rows × chunks × batches, as LLVM's assembly.

What depends on rows alone is computed once a row, with rows side by side in a vector; what depends on rows and chunks
once a chunk of a row; what depends on rows and batches once for all chunks, with batches side by side; the rest, a few
dozen operations, for every configuration. A run of neighbouring batches leaves only its highest scores, unless all are
asked for."""

from __future__ import annotations

from .graph import Graph
from .levels import ATTRIBUTES, Levels
from .rows import rows_function
from .target import Target
from .tiles import TILE_ARGUMENTS, tile_function


def module(
    graph: Graph,
    found: Levels,
    scores: list[int],
    reason: int,
    places: dict[int, int],
    target: Target,
    total: bool = False,
) -> str:
    """The module of a product: `rows(a)` and `tiles(a)`, each of the address of its arguments. The rows' inputs that
    are read stand at `places` in their table; runs leave `total` scores in place of the highest."""
    declared: set[str] = set()
    parts = [
        rows_function(graph, found, places, target, declared),
        tile_function(graph, found, scores, reason, target, declared, total),
    ]
    parts.append(_tiles(target))
    return "\n".join([*parts, *sorted(declared), ATTRIBUTES, ""])


def _tiles(target: Target) -> str:
    """`tiles`: all runs of a range of rows and chunks, or those of a list, each with its chunk."""

    def argument(name: str) -> str:
        at = TILE_ARGUMENTS.index(name)
        return f"  %p_{name} = getelementptr i64, ptr %a, i64 {at}\n  %{name} = load i64, ptr %p_{name}, align 8"

    used = ("first_row", "rows", "first_run", "runs", "first_chunk", "end_chunk", "listed_rows", "listed_chunks")
    used += ("listed_runs", "vectors")
    loads = "\n".join(argument(name) for name in used)
    call = "call void @tile(ptr %a, ptr %total"
    return f"""define void @tiles(ptr noalias %a) #0 {{
entry:
{loads}
  %total = getelementptr i64, ptr %a, i64 {len(TILE_ARGUMENTS)}
  %of_rows = inttoptr i64 %listed_rows to ptr
  %of_chunks = inttoptr i64 %listed_chunks to ptr
  %of_runs = inttoptr i64 %listed_runs to ptr
  %is_list = icmp ne i64 %listed_rows, 0
  %some = sub i64 %end_chunk, %first_chunk
  %length = mul i64 %vectors, {target.lanes}
  %padded = mul i64 %runs, %length
  br label %next
next:
  %r = phi i64 [ 0, %entry ], [ %r_after, %row_done ], [ %r_listed, %listed ]
  %more = icmp slt i64 %r, %rows
  br i1 %more, label %some_row, label %end
some_row:
  br i1 %is_list, label %listed, label %row
listed:
  %row_at = getelementptr i64, ptr %of_rows, i64 %r
  %chunk_at = getelementptr i64, ptr %of_chunks, i64 %r
  %run_at = getelementptr i64, ptr %of_runs, i64 %r
  %the_row = load i64, ptr %row_at, align 8
  %the_chunk = load i64, ptr %chunk_at, align 8
  %the_run = load i64, ptr %run_at, align 8
  %the_end = add i64 %the_chunk, 1
  %the_score = mul i64 %r, %length
  {call}, i64 %the_row, i64 %the_run, i64 %the_chunk, i64 %the_end, i64 %r, i64 0, i64 %the_score, i64 0)
  %r_listed = add i64 %r, 1
  br label %next
row:
  %row_number = add i64 %r, %first_row
  %row_height = mul i64 %r, %some
  br label %next_run
next_run:
  %u = phi i64 [ 0, %row ], [ %u_after, %run ]
  %more_runs = icmp slt i64 %u, %runs
  br i1 %more_runs, label %run, label %row_done
run:
  %run_number = add i64 %u, %first_run
  %height_row = mul i64 %row_height, %runs
  %height = add i64 %height_row, %u
  %score_row = mul i64 %row_height, %padded
  %score_run = mul i64 %u, %length
  %score = add i64 %score_row, %score_run
  {call}, i64 %row_number, i64 %run_number, i64 %first_chunk, i64 %end_chunk,
    i64 %height, i64 %runs, i64 %score, i64 %padded)
  %u_after = add i64 %u, 1
  br label %next_run
row_done:
  %r_after = add i64 %r, 1
  br label %next
end:
  ret void
}}"""
