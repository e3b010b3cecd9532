"""DeepSeek-V3 as its makers and others serve it on H800 and H100 nodes: published figures beside ours, term by term.

    python benchmarks/deepseek_v3.py [--markdown]

Everything goes through `jaxperf.estimate`; the default efficiency is the one that is fitted to kernels of other systems
and never saw these figures. `--markdown` prints the tables of docs/deepseek-v3.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax

import jaxperf
from jaxperf.phases.end_to_end import Metrics
from jaxperf.stages.routing import distinct_ranks

MOE_LAYERS, LAYERS, HIDDEN, EXPERTS, CHOSEN = 58, 61, 7168, 256, 8
PRINTED = dict(layers=LAYERS, tokens=32, paths=9, hidden=7000, bytes_=1 + 2, bandwidth=50e9)
"""The bound of arXiv:2505.09343, section 2.3.2: fp8 dispatch and bf16 combine of 32 tokens, for two half batches."""

REDUNDANT = {"experts": {"redundant": 32, "placement": "balanced"}, "two_batch_overlap": True}
FORWARD = {"expert_forwarding": True}


@dataclass(frozen=True)
class Published:
    """A published throughput of a node of eight devices [tokens/s], and the question that it answers."""

    name: str
    system: str
    tokens_per_s: float
    source: str
    question: dict[str, Any]
    phase: str


DECODE = (
    Published(
        "DeepSeek, production (February 2025)",
        "h800-8",
        14_800,
        "open-infra-index, day 6: EP144, 2 + 1 experts a GPU, 4,989 cached tokens, 20 to 22 tokens/s a user",
        # 14,800/8 tokens/s a GPU at 21 tokens/s a user are 88 sequences; prompt and half the output are 4,989 tokens.
        dict(ep=144, attention_dp=144, batch=88 * 144, isl=4000, osl=1978, settings=REDUNDANT),
        "decode",
    ),
    Published(
        "RTP-LLM, benchmark",
        "h800-8",
        14_700,
        "RTP-LLM, DeepSeek replay report: 4k in, 2k out, 50 ms a token, TP 1, DP = EP",
        dict(ep=144, attention_dp=144, batch=92 * 144, isl=4096, osl=2048, settings=REDUNDANT),
        "decode",
    ),
    Published(
        "SGLang, benchmark",
        "h100-sxm-8",
        22_300,
        "LMSYS, large-scale EP (May 2025): EP72, 256 sequences a GPU of 2,000 tokens, about 100 ms a token",
        dict(ep=72, attention_dp=72, batch=256 * 72, isl=2000, osl=200, settings=REDUNDANT),
        "decode",
    ),
)

PREFILL = (
    Published(
        "DeepSeek, production, without the 56.3 % that hit the cache",
        "h800-8",
        73_700 * (1 - 0.563),
        "open-infra-index, day 6: EP32, 9 + 1 experts a GPU; profile-data: 4k prompts, 16k tokens a GPU",
        dict(ep=32, attention_dp=32, prefill_batch=4 * 32, isl=4096, osl=1, settings=REDUNDANT | FORWARD),
        "prefill",
    ),
    Published(
        "RTP-LLM, benchmark",
        "h800-8",
        42_600,
        "RTP-LLM, DeepSeek replay report: 4k in, TTFT up to 1.6 s",
        dict(ep=32, attention_dp=32, prefill_batch=4 * 32, isl=4096, osl=1, settings=REDUNDANT | FORWARD),
        "prefill",
    ),
    Published(
        "SGLang, benchmark",
        "h100-sxm-8",
        52_300,
        "LMSYS, large-scale EP (May 2025): EP32, 2,000 tokens a prompt, 16k a GPU",
        dict(ep=32, attention_dp=32, prefill_batch=8 * 32, isl=2000, osl=1, settings=REDUNDANT | FORWARD),
        "prefill",
    ),
)

LOW_LATENCY = ((8, 77, 114), (16, 118, 195), (32, 155, 273), (64, 173, 314), (128, 192, 369), (256, 194, 360))
"""DeepEP's README, low-latency kernels on H800: ranks, dispatch and combine of 128 tokens [µs]."""


def priced(case: Published, efficiency: str) -> Metrics:
    """`Metrics` of a published deployment."""
    return jaxperf.estimate("deepseek-v3", case.system, weights="fp8", efficiency=efficiency, **case.question)


def without_forwarding(case: Published) -> Published:
    """The same with plain exchanges."""
    return replace(case, question=case.question | {"settings": REDUNDANT})


def node_rate(case: Published, metrics: Metrics) -> float:
    """Tokens per second of a node of eight devices."""
    nodes = case.question["ep"] / 8
    if case.phase == "decode":
        return case.question["batch"] / float(metrics.tpot) / nodes
    return case.question["prefill_batch"] * case.question["isl"] / float(metrics.prefill.time) / nodes


def printed_bound(layers: float, tokens: float, paths: float, hidden: float, bytes_: float, bandwidth: float) -> float:
    """Two exchanges a layer of both operands [s]: layers·2·tokens·paths·hidden·bytes/bandwidth."""
    return layers * 2 * tokens * paths * hidden * bytes_ / bandwidth


