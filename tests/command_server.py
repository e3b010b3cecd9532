"""Runs command lines in processes of their own, forked from one that has imported everything: starting Python and
importing JAX is most of what a short command takes. A line of JSON asks for one, a line with its exit code answers."""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import sys


def serve() -> None:
    """Forks a process for every request until there are no more."""
    import jax.numpy  # noqa: F401
    import matplotlib.figure  # noqa: F401

    import jaxperf.cli
    from tests.forking import fork

    for package in ("jaxperf", "jaxperf.cli", "jaxperf.scan", "jaxperf.search", "jaxperf.plots", "jaxperf.calibrate"):
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        child = fork(request["out"], request["err"])
        if not child:
            os.environ.update(request["environment"])
            sys.argv = ["jaxperf", *request["words"]]
            sys.exit(jaxperf.cli.main(request["words"]))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
