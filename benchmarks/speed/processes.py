"""Two processes of one thread each against one process of two: the same scan, shared by the library's own processes.

Each scans once to compile, then all begin together and the first one's clock runs until all parts are merged."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from jaxperf.cli.scan import wide_vectors
from jaxperf.scan.processes import Processes, connect

UNIT = 2**20
"""Configurations of a unit: so many that a dozen of them share out evenly."""


class Round(Processes):
    """The same processes for one of several scans: what they exchange has its own names."""

    def exchange(self, key: str, data: bytes) -> list[bytes]:
        """As in `Processes`, under names of this scan's."""
        _ROUNDS.setdefault(key, 0)
        _ROUNDS[key] += 1
        return super().exchange(f"{key}-{_ROUNDS[key]}", data)


_ROUNDS: dict[str, int] = {}


def share(work: dict[str, Any], address: str, count: int, index: int) -> list[float]:
    """Scans as one of `count` processes; rates of all scans but the first [1/s]."""
    wide_vectors()
    mine = connect(address, count, index)
    from jaxperf.scan import scan

    from .cases import KEEP, Work

    held, rates = Work(**work), []
    for number in range(held.repeats + 1):
        together = Round(mine.index, mine.count, mine.client)
        together.exchange("ready", b"")
        result = scan(held.load(), keep=KEEP["pareto"], unit=UNIT, processes=together)
        rates += [result.configurations_per_s] if number else []
    together.exchange("done", b"")
    return rates


def _start(work: dict[str, Any], address: str, index: int, parts: list[list[int]]) -> subprocess.Popen[str]:
    folder = str(Path(__file__).parents[1])
    settings = json.dumps([work, address, len(parts), index])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])}
    return subprocess.Popen(
        [sys.executable, "-m", "speed.processes", settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, parts[index]),
    )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def rate(work: dict[str, Any], parts: list[list[int]]) -> list[float]:
    """Rates of a scan by as many processes as there are `parts` of the cores [1/s]."""
    address = f"127.0.0.1:{_free_port()}"
    running = [_start(work, address, index, parts) for index in range(len(parts))]
    outputs = [process.communicate() for process in running]
    if not outputs[0][0].strip():
        raise RuntimeError(f"a process gave no result: {' / '.join(errors.strip()[-200:] for _, errors in outputs)}")
    return json.loads(outputs[0][0].strip().splitlines()[-1])


def measure(work: Any) -> dict[str, Any]:
    """Rates of both, the fastest of each."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise RuntimeError("two cores are needed")
    settings = dataclasses.asdict(work)
    singles, pairs = rate(settings, [cores]), rate(settings, [[core] for core in cores])
    return {
        "one_process_of_two_threads_per_s": singles,
        "two_processes_of_one_thread_per_s": pairs,
        "configurations_per_s": max(pairs),
        "ratio": max(pairs) / max(singles),
    }


if __name__ == "__main__":
    print("\n" + json.dumps(share(*json.loads(sys.argv[1]))), flush=True)
    os._exit(0)  # whoever ends first would be a lost process to the other
