"""llm_perf's published case studies, by its own equations and by jaxperf's.

    python benchmarks/case_studies.py [--out benchmarks/results/case_studies.json]

GPT-1.8T MoE in fp4 on GB200 NVL72, context 8,192, as the tool's notebooks have it (github.com/spiceMonkey/llm_perf,
commit fdc49cc): all layouts of at most 72 devices with PP up to 8, batches up to what the paged KV cache carries, the
frontier of tokens per second and device against 1/TPOT. The system is the library's gb200-nvl72 with the tool's
figures: 192 GB, 8 TB/s, 2,250 TFLOP/s in fp16 (9,000 in fp4), NVLink at 900 GB/s, α 0.5 µs, one tier, no in-network
reduction. jaxperf runs at ideal efficiency with rings alone (as the studies do) and, as `best`, with the cheapest
algorithms.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from jaxperf.compat.llm_perf import evaluate as published
from jaxperf.compat.llm_perf import evaluate_cases as published_cases
from jaxperf.compat.llm_perf.build import build_case, structure_of
from jaxperf.compat.llm_perf.figures import figures
from jaxperf.compat.llm_perf.specs import prepared
from jaxperf.compiling import mapped
from jaxperf.load import deployment, evaluate_quick, load_model
from jaxperf.phases.end_to_end import evaluate
from jaxperf.phases.handoff import Link, disaggregated, handoff
from jaxperf.spec.library import find, set_path, validate
from jaxperf.spec.model import as_arrays
from jaxperf.spec.system import build_system
from jaxperf.spec.workload import Workload

MODEL: dict[str, Any] = dict(
    L=120, H=20480, n_q=128, n_kv=16, I_dense=0, vocab_size=128256, max_seq_len=8192, bytes_per_param=0.5
)
MODEL["moe"] = dict(n_experts=16, k_active=2, I_moe=14336, n_moe_layers=120)
CONTEXT, RESERVE_GB = 8192, 1.5
STAGES, POWERS = (1, 2, 3, 4, 5, 6, 8), (1, 2, 4, 8, 16)
UNBOUNDED = 1e4
"""A factor that stands for an infinite bandwidth."""
PUBLISHED_LAYOUT = (8, 8, 1, 1)
"""PP 8, TP 8, no expert or sequence parallelism: what the studies call the winner, and build on."""
PROMPTS = (2048, 4096, 8192, 16384, 32768)


class Point(NamedTuple):
    """One configuration: its layout (PP, TP, EP, and SP or attention data parallel), batch, tokens/s a device, TPOT."""

    layout: tuple[int, ...]
    batch: int
    rate: float
    tpot: float


def batches(most: int) -> list[int]:
    """The studies' batches up to `most`: 16 or more steps in the logarithm, and the powers of two."""
    if most <= 1:
        return [1]
    steps = max(int(math.log10(most) * 10), 16)
    spaced = {round(10 ** (i * math.log10(most) / steps)) for i in range(steps + 1)}
    return sorted({1, most} | spaced | {2**i for i in range(most.bit_length())})


def frontier(points: Iterable[Point]) -> list[Point]:
    """The points that nothing beats in both rate and 1/TPOT, by falling rate."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.rate, p.tpot)):
        if not kept or 1 / point.tpot > 1 / kept[-1].tpot + 1e-9:
            kept.append(point)
    return kept


def winners(points: Sequence[Point]) -> list[tuple[tuple[int, ...], int]]:
    """How many points of a frontier each layout holds, most first."""
    return Counter(point.layout for point in points).most_common()


def inputs(bandwidth: float = 1, links: float = 1, alpha: float = 1, peak: float = 1, **tuner: Any) -> dict:
    """The tool's inputs, with factors on memory bandwidth, link bandwidth, α and peak."""
    tier = dict(ports=72, bw_per_port_GBps=900.0 * links, alpha_us=0.5 * alpha)
    device = dict(hbm_capacity_GB=192.0, hbm_bandwidth_GBps=8000.0 * bandwidth, peak_flops_TF=2250.0 * peak)
    system: dict[str, Any] = dict(num_devices=72, device=device, fabrics={"nvlink": {"tiers": [tier]}})
    system["collective_fabrics"] = {axis: ["nvlink"] for axis in ("TP", "EP", "SP", "PP")}
    return dict(
        model=MODEL,
        system=system,
        partition=dict(PP=1, TP=1, EP=1, SP=1),
        tuner=dict(S_decode=CONTEXT) | tuner,
        paging=dict(block_size=16, system_overhead_GB=RESERVE_GB),
    )


def share(points: Sequence[Point], place: int, value: int) -> float:
    """Share of a frontier's points whose layout has a value at a place."""
    return sum(point.layout[place] == value for point in points) / len(points)


def mean_tp(points: Sequence[Point]) -> float:
    """Geometric mean of TP over a frontier's points."""
    return math.exp(sum(math.log(point.layout[1]) for point in points) / len(points))


