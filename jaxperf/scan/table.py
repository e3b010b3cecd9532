"""The table of all configurations, where it is asked for: Parquet by row groups, never whole in memory.

Every unit writes a part of its own; the parts of an interrupted scan stay, and the last step joins them in order."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..phases.end_to_end import REASONS
from .plan import Group, Prepared, Shape, Unit, places
from .reduce import sign
from .rows import METRICS
from .space import DEGREES

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = tuple(METRICS.values())
"""Metrics of a table, null where a configuration is infeasible or the metric unknown."""

MOST_CSV = 1_000_000

UNITS = {
    "isl": "tokens",
    "osl": "tokens",
    "chunk": "tokens",
    "batch": "sequences",
    "ttft_s": "s",
    "tpot_s": "s",
    "e2e_s": "s",
    "output_tokens_per_s": "tokens/s",
    "output_tokens_per_s_per_device": "tokens/s",
    "output_tokens_per_s_per_user": "tokens/s",
    "decode_tokens_per_s": "tokens/s",
    "requests_per_s": "1/s",
    "max_batch": "sequences",
    "price_per_million_tokens_USD": "USD",
    "joules_per_token": "J",
}
"""Units of columns; the others are counts or shares."""


@dataclass
class Table:
    """Where a table is written: the `path` at last, a folder of parts beside it until then."""

    path: Path
    prepared: Prepared
    shape: Shape
    provenance: dict
    writers: dict[int, Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def folder(self) -> Path:
        """The folder of parts."""
        return self.path.with_name(self.path.name + ".parts")

    def part(self, unit: int) -> Path:
        """The part that a unit writes."""
        return self.folder / f"unit-{unit:08d}.parquet"


def check_path(path: Path, configurations: int) -> None:
    """**Raises** `InputError` for a suffix that is not known and for a CSV file that would be too long."""
    if path.suffix not in (".parquet", ".csv"):
        raise InputError(f"--table: {path}: expected a name that ends in .parquet or .csv")
    if path.suffix == ".csv" and configurations > MOST_CSV:
        raise InputError(
            f"--table: {configurations:,} configurations are too many for CSV (at most {MOST_CSV:,}); choose .parquet"
        )
    if path.is_dir():
        raise InputError(f"--table: {path} is a folder")


def schema(table: Table) -> pa.Schema:
    """Columns with their units, and the provenance, as metadata."""
    import jax.numpy as jnp
    import pyarrow as pa

    word, real = pa.dictionary(pa.int32(), pa.string()), pa.from_numpy_dtype(np.dtype(jnp.result_type(float)))
    kinds: dict[str, pa.DataType] = {"model": word, "system": word}
    kinds |= dict.fromkeys(table.prepared.hardware.paths, pa.float64())
    kinds |= dict.fromkeys(("isl", "osl", *DEGREES, "devices", "batch", "chunk"), pa.int32())
    kinds |= {"weights": word, "kv": word, "reason": word} | dict.fromkeys(METRICS, real)
    fields = [
        pa.field(name, kind, metadata={"unit": UNITS[name]} if name in UNITS else None) for name, kind in kinds.items()
    ]
    return pa.schema(fields, metadata={"jaxperf": json.dumps(table.provenance, default=str)})


def write_block(table: Table, unit: Unit, number: int, columns: list[Any], reason: Any) -> None:
    """Adds a block's real configurations to its unit's part, one row group a block."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    group = table.prepared.groups[unit.group]
    at = places(table.shape, group, group.part(number, table.shape))
    real = at >= 0
    made = schema(table)
    arrays = _arrays(table, group, at[real], [np.asarray(c)[real] for c in columns], np.asarray(reason)[real], made)
    with table.lock:
        if unit.index not in table.writers:
            table.folder.mkdir(parents=True, exist_ok=True)
            table.writers[unit.index] = pq.ParquetWriter(f"{table.part(unit.index)}.new", made, compression="zstd")
        writer = table.writers[unit.index]
    writer.write_table(pa.Table.from_arrays(arrays, schema=made))


