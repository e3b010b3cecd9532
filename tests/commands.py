"""The command line as tests call it: a process each, forked from one that has imported everything, or started anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Call = Callable[..., subprocess.CompletedProcess]


class Commands:
    """`commands("specs", "list", COLUMNS="60")` runs `jaxperf specs list` and returns what it printed and its exit
    code; with `anew`, as `python -m jaxperf`. What JAX reads as it is imported asks for a new process, too."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache), "COLUMNS": "100"}
        self.environment.pop("JAXPERF_DEBUG", None)
        self.server: subprocess.Popen | None = None

    def __call__(self, *words: object, anew: bool = False, **changes: str) -> subprocess.CompletedProcess:
        given = [str(word) for word in words]
        if anew or any(name.startswith(("JAX_", "XLA_", "PYTHON")) for name in changes):
            command = [sys.executable, "-m", "jaxperf", *given]
            environment = {**self.environment, **changes}
            return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        if self.server is None:
            command = [sys.executable, str(ROOT / "tests" / "command_server.py")]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.server = subprocess.Popen(command, text=True, env=self.environment, **pipes)
        assert self.server.stdin and self.server.stdout
        files = {name: str(self.folder / name) for name in ("out", "err")}
        request = {"words": given, "environment": {"PWD": os.getcwd(), **changes}, **files}
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        code = int(self.server.stdout.readline())
        out, err = (Path(path).read_text(encoding="utf-8") for path in files.values())
        return subprocess.CompletedProcess(["jaxperf", *given], code, out, err)

    def close(self) -> None:
        """Ends the process that the others are forked from."""
        if self.server is not None:
            self.server.communicate(timeout=60)