def partitions(devices: int = 72, widest: int = 72) -> list[tuple[int, ...]]:
    """The studies' layouts (PP, TP, EP, SP): TP and EP up to 16, together at most the scale-up domain."""
    sequence = (1, 2, 4, 8, 16, 32, 64)
    grid = itertools.product(STAGES, POWERS, POWERS, sequence)
    return [p for p in grid if math.prod(p) <= devices and p[1] * p[2] <= widest]


@functools.cache
def _published_program() -> Any:
    def one(case: Any, row: Any) -> tuple:
        layout, batch = row[:4], row[4]
        case = eqx.tree_at(
            lambda c: (c.layout.pp, c.layout.tp, c.layout.ep, c.layout.sp, c.tuner.batch), case, (*layout, batch)
        )
        found = figures(case)
        latency = found["decode"]["latency"]
        return latency["TTPS"] / case.layout.devices, latency["TPOT"], found["kv_paging"]["max_sequences"]

    return mapped(one, (None, 0))


def published_points(document: dict, layouts: Sequence[tuple[int, ...]] | None = None) -> list[Point]:
    """Every layout at every batch, by the tool's equations."""
    ready = prepared(document)
    case = build_case(ready, structure_of(ready))
    layouts = partitions() if layouts is None else layouts

    def run(rows: list[tuple[int, ...]]) -> list[np.ndarray]:
        with jax.enable_x64(True):
            return [np.asarray(part) for part in _blocks(lambda block: _published_program()(case, block), rows)]

    caps = run([(*layout, 1) for layout in layouts])[2]
    rows = [(*p, b) for p, cap in zip(layouts, caps, strict=True) if cap >= 1 for b in batches(int(cap))]
    rates, steps, _ = run(rows)
    return [Point(row[:4], row[4], float(r), float(t)) for row, r, t in zip(rows, rates, steps, strict=True)]


def _blocks(program: Any, rows: Sequence[tuple], size: int = 2048) -> list[np.ndarray]:
    """The program over blocks of one size, so that it compiles once; the last block repeats its last row."""
    table = np.asarray(rows, float)
    padded = np.concatenate([table, np.repeat(table[-1:], -len(table) % size, axis=0)])
    parts = [jax.device_get(program(padded[i : i + size])) for i in range(0, len(padded), size)]
    return [np.concatenate(columns)[: len(table)] for columns in zip(*parts, strict=True)]


def system_document(
    bandwidth: float = 1, links: float = 1, alpha: float = 1, peak: float = 1, best: bool = False
) -> dict:
    """The library's gb200-nvl72 with the tool's figures and factors on them; `best` with its own algorithms."""
    document = copy.deepcopy(find("system", "gb200-nvl72").document)
    tier = document["fabric"][0] | dict(in_network="none", algorithms=None if best else [])
    document["fabric"], document["device"]["memory"] = [tier], dict(hbm=document["device"]["memory"]["hbm"])
    changes = {
        "device.memory.hbm.capacity_GB": 192.0,
        "device.memory.hbm.bandwidth_GBps": 8000.0 * bandwidth,
        "device.peak_TFLOPS.bf16": 2250.0 * peak,
        "device.peak_TFLOPS.fp16": 2250.0 * peak,
        "device.peak_TFLOPS.fp8": 4500.0 * peak,
        "device.peak_TFLOPS.fp4": 9000.0 * peak,
        "fabric.nvlink5.bandwidth_GBps": 900.0 * links,
        "fabric.nvlink5.alpha_us": 0.5 * alpha,
    }
    for path, value in changes.items():
        document = set_path(document, path, value)
    return validate(document, "gb200-nvl72 with the tool's figures").document


def layouts(devices: int = 72) -> list[tuple[int, ...]]:
    """jaxperf's layouts (PP, TP, EP, attention data parallel): EP divides the stage's ranks; no context parallelism."""
    grid = itertools.product(STAGES, POWERS, POWERS, POWERS)
    return [p for p in grid if p[0] * p[1] * p[3] <= devices and p[1] * p[3] % p[2] == 0]


@functools.cache
def _corrected_program() -> Any:
    def one(fixed: tuple, row: Any) -> tuple:
        model, system, deployed, work = fixed
        pp, tp, ep, data, replicas, batch, isl, osl, chunk, prompts = row
        axes = deployed.parallelism
        axes = eqx.tree_at(lambda a: (a.pp, a.tp, a.ep, a.attention_dp, a.replicas), axes, (pp, tp, ep, data, replicas))
        deployed = eqx.tree_at(lambda d: (d.parallelism, d.engine.chunk), deployed, (axes, chunk))
        work = eqx.tree_at(lambda w: (w.isl, w.osl, w.batch, w.prefill_batch), work, (isl, osl, batch, prompts))
        found = evaluate(model, system, deployed, work)
        return found.decode_tokens_per_s, found.tpot, found.max_batch, found.ttft, found.feasible

    return mapped(one, (None, 0))


