"""Programs of the command line kept whole between runs: neither traced nor lowered again, only loaded.

JAX's own cache keeps what the compiler makes of a program, but still asks for the program; for one `evaluate` tracing
it takes longer than anything else. What is kept here is found by everything that it depends on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import secrets
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEPT = 8
"""Programs of one name that are kept; the oldest go."""


_begun: dict[Path, threading.Thread] = {}
_loaded: dict[Path, tuple[Any, Any]] = {}


def load_ahead(name: str) -> None:
    """Begin to load the program of that name that was in use last, beside the reading of specs and the imports: it is
    most likely the one that will be asked for. Call after `compile_cache`."""
    folder = _folder()
    if folder is None:
        return
    kept = _newest_first(folder, f"jaxperf-{name}-{_environment()}-*.bin")
    if kept and kept[0] not in _begun:
        # Nothing of ours is imported in the thread: only arrays and plain tuples are unpickled there.
        thread = threading.Thread(
            target=_load, args=(kept[0],)
        )  # waited for at exit: XLA aborts in one that is cut off
        _begun[kept[0]] = thread
        thread.start()


def stored(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The compiled `function` of pytrees of arrays, loaded from the cache folder where it was kept by an earlier run.

    Whatever goes wrong with a kept program (another version, a broken file, a folder that cannot be written to), the
    function is compiled as usual.
    """

    programs: dict[Path, tuple[Any, Any]] = {}

    def call(*arguments: Any) -> Any:
        import jax

        from ..compiling import quick

        leaves, structure = jax.tree.flatten(arguments)
        path = _path(name, leaves, structure)
        if path is None:
            return quick(function)(*arguments)
        found = programs.get(path) or _found(path)
        if found is None:
            found = _compile(function, leaves, structure, path)
            _keep(path, *found)
        programs[path] = found
        program, skeleton = found
        return jax.tree.unflatten(jax.tree.structure(skeleton), program(*leaves))

    return call


def _folder() -> Path | None:
    """Where programs are kept; None where they are not."""
    import jax

    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
    folder, enabled = (getattr(jax.config, name) for name in names)
    return Path(folder) if folder and enabled and jax.default_backend() == "cpu" else None


def _environment() -> str:
    """A name for our sources, versions, flags and width."""
    import jax
    import jax.numpy
    import jaxlib.version

    package = Path(__file__).parent.parent
    sources = [(str(p.relative_to(package)), p.stat().st_mtime_ns, p.stat().st_size) for p in package.rglob("*.py")]
    flags = (os.environ.get("XLA_FLAGS", ""), str(jax.numpy.result_type(float)))
    return _digest((sorted(sources), jax.__version__, jaxlib.version.__version__, flags))


def _digest(facts: Any) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]


def _path(name: str, leaves: list[Any], structure: Any) -> Path | None:
    """Where a program is kept: named by the environment and the shape of its arguments."""
    folder = _folder()
    if folder is None:
        return None
    shapes = [(leaf.shape, str(leaf.dtype), bool(leaf.weak_type)) for leaf in leaves]
    return folder / f"jaxperf-{name}-{_environment()}-{_digest((shapes, str(structure)))}.bin"


def _newest_first(folder: Path, pattern: str) -> list[Path]:
    def used(path: Path) -> float:
        with contextlib.suppress(OSError):
            return path.stat().st_mtime
        return 0.0

    return sorted(folder.glob(pattern), key=used, reverse=True)


def _compile(function: Callable[..., Any], leaves: list[Any], structure: Any, path: Path) -> tuple[Any, Any]:
    """The compiled program over flat lists of arrays, and a result of the same form with zeros for arrays.

    What JAX's own cache gives back has lost functions and cannot be kept again, so it is asked under a name that it has
    never seen, and its copy is dropped.
    """
    import jax

    from ..compiling import quick_options

    form: list[Any] = []

    def flat(*values: Any) -> tuple[Any, ...]:
        result = function(*jax.tree.unflatten(structure, values))
        form.append(jax.tree.map(lambda _: 0, result))
        return tuple(jax.tree.leaves(result))

    flat.__name__ = f"kept_{secrets.token_hex(8)}"
    program = jax.jit(flat, compiler_options=quick_options()).lower(*leaves).compile()
    with contextlib.suppress(OSError):
        for copy in path.parent.glob(f"jit_{flat.__name__}-*"):
            copy.unlink()
    return program, form[-1]


def _found(path: Path) -> tuple[Any, Any] | None:
    """A kept program and its skeleton, or None."""
    thread = _begun.get(path)
    if thread is None:
        _load(path)
    else:
        thread.join()
    found = _loaded.get(path)
    if found is None:
        return None
    program, skeleton = found
    try:
        return program, pickle.loads(skeleton)
    except Exception:
        return _broken(path)


def _load(path: Path) -> None:
    """Load a kept program, and the bytes of its skeleton, into `_loaded`."""
    if not path.exists():
        return
    from jax.experimental.serialize_executable import deserialize_and_load

    try:
        *serialised, skeleton = pickle.loads(path.read_bytes())
        _loaded[path] = deserialize_and_load(*serialised), skeleton
        os.utime(path)
    except Exception:
        _broken(path)


def _broken(path: Path) -> None:
    """Drop a file that cannot be loaded."""
    with contextlib.suppress(OSError):
        path.unlink()


def _keep(path: Path, program: Any, skeleton: Any) -> None:
    """Write a program beside its final name, then rename; drop the oldest of that kind."""
    from jax.experimental.serialize_executable import serialize

    with contextlib.suppress(Exception):
        content = pickle.dumps((*serialize(program), pickle.dumps(skeleton)))
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            file.write(content)
        os.replace(file.name, path)
        kind = path.name.split("-")[1]
        for old in _newest_first(path.parent, f"jaxperf-{kind}-*.bin")[KEPT:]:
            old.unlink()
