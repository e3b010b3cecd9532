"""Tapes of the command line kept between runs: a function that was traced once is only read and played again.

A tape is found by everything that it depends on: our sources, the versions, and the shapes of its arguments."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEPT = 8
"""Tapes of one name that are kept; the oldest go."""


def stored(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The `function` of pytrees of arrays, its results on the host, from the tape that an earlier run left in the cache
    folder.

    Whatever goes wrong with a kept tape (another version, a broken file, a folder that cannot be written to), the
    function is traced as usual; what NumPy cannot play is compiled.
    """

    def call(*arguments: Any) -> Any:
        import jax

        from ..tape import NoKernelError, play, record

        leaves, structure = jax.tree.flatten(arguments)
        path = _path(name, leaves, structure)
        found = None if path is None else _load(path)
        if found is None:
            try:
                tape, result = record(function, *arguments)
            except NoKernelError:
                return jax.device_get(jax.jit(function)(*arguments))
            found = tape, jax.tree.unflatten(result, [0] * result.num_leaves)
            if path is not None:
                _keep(path, found)
        tape, form = found
        return jax.tree.unflatten(jax.tree.structure(form), play(tape, leaves))

    return call


def _path(name: str, leaves: list[Any], structure: Any) -> Path | None:
    """Where a tape is kept; None where none is."""
    import jax

    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
    folder, enabled = (getattr(jax.config, setting) for setting in names)
    if not folder or not enabled or "://" in folder:
        return None
    package = Path(__file__).parent.parent
    sources = [(str(file.relative_to(package)), file.read_bytes()) for file in sorted(package.rglob("*.py"))]
    shapes = [(str(kind), kind.weak_type) for kind in map(jax.typeof, leaves)]
    facts = (sources, jax.__version__, str(jax.numpy.result_type(float)), shapes, str(structure))
    return Path(folder) / f"jaxperf-{name}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.tape"


def _load(path: Path) -> tuple[Any, Any] | None:
    """A kept tape and the form of its result, or None where none can be read; what is no tape is dropped."""
    from ..tape import Tape

    try:
        content = path.read_bytes()
    except OSError:
        return None
    with contextlib.suppress(Exception):
        tape, form = pickle.loads(content)
        if isinstance(tape, Tape):
            with contextlib.suppress(OSError):
                os.utime(path)
            return tape, form
    with contextlib.suppress(OSError):
        path.unlink()
    return None


def _keep(path: Path, found: tuple[Any, Any]) -> None:
    """Write a tape beside its final name, then rename; drop the oldest of that kind."""
    with contextlib.suppress(Exception):
        content = pickle.dumps(found)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            written = Path(file.name)
            try:
                file.write(content)
                file.close()
                os.replace(written, path)
            except OSError:
                written.unlink()
                raise
        kind = path.name.rsplit("-", 1)[0]
        kept = sorted(path.parent.glob(f"{kind}-*.tape"), key=lambda p: p.stat().st_mtime, reverse=True)
        for old in kept[KEPT:]:
            old.unlink()