def corrected(document: dict, rows: Sequence[tuple], step_time: float = 0.0, overlap: float = 0.0) -> list[np.ndarray]:
    """decode tokens/s, TPOT [s], largest batch, TTFT [s], feasible, of rows (PP, TP, EP, attention data parallel,
    replicas, batch, isl, osl, chunk, prompts)."""
    with jax.enable_x64(True):
        deployed = deployment("gpt-1.8t-moe", efficiency="ideal")
        deployed = eqx.tree_at(
            lambda d: (
                d.engine.memory_utilisation,
                d.engine.reserve,
                d.efficiency.host_step_time,
                d.engine.overlap,
            ),
            deployed,
            (1.0, RESERVE_GB * 1e9, step_time, overlap),
        )
        fixed = (
            load_model("gpt-1.8t-moe"),
            as_arrays(build_system(document)),
            as_arrays(deployed),
            as_arrays(Workload(1.0, 1.0)),
        )
        return _blocks(lambda block: _corrected_program()(fixed, block), rows)


def corrected_points(
    document: dict,
    context: int = CONTEXT,
    step_time: float = 0.0,
    overlap: float = 0.0,
    devices: int = 72,
    found: Sequence[tuple[int, ...]] | None = None,
) -> list[Point]:
    """Every layout at every batch by jaxperf, at a mean context of `context` tokens."""
    found = layouts(devices) if found is None else found

    def row(layout: tuple[int, ...], batch: int) -> tuple:
        replicas = devices // (layout[0] * layout[1] * layout[3])
        return (*layout, replicas, batch, context - 1, 2, math.inf, 1)

    caps = corrected(document, [row(layout, 1) for layout in found])[2]
    pairs = [(p, b) for p, cap in zip(found, caps, strict=True) if cap >= 1 for b in batches(int(cap))]
    rates, steps, *_, feasible = corrected(document, [row(*pair) for pair in pairs], step_time, overlap)
    return [
        Point(layout, batch, float(rate) / devices, float(step))
        for (layout, batch), rate, step, fits in zip(pairs, rates, steps, feasible, strict=True)
        if fits > 0
    ]


class Study(NamedTuple):
    """A finding in words, by its three sources; the `verdict` (kept, in part, overturned, or no claim), why; and the
    numbers behind."""

    name: str
    published: str
    compat: str
    jaxperf: str
    verdict: str
    why: str
    numbers: dict[str, Any]


def verdict(*holds: bool) -> str:
    """`kept` where all parts of a finding hold, `overturned` where none does."""
    return "kept" if all(holds) else "in part" if any(holds) else "overturned"


def named(found: Sequence[tuple[tuple[int, ...], int]], most: int = 2, last: str = "SP") -> str:
    """The first winners in words; the fourth degree, `last`, is left out where it is 1, as EP is."""

    def words(layout: tuple[int, ...]) -> str:
        pp, tp, ep, other = layout
        more = [f"{name} {value}" for name, value in (("EP", ep), (last, other)) if value > 1]
        return " ".join([f"PP {pp} TP {tp}", *more])

    return ", ".join(f"{words(layout)} ×{count}" for layout, count in found[:most])


def layout_study() -> Study:
    """Which layouts hold the frontier."""
    theirs = frontier(published_points(inputs()))
    ours, best = (frontier(corrected_points(system_document(best=flag))) for flag in (False, True))
    own = sum(point.layout == PUBLISHED_LAYOUT for point in ours)
    numbers = dict(
        partitions=len(partitions()),
        points=len(theirs),
        compat=winners(theirs),
        jaxperf=winners(ours),
        best=winners(best),
        compat_deepest=share(theirs, 0, 8),
        jaxperf_deepest=share(ours, 0, 8),
        jaxperf_shallow=share(ours, 0, 1) + share(ours, 0, 2),
        top=(theirs[0].rate, ours[0].rate, best[0].rate),
        interactivity=(1 / theirs[-1].tpot, 1 / ours[-1].tpot, 1 / best[-1].tpot),
        published_layout=own,
    )
    return Study(
        "layouts on NVL72",
        "260 partitions, 37 points: PP 8 TP 8 ×33, PP 6 TP 4 ×4",
        f"{numbers['partitions']} partitions, {len(theirs)} points: {named(winners(theirs))}",
        f"{named(winners(ours), 3, 'DPA')} of {len(ours)}; PP 8 TP 8 ×{own}; with the cheapest algorithms "
        f"{named(winners(best), 2, 'DPA')}",
        verdict(own > len(ours) / 2),
        "PP does not divide a token's weight reads, and EP ranks need not repeat the attention",
        numbers,
    )


