"""Tapes that the command line keeps: found again, and made again where they are broken."""

from __future__ import annotations

from pathlib import Path

from ..commands import Call

WORDS = ("estimate", "--model", "gpt2", "--system", "rtx-4090-1", "--isl", 9, "--osl", 9)


def test_a_broken_tape_is_made_again(call: Call, tmp_path: Path) -> None:
    environment = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    first = call(*WORDS, **environment)
    [path] = tmp_path.rglob("jaxperf-*.tape")
    assert first.returncode == 0
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"no tape"):
        path.write_bytes(broken)
        again = call(*WORDS, **environment)
        assert (again.returncode, again.stderr) == (0, "")
        assert again.stdout == first.stdout
        assert path.read_bytes() == whole
    assert call(*WORDS, **environment).stdout == first.stdout


def test_tapes_go_by_what_they_depend_on(call: Call, tmp_path: Path) -> None:
    """Other numbers play the same tape; the breakdown has one of its own."""
    environment = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    for words in (WORDS, (*WORDS, "--batch", 2), (*WORDS, "--json")):
        assert call(*words, **environment).returncode == 0
    assert sorted(path.name.split("-")[1] for path in tmp_path.rglob("jaxperf-*.tape")) == [
        "breakdown_columns",
        "evaluate",
    ]