def bound_terms() -> list[tuple[str, float]]:
    """From the bound as printed to jaxperf's own network time of that step, one change after the other [s]."""
    ranks = 256
    ours = jaxperf.estimate(
        "deepseek-v3",
        "h800-8",
        weights="fp8",
        efficiency="ideal",
        ep=ranks,
        attention_dp=ranks,
        batch=64 * ranks,
        isl=4000,
        osl=2,
        settings={"two_batch_overlap": True},
    )
    reached = float(distinct_ranks(float(EXPERTS), float(CHOSEN), float(ranks)))
    outside = (ranks - 8) / ranks
    changes = [
        ("as printed: 61 layers, 9 paths, 7,000 wide, 3 bytes, 50 GB/s", {}),
        ("a hidden state of 7,168", dict(hidden=HIDDEN)),
        ("the 58 layers that have experts", dict(layers=MOE_LAYERS)),
        ("8 routed experts; the shared one is on every GPU", dict(paths=CHOSEN)),
        (f"{reached:.2f} ranks reached by the 8", dict(paths=reached)),
        ("of 256 ranks, 8 are in the own node and use NVLink", dict(paths=reached * outside)),
    ]
    rows, values = [], dict(PRINTED)
    for name, change in changes:
        values |= change
        rows.append((name, printed_bound(**values)))
    inside = 7 / ranks / 200e9 * values["tokens"] * reached * HIDDEN * 3 * 2 * MOE_LAYERS
    rows.append(("those 7, over NVLink", rows[-1][1] + inside))
    latency = MOE_LAYERS * 4 * (0.6e-6 + 2.8e-6)
    rows.append(("α of four exchanges a layer, 0.6 + 2.8 µs", rows[-1][1] + latency))
    rows.append(("jaxperf's network time of the step, ideal efficiency", float(ours.decode.network)))
    return rows


def exchange_rows() -> Iterator[tuple[int, str, float, float, float]]:
    """DeepEP's measured exchanges and ours: ranks, which, measured, by the ideal and the default efficiency [s]."""
    from jaxperf.collectives.topology import collective_time
    from jaxperf.load import load_efficiency, load_system
    from jaxperf.ops import EXACT

    fabric = load_system("h800-8").fabric
    for ranks, dispatch, combine in LOW_LATENCY:
        for name, measured, width in (("dispatch", dispatch, 1 + 4 / 128), ("combine", combine, 2.0)):
            size = 128.0 * CHOSEN * HIDDEN * width
            ideal, usual = (
                float(collective_time("all-to-all", size, float(ranks), 1.0, fabric, load_efficiency(how), EXACT, "ep"))
                for how in ("ideal", "default")
            )
            yield ranks, name, measured * 1e-6, ideal, usual


def changed(case: Published, **settings: Any) -> Published:
    """The same with other settings of the engine."""
    return replace(case, question=case.question | {"settings": case.question["settings"] | settings})


def skewed(case: Published, skew: float) -> Published:
    """The same with experts that are not equally popular."""
    return changed(case, experts=REDUNDANT["experts"] | {"skew": skew})


def parts(metrics: Metrics, phase: str) -> str:
    """What a phase is made of [ms]."""
    cost = getattr(metrics, phase)
    return ", ".join(
        f"{name} {1e3 * float(getattr(cost, name)):.1f}" for name in ("compute", "memory", "network", "overhead")
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="the tables of docs/deepseek-v3.md")
    parser.parse_args()
    with jax.enable_x64(True):
        print("| step | ms |\n|---|---|")
        for name, value in bound_terms():
            print(f"| {name} | {1e3 * value:.2f} |")
        print("\n| deployment | published, a node | default | ideal | time, default [ms] | its parts [ms] |")
        print("|---|---|---|---|---|---|")
        for case in (*DECODE, *PREFILL, *map(without_forwarding, PREFILL)):
            usual, ideal = priced(case, "default"), priced(case, "ideal")
            time = usual.tpot if case.phase == "decode" else usual.prefill.time
            rate = node_rate(case, usual)
            plain = case.phase == "prefill" and "expert_forwarding" not in case.question["settings"]
            print(
                f"| {case.phase}{', plain exchanges' * plain}: {case.name} | {case.tokens_per_s:,.0f} | {rate:,.0f} "
                f"({100 * (rate / case.tokens_per_s - 1):+.0f} %) | {node_rate(case, ideal):,.0f} "
                f"| {1e3 * float(time):.1f} | {parts(usual, case.phase)} |"
            )
        print("\nDecode in production, other assumptions, default efficiency:")
        for skew in (0.0, 0.3, 0.5, 0.8):
            case = skewed(DECODE[0], skew)
            print(f"  skew {skew}: {node_rate(case, priced(case, 'default')):,.0f} tokens/s a node")
        in_turn = priced(changed(DECODE[0], collectives=["ring", "double-tree", "direct", "in-network"]), "default")
        print(f"  messages beyond a node one after the other: network {1e3 * float(in_turn.decode.network):.0f} ms")
        print("\n| ranks | exchange | measured [µs] | default [µs] | ideal [µs] |\n|---|---|---|---|---|")
        for ranks, name, measured, ideal, usual in exchange_rows():
            print(f"| {ranks} | {name} | {1e6 * measured:.0f} | {1e6 * usual:.0f} | {1e6 * ideal:.0f} |")


if __name__ == "__main__":
    main()