def memory_study() -> Study:
    """Memory bandwidth against TP."""
    factors = (1, 2, 4, UNBOUNDED)
    theirs = [frontier(published_points(inputs(bandwidth=f))) for f in factors]
    ours = [frontier(corrected_points(system_document(bandwidth=f))) for f in factors]
    best = [frontier(corrected_points(system_document(bandwidth=f, best=True))) for f in factors]
    widths = [[mean_tp(points) for points in side] for side in (theirs, ours, best)]
    falls = all(a > b for a, b in itertools.pairwise(widths[1]))
    words = [", ".join(f"{width:.1f}" for width in side) for side in widths]
    return Study(
        "HBM bandwidth 1, 2, 4 times, unbounded",
        "PP 8 TP 8 ×33; ×28; ×18, with PP 8 TP 4 ×17; PP 8 TP 1 ×10, PP 6 TP 1 ×8",
        "; ".join(named(winners(points)) for points in theirs) + f"; mean TP {words[0]}",
        f"mean TP {words[1]}; with the cheapest algorithms {words[2]}",
        verdict(falls),
        "narrow memory wants wide TP, fast memory makes it an overhead; the PP 8 of the winners is what falls away",
        dict(
            compat=[winners(points) for points in theirs],
            jaxperf=[winners(points) for points in ours],
            best=[winners(points) for points in best],
            mean_tp=dict(compat=widths[0], jaxperf=widths[1], best=widths[2]),
        ),
    )


def link_study() -> Study:
    """Scale-up bandwidth and α."""
    factors: tuple[dict[str, Any], ...] = (dict(), dict(links=20), dict(alpha=0), dict(links=UNBOUNDED, alpha=0))
    theirs = [winners(frontier(published_points(inputs(**f)))) for f in factors[:-1]]
    theirs.append(winners(frontier(published_points(inputs(**factors[-1], overlap_factor=1.0)))))
    ours = [winners(frontier(corrected_points(system_document(**f)))) for f in factors]
    best = [winners(frontier(corrected_points(system_document(**f, best=True)))) for f in factors]
    return Study(
        "NVLink: base; 20 × bandwidth; α 0; ideal",
        "PP 8 TP 8; PP 8 TP 8; PP 4 TP 16 takes 6; PP 4 TP 16 takes 39 of 40",
        "; ".join(named(side) for side in theirs),
        "; ".join(named(side, 1, "DPA") for side in ours)
        + "; with the cheapest algorithms "
        + "; ".join(named(side, 1, "DPA") for side in best),
        verdict(ours[0][0][0] == ours[1][0][0], best[0][0][0] == best[1][0][0]),
        "messages are bf16, four times as long as the tool's, so bandwidth buys wider TP; α 0 favours TP 16 in both",
        dict(compat=theirs, jaxperf=ours, best=best),
    )


def peak_study() -> Study:
    """Peak FLOP/s at a long and a short context."""
    factors = (0.5, 1, 4)
    long = {
        f: (frontier(published_points(inputs(peak=f))), frontier(corrected_points(system_document(peak=f))))
        for f in factors
    }
    row = (*PUBLISHED_LAYOUT, 1, 8192, 1023, 2, math.inf, 1)

    def short(factor: float) -> tuple[float, float]:
        document = inputs(peak=factor, S_decode=1024)
        document |= dict(partition=dict(zip(("PP", "TP", "EP", "SP"), PUBLISHED_LAYOUT, strict=True)))
        document["tuner"]["B_decode"] = 8192
        theirs = published(document)["decode"]["latency"]["TTPS"] / 72
        return theirs, float(corrected(system_document(peak=factor), [row])[0][0]) / 72

    (one, four), tops = (short(f) for f in (1, 4)), [[long[f][side][0].rate for f in factors] for side in (0, 1)]
    ends = [frontier(corrected_points(system_document(peak=f), context=1024))[0].rate for f in (1, 4)]
    return Study(
        "peak FLOP/s ×0.5, 1, 4 at context 8,192; ×1, 4 at 1,024",
        "nothing; PP 8 TP 8, B 8,192: 7,500 to 9,400 tokens/s a device",
        f"top {', '.join(f'{rate:,.0f}' for rate in tops[0])}; {one[0]:,.0f} to {four[0]:,.0f}",
        f"top {', '.join(f'{rate:,.0f}' for rate in tops[1])}; {one[1]:,.0f} to {four[1]:,.0f}, "
        f"on the frontier {ends[0]:,.0f} to {ends[1]:,.0f}",
        verdict(max(tops[1]) / min(tops[1]) < 1.03, ends[1] > 1.1 * ends[0], four[1] > 1.1 * one[1]),
        "a long context is bound by the KV cache, a short one at a large batch by arithmetic, in both; but on PP 8 "
        "TP 8 eight groups read the weights eight times and send bf16 messages",
        dict(long=tops, short=dict(compat=(one[0], four[0]), jaxperf=(one[1], four[1]), frontier=ends)),
    )


def overhead_study() -> Study:
    """Framework overhead a step."""
    times = (0.0, 1e-4, 5e-4, 1e-3, 2e-3, 5e-3)
    raw = published_points(inputs())

    def shifted(extra: float) -> list[Point]:
        return frontier(p._replace(rate=p.rate * p.tpot / (p.tpot + extra), tpot=p.tpot + extra) for p in raw)

    sides = [
        [shifted(extra) for extra in times],
        [frontier(corrected_points(system_document(), step_time=extra)) for extra in times],
    ]
    first = [[winners(points)[0] for points in side] for side in sides]
    users = [[1 / points[-1].tpot for points in side] for side in sides]
    tops = [[points[0].rate for points in side] for side in sides]
    words = [
        f"{users[i][0]:.0f} to {users[i][-1]:.0f} tokens/s a user, {tops[i][0]:,.0f} to {tops[i][-1]:,.0f} a device; "
        f"winner {named(first[i][:1], 1, last)} to {named(first[i][-1:], 1, last)}"
        for i, last in enumerate(("SP", "DPA"))
    ]
    return Study(
        "framework overhead 0 to 5 ms a step",
        "hits the interactive end; the winning layout never changes",
        words[0],
        words[1],
        verdict(len({layout for layout, _ in first[1]}) == 1, users[1][-1] / users[1][0] < tops[1][-1] / tops[1][0]),
        "the same time is added to every layout's step",
        dict(times=times, winners=dict(compat=first[0], jaxperf=first[1]), users=users, tops=tops),
    )


