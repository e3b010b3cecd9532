"""What leaves a verb: JSON, tables, and the settings of JAX that concern a command line."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def plain(value: Any) -> Any:
    """The value as JSON knows it: arrays become numbers and lists, NaN and infinity become null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_json(value: Any) -> None:
    """Print one JSON document on stdout, NaN and infinity as null."""
    print(json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False))


def console(stderr: bool = False) -> Console:
    """A `rich` console on stdout or stderr, without colours of its own for numbers and paths."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would leave with exit code 1; `main` knows that it is no error

    return Plain(stderr=stderr, highlight=False, emoji=False)


def table(*columns: str, title: str | None = None, left: int = 1) -> Table:
    """A plain `rich` table: the first `left` columns are text, the others are numbers and stand to the right."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index < left else "right", no_wrap=index >= left)
    return made


def cache_folder() -> Path:
    """Where compiled programs are kept: `$XDG_CACHE_HOME/jaxperf` or `~/.cache/jaxperf`, apart for each kind of CPU."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "jaxperf" / _machine()


def _machine() -> str:
    """A word for this kind of CPU: a home folder may be shared by machines that cannot run each other's programs."""
    words = [platform.machine()]
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            words += [line for line in stream.read(8192).splitlines() if line.startswith(("flags", "Features"))][:1]
    except OSError:
        words.append(platform.platform())
    return f"xla-{hashlib.sha256(' '.join(words).encode()).hexdigest()[:12]}"


def quiet_jax() -> None:
    """Keep JAX's remarks about absent accelerators and about its cache off the terminal; call before importing JAX."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*persistent compilation cache.*")


def compile_cache() -> None:
    """Let JAX keep compiled programs between runs, in `cache_folder`.

    `JAXPERF_CACHE=off` leaves it out, `JAX_COMPILATION_CACHE_DIR` names another folder, and a folder that cannot be
    written to is passed over without a word. Call before anything is compiled.
    """
    quiet_jax()
    import jax

    if os.environ.get("JAXPERF_CACHE", "").lower() in ("off", "0", "no"):
        jax.config.update("jax_enable_compilation_cache", False)
        return
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK | os.X_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
