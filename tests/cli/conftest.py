"""How the tests of the command line call it: as a program, with a compile cache that the session shares."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Call = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def call(tmp_path_factory: pytest.TempPathFactory) -> Call:
    """`call("specs", "list")` runs `python -m jaxperf specs list` and returns what it printed and its exit code."""
    cache = tmp_path_factory.getbasetemp().parent / "jaxperf-cli-cache"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache), "COLUMNS": "100"}
    environment.pop("JAXPERF_DEBUG", None)

    def run(*words: object, **changes: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "jaxperf", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**environment, **changes})

    return run
