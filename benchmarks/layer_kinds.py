"""What the parts of recurrent hybrids and of wide residuals cost: each model as it is, and with that part changed.

    python benchmarks/layer_kinds.py [--markdown]

Every row is one model on one machine: the time of a step (or of a prompt) as the model is, and with a part replaced by
what a usual transformer has, or left out. docs/layer-kinds.md quotes the ratios.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jaxperf
from jaxperf.load import evaluate_quick
from jaxperf.spec.library import find
from jaxperf.spec.model import as_arrays, build_model


@dataclass(frozen=True)
class Case:
    """A part of a model: where it is asked about, what changes it, and what is published of its cost."""

    what: str
    model: str
    system: str
    degrees: dict[str, int]
    isl: int
    batch: int
    change: Callable[[dict], None]
    published: str = ""


def _residual(document: dict) -> None:
    document |= {"residual_streams": 1, "residual_block_layers": 0}
    for group in document["layer_groups"]:
        group["attention"]["extra_projections"] -= _mixers(document, group)


def _mixers(document: dict, group: dict) -> int:
    """Elements of a layer's two hyper-connection mixers, which go with the streams: 2·(n² + 2n)·n·D for n = 4."""
    return 2 * 24 * 4 * document["hidden_size"] if group["attention"]["kind"] == "compressed" else 0


def _recurrent(document: dict, **changes: Any) -> None:
    for group in document["layer_groups"]:
        if group["attention"]["kind"] in ("linear", "state-space"):
            group["attention"] |= changes


def _full(document: dict) -> None:
    """Every recurrent layer attends like the model's own attention layers."""
    groups = document["layer_groups"]
    usual = next(g["attention"] for g in groups if g["attention"]["kind"] in ("grouped-query", "latent"))
    for group in groups:
        if group["attention"]["kind"] in ("linear", "state-space"):
            group["attention"] = copy.deepcopy(usual)


CASES = [
    Case(
        "attention residuals, against ordinary ones",
        *("kimi-k3", "gb200-nvl72", {"tp": 8, "ep": 8}, 8192, 64, _residual, "< 2 % (arXiv:2603.15031, §4)"),
    ),
    Case(
        "hyper-connections of 4 streams, against ordinary residuals",
        *("deepseek-v4-pro", "gb200-nvl72", {"tp": 8, "ep": 8}, 8192, 64, _residual),
        "6.7 % of training, 27B (arXiv:2512.24880)",
    ),
    Case(
        "the same, each rank with sequences of its own (attention DP 8)",
        *("deepseek-v4-pro", "gb200-nvl72", {"attention_dp": 8, "ep": 8}, 8192, 64, _residual),
    ),
    Case(
        "products inside a chunk of 64, against chunks of one token",
        *("qwen3.5-397b-a17b", "h200-8", {"tp": 8, "ep": 8}, 8192, 64),
        lambda document: _recurrent(document, state_chunk_tokens=1),
    ),
    Case(
        "gated delta, against full attention in every layer, 128k tokens",
        *("qwen3.5-397b-a17b", "h200-8", {"tp": 8, "ep": 8}, 131072, 16, _full),
    ),
    Case(
        "Kimi delta attention, against MLA in every layer, 128k tokens",
        *("kimi-k3", "gb200-nvl72", {"tp": 8, "ep": 8}, 131072, 16, _full),
    ),
    Case(
        "Mamba-2, against full attention in its place, 128k tokens",
        *("nemotron-h-56b", "h200-8", {"tp": 8}, 131072, 16, _full),
    ),
]


def measure(case: Case) -> dict[str, Any]:
    """TTFT and TPOT [s] of the model as it is and as changed, and their ratios."""
    document = find("model", case.model).document
    changed = copy.deepcopy(document)
    case.change(changed)
    system = jaxperf.load_system(case.system)
    deployed = as_arrays(jaxperf.deployment(case.model, **case.degrees, system=case.system))
    work = as_arrays(jaxperf.workload(case.isl, 256, case.batch))
    times = [evaluate_quick(as_arrays(build_model(d)), system, deployed, work) for d in (document, changed)]
    pairs = {name: [float(getattr(metrics, name)) for metrics in times] for name in ("ttft", "tpot")}
    return {name: {"as_it_is_s": one, "changed_s": two, "ratio": one / two} for name, (one, two) in pairs.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="a table for the page")
    arguments = parser.parse_args()
    if arguments.markdown:
        print("| part | model, tokens, batch | TTFT × | TPOT × | published |")
        print("|---|---|---|---|---|")
    for case in CASES:
        found = measure(case)
        ratios = [f"{found[name]['ratio']:.3f}" for name in ("ttft", "tpot")]
        place = f"{case.model} on {case.system}, {case.isl:,}, {case.batch}"
        cells = [case.what, place, *ratios, case.published]
        print("| " + " | ".join(cells) + " |" if arguments.markdown else "  ".join(cells))


if __name__ == "__main__":
    main()
