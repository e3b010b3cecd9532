"""How the tests of the scan start a toy scan as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jaxperf.scan import plan

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def small_blocks() -> None:
    """Programs of the tests are compiled to start fast, not to run fast: blocks of a small space stay small."""
    plan.BLOCK = (2**15, 2**17)


class Toy:
    """A toy scan that runs, with what `subprocess.Popen` says of a process."""

    def __init__(self, pid: int, files: dict[str, str]) -> None:
        self.pid, self.files = pid, {name: Path(path) for name, path in files.items()}
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, None while it runs; −n where signal n ended it."""
        if self.returncode is None and self.files["code"].exists():
            self.returncode = int(self.files["code"].read_text(encoding="utf-8"))
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends it a signal unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            if self.poll() is None:
                os.kill(self.pid, number)

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """What it printed and complained of, when it has ended."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("toy", timeout)
            time.sleep(0.002)
        out, err = (self.files[name].read_text(encoding="utf-8") for name in ("out", "err"))
        return out, err


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Toy]]:
    """`start(journal=..., resume=True)` starts a toy scan."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command, folder = [sys.executable, "-m", "tests.scan.toy_server"], tmp_path_factory.mktemp("toys")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, text=True, env=environment, cwd=ROOT, **pipes)
    count = 0

    def begin(**settings: Any) -> Toy:
        nonlocal count
        count += 1
        files = {name: str(folder / f"{count}.{name}") for name in ("out", "err", "code")}
        assert server.stdin and server.stdout
        server.stdin.write(json.dumps({"settings": settings, **files}, default=str) + "\n")
        server.stdin.flush()
        return Toy(int(server.stdout.readline()), files)

    yield begin
    server.communicate(timeout=60)


@pytest.fixture(scope="session")
def finish() -> Callable[[Toy], dict]:
    """Waits for a toy scan and gives what it found."""

    def end(process: Toy) -> dict:
        out, err = process.communicate()
        assert process.returncode == 0, err
        return json.loads(out)

    return end
