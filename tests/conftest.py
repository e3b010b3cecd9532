"""Settings of the whole suite: JAX's strict modes, hypothesis profile, and the folder of reference figures.

`JAXPERF_TEST_X64=0` runs the suite in float32, as the scans do; the default is float64."""

from __future__ import annotations

import atexit
import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Programs here run once: compiling them without LLVM's optimisations halves the suite. Before JAX is imported. (XLA's
# older loop emitters, which `jaxperf.compiling` uses for small programs, die on the search's gradients.)
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()

# One cache of compiled programs for the run: the workers, the command lines and the notebook share it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = tempfile.TemporaryDirectory(prefix="jaxperf-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    atexit.register(cache.cleanup)

import hypothesis
import jax
import pytest

from .commands import Commands

# Traces make many objects that all stay: looking for garbage among them takes long, and finds little.
gc.set_threshold(100_000, 50, 100)

X64 = os.environ.get("JAXPERF_TEST_X64", "1") != "0"

jax.config.update("jax_enable_x64", X64)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

hypothesis.settings.register_profile(
    "jaxperf",
    deadline=None,
    max_examples=40,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("jaxperf")


def reference_folder() -> Path:
    """The folder of published figures beside the checkout."""
    return Path(__file__).parents[1].parent / "shared" / "reference"


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of published figures; the test is skipped where it is absent."""
    folder = reference_folder()
    if not folder.is_dir():
        pytest.skip(f"the reference figures are absent: no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """The command line, with a cache that all workers share (see `Commands`)."""
    cache = tmp_path_factory.getbasetemp().parent / "jaxperf-cli-cache"
    commands = Commands(tmp_path_factory.mktemp("commands"), cache)
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def rtol() -> float:
    """Relative tolerance of a number that went through the compiled kernels."""
    return 1e-5 if X64 else 5e-4


LONGEST = (
    *("test_search", "test_scan", "test_calibrate", "test_notebooks"),
    *("test_scan_cli", "test_groups", "test_options", "test_exact", "test_resume", "test_reductions"),
)
"""Modules that take a worker a minute or more: they begin first, so that no worker is left alone with one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long modules first; in float32 leave out what compares finite differences or exact integers beyond 2^24."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))
    if X64:
        return
    for item in items:
        if item.get_closest_marker("float64"):
            item.add_marker(pytest.mark.skip(reason="finite differences and sums to the last bit need float64"))
