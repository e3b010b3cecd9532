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
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEPT = 8
"""Programs of one name that are kept; the oldest go."""


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
        found = programs.get(path) or _load(path)
        if found is None:
            found = _compile(function, leaves, structure, path)
            _keep(path, *found)
        programs[path] = found
        program, skeleton = found
        return jax.tree.unflatten(jax.tree.structure(skeleton), program(*leaves))

    return call


def _path(name: str, leaves: list[Any], structure: Any) -> Path | None:
    """Where a program is kept: named by our sources, versions, flags, the processor, and the shape of its arguments."""
    import jax
    import jaxlib.version

    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache", "jax_enable_x64")
    folder, enabled, wide = (getattr(jax.config, name) for name in names)
    if not folder or not enabled or jax.default_backend() != "cpu":
        return None
    package = Path(__file__).parent.parent
    sources = [(str(p.relative_to(package)), p.stat().st_mtime_ns, p.stat().st_size) for p in package.rglob("*.py")]
    shapes = [(leaf.shape, str(leaf.dtype), bool(leaf.weak_type)) for leaf in leaves]
    facts = (sorted(sources), jax.__version__, jaxlib.version.__version__, os.environ.get("XLA_FLAGS", ""), shapes)
    facts += (str(structure), wide)
    return Path(folder) / f"jaxperf-{name}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:24]}.bin"


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


def _load(path: Path) -> tuple[Any, Any] | None:
    if not path.exists():
        return None
    from jax.experimental.serialize_executable import deserialize_and_load

    try:
        payload, inputs, outputs, skeleton = pickle.loads(path.read_bytes())
        return deserialize_and_load(payload, inputs, outputs), skeleton
    except Exception:
        with contextlib.suppress(OSError):
            path.unlink()
        return None


def _keep(path: Path, program: Any, skeleton: Any) -> None:
    """Write a program beside its final name, then rename; drop the oldest of that kind."""
    from jax.experimental.serialize_executable import serialize

    with contextlib.suppress(Exception):
        content = pickle.dumps((*serialize(program), skeleton))
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            file.write(content)
        os.replace(file.name, path)
        kind = path.name.rsplit("-", 1)[0]
        others = sorted(path.parent.glob(f"{kind}-*.bin"), key=lambda other: other.stat().st_mtime, reverse=True)
        for old in others[KEPT:]:
            old.unlink()
