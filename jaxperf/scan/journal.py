"""The journal of a scan: finished units in a file that only grows, so that an interrupted scan goes on where it was.

A magic word, then records of length, checksum and payload. The first record is the scan's identity as JSON, every other
one a unit with its reduced parts. A record is flushed to the disk before its unit counts as done. A record that is cut
short or does not fit its checksum ends the journal: what comes before is used, the rest is cut off."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import InputError
from .identity import check_same
from .reduce import Part

_MAGIC = b"jaxperf scan journal 1\n"
_HEAD = struct.Struct("<Q16s")

Parts = list[Part]
"""The parts of one unit, a reduction each."""


@dataclass
class Journal:
    """An open journal and the units that it held when it was opened; `lost` bytes were cut off its end."""

    path: Path
    stream: BinaryIO
    done: dict[int, Parts]
    lost: int

    def append(self, unit: int, parts: Parts) -> None:
        """Records a finished unit; it is on the disk when this returns."""
        try:
            self.stream.write(_record(_pack(unit, parts)))
            self.stream.flush()
            os.fsync(self.stream.fileno())
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror or error}") from None

    def close(self) -> None:
        """Closes the file; it can be opened again."""
        self.stream.close()

    def remove(self) -> None:
        """Closes and deletes the file."""
        self.close()
        self.path.unlink(missing_ok=True)


def _record(payload: bytes) -> bytes:
    return _HEAD.pack(len(payload), hashlib.sha256(payload).digest()[:16]) + payload


def _pack(unit: int, parts: Parts) -> bytes:
    arrays = {f"{index}/{name}": value for index, part in enumerate(parts) for name, value in part.items()}
    buffer = io.BytesIO()
    arrays |= {"unit": np.asarray(unit), "parts": np.asarray(len(parts))}
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _unpack(payload: bytes) -> tuple[int, Parts]:
    with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
        parts: Parts = [{} for _ in range(int(arrays["parts"]))]
        for key in arrays.files:
            index, slash, name = key.partition("/")
            if slash:
                parts[int(index)][name] = arrays[key]
        return int(arrays["unit"]), parts


def pack(numbered: dict[int, Parts]) -> bytes:
    """Parts by number as bytes, for another process."""
    return b"".join(_record(_pack(number, parts)) for number, parts in numbered.items())


def unpack(data: bytes) -> dict[int, Parts]:
    """The reverse of `pack`. **Raises** `ValueError` for bytes that are damaged."""
    units, end = {}, 0
    for payload, after in _records(io.BytesIO(data)):
        unit, parts = _unpack(payload)
        units[unit], end = parts, after
    if end != len(data):
        raise ValueError("damaged in transit")
    return units


def _records(stream: Any) -> Iterator[tuple[bytes, int]]:
    """The sound records from here on, each with the position after it; ends at the first that is not."""
    while True:
        head = stream.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return
        length, checksum = _HEAD.unpack(head)
        try:
            payload = stream.read(length)
        except (OverflowError, MemoryError):
            return
        if len(payload) < length or hashlib.sha256(payload).digest()[:16] != checksum:
            return
        yield payload, stream.tell()


def _lock(stream: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{path}: another scan is writing this journal") from None
    except OSError:
        return  # a file system without locks


@contextlib.contextmanager
def _opening(path: Path, mode: str) -> Iterator[BinaryIO]:
    """An open, locked file, closed again where something goes wrong; errors of the system become input errors."""
    try:
        stream: Any = path.open(mode)
    except OSError as error:
        raise InputError(f"--journal: {path}: {error.strerror or error}") from None
    try:
        _lock(stream, path)
        yield stream
    except BaseException as error:
        stream.close()
        if isinstance(error, OSError):
            raise InputError(f"--journal: {path}: {error.strerror or error}") from None
        raise


def create(path: Path, identity: dict) -> Journal:
    """A new journal, in place of whatever was there."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _opening(path, "a+b") as stream:
        stream.truncate(0)
        stream.write(_MAGIC + _record(json.dumps(identity).encode()))
        stream.flush()
        os.fsync(stream.fileno())
        with contextlib.suppress(OSError):
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        return Journal(path, stream, {}, 0)


def read_identity(path: Path) -> dict:
    """The identity that a journal holds. **Raises** `InputError` where it is no journal or is damaged at its head."""
    try:
        with path.open("rb") as stream:
            return _identity(stream, path)[0]
    except OSError as error:
        raise InputError(f"--journal: {path}: {error.strerror or error}") from None


def _identity(stream: Any, path: Path) -> tuple[dict, int]:
    if stream.read(len(_MAGIC)) != _MAGIC:
        raise InputError(f"{path}: no journal of a scan; remove it or start over with --force")
    for payload, end in _records(stream):
        return json.loads(payload), end
    raise InputError(f"{path}: the journal is damaged at its head; nothing can be saved: start over with --force")


def resume(path: Path, identity: dict) -> Journal:
    """An existing journal, opened to go on; a damaged end is cut off.

    **Raises** `InputError` where it belongs to another scan, is in use, or is damaged at its head.
    """
    with _opening(path, "r+b") as stream:
        held, end = _identity(stream, path)
        check_same(identity, held, f"{path}: the journal")
        done: dict[int, Parts] = {}
        for payload, after in _records(stream):
            unit, parts = _unpack(payload)
            done[unit], end = parts, after
        size = os.fstat(stream.fileno()).st_size
        stream.seek(end)
        stream.truncate(end)
        return Journal(path, stream, done, size - end)
