"""How many configurations a second: a space through all five stages, reduced on the device; compile time apart.

Every configuration passes prefill, decode, end to end, memory and feasibility. Measured are two forms (the product of
axes, and a flat list in random order of which nothing is said) with three reductions (the best of two objectives, their
exact Pareto frontier, the hundred best), float32 and float64, one core and all; a list of which nothing is shared
(`alone`); a gradient with respect to eight scalars of the hardware; two processes against one; and what the cores can
do at most, so that each rate has a share.
Every case is a process of its own, so that its memory, its width and its cores are its own. Prints and writes JSON.

    python benchmarks/scan_speed.py [--only product-max,flat-max] [--models N] [--repeats N] [--json FILE] [--full]

Without `--full`, other widths and one core are measured for `max` alone, and the gradient of the product alone.
`python benchmarks/scan_speed.py --only product-pareto --models 6` is the whole default space of 348 million. With
`--merge` the cases of FILE that are not measured now stay; each says what it ran over.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

from jaxperf.cli.scan import wide_vectors
from jaxperf.errors import InputError, nearest
from jaxperf.spec.library import write_text

FORMS, REDUCTIONS = ("product", "flat"), ("max", "pareto", "top")
CASES = (*(f"{f}-{r}" for f in FORMS for r in REDUCTIONS), "alone", "gradient", "processes")
MARK = "measured: "


@dataclasses.dataclass(frozen=True)
class Case:
    """One process's work: its name, width of floats [bits], cores (0: all), whether to describe the program."""

    name: str
    width: int
    cores: int
    describe: bool = False


def all_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cases(only: list[str], widths: list[int], cores: list[int], full: bool) -> Iterator[Case]:
    """The cases to run, the machine's own figures before those that refer to them."""
    first = (widths[0], cores[-1])
    for width in widths:
        for count in cores:
            found = []
            for name in only:
                kind, _, reduction = name.partition("-")
                plain = (width, count) == first
                if name in ("processes", "gradient", "alone"):
                    wanted = plain
                else:
                    wanted = plain or full or reduction == "max"
                if wanted:
                    counts = name == "alone" or reduction == "max" or full or len(only) == 1
                    describe = counts and kind in (*FORMS, "alone") and count == cores[-1]
                    found.append(Case(name, width, count, describe))
            if any(case.name != "processes" for case in found):
                yield Case("machine", width, count)
            yield from found


def run_here(case: Case, work: Any) -> dict[str, Any]:
    """Measures one case in this process."""
    if case.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: case.cores])
    wide_vectors()
    import equinox
    import jax

    import jaxperf

    jax.config.update("jax_enable_x64", case.width == 64)
    from speed import cases as forms
    from speed import gradient, machine, processes

    work = forms.Work(**work)
    kind, _, rest = case.name.partition("-")
    if case.name == "machine":
        found: dict[str, Any] = machine.measure()
    elif case.name == "processes":
        found = processes.measure(work)
    elif kind == "gradient":
        found = gradient.measure(work)
    elif kind == "alone":
        found = forms.flat(work, "max", case.describe, one_by_one=True)
    else:
        found = (forms.product if kind == "product" else forms.flat)(work, rest, case.describe)
    versions = {"jaxperf": jaxperf.__version__, "jax": jax.__version__, "equinox": equinox.__version__}
    versions["llvmlite"] = metadata.version("llvmlite")
    return found | {"device_kind": jax.devices()[0].device_kind, "versions": versions}


def run_apart(case: Case, work: dict[str, Any]) -> dict[str, Any]:
    """Measures one case in a process of its own; a failure is a figure, too."""
    before = os.getloadavg()[0]
    done = subprocess.run(
        [sys.executable, __file__, "--case", json.dumps([dataclasses.asdict(case), work])],
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, Any] = {"case": case.name, "dtype": f"float{case.width}", "cores": case.cores}
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return found | {"failed": reason[-300:]}
    return found | json.loads(lines[-1].removeprefix(MARK)) | {"load_before": before}


