"""Runs toy scans in processes of their own, forked from one that has imported everything: that is most of what a toy
scan takes. A line of JSON asks for one, a line with its process number answers; its exit code stands in a file."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any


def serve() -> None:
    """Forks a process for every request until there are no more."""
    import jax.numpy  # noqa: F401

    import jaxperf.scan.native
    import jaxperf.scan.runner  # noqa: F401
    from tests.forking import fork
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
        child = fork(request["out"], request["err"])
        if not child:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            sys.exit(toy.run(request["settings"]))
        files[child] = Path(request["code"])
        note()
        print(child, flush=True)


if __name__ == "__main__":
    serve()
