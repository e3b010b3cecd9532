"""Programs that the command line keeps whole: found again, and whole also where JAX's own cache knows them."""

from __future__ import annotations

from pathlib import Path

from .conftest import Call

WORDS = ("estimate", "--model", "gpt2", "--system", "rtx-4090-1", "--isl", 9, "--osl", 9)


def test_a_broken_program_is_made_again_and_kept_whole(call: Call, tmp_path: Path) -> None:
    """Also where JAX's own cache knows it: what that gives back has lost functions."""
    environment = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    first = call(*WORDS, **environment)
    [path] = tmp_path.rglob("jaxperf-*.bin")
    assert first.returncode == 0
    assert not list(tmp_path.rglob("jit_kept_*"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        again = call(*WORDS, **environment)
        assert (again.returncode, again.stderr) == (0, "")
        assert again.stdout == first.stdout
    assert len(path.read_bytes()) > len(whole) // 2
