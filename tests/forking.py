"""Processes forked from one that has imported everything: what both servers of the tests do in a child."""

from __future__ import annotations

import os
import signal
import warnings

LONGEST_S = 300


def fork(out: str, err: str) -> int:
    """Forks; in the child, which is given so many seconds, standard output and errors go to files. Its number, 0 in the
    child."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of forks: here it has not started anything yet
        child = os.fork()
    if not child:
        signal.alarm(LONGEST_S)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for path, place in ((out, 1), (err, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), place)
    return child
