"""The model once more in plain Python, from docs/physics: loops over layers, chunks and stages, no JAX, no sharing.

Ideal efficiency, true maxima, grouped-query attention with or without a window, dense or expert feed-forward. How
uneven the ranks of an expert group are comes in from outside (`load`, `awake`), as that has tests of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction


@dataclass(frozen=True)
class Layer:
    """One layer: heads, head size, window, then either a dense width or experts."""

    query_heads: int
    kv_heads: int
    head_size: int
    window: float = math.inf
    gated: bool = True
    width: int = 0
    experts: int = 0
    chosen: int = 0
    expert_width: int = 0
    shared_width: int = 0


@dataclass(frozen=True)
class Link:
    """A tier of switched links: devices reached, bandwidth one way [bytes/s], latency of a message [s], and what it
    admits beside the ring (`posted`: network cards send to everyone at once). NVLink switches add up while each rank
    moves (G + 1)/G of the vector (`multicast`)."""

    reach: int
    bandwidth: float
    alpha: float
    double_tree: bool = True
    direct: bool = False
    posted: bool = False
    multicast: bool = False


@dataclass(frozen=True)
class Case:
    """A model, a machine, a layout, a workload. Bytes, seconds, FLOP."""

    hidden: int
    vocabulary: int
    tied: bool
    layers: tuple[Layer, ...]
    weight_bytes: float = 2.0
    kv_bytes: float = 2.0
    input_bytes: float = 2.0
    peak: float = 989.5e12
    core_peak: float = 989.5e12
    capacity: float = 80e9
    bandwidth: float = 3.35e12
    tiers: tuple[Link, ...] = (
        Link(8, 450e9, 0.6e-6, direct=True, multicast=True),
        Link(2048, 50e9, 2.8e-6, posted=True),
    )
    tp: int = 1
    pp: int = 1
    ep: int = 1
    cp: int = 1
    dpa: int = 1
    isl: int = 1000
    osl: int = 101
    batch: int = 1
    chunk: float = math.inf
    block: int = 16
    utilisation: float = 0.9
    reserve: float = 1e9
    causal_work: float = 0.5
    load: Callable[[int, Layer, int], float] = field(default=lambda tokens, layer, ep: tokens * layer.chosen / ep)
    awake: Callable[[int, Layer, int], float] = field(
        default=lambda tokens, layer, ep: layer.experts * (1 - (1 - layer.chosen / layer.experts) ** tokens)
    )

    @property
    def ranks(self) -> int:
        return self.tp * self.cp * self.dpa


def stages(case: Case) -> list[tuple[Layer, ...]]:
    """Whole layers, contiguous; the first L mod pp stages hold one more."""
    base, more = divmod(len(case.layers), case.pp)
    result, start = [], 0
    for stage in range(case.pp):
        size = base + (1 if stage < more else 0)
        result.append(case.layers[start : start + size])
        start += size
    return result


def levels(case: Case, ranks: int, stride: int) -> list[tuple[Link, float, float]]:
    """Tiers that a group crosses, innermost first: (tier, ranks that it joins there, ranks below it). It takes as few
    racks as hold it, evenly filled, and as few nodes of each; the emptiest counts."""
    found, whole, fullest = [], ranks, ranks
    for link, inside in reversed(list(zip(case.tiers, [None, *case.tiers[:-1]], strict=True))):
        parts = fullest if inside is None else math.ceil(fullest / max(1, inside.reach // stride))
        below = 1 if inside is None else max(1, whole // parts)
        if whole > below:
            found.append((link, whole / below, below))
        whole, fullest = below, math.ceil(fullest / parts)
    return found[::-1]


def gather_here(link: Link, size: float, ranks: float) -> float:
    """All-gather or reduce-scatter inside one tier: a ring, all at once, or by multicast. Seconds."""
    moved = (ranks - 1) / ranks * size / link.bandwidth
    starts = [(ranks - 1) * link.alpha]
    if link.direct:
        starts.append(link.alpha)
    if link.multicast:
        starts.append(2 * link.alpha)
    return min(starts) + moved


def all_gather(case: Case, size: float, ranks: int, stride: int) -> float:
    """Outer tiers first with size/inner, then inner ones with the whole. Seconds."""
    return sum(gather_here(link, size / below, here) for link, here, below in levels(case, ranks, stride))


def all_reduce(case: Case, size: float, ranks: int, stride: int) -> float:
    """Reduce-scatter inside, an all-reduce of the part at the outermost tier, all-gather inside. Seconds."""
    crossed = levels(case, ranks, stride)
    if not crossed:
        return 0.0
    time = sum(2 * gather_here(link, size / below, here) for link, here, below in crossed[:-1])
    link, here, below = crossed[-1]
    sent = size / below / link.bandwidth
    rounds = math.ceil(math.log2(here))
    ways = [2 * gather_here(link, size / below, here)]  # ring, or two-shot where everyone reaches everyone
    if link.double_tree:
        ways.append(2 * rounds * link.alpha + 2 * sent)
    if link.direct:
        ways.append(link.alpha + (here - 1) * sent)
    if link.multicast:
        ways.append(2 * link.alpha + (here + 1) / here * sent)
    return time + min(ways)


def exchange(case: Case, size: float, ranks: int) -> float:
    """All-to-all over neighbouring ranks: every destination at the tier that it crosses; where everyone reaches
    everyone or the network cards send, the messages of a tier start at once. Seconds."""
    time = 0.0
    for link, here, below in levels(case, ranks, 1):
        beyond = (here - 1) * below
        starts = min(beyond, 1) if link.direct or link.posted else beyond
        time += starts * link.alpha + beyond * size / ranks / link.bandwidth
    return time


def hop_times(case: Case, rows: float) -> float:
    """All stage boundaries: a point-to-point message of each tp rank's share, then an all-gather over tp. Seconds."""
    total = 0.0
    size = rows * case.hidden * 2.0
    for boundary in range(1, case.pp):
        last, first = boundary * case.ranks - 1, boundary * case.ranks
        crossed = next(link for link in case.tiers if last // link.reach == first // link.reach)
        total += crossed.alpha + size / case.tp / crossed.bandwidth + all_gather(case, size, case.tp, 1)
    return total


@dataclass(frozen=True)
class Step:
    """A pass of one chunk or one decode step on the busiest rank."""

    rows: float
    group_tokens: int
    sequences: int
    new: int
    context: float
    decode: bool


def pairs(case: Case, step: Step, window: float) -> float:
    """Query-key pairs of one sequence, counted one query at a time where they are whole."""
    if step.decode:
        return min(step.context, window)
    prior = int(step.context) - step.new
    seen = sum(min(prior + i, window) for i in range(1, step.new + 1))
    return seen + (2 * case.causal_work - 1) * step.new * (step.new - 1) / 2


def layer_time(case: Case, layer: Layer, step: Step) -> float:
    """One layer on the busiest rank: the sum over operators of the longer side, then its collectives. Seconds."""
    d, tp, b, rows = case.hidden, case.tp, 2.0, step.rows
    kv_heads = max(Fraction(layer.kv_heads, tp), Fraction(1))
    query = layer.query_heads * layer.head_size / tp
    cache = float(kv_heads) * 2 * layer.head_size
    time = 0.0

    def gemm(m: float, n: float, k: float, copies: float = 1.0) -> float:
        flop = 2 * m * n * k * copies
        moved = copies * (n * k * case.weight_bytes + m * k * case.input_bytes + m * n * b)
        return max(flop / case.peak, moved / case.bandwidth)

    def router() -> float:
        flop = 2 * rows * layer.experts * d
        moved = (layer.experts * d + rows * d + rows * layer.experts) * b
        return max(flop / case.core_peak, moved / case.bandwidth)

    # Norm and residual at two sites, rope on q and k, a conversion before qkv and gate/up where inputs are narrow.
    time += 2 * 4 * rows * d * b / case.bandwidth
    time += 2 * rows * (query + cache / 2) * b / case.bandwidth
    if case.input_bytes < b:
        time += 2 * rows * d * (b + case.input_bytes) / case.bandwidth
    time += gemm(rows, query + cache, d)
    core_flop = (
        step.sequences * 2 * pairs(case, step, layer.window) * 2 * layer.head_size * layer.query_heads / tp / case.cp
    )
    if step.decode:
        read = min(step.context, layer.window) / case.cp
    else:
        read = min(step.context - step.new, layer.window - 1) + step.new
    moved = step.sequences * (read + step.new / case.cp) * cache * case.kv_bytes + rows * 2 * query * b
    time += max(core_flop / case.core_peak, moved / case.bandwidth)
    time += gemm(rows, d, query)

    gates = 2 if layer.gated else 1
    passes = gates + 1
    if layer.width:
        time += gemm(rows, gates * layer.width / tp, d) + gemm(rows, d, layer.width / tp)
        time += passes * rows * layer.width / tp * b / case.bandwidth
    if layer.experts:
        split = case.ranks // case.ep
        pairs_here, awake = case.load(step.group_tokens, layer, case.ep), case.awake(step.group_tokens, layer, case.ep)
        each, width = pairs_here / awake, layer.expert_width / split
        time += router()
        time += gemm(each, gates * width, d, awake) + gemm(each, d, width, awake)
        time += passes * pairs_here * width * b / case.bandwidth
        if layer.shared_width:
            time += gemm(rows, gates * layer.shared_width / tp, d) + gemm(rows, d, layer.shared_width / tp)
            time += passes * rows * layer.shared_width / tp * b / case.bandwidth
    return time + layer_network(case, layer, step, cache, query)


def layer_network(case: Case, layer: Layer, step: Step, cache: float, query: float) -> float:
    """Collectives of one layer. Seconds."""
    size = step.rows * case.hidden * 2.0
    over_tp = all_reduce(case, size, case.tp, 1)
    time = over_tp
    if layer.width:
        time += over_tp
    if layer.experts:
        if case.dpa == 1 and (case.cp == 1 or step.decode):
            time += all_reduce(case, size, case.ranks, 1)
        else:
            gathered = step.group_tokens * case.hidden
            ways = [
                all_gather(case, gathered * case.input_bytes, case.ranks, 1)
                + all_gather(case, gathered * 2.0, case.ranks, 1)
            ]
            if case.ep == case.ranks:
                owned = step.rows / case.tp / (case.cp if step.decode else 1)
                local = layer.experts // case.ep
                missed = math.comb(layer.experts - local, layer.chosen) / math.comb(layer.experts, layer.chosen)
                sent = owned * case.ep * (1 - missed) * case.hidden
                ways.append(exchange(case, sent * case.input_bytes, case.ep) + exchange(case, sent * 2.0, case.ep))
            time += min(ways) + (over_tp if layer.shared_width else 0.0)
    if step.decode:
        time += all_reduce(case, step.rows * query * 2.0, case.cp, case.tp)
    else:
        visible = min(step.context, layer.window - 1 + step.new)
        time += all_gather(case, step.sequences * visible * cache * case.kv_bytes, case.cp, case.tp)
    return time


def embedding_time(case: Case, rows: float) -> float:
    """Gather of the embedding rows and their all-reduce over tp. Seconds."""
    size = rows * case.hidden * 2.0
    return 2 * size / case.bandwidth + all_reduce(case, size, case.tp, 1)


def head_time(case: Case, rows: float) -> float:
    """LM head, sampling from fp32 logits, gather of the logits over tp. Seconds."""
    n, d = case.vocabulary / case.tp, case.hidden
    product = max(2 * rows * n * d / case.core_peak, (n * d + rows * d + rows * n) * 2.0 / case.bandwidth)
    sampling = 16 * case.vocabulary * rows / case.bandwidth
    return product + sampling + all_gather(case, rows * case.vocabulary * 2.0, case.tp, 1)


def decode_step(case: Case) -> float:
    """TPOT at the mean context. Seconds."""
    groups = min(case.batch, case.pp)
    group = math.ceil(case.batch / groups)
    rows = math.ceil(group / case.dpa)
    step = Step(rows, group, rows, 1, case.isl + case.osl / 2, True)
    times = [sum(layer_time(case, layer, step) for layer in stage) for stage in stages(case)]
    times[0] += embedding_time(case, rows)
    times[-1] += head_time(case, rows)
    return max(sum(times) + hop_times(case, rows), groups * max(times))


def prefill(case: Case) -> float:
    """TTFT of one prompt: chunk by chunk through every stage. Seconds."""
    chunks, done = [], 0
    while done < case.isl:
        new = int(min(case.chunk, case.isl - done))
        done += new
        chunks.append(Step(new / case.cp, new, 1, new, done, False))
    table = []
    for chunk in chunks:
        times = [sum(layer_time(case, layer, chunk) for layer in stage) for stage in stages(case)]
        times[0] += embedding_time(case, chunk.rows)
        table.append(times)
    slowest = max(sum(times[s] for times in table) for s in range(case.pp))
    others = max(sum(times) - max(times) for times in table)
    return slowest + others + hop_times(case, chunks[0].rows) + head_time(case, 1)


def layer_weight_bytes(case: Case, layer: Layer) -> float:
    """Weights of one layer on one device; norms and the router are whole on each. Bytes."""
    d, dk = case.hidden, layer.head_size
    matrices = 3 if layer.gated else 2
    kv_share = max(Fraction(1, case.tp), Fraction(1, layer.kv_heads))
    wide = Fraction(2 * d * layer.query_heads * dk, case.tp) + d * layer.kv_heads * 2 * dk * kv_share
    wide += Fraction(matrices * d * (layer.width + layer.shared_width), case.tp)
    wide += Fraction(layer.experts * matrices * d * layer.expert_width, case.ranks)
    return float(wide) * case.weight_bytes + layer.experts * d * 2.0 + 2 * d * 2.0


def stage_weights(case: Case, index: int, stage: tuple[Layer, ...]) -> float:
    """Weights of a stage on one device, with embedding and LM head at the ends. Bytes."""
    table = case.vocabulary * case.hidden / case.tp * 2.0
    weights = sum(layer_weight_bytes(case, layer) for layer in stage)
    if index == 0:
        weights += table + case.hidden * 2.0  # the final norm is counted with the embedding
    if index == case.pp - 1 and not (case.tied and case.pp == 1):
        weights += table
    return weights


def stage_cache(case: Case, stage: tuple[Layer, ...], context: int) -> float:
    """KV cache of one sequence of a stage on one device. Bytes."""
    cache = 0.0
    for layer in stage:
        blocks = math.ceil(min(context, layer.window) / case.block)
        heads = max(Fraction(layer.kv_heads, case.tp), Fraction(1))
        cache += float(blocks * case.block * heads * 2 * layer.head_size) * case.kv_bytes / case.cp
    return cache


def memory(case: Case) -> dict[str, float]:
    """What the fullest device holds, what of it does not fit, the largest batch, the longest context (a whole number of
    blocks, found by halving) and the KV cache's pressure."""
    owned = math.ceil(case.batch / case.dpa)
    live = activations(case)
    room = max(0.0, case.utilisation * case.capacity - case.reserve - live)
    held = [(stage_weights(case, index, stage), stage) for index, stage in enumerate(stages(case))]
    needs = [(w, stage_cache(case, stage, case.isl + case.osl)) for w, stage in held]
    total, weights, cache = max((w + owned * kv, w, owned * kv) for w, kv in needs)

    def fits(blocks: int) -> bool:
        return all(w + owned * stage_cache(case, stage, blocks * case.block) <= room for w, stage in held)

    low, high = 0, 2**32
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    endless = fits(2**32)
    return {
        "weights": weights,
        "kv_cache": cache,
        "activations": live,
        "total": total + live + case.reserve,
        "overflow": max(0.0, total + live + case.reserve - case.utilisation * case.capacity),
        "max_batch": case.dpa * max(0, math.floor(min((room - w) / kv for w, kv in needs))),
        "max_context": math.inf if endless else low * case.block,
        "kv_pressure": max(owned * kv / (room - w) if room > w else math.inf for w, kv in needs),
    }


def activations(case: Case) -> float:
    """Live activations, the larger of the phases. Bytes."""
    d, tp = case.hidden, case.tp
    groups = min(case.batch, case.pp)
    decode_rows = math.ceil(math.ceil(case.batch / groups) / case.dpa)
    prefill_rows = min(case.chunk, case.isl) / case.cp
    widest = 0.0
    for layer in case.layers:
        widest = max(
            widest,
            (layer.query_heads + 2 * layer.kv_heads) * layer.head_size / tp,
            3 * (layer.width + layer.shared_width) / tp,
            layer.chosen * (d + 3 * layer.expert_width) / (case.ranks // case.ep) if layer.experts else 0.0,
        )
    cache = max(2 * layer.kv_heads * layer.head_size for layer in case.layers)
    logits = 4 * case.vocabulary / tp
    return max(decode_rows * ((4 * d + cache) * 2.0 + logits), prefill_rows * (2 * d + widest) * 2.0 + logits)


def varied(case: Case, **changes: object) -> Case:
    """A copy with some fields changed."""
    return replace(case, **changes)  # pyright: ignore[reportArgumentType]