def with_shares(found: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    """A case with its shares of the machine's peaks.

    FLOPs are those of the case's own program, or of `max` in the same form and width, whose work is the same but for
    the reduction. The bytes of a flat list's own arrays truly come from memory.
    """
    kind = found["case"].partition("-")[0]
    if kind not in (*FORMS, "alone"):
        return found

    def like(case: str, **keys: Any) -> dict[str, Any]:
        return next((r for r in results if r["case"] == case and all(r.get(k) == v for k, v in keys.items())), {})

    peaks = like("machine", dtype=found["dtype"], cores=found["cores"])
    own, key = found if "flops_per_configuration" in found else {}, "flops_per_configuration"
    program = own or next(
        (r for r in results if r["case"] == f"{kind}-max" and r["dtype"] == found["dtype"] and key in r), {}
    )
    rate = found["configurations_per_s"]
    for share, amount, peak in (
        ("share_of_vector_peak", program.get("flops_per_configuration"), peaks.get("vector_peak_flops_per_s")),
        ("share_of_read_bandwidth", found.get("list_bytes_per_configuration"), peaks.get(_READ)),
    ):
        if amount and peak:
            found[share] = rate * amount / peak
    return found


_READ = "read_bytes_per_s"


def line(found: dict[str, Any]) -> str:
    """One case as a line of the table."""
    head = f"{found['case']:17s} {found['dtype']}  {found['cores']} cores  "
    if "failed" in found:
        return f"{head}failed: {found['failed']}"
    if found["case"] == "machine":
        return f"{head}{found['vector_peak_flops_per_s'] / 1e9:.0f} GFLOP/s, reads {found[_READ] / 1e9:.1f} GB/s"
    parts = [f"{found['configurations_per_s'] / 1e6:9.3f} M/s"]
    if found["case"] == "processes":
        one = max(found["one_process_of_two_threads_per_s"])
        return f"{head}{parts[0]} by two of one thread, {one / 1e6:.3f} by one of two: {found['ratio']:.2f} ×"
    parts += [f"{found['cpu_ns_per_configuration']:8.1f} cpu-ns", f"compiled in {found['compile_s']:5.1f} s"]
    if "ratio_to_forward" in found:
        parts.append(f"{found['ratio_to_forward']:.2f} × the time of the value alone")
    if "flops_per_configuration" in found:
        parts.append(f"{found['flops_per_configuration']:,.0f} FLOP each")
    for key, text in (("share_of_vector_peak", "of vector peak"), ("share_of_read_bandwidth", "of read bandwidth")):
        if key in found:
            parts.append(f"{100 * found[key]:.1f} % {text}")
    parts.append(f"peak {found['peak_memory_bytes'] / 2**30:.2f} GiB")
    return head + ", ".join(parts)


def processor() -> str:
    """The processor's name, as far as the system says."""
    named = (
        re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        if os.path.exists("/proc/cpuinfo")
        else None
    )
    return named[1] if named else platform.processor() or platform.machine()


def document(results: list[dict[str, Any]], before: list[dict[str, Any]]) -> dict[str, Any]:
    """The results as JSON, after those of `before` that are not measured anew; the figures of the leading case (the
    frontier of the product, else the first) at the top."""

    def name(found: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(found[key] for key in ("case", "dtype", "cores"))

    measured = {name(r) for r in results}
    plain = [r for r in before if name(r) not in measured]
    plain += [{k: v for k, v in r.items() if k not in ("versions", "device_kind")} for r in results]
    timed = [r for r in plain if "runs" in r]
    lead = next((r for r in timed if r["case"] == "product-pareto"), timed[0] if timed else {})
    some = next((r for r in results if "versions" in r), {})
    kept = ("case", "dtype", "cores", "configurations", "configurations_per_s", "peak_memory_bytes", "runs")
    return {
        "date": str(date.today()),
        "device": f"{some.get('device_kind', 'unknown')}, {all_cores()} cores, {processor()}",
        "versions": some.get("versions", {}),
        "load_after": os.getloadavg()[0],
        **{key: lead[key] for key in kept if key in lead},
        "cases": plain,
    }


def numbers(text: str, option: str, allowed: tuple[int, ...]) -> list[int]:
    """A comma-separated list of whole numbers. **Raises** `InputError` for one that is not allowed."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not word.isdigit() or int(word) not in allowed:
            raise InputError(f"{option}: '{word}' is not one of {', '.join(map(str, allowed))}")
    return [int(word) for word in words]


def main() -> int:
    """Reads the options, measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CASES), metavar="CASES", help=f"of {', '.join(CASES)}")
    parser.add_argument("--models", type=int, default=1, help="how many models of the space (default 1 of 6)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each case; the fastest counts")
    parser.add_argument("--space", metavar="FILE", help="another space than the default one")
    parser.add_argument("--flat", type=int, default=2**23, help="length of a model's flat list")
    parser.add_argument("--widths", default="32,64", help="bits of a float")
    parser.add_argument("--cores", help="numbers of cores (default 1 and all)")
    parser.add_argument("--full", action="store_true", help="every case at every width and number of cores")
    parser.add_argument("--json", "--out", type=Path, metavar="FILE", dest="out", help="where to write the results")
    parser.add_argument("--merge", action="store_true", help="keep the cases of FILE that are not measured now")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        case, work = json.loads(arguments.case)
        print(MARK + json.dumps(run_here(Case(**case), work)))
        return 0
    try:
        only = [name.strip() for name in arguments.only.split(",")]
        for name in only:
            if name not in CASES:
                raise InputError(f"--only: no case '{name}'; {nearest(name, CASES)}")
        for option in ("models", "repeats", "flat"):
            if getattr(arguments, option) < 1:
                raise InputError(f"--{option}: {getattr(arguments, option)} is below 1")
        many = all_cores()
        cores = numbers(arguments.cores or f"1,{many}", "--cores", tuple(range(1, many + 1)))
        plan = list(cases(only, numbers(arguments.widths, "--widths", (32, 64)), sorted(set(cores)), arguments.full))
    except InputError as error:
        print(f"scan_speed: {error}", file=sys.stderr)
        return 2
    work = {key: getattr(arguments, key) for key in ("space", "models", "flat", "repeats")}
    results: list[dict[str, Any]] = []
    for case in plan:
        found = run_apart(case, work)
        results.append({"work": work} | (found if "failed" in found else with_shares(found, results)))
        print(line(results[-1]), flush=True)
    if arguments.out:
        kept = arguments.merge and arguments.out.exists()
        before = json.loads(arguments.out.read_text(encoding="utf-8"))["cases"] if kept else []
        write_text(arguments.out, json.dumps(document(results, before), indent=2) + "\n")
    return 1 if any("failed" in found for found in results) else 0


if __name__ == "__main__":
    sys.exit(main())
