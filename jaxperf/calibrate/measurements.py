"""The table of measurements: one row, one measured latency of one configuration. A strict reader, on the host."""

from __future__ import annotations

import csv
import gzip
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..constants import FORMATS, KV_FORMATS
from ..constants import TABLE_COLUMNS as COLUMNS
from ..errors import InputError, nearest
from ..spec.library import find

METRICS = {"ttft_s": "ttft", "tpot_s": "tpot", "e2e_s": "e2e"}
"""Metrics of a table, all in seconds, and the field of `jaxperf.Metrics` that predicts each."""

REQUIRED = ("system", "model", "isl", "osl", "metric", "value")
_COUNTS = ("tp", "pp", "ep", "cp", "attention_dp", "batch", "prefill_batch", "isl", "osl")
_WORDS = {"none", "null", "-"}


@dataclass(frozen=True)
class Measurement:
    """One measured latency [s] of one configuration; the fields are the columns, names are canonical, `line` is the
    line of the file."""

    system: str
    model: str
    isl: int
    osl: int
    metric: str
    value: float
    engine: str | None = None
    tp: int = 1
    pp: int = 1
    ep: int = 1
    cp: int = 1
    attention_dp: int = 1
    chunk: int | None = None
    weights: str | None = None
    kv: str | None = None
    batch: int = 1
    prefill_batch: int | None = None
    deployment: str | None = None
    line: int = 0

    @property
    def configuration(self) -> tuple[Any, ...]:
        """What is held out together: the named deployment, else the configuration without metric and output length
        (a prefill does not see osl, so rows that differ in it alone must not sit on both sides of a split)."""
        place = (self.system, self.engine)
        if self.deployment is not None:
            return (*place, self.deployment)
        layout = (self.tp, self.pp, self.ep, self.cp, self.attention_dp, self.chunk)
        return (*place, self.model, *layout, self.weights, self.kv, self.batch, self.prefill_batch, self.isl)


def read_table(path: str | os.PathLike, source: str | None = None) -> list[Measurement]:
    """Measurements from a CSV file (`.gz` too), in jaxperf's own layout (`COLUMNS`) or in that of the collected public
    benchmarks, which the header tells apart.

    **Arguments:** the `path`; `source`, which rows of a public collection to take (all when None).

    **Raises** `InputError` that names file, line, column, value and what is allowed.
    """
    header, rows = _open(path)
    if "batch_or_concurrency" in header:
        return public_measurements(rows, path, source)[0]
    if source is not None:
        raise InputError(f"{path}: --source picks rows of a public collection, but this table has no column 'source'")
    for column in header:
        if column not in COLUMNS:
            raise InputError(f"{path}: line 1: unknown column '{column}'; {nearest(column, COLUMNS)}")
    for column in REQUIRED:
        if column not in header:
            raise InputError(f"{path}: line 1: the column '{column}' is missing; expected {COLUMNS[column]}")
    found = [parse_row(row, path, line) for line, row in rows]
    if not found:
        raise InputError(f"{path}: no row below the header")
    return found


def parse_row(row: dict[str, str], path: str | os.PathLike, line: int) -> Measurement:
    """A row of jaxperf's own layout, every cell checked. **Raises** `InputError`."""

    def wrong(column: str, problem: str) -> InputError:
        return InputError(f"{path}: line {line}: {column}: {problem}")

    def text(column: str) -> str | None:
        cell = row.get(column, "").strip()
        return None if cell == "" or cell.lower() in _WORDS else cell

    def number(column: str, least: float, default: float | None, whole: bool) -> float | None:
        cell, kind = text(column), "a whole number" if whole else "a number"
        if cell is None:
            if column in REQUIRED:
                raise wrong(column, f"empty; expected {kind} ({COLUMNS[column]})")
            return default
        try:
            value = float(cell)
        except ValueError:
            raise wrong(column, f"'{cell}' is no number; expected {kind} ({COLUMNS[column]})") from None
        if not math.isfinite(value) or value < least or (least == 0 and value == 0) or value > 1e9:
            allowed = f"from {least:g}" if least else "above 0"
            raise wrong(column, f"'{cell}' is out of range; expected {kind} {allowed} to 1e9")
        if whole and value != int(value):
            raise wrong(column, f"'{cell}' is no whole number")
        return int(value) if whole else value

    def name(column: str) -> str | None:
        cell = text(column)
        if cell is None:
            if column in REQUIRED:
                raise wrong(column, f"empty; expected a {COLUMNS[column]}")
            return None
        try:
            spec = find(column, cell)
        except InputError as error:
            raise wrong(column, str(error)) from None
        return cell if cell.lower().endswith(".json") else spec.name

    def choice(column: str, known: Iterable[str]) -> str | None:
        cell, known = text(column), list(known)
        if cell is not None and cell not in known:
            raise wrong(column, f"'{cell}' is not one of {', '.join(known)}; {nearest(cell, known)}")
        return cell

    counts = {column: number(column, 1, None if column == "prefill_batch" else 1, True) for column in _COUNTS}
    metric = choice("metric", METRICS)
    if metric is None:
        raise wrong("metric", f"empty; expected one of {', '.join(METRICS)}")
    if metric != "ttft_s" and counts["osl"] == 1:
        raise wrong("osl", f"1 output token has no {metric}; expected at least 2")
    return Measurement(
        system=name("system"),  # pyright: ignore[reportArgumentType]
        engine=name("engine"),
        model=name("model"),  # pyright: ignore[reportArgumentType]
        chunk=number("chunk", 1, None, True),  # pyright: ignore[reportArgumentType]
        weights=choice("weights", FORMATS),
        kv=choice("kv", KV_FORMATS),
        metric=metric,
        value=number("value", 0, None, False),  # pyright: ignore[reportArgumentType]
        deployment=text("deployment"),
        line=line,
        **counts,  # pyright: ignore[reportArgumentType]
    )


