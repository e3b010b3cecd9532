"""What a scan is, in hashes: a journal continues only the very same space, specs, program and reductions."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..native.jit import target
from ..spec.library import find
from .plan import Prepared, Shape
from .reduce import Reduction

_CODE = (
    *("ops.py", "constants.py", "load.py", "zipf.py", "block_formats.py", "tape.py", "numpy_kernels.py"),
    *("spec", "collectives", "stages", "phases", "native", "scan"),
)
"""The parts of the package that a scan's figures depend on."""


def digest(value: Any) -> str:
    """A short hash of a value's JSON form."""
    text = json.dumps(value, sort_keys=True, default=str, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def code_digest() -> str:
    """A hash of the source that a scan's figures depend on."""
    package = Path(__file__).resolve().parent.parent
    found = hashlib.sha256()
    for name in _CODE:
        path = package / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return found.hexdigest()[:16]


def _code_form() -> str:
    """What decides the last bits of machine code: how wide its vectors are, which functions a library does, and whether
    products and sums fuse."""
    form = target(np.dtype(jnp.result_type(float)))
    return f"{form.lanes} lanes, {len(form.functions)} functions{', fused' if form.fused else ''}"


def identity(
    prepared: Prepared,
    shape: Shape,
    unit: int,
    kept: tuple[Reduction, ...],
    columns: tuple[str, ...],
    table: str,
    backend: str,
) -> dict:
    """What a journal must agree on, as JSON: by word of what differs where it does not."""
    from .. import __version__

    space = dataclasses.asdict(prepared.space)
    space.pop("name")
    documents = {name: spec.document for name, spec in prepared.models.items()}
    documents |= dict(zip(prepared.hardware.names, prepared.hardware.documents, strict=True))
    if prepared.space.engine is not None:
        documents[prepared.space.engine] = find("engine", prepared.space.engine).document
    if prepared.space.efficiency != "ideal":
        documents[prepared.space.efficiency] = find("calibration", prepared.space.efficiency).document
    return {
        "space": {key: digest(value) for key, value in space.items()},
        "specs": {name: digest(document) for name, document in documents.items()},
        "version": {"jaxperf": __version__, "jax": jax.__version__, "code": code_digest()},
        "precision": jnp.dtype(jnp.result_type(float)).name,
        "platform": jax.default_backend() + (f", {_code_form()}" if backend == "native" else ""),
        "backend": backend,
        "reductions": [repr(reduction) for reduction in kept],
        "table": {"columns": list(columns), "path": table},
        "block": [shape.points, shape.chunks, shape.batches],
        "unit": unit,
    }


def difference(mine: dict, its: dict) -> str | None:
    """What two identities disagree on, in words; None where they agree."""
    for key, title in (
        ("space", "another space"),
        ("specs", "other specs"),
        ("version", "another version"),
        ("precision", "another precision"),
        ("platform", "another kind of device"),
        ("backend", "another backend"),
        ("reductions", "other results wanted"),
        ("table", "another table"),
        ("block", "other blocks"),
        ("unit", "other units"),
    ):
        if mine[key] == its.get(key):
            continue
        if isinstance(mine[key], dict) and isinstance(its.get(key), dict):
            names = sorted(name for name in {*mine[key], *its[key]} if mine[key].get(name) != its[key].get(name))
            return f"{title} ({', '.join(names)} differ)" if len(names) > 1 else f"{title} ({names[0]} differs)"
        return f"{title} ({its.get(key)} there, {mine[key]} here)"
    return None


def check_same(mine: dict, its: dict, where: str) -> None:
    """**Raises** `InputError` that names what differs."""
    found = difference(mine, its)
    if found:
        raise InputError(f"{where} is of {found}; remove it or start over with --force")
