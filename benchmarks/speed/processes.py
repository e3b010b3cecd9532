"""Two processes of one thread each against one process of two: the same scan through `jaxperf scan --distributed`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxperf.scan.space import read_space

from .cases import Work

UNIT = 2**20
"""Configurations of a unit: so many that a dozen of them share out evenly."""


def _pinned(cores: list[int]) -> Callable[[], None]:
    return lambda: os.sched_setaffinity(0, cores)


def _start(command: list[str], cores: list[int]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jaxperf", "scan", *command, "--json", "--checkpoint", str(UNIT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_pinned(cores),
    )


def _wait(processes: list[subprocess.Popen[str]]) -> dict[str, Any]:
    """The first process's rate, when all are done; how one ended that failed after the result was out."""
    outputs = [process.communicate() for process in processes]
    ends = [
        errors.strip()[-200:] for process, (_, errors) in zip(processes, outputs, strict=True) if process.returncode
    ]
    if not outputs[0][0].strip():
        raise RuntimeError(f"jaxperf scan gave no result: {' / '.join(ends)}")
    found = json.loads(outputs[0][0])
    kept = {key: found[key] for key in ("configurations", "wall_s", "configurations_per_s", "compile_s")}
    return kept | ({"ended_badly": ends} if ends else {})


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(entry)}" for key, entry in value.items()) + "}"
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, list) else json.dumps(value)


def measure(work: Work) -> dict[str, Any]:
    """Rates of both; the wall time begins when each has compiled and ends when all parts are merged."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise RuntimeError("two cores are needed")
    document = read_space(work.space)
    document["models"] = document["models"][: work.models]
    singles, pairs = [], []
    with tempfile.TemporaryDirectory() as folder:
        space = Path(folder) / "space.toml"
        space.write_text("\n".join(f"{json.dumps(key)} = {_toml(value)}" for key, value in document.items()) + "\n")
        for _ in range(work.repeats):
            singles.append(_wait([_start([str(space)], cores)]))
            meet = ["--distributed", "--coordinator", f"127.0.0.1:{_free_port()}", "--processes", "2"]
            pairs.append(
                _wait([_start([str(space), *meet, "--process-id", str(i)], [core]) for i, core in enumerate(cores)])
            )
    one, two = (max(runs, key=lambda run: run["configurations_per_s"]) for runs in (singles, pairs))
    return {
        "configurations": one["configurations"],
        "one_process_of_two_threads": one,
        "two_processes_of_one_thread": two,
        "configurations_per_s": two["configurations_per_s"],
        "ratio": two["configurations_per_s"] / one["configurations_per_s"],
    }
