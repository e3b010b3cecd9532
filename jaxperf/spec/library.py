"""Find, load, validate and save specs: one strict loader for the shipped library and for a user's own files.

Importing this does not import JAX, so that `--help` and `specs list` answer at once."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, nearest
from .documents import KINDS
from .schema import with_defaults

FOLDERS = {
    "model": "models",
    "system": "systems",
    "engine": "engines",
    "workload": "workloads",
    "calibration": "calibrations",
}


@dataclass(frozen=True)
class Spec:
    """A validated spec on the host: its kind, name, where it came from, and its document with defaults filled in."""

    kind: str
    name: str
    path: str
    document: dict


def specs_folder() -> Path:
    """The folder `specs/`, beside the package in a checkout and inside it in an installed wheel."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "specs", package.parent / "specs"):
        if (folder / "models").is_dir():
            return folder
    raise InputError(f"the spec library is missing: neither {package / 'specs'} nor {package.parent / 'specs'} exists")


def read_json(path: str | os.PathLike, constants: bool = False) -> Any:
    """Parse a JSON file, with the place of a fault; `constants` admits the `NaN` and `Infinity` of Python's writer.

    **Raises** `InputError` for no file, a folder, truncated JSON, a repeated key, or a number that cannot be held.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise InputError(f"{path}: the key '{key}' stands twice in one object")
            seen[key] = value
        return seen

    def constant(word: str) -> Any:
        if constants:
            return float(word)
        raise InputError(f"{path}: {word} is no JSON number")

    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder, not a file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply") from None
    except InputError:
        raise
    except ValueError:  # Python holds back from numbers of thousands of digits
        raise InputError(f"{path}: not valid JSON: a number has too many digits") from None


def validate(document: Any, path: str, kind: str | None = None) -> Spec:
    """Check a document against the schema of its kind.

    **Arguments:** the parsed `document`, the `path` to name in errors, the `kind` expected (any when None).

    **Returns:** the `Spec`. **Raises** `InputError` that names file, key, value, allowed range and nearest name.
    """
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(document).__name__}")
    found = document.get("kind")
    if not isinstance(found, str) or found not in KINDS:
        raise InputError(f"{path}: kind: {found!r} is not one of {', '.join(KINDS)}")
    if kind is not None and found != kind:
        raise InputError(f"{path}: kind: this is a {found}, but a {kind} is wanted")
    KINDS[found].check(document, path)
    return Spec(found, document["name"], path, with_defaults(KINDS[found], document))


@functools.cache
def _index(kind: str) -> dict[str, tuple[str, Path]]:
    """Every name and alias of a kind, in lower case, with its canonical name and file."""
    table: dict[str, tuple[str, Path]] = {}
    for path in sorted((specs_folder() / FOLDERS[kind]).glob("*.json")):
        document = read_json(path)
        for alias in (document["name"], *document.get("aliases", [])):
            table.setdefault(alias.lower(), (document["name"], path))
    return table


def names(kind: str) -> list[str]:
    """The canonical names of all shipped specs of a kind, sorted."""
    return sorted({name for name, _ in _index(kind).values()})


def aliases(kind: str) -> dict[str, str]:
    """Every spelling that resolves (lower case), with the canonical name."""
    return {alias: name for alias, (name, _) in _index(kind).items()}


def find(kind: str, name: str | os.PathLike) -> Spec:
    """The spec of that name, alias or path.

    **Arguments:** `kind` is one of model, system, engine, workload, calibration; `name` a library name, an alias
    (a Hugging Face id, another tool's spelling) or a path that ends in `.json`.

    **Raises** `InputError` with the nearest names when nothing matches.
    """
    text = os.fspath(name)
    if text.lower().endswith(".json"):
        return validate(read_json(text), text, kind)
    table = _index(kind)
    key = text.strip().lower()
    for candidate in (key, key.rsplit("/", 1)[-1], key.replace("_", "-"), key.replace(" ", "-")):
        if candidate in table:
            _, path = table[candidate]
            return _load(kind, str(path))
    raise InputError(f"no {kind} is called '{text}'; {nearest(text, names(kind))} (or give a path that ends in .json)")


@functools.cache
def _load(kind: str, path: str) -> Spec:
    return validate(read_json(path), path, kind)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary file of the same suffix beside `path`, renamed over it at the end: a file is written whole or not at
    all. A folder that is missing is made.

    **Raises** `InputError` that names `path` where it cannot be written.
    """
    target, temporary = Path(path), None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}.", suffix=target.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a file whole or not at all (see `replacing`)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save(document: dict, path: str | os.PathLike) -> None:
    """Validate a document and write it as JSON, whole or not at all."""
    validate(document, os.fspath(path))
    write_text(path, json.dumps(document, indent=2) + "\n")


def set_path(document: dict, path: str, value: Any) -> dict:
    """A copy of a document with one field changed; `path` is its JSON keys with the unit, lists by index or name.

    For example `device.memory.hbm.bandwidth_GBps`, `fabric.nvlink4.alpha_us`, `layer_groups.0.count`.
    **Raises** `InputError` for a path that leads nowhere, with the keys that would.
    """
    head, _, rest = path.partition(".")

    def descend(node: Any) -> Any:
        return set_path(node, rest, value) if rest else value

    if isinstance(document, dict):
        if head not in document:
            raise InputError(f"no field '{head}' here; {nearest(head, document)}")
        if not rest and isinstance(document[head], (dict, list, str)):
            raise InputError(f"'{head}' is no number; go on with one of its fields")
        return {**document, head: descend(document[head])}
    if isinstance(document, list):
        for index, item in enumerate(document):
            if head == str(index) or (isinstance(item, dict) and item.get("name") == head):
                return [*document[:index], descend(item), *document[index + 1 :]]  # pyright: ignore[reportReturnType]
        known = [
            item["name"] if isinstance(item, dict) and "name" in item else str(i) for i, item in enumerate(document)
        ]
        raise InputError(f"no entry '{head}' here; {nearest(head, known)}")
    raise InputError(f"'{head}' lies below a plain value")


def get_path(document: Any, path: str) -> Any:
    """The value at a path (see `set_path`). **Raises** `InputError` for a path that leads nowhere."""
    for head in path.split("."):
        if isinstance(document, dict) and head in document:
            document = document[head]
        elif isinstance(document, list):
            match = [
                x for i, x in enumerate(document) if head == str(i) or (isinstance(x, dict) and x.get("name") == head)
            ]
            if not match:
                raise InputError(f"no entry '{head}' on the path '{path}'")
            document = match[0]
        else:
            known = document if isinstance(document, dict) else ()
            raise InputError(f"no field '{head}' on the path '{path}'; {nearest(head, known)}")
    return document