def chunk_sizes(prompt: int, least: int = 128) -> list[int]:
    """The study's chunks: 16 steps in the logarithm from `least` to the prompt, and the powers of two."""
    spaced = {round(least * (prompt / least) ** (i / 16)) for i in range(17)}
    return sorted({least, prompt} | spaced | {2**i for i in range(least.bit_length() - 1, prompt.bit_length())})


def chunk_study() -> Study:
    """Time of chunked prefill on PP 8 TP 8."""
    numbers: dict[str, Any] = dict(prompts=PROMPTS, compat=[], jaxperf=[])
    for prompt in PROMPTS:
        sizes = chunk_sizes(prompt)
        layout = dict(partition=dict(zip(("PP", "TP", "EP", "SP"), PUBLISHED_LAYOUT, strict=True)))
        cases = [inputs(S_input=prompt, chunk_size=size) | layout for size in sizes]
        found = [outputs["prefill"]["latency"] for outputs in published_cases(cases)]
        rows = [(*PUBLISHED_LAYOUT, 1, 1, prompt, 2, size, 1) for size in [*sizes, math.inf]]
        *ours, single = (float(time) for time in corrected(system_document(), rows)[3])
        theirs = [latency["t_prefill_chunked"] for latency in found]
        for side, times, whole in (("compat", theirs, found[0]["t_prefill"]), ("jaxperf", ours, single)):
            shortest = min(times)
            flat = [size for size, time in zip(sizes, times, strict=True) if time <= 1.1 * shortest]
            numbers[side].append(
                dict(
                    chunk=sizes[times.index(shortest)],
                    ttft_ms=shortest * 1e3,
                    speed_up=whole / shortest,
                    flat=(flat[0], flat[-1]),
                )
            )

    def words(side: str) -> str:
        rows = zip(PROMPTS, numbers[side], strict=True)
        parts = [f"{p // 1024}k: {r['chunk']:,}, {r['ttft_ms']:.1f} ms, ×{r['speed_up']:.1f}" for p, r in rows]
        return "; ".join(parts)

    chosen = [row["chunk"] for row in numbers["jaxperf"]]
    return Study(
        "chunk size on PP 8 TP 8 (best chunk, time, gain over a single pass)",
        "2k: 2,048, 3.8 ms; 4k: 4,096, 7.6; 8k: 4,096, 15.4; 16k: 4,096, 32.0; 32k: 4,096, 68.5; ×5.4 to 6.7",
        words("compat"),
        words("jaxperf"),
        verdict(all(size >= 2048 for size in chosen)),
        "chunks fill the pipeline: short ones fill it sooner, which the tool does not count; every stage communicates",
        numbers,
    )


PREFILL_LAYOUTS = ((1, 16, 4, 1), (2, 8, 4, 1))
"""The study's unlike layouts of the prefill pool: wide TP, and experts in parallel."""
LINKS = (50.0, 200.0, 900.0, 3600.0)
LONG_PROMPTS = (*PROMPTS, 65536, 131072)


def _published_ttft(prompt: int, layout: tuple[int, ...], link: float | None) -> dict:
    """The tool's inputs of one prompt, prefilled on a layout; over a link of `link` GB/s, or where it is decoded."""
    document = inputs(S_input=prompt) | dict(partition=dict(zip(("PP", "TP", "EP", "SP"), layout, strict=True)))
    if link is None:
        return document
    apart = dict(disaggregated=True, inter_alpha_us=5.0, inter_bandwidth_GBps=link)
    return document | dict(disagg=apart | dict(repack_GBps=900.0, repack_eta=1.5))


def _handoff_s(prompt: int, source: tuple[int, ...], link: float) -> float:
    """jaxperf's handoff to PP 8 TP 8 [s]: one stream of `link` GB/s, α 5 µs, nothing hidden."""
    with jax.enable_x64(True):
        sides = [
            deployment("gpt-1.8t-moe", pp=pp, tp=tp, ep=ep, attention_dp=data, efficiency="ideal")
            for pp, tp, ep, data in (source, PUBLISHED_LAYOUT)
        ]
        memory = as_arrays(build_system(system_document())).device.memory
        model, work, way = load_model("gpt-1.8t-moe"), as_arrays(Workload(float(prompt), 2.0)), Link(5e-6, link * 1e9)
        return float(handoff(model, sides[0], sides[1], memory, work, 0.0, way).time)


