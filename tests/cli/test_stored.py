"""Programs that the command line keeps whole: found again, and whole also where JAX's own cache knows them."""

from __future__ import annotations

import os
from pathlib import Path

from .conftest import Call

WORDS = ("estimate", "--model", "gpt2", "--system", "rtx-4090-1", "--isl", 9, "--osl", 9)


def test_a_program_kept_for_the_second_time_still_runs(call: Call, tmp_path: Path) -> None:
    environment = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    first = call(*WORDS, **environment)
    kept = sorted(tmp_path.rglob("jaxperf-*.bin"))
    assert first.returncode == 0 and len(kept) == 1
    assert not list(tmp_path.rglob("jit_kept_*"))
    for path in kept:
        os.unlink(path)  # as after a change of the sources that leaves the program as it was
    for _ in range(2):
        again = call(*WORDS, **environment)
        assert (again.returncode, again.stderr) == (0, "")
        assert again.stdout == first.stdout


def test_a_broken_program_is_made_again(call: Call, tmp_path: Path) -> None:
    environment = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    first = call(*WORDS, **environment)
    [path] = tmp_path.rglob("jaxperf-*.bin")
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"not a program"):
        path.write_bytes(broken)
        again = call(*WORDS, **environment)
        assert (again.returncode, again.stdout, again.stderr) == (0, first.stdout, "")
        assert len(path.read_bytes()) > len(whole) // 2
