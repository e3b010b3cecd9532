"""Runs toy scans in processes of their own, forked from one that has imported everything: that is most of what a toy
scan takes. A line of JSON asks for one, a line with its process number answers; its exit code stands in a file."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

LONGEST_S = 300


def serve() -> None:
    """Forks a process for every request until there are no more."""
    import jax.numpy  # noqa: F401

    import jaxperf.scan.native
    import jaxperf.scan.runner  # noqa: F401
    from tests.scan import toy

    files: dict[int, Path] = {}
    ended: dict[int, int] = {}

    def note(*_: Any) -> None:
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not process:
                break
            ended[process] = os.waitstatus_to_exitcode(status)
        for process in files.keys() & ended.keys():
            file, code = files.pop(process), ended.pop(process)
            file.with_suffix(".new").write_text(str(code), encoding="utf-8")
            file.with_suffix(".new").rename(file)

    signal.signal(signal.SIGCHLD, note)
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # JAX warns of forks: here it has not started anything yet
            child = os.fork()
        if not child:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.alarm(LONGEST_S)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for name, place in (("out", 1), ("err", 2)):
                os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), place)
            sys.exit(toy.run(request["settings"]))
        files[child] = Path(request["code"])
        note()
        print(child, flush=True)


if __name__ == "__main__":
    serve()