def handoff_study() -> Study:
    """One prompt's TTFT with prefill on an unlike layout, against prefill where it is decoded."""
    pairs = list(itertools.product(PREFILL_LAYOUTS, LINKS))
    cases = [_published_ttft(p, *pair) for p in LONG_PROMPTS for pair in [(PUBLISHED_LAYOUT, None), *pairs]]
    found = iter(published_cases(cases))
    theirs: dict[int, tuple[float, float]] = {}
    for prompt in LONG_PROMPTS:
        here = next(found)
        away = [next(found) for _ in pairs]
        step = here["decode"]["latency"]["TPOT"]
        times = [o["prefill"]["latency"]["t_prefill"] + o["e2e"]["t_handoff"] + step for o in away]
        theirs[prompt] = (here["e2e"]["TTFT"] * 1e3, min(times) * 1e3)
    alike = [(pp, tp, ep, ep) for pp, tp, ep, _ in PREFILL_LAYOUTS]
    ours: dict[int, tuple[float, float]] = {}
    chunked: dict[int, tuple[float, float]] = {}
    for prompt in LONG_PROMPTS:
        sizes = [math.inf, *(size for size in (256, 512, 1024, 2048, 4096, 8192) if size < prompt)]
        rows = [(*layout, 1, 1, prompt, 2, size, 1) for layout in (PUBLISHED_LAYOUT, *alike) for size in sizes]
        table = corrected(system_document(), rows)[3].reshape(3, -1)
        moved = [_handoff_s(prompt, layout, max(LINKS)) for layout in alike]
        for kept, times in ((ours, table[:, 0]), (chunked, table.min(axis=1))):
            kept[prompt] = (
                float(times[0]) * 1e3,
                min(float(t) + m for t, m in zip(times[1:], moved, strict=True)) * 1e3,
            )

    def pays(side: dict[int, tuple[float, float]]) -> list[int]:
        return [prompt for prompt, (here, away) in side.items() if away < here]

    def words(side: dict[int, tuple[float, float]]) -> str:
        times = "; ".join(f"{p // 1024}k: {side[p][0]:,.0f} and {side[p][1]:,.0f} ms" for p in (2048, 32768, 131072))
        good = ", ".join(f"{p // 1024}k" for p in pays(side)) or "no prompt"
        return f"pays at {good} ({times})"

    return Study(
        "unlike prefill layouts: TTFT of one prompt here and away, best of two layouts, fastest link",
        "never for prompts of 2k to 32k at any link; from 64k",
        words(theirs),
        f"single pass: {words(ours)}; best chunk: {words(chunked)}",
        verdict(pays(ours) == pays(theirs), pays(chunked) == pays(theirs)),
        "a prompt passes every stage and its links: in one pass on PP 8 seven stages idle, and chunks take that back",
        dict(compat=theirs, jaxperf=ours, chunked=chunked, pays=[pays(side) for side in (theirs, ours, chunked)]),
    )


def pool_rates(prompt: int, output: int, limit: float) -> tuple[tuple, tuple, tuple]:
    """Requests per second and device: co-located, a prefill pool's, a decode pool's, each with its layout and its batch
    (the prefill pool's with its chunk).

    Co-located, a step waits for its share of prefills: TPOT = t_dec + B·t_prompt/(osl − 1), held below `limit` [s]; the
    pools' steps do not wait. X = B/((osl − 1)·TPOT).
    """
    document, found, sizes = system_document(best=True), layouts(), (512, 1024, 2048, 4096)
    rows = [(*p, 1, p[3], prompt, output, min(size, prompt), p[3]) for p in found for size in sizes]
    table = corrected(document, rows)[3].reshape(len(found), -1)
    alone = {p: float(min(times)) / p[3] for p, times in zip(found, table, strict=True)}  # p[3] prompts at once
    chunk = {p: min(sizes[int(times.argmin())], prompt) for p, times in zip(found, table, strict=True)}
    caps = corrected(document, [(*p, 1, 1, prompt, output, 512, 1) for p in found])[2]
    pairs = [(p, b) for p, cap in zip(found, caps, strict=True) if cap >= 1 for b in batches(int(cap))]
    steps = corrected(document, [(*p, 1, b, prompt, output, 512, 1) for p, b in pairs])[1]
    here: list[tuple] = [(0.0,)]
    away: list[tuple] = [(0.0,)]
    for (layout, batch), step in zip(pairs, steps, strict=True):
        devices = layout[0] * layout[1] * layout[3]
        mixed = step + batch * alone[layout] / (output - 1)
        if mixed <= limit:
            here.append((batch / ((output - 1) * float(mixed)) / devices, layout, batch))
        if step <= limit:
            away.append((batch / ((output - 1) * float(step)) / devices, layout, batch))
    fits = {layout for layout, _ in pairs}
    filled = [(1 / time / (p[0] * p[1] * p[3]), p, chunk[p]) for p, time in alone.items() if p in fits]
    return max(here), max(filled), max(away)


