"""Massive configuration scans: millions of layouts, batches and lengths, reduced on the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..callable_module import make_callable
from .execute import Progress
from .keep import Keep
from .plan import UNIT
from .processes import LostProcessError, Processes, connect
from .result import GroupResult, ScanResult
from .runner import Settings, run
from .space import Space, build_space, load_space

__all__ = [
    "GroupResult",
    "Keep",
    "LostProcessError",
    "Processes",
    "Progress",
    "ScanResult",
    "Space",
    "build_space",
    "connect",
    "load_space",
    "scan",
]


def scan(
    space: Space | dict | str | None = None,
    progress: Callable[[Progress], None] | None = None,
    *,
    keep: Keep | None = None,
    table: str | Path | None = None,
    journal: str | Path | None = None,
    resume: bool = False,
    devices: int = 1,
    backend: str | None = None,
    memory: float | None = None,
    unit: int = UNIT,
    processes: Processes | None = None,
) -> ScanResult:
    """Evaluates every configuration of a space and keeps, for each model and workload, the exact Pareto frontier of the
    objectives, the best configuration of each, and counts by reason of infeasibility; more where `keep` says so.

    Of configurations that are equal in all objectives, the first in the scan's own fixed order is kept. Neither blocks
    nor devices nor processes change what is found.

    **Arguments:** a `Space`, its dict form, the path of a TOML file, or None for the embedded default space;
    `progress`, called after each block; what to `keep`; a `table` of all configurations to write (.parquet or .csv);
    a `journal` of finished units, and whether to `resume` from it; how many of this process's `devices` to use (0: all
    of them); the `backend`, "native" (machine code for one CPU) or "xla" (any devices), None for the fastest; `memory`
    that blocks may take [bytes]; configurations of a `unit`; the `processes` that share the scan.

    **Returns:** `ScanResult`. **Raises** `InputError` for a space that is wrong or holds no configuration, and for a
    journal that is of another scan.
    """
    if space is None or isinstance(space, str):
        space = load_space(space)
    elif isinstance(space, dict):
        space = build_space(space, "space")
    settings = Settings(
        keep=keep or Keep(),
        table=None if table is None else Path(table),
        journal=None if journal is None else Path(journal),
        resume=resume,
        devices=devices,
        backend=backend,
        memory=memory,
        unit=unit,
        processes=processes or Processes(),
    )
    return run(space, settings, progress)


make_callable(__name__, scan)
