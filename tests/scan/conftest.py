"""How the tests of the scan start a toy scan as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxperf.scan import plan

TOY = Path(__file__).with_name("toy.py")


@pytest.fixture(scope="session", autouse=True)
def small_blocks() -> None:
    """Programs of the tests are compiled to start fast, not to run fast: blocks of a small space stay small."""
    plan.BLOCK = (2**15, 2**17)


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen]:
    """`start(journal=..., resume=True)` starts a toy scan."""
    environment = {**os.environ, "PYTHONPATH": str(TOY.parents[2]), "TF_CPP_MIN_LOG_LEVEL": "3"}

    def begin(**settings: Any) -> subprocess.Popen:
        command = [sys.executable, str(TOY), json.dumps(settings, default=str)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)

    return begin


@pytest.fixture(scope="session")
def finish() -> Callable[[subprocess.Popen], dict]:
    """Waits for a toy scan and gives what it found."""

    def end(process: subprocess.Popen) -> dict:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return json.loads(out)

    return end