def together(prompt: int, output: int, filled: tuple, away: tuple) -> tuple[float, float, float]:
    """Requests per second and device of both pools, equally busy; their handoff over 50 GB/s a pair of devices, and
    TTFT with it [s]."""
    with jax.enable_x64(True):
        (_, source, chunk), (_, target, batch) = filled, away
        model, system = load_model("gpt-1.8t-moe"), as_arrays(build_system(system_document(best=True)))
        work = as_arrays(Workload(float(prompt), float(output), float(batch), float(source[3])))
        sides = [
            deployment("gpt-1.8t-moe", pp=p[0], tp=p[1], ep=p[2], attention_dp=p[3], chunk=size, efficiency="ideal")
            for p, size in ((source, chunk), (target, 512))
        ]
        first, second = (evaluate_quick(model, system, side, work) for side in sides)
        devices = [side.parallelism.instance_devices for side in sides]
        link = Link(5e-6, 50e9, min(float(count) for count in devices))
        moved = handoff(model, sides[0], sides[1], system.device.memory, work, first.prefill.time, link)
        ratio = disaggregated(first, second, moved, work, *devices).ratio
        both = disaggregated(first, second, moved, work, *devices, prefill_instances=ratio)
        return float(both.requests_per_s / both.devices), float(moved.time), float(both.ttft)


def pool_study() -> Study:
    """What two pools gain at the same TPOT, by prompt length."""
    limits, output = (0.02, 0.05), 1024
    numbers: dict[tuple[float, int], dict[str, Any]] = {}
    for limit, prompt in itertools.product(limits, (2048, 8192, 32768, 131072)):
        here, filled, away = pool_rates(prompt, output, limit)
        apart, moved, ttft = together(prompt, output, filled, away)
        numbers[limit, prompt] = dict(
            here=here, prefill=filled, decode=away, apart=apart, gain=apart / here[0], handoff_s=moved, ttft_s=ttft
        )
    gains = "; ".join(
        f"TPOT up to {limit * 1e3:.0f} ms: "
        + ", ".join(f"{p // 1024}k ×{found['gain']:.2f}" for (at, p), found in numbers.items() if at == limit)
        for limit in limits
    )
    usual = numbers[limits[0], 8192]
    prefill, decode, one = (named([(usual[k][1], 1)], 1, "DPA")[:-3] for k in ("prefill", "decode", "here"))
    return Study(
        "two pools: requests/s a device with 1,024 output tokens (a definition of ours)",
        "no figure; the study above is about one prompt's TTFT alone",
        "the tool has no throughput of two pools",
        f"{gains}; at 8k and 20 ms prefill {prefill}, decode {decode}, together {one}",
        "no claim",
        "each pool has its own layout, and prefills hold up no decode steps: worth more, the tighter TPOT is",
        {f"{limit * 1e3:.0f} ms, {prompt}": found for (limit, prompt), found in numbers.items()},
    )


def cluster_study() -> Study:
    """64 to 1,024 devices on one switch."""
    sizes = (64, 128, 256, 512, 1024)
    theirs, ours = [], []
    for devices in sizes:
        document = inputs()
        tier = dict(ports=devices, bw_per_port_GBps=900.0, alpha_us=0.5)
        document["system"] |= dict(num_devices=devices, fabrics={"nvlink": {"tiers": [tier]}})
        theirs.append(frontier(published_points(document, partitions(devices, devices))))
        own = system_document()
        own["fabric"][0] |= dict(devices=1024)
        ours.append(frontier(corrected_points(own, devices=devices)))
    deepest = [[share(points, 0, 8) for points in side] for side in (theirs, ours)]
    users = [[1 / points[-1].tpot for points in side] for side in (theirs, ours)]
    words = [
        "; ".join(named(winners(points), count, last) for points in side)
        + f"; fastest user {', '.join(f'{user:.0f}' for user in speeds)} tokens/s"
        for side, speeds, count, last in ((theirs, users[0], 3, "SP"), (ours, users[1], 1, "DPA"))
    ]
    return Study(
        "64, 128, 256, 512, 1,024 devices on one switch",
        "PP stays 8; TP 8 to 16, then EP 2 to 8",
        words[0],
        words[1],
        verdict(min(deepest[1]) > 0.5),
        "PP only buys capacity here, so more devices become replicas of one instance",
        dict(sizes=sizes, compat=[winners(p) for p in theirs], jaxperf=[winners(p) for p in ours], users=users),
    )