_PUBLIC_METRICS = {"ttft": "ttft_s", "prefill_time": "ttft_s", "tpot": "tpot_s", "latency": "e2e_s"}
_PUBLIC_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_PUBLIC_WEIGHTS = {
    "": "", "fp16": "fp16", "fp16/bf16(default)": "", "float16": "fp16", "f16": "fp16", "bf16": "bf16", "fp8": "fp8",
    "int8": "int8", "int4": "int4", "gptq-int4": "int4", "gptq-int8": "int8", "awq": "int4", "mxfp4": "mxfp4",
}  # fmt: skip


def public_measurements(
    rows: Iterable[tuple[int, dict[str, str]]], path: str | os.PathLike, source: str | None
) -> tuple[list[Measurement], dict[str, int]]:
    """The rows of a public collection that a static batch's model can predict, and how many were left out, by reason.

    Flagged rows, closed-loop rows, throughputs, and hardware, models or formats that the library lacks are left out.
    **Raises** `InputError` where nothing is left.
    """
    found: list[Measurement] = []
    skipped: Counter[str] = Counter()
    sources: set[str] = set()
    unknown: set[tuple[str, str]] = set()
    for line, row in rows:
        sources.add(row["source"])
        if source is not None and row["source"] != source:
            continue
        weights, kv = row["weight_dtype"].lower(), row["kv_dtype"].lower()
        metric, scale = _PUBLIC_METRICS.get(row["metric"]), _PUBLIC_UNITS.get(row["unit"])
        names = {"system": row["hardware"], "engine": row["engine"], "model": row["model"]}
        if row["flag"]:
            skipped["flagged"] += 1
        elif row["batch_kind"] != "static" or metric is None or scale is None:
            skipped["not a static batch's latency"] += 1
        elif weights not in _PUBLIC_WEIGHTS or kv not in _PUBLIC_WEIGHTS:
            skipped["number format unknown"] += 1
        elif not all(_known(kind, name, unknown) for kind, name in names.items()):
            skipped["hardware, engine or model unknown"] += 1
        else:
            cells = {column: row[column] for column in ("tp", "pp", "ep", "isl", "osl")} | names
            cells |= {"weights": _PUBLIC_WEIGHTS[weights], "kv": _PUBLIC_WEIGHTS[kv], "metric": metric}
            cells |= {"batch": row["batch_or_concurrency"], "value": row["value"]}
            cells["osl"] = cells["osl"] or ("1" if metric == "ttft_s" else "")
            measured = parse_row(cells, path, line)
            found.append(replace(measured, value=measured.value * scale))
    if source is not None and source not in sources:
        raise InputError(f"{path}: no row has source '{source}'; {nearest(source, sources)}")
    if not found:
        raise InputError(f"{path}: no row is usable: {dict(skipped) or 'the file is empty'}")
    return found, dict(skipped)


def _known(kind: str, name: str, unknown: set[tuple[str, str]]) -> bool:
    if (kind, name) in unknown:
        return False
    try:
        find(kind, name)
    except InputError:
        unknown.add((kind, name))
        return False
    return True


def _open(path: str | os.PathLike) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """Header and numbered rows of a CSV file, each with as many cells as the header."""
    try:
        raw = Path(path).read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder, not a file") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a CSV table: {error}") from None
    reader = csv.reader(text.splitlines())
    header = [cell.strip() for cell in next(reader, [])]
    if not header or header == [""]:
        raise InputError(f"{path}: line 1: no header; expected the columns {', '.join(REQUIRED)}")
    repeated = [column for column, count in Counter(header).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: line 1: the column '{repeated[0]}' stands twice")

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise InputError(f"{path}: line {reader.line_num}: {len(cells)} cells; the header has {len(header)}")
            yield reader.line_num, dict(zip(header, cells, strict=True))

    return header, rows()
