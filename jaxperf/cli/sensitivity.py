"""`jaxperf sensitivity`: which share of latency and throughput each bandwidth, peak and overhead is responsible for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import InfeasibleError
from .common import add_configuration, build, read_configuration
from .output import compile_cache, console, print_json, table
from .search import question_of

if TYPE_CHECKING:
    from ..search import Elasticities


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.description = (
        "Elasticities of TTFT, TPOT and output tokens per second: by how many percent each moves if a time of the "
        "hardware or runtime (an inverse bandwidth, an inverse peak, a latency, an overhead) grows by a percent. Those "
        "of a latency sum to 1: they are shares of it."
    )
    add_configuration(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(arguments: argparse.Namespace) -> int:
    """Compute and print the elasticities. **Raises** `InputError` for a name, a layout or a number that is wrong."""
    configuration = read_configuration(arguments)
    compile_cache()
    from ..load import evaluate_quick
    from ..phases.end_to_end import REASONS
    from ..search import elasticities

    metrics = evaluate_quick(*build(configuration))
    found = elasticities(configuration.model.path, configuration.system.path, **question_of(configuration))
    if arguments.json:
        print_json(
            {
                "model": configuration.model.name,
                "system": configuration.system.name,
                "metrics": found.values,
                "elasticities": [
                    {
                        "field": path,
                        "to": "inverse" if path.endswith(("_GBps", "_TFLOPS")) or "TFLOPS." in path else "value",
                        "ttft_s": found.ttft_s[path],
                        "tpot_s": found.tpot_s[path],
                        "output_tokens_per_s": found.output_tokens_per_s[path],
                    }
                    for path in found.fields
                ],
                "sums": {
                    "ttft_s": sum(found.ttft_s.values()),
                    "tpot_s": sum(found.tpot_s.values()),
                    "output_tokens_per_s": sum(found.output_tokens_per_s.values()),
                },
            }
        )
    else:
        show(configuration.model.name, configuration.system.name, found)
    if not metrics.feasible:
        reason = REASONS[int(metrics.reason)]
        raise InfeasibleError(f"{reason}: these are the elasticities of a configuration that cannot run")
    return 0


def show(model: str, system: str, found: Elasticities) -> None:
    """Print the shares as a table, with bars for TPOT where there is room."""
    from .estimate_tables import WIDE, bar, duration, figure

    out = console()
    values = found.values
    out.print(
        f"{model} on {system}: TTFT {duration(values['ttft_s'])}, TPOT {duration(values['tpot_s'])}, "
        f"{figure(values['output_tokens_per_s'])} output tokens/s",
        markup=False,
    )
    wide = out.width >= WIDE
    made = table("what limits it", "TTFT", "TPOT", "tokens/s")
    if wide:
        made.add_column("share of TPOT", no_wrap=True)
    for path in found.fields:
        cells = [_percent(column[path]) for column in (found.ttft_s, found.tpot_s, found.output_tokens_per_s)]
        made.add_row(label(path), *cells, *([bar(found.tpot_s[path], 24)] if wide else []))
    out.print(made)
    out.print(
        "1 % more of a time (an inverse bandwidth or peak, a latency, an overhead) moves a metric by this many "
        "hundredths of a percent.",
        markup=False,
    )


def label(path: str) -> str:
    """A field's path without the parts that all share: `hbm.bandwidth_GBps`, `peak_TFLOPS.fp8`, `host_step_us`."""
    for prefix in ("device.memory.", "device.", "fabric.", "efficiency.", "engine."):
        if path.startswith(prefix):
            return path.removeprefix(prefix)
    return path


def _percent(share: float) -> str:
    return "-" if abs(share) < 5e-4 else f"{100 * share:.1f} %"