def collective_study() -> Study:
    """Ring, best software, in-network reduction on eight racks of 72."""
    tiers = [
        dict(ports=72, bw_per_port_GBps=900.0, alpha_us=0.5, inc="sharp_class", inc_alpha_us=0.2),
        dict(ports=8, bw_per_port_GBps=400.0, alpha_us=2.5, inc="sharp_class", inc_alpha_us=0.4),
    ]
    theirs, ours = [], []
    for mode in ("ring", "software", "network"):
        chosen = "ring" if mode == "ring" else "auto"
        tuner: dict[str, Any] = {f"{a}_algorithm_{p}": chosen for a in ("tp", "ep") for p in ("decode", "prefill")}
        document = inputs(inc_enabled=mode == "network", **tuner)
        document["system"] |= dict(num_devices=576, fabrics={"nvlink": {"tiers": tiers}})
        theirs.append(frontier(published_points(document, partitions(576, 576))))
        own = system_document(best=mode != "ring")
        inner = own["fabric"][0]
        if mode == "network":
            inner |= dict(in_network="multicast", switch_alpha_us=0.2)
        outer = inner | dict(name="infiniband", devices=576, bandwidth_GBps=400.0, alpha_us=2.5)
        if mode == "network":
            outer |= dict(in_network="reduction", switch_alpha_us=0.4)
        own["fabric"] = [inner, outer]
        ours.append(frontier(corrected_points(validate(own, "nvl576").document, devices=576)))
    steps = [[points[-1].tpot * 1e3 for points in side] for side in (theirs, ours)]
    tops = [[points[0].rate for points in side] for side in (theirs, ours)]
    words = [
        f"{', '.join(f'{step:.2f}' for step in steps[i])} ms; top {', '.join(f'{top:,.0f}' for top in tops[i])}"
        for i in range(2)
    ]
    return Study(
        "ring, best software, in-network on NVL576: shortest TPOT",
        "0.70, 0.47, 0.42 ms; high-throughput end within 1 %",
        words[0],
        words[1],
        verdict(steps[1][0] > steps[1][1] > steps[1][2], max(tops[1]) / min(tops[1]) < 1.01),
        "the order holds, and the step of one deep pipeline is no longer divided by PP; in both models the ring "
        "costs 5 % at the throughput end; 1 % can only be meant of in-network against the best software",
        dict(tpot_ms=dict(compat=steps[0], jaxperf=steps[1]), tops=dict(compat=tops[0], jaxperf=tops[1])),
    )


def torus_study() -> Study:
    """A TPU v5p pod against NVL72, batches up to 256 as in the study."""
    ladder = [2**i for i in range(9)]
    document = inputs()
    links = dict(topology="torus", dims=[16, 16, 16], bw_per_port_GBps=150.0, alpha_us=1.0)
    document["system"] |= dict(
        num_devices=4096,
        device=dict(hbm_capacity_GB=95.0, hbm_bandwidth_GBps=2765.0, peak_flops_TF=459.0),
        fabrics={"nvlink": {"tiers": [links]}},
    )
    sides = []
    for case, devices in ((document, 4096), (inputs(), 72)):
        whole = [p for p in partitions(devices, devices) if devices % math.prod(p) == 0]
        sides.append(frontier(p for p in published_points(case, whole) if p.batch in ladder))
    own = copy.deepcopy(find("system", "tpu-v5p-pod").document)
    own["fabric"] = [own["fabric"][0] | dict(dims=[16, 16, 16], devices=4096, bandwidth_GBps=150.0, alpha_us=1.0)]
    own |= dict(devices=4096)
    own["device"]["memory"] = dict(hbm=own["device"]["memory"]["hbm"])
    for pod, devices in ((validate(own, "tpu-v5p with the tool's figures").document, 4096), (system_document(), 72)):
        whole = [p for p in layouts(devices) if devices % (p[0] * p[1] * p[3]) == 0]
        sides.append(frontier(p for p in corrected_points(pod, devices=devices, found=whole) if p.batch in ladder))
    tops, users = [side[0].rate for side in sides], [1 / side[-1].tpot for side in sides]
    words = [
        f"{tops[i]:,.0f} and {tops[i + 1]:,.0f} tokens/s a device; {users[i]:.0f} and {users[i + 1]:.0f} a user"
        for i in (0, 2)
    ]
    return Study(
        "TPU v5p pod and NVL72, batches up to 256",
        "429 and 1,305 tokens/s a device; 646 and 201 a user",
        words[0],
        words[1],
        verdict(tops[2] < tops[3], users[2] > users[3]),
        "the torus won a user by PP 8 and by messages of half a byte; v5p has no fp4 units either",
        dict(tops=tops, users=users, winners=[winners(side) for side in sides]),
    )


def studies() -> list[Study]:
    """All studies."""
    return [
        layout_study(),
        memory_study(),
        link_study(),
        peak_study(),
        overhead_study(),
        chunk_study(),
        handoff_study(),
        pool_study(),
        cluster_study(),
        collective_study(),
        torus_study(),
    ]


def line(study: Study) -> str:
    """A study as it stands in docs/case-studies.md."""
    return f"| {study.name} | {study.published} | {study.compat} | {study.jaxperf} | {study.verdict} | {study.why} |"


def plain(study: Study) -> str:
    """A study as the terminal shows it."""
    sides = [f"  {source:9s} {getattr(study, source)}" for source in ("published", "compat", "jaxperf")]
    return "\n".join([f"{study.name}: {study.verdict}: {study.why}", *sides])


def as_json(found: list[Study]) -> dict[str, Any]:
    """All studies as JSON."""
    return {"studies": [study._asdict() for study in found]}


if __name__ == "__main__":
    from pages import publish  # a script finds its neighbours

    publish(__doc__, "case_studies", studies, line, plain, as_json)