def _arrays(
    table: Table, group: Group, place: np.ndarray, columns: list[np.ndarray], reason: np.ndarray, made: pa.Schema
) -> list[Any]:
    import pyarrow as pa

    prepared, hard = table.prepared, table.prepared.hardware
    own = prepared.models[group.model].document["precision"]
    row, inner = np.divmod(place, group.inner)
    chunk, batch = np.divmod(inner, len(group.batch))
    points = group.rows.take(row)
    pairs = prepared.precisions[group.model]
    values = hard.values(points.variant)

    def words(index: np.ndarray, names: list[str]) -> Any:
        return pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32)), pa.array(names, pa.string()))

    zero = np.zeros(len(place), np.int32)
    found: dict[str, Any] = {
        "model": words(zero, [group.model]),
        "system": words(points.system, list(hard.names)),
        **{path: values[:, index] for index, path in enumerate(hard.paths)},
        "isl": zero + group.isl,
        "osl": zero + group.osl,
        **{name: points.degrees[:, index] for index, name in enumerate(DEGREES)},
        "devices": np.prod(np.delete(points.degrees, DEGREES.index("ep"), axis=1), axis=1),
        "batch": np.asarray(group.batch)[batch],
        "chunk": np.asarray(group.chunk)[chunk],
        "weights": words(points.precision, [weights or own["feed_forward"] for weights, _ in pairs]),
        "kv": words(points.precision, [kv or own["kv_cache"] for _, kv in pairs]),
        "reason": words(reason, list(REASONS)),
    }
    for (name, metric), score in zip(METRICS.items(), columns, strict=True):
        found[name] = pa.array(sign(metric) * score, mask=~np.isfinite(score))
    return [
        value if isinstance(value, pa.Array) else pa.array(value).cast(made.field(name).type)
        for name, value in found.items()
    ]


def close_unit(table: Table, unit: int) -> None:
    """Makes a unit's part final: on the disk, under its own name. Call before the unit is journalled."""
    with table.lock:
        writer = table.writers.pop(unit, None)
    if writer is not None:
        writer.close()
        part = table.part(unit)
        with open(f"{part}.new", "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(f"{part}.new", part)


def finished(table: Table) -> bool:
    """Whether the table is there already, whole and of this very scan (Parquet alone can tell)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if table.path.suffix != ".parquet" or not table.path.exists():
        return False
    try:
        held = pq.ParquetFile(table.path)
        rows, metadata = held.metadata.num_rows, held.schema_arrow.metadata or {}
        held.close()
    except (OSError, pa.ArrowInvalid):
        return False
    return rows == table.prepared.configurations and metadata.get(b"jaxperf") == schema(table).metadata[b"jaxperf"]


def join(table: Table, units: list[Unit], tick: Callable[[], None] = lambda: None) -> None:
    """Joins the parts of all units, in order, into the table, row group by row group, and removes them.

    **Raises** `InputError` where a part is missing.
    """
    import pyarrow.csv
    import pyarrow.parquet as pq

    if finished(table) and not table.folder.exists():
        return
    missing = [unit.index for unit in units if not table.part(unit.index).exists()]
    if missing:
        raise InputError(f"{table.folder}: {len(missing)} parts of the table are missing; do all processes see it?")
    made, temporary = schema(table), table.path.with_name(f".{table.path.name}.new")
    csv = table.path.suffix == ".csv"
    if csv:
        made = made.remove_metadata()
        made = _plain(made)
    writer = pyarrow.csv.CSVWriter(temporary, made) if csv else pq.ParquetWriter(temporary, made, compression="zstd")
    try:
        with writer:
            for unit in units:
                with pq.ParquetFile(table.part(unit.index)) as part:
                    for group in range(part.num_row_groups):
                        writer.write_table(part.read_row_group(group).cast(made))
                        tick()
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, table.path)
    finally:
        temporary.unlink(missing_ok=True)
    for unit in units:
        table.part(unit.index).unlink()
    for left in table.folder.glob("unit-*.parquet.new"):
        left.unlink()
    table.folder.rmdir()


def _plain(made: pa.Schema) -> pa.Schema:
    """The schema with words for dictionaries, which CSV does not know."""
    import pyarrow as pa

    return pa.schema([pa.field(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in made])
