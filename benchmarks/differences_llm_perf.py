"""How far llm_perf (commit fdc49cc) and jaxperf differ, one convention at a time.

    python benchmarks/differences_llm_perf.py [--out benchmarks/results/differences_llm_perf.json]

Both are run on the same figures: llm_perf's equations through `jaxperf.compat.llm_perf`, jaxperf through ordinary specs
built from the same documents, at ideal efficiency. Each row's configuration is chosen so that one convention matters:
links cost nothing unless the row is about them, two bytes per element unless it is about widths, rings alone unless it
is about algorithms. What does not cancel (activations, norms, router, sums of maxima) is the first rows' background.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax

from jaxperf.collectives.algorithms import double_tree_all_reduce, in_network_all_reduce, tree_all_reduce
from jaxperf.compat.llm_perf import evaluate as published
from jaxperf.constants import TERA, WEIGHT_CLASSES
from jaxperf.dram3d import data_pin_count, peak_bandwidth
from jaxperf.load import evaluate_quick
from jaxperf.phases.end_to_end import Metrics
from jaxperf.spec.deployment import IDEAL, Deployment, Engine, Parallelism, build_efficiency, build_precision
from jaxperf.spec.library import validate
from jaxperf.spec.model import as_arrays, build_model
from jaxperf.spec.system import build_system
from jaxperf.spec.workload import Workload

DENSE = dict(L=80, H=8192, n_q=64, n_kv=8, I_dense=28672, vocab_size=128256, max_seq_len=131072, bytes_per_param=2.0)
"""Llama-3.1-70B's figures (config.json on Hugging Face)."""

EXPERTS = dict(n_experts=256, k_active=8, I_moe=2048, n_moe_layers=61)
MIXTURE = DENSE | dict(L=61, H=7168, n_q=56, n_kv=8, I_dense=0, moe=EXPERTS)
"""256 experts of width 2048, 8 chosen, as in DeepSeek-V3, with grouped-query attention, which both tools know."""

FREE = dict(ports=1024, bw_per_port_GBps=1e7, alpha_us=0.0)
SLOW = dict(ports=1024, bw_per_port_GBps=50.0, alpha_us=0.0)
H100 = dict(hbm_capacity_GB=80.0, hbm_bandwidth_GBps=3350.0, peak_flops_TF=989.0)
FAST_MEMORY = H100 | dict(hbm_bandwidth_GBps=1e8)
"""H100's datasheet, and the same with a memory that costs no time."""

_FORMATS = {2.0: "bf16", 1.0: "fp8", 0.5: "fp4"}
_CACHES = {2.0: "bf16", 1.0: "fp8", 0.5: "int4"}
_SOURCES = {"name": {"source": "figures of the benchmark's own case"}}


class Row(NamedTuple):
    """One difference: what is compared, where, both values in `unit`, and llm_perf's over jaxperf's."""

    name: str
    regime: str
    unit: str
    llm_perf: float
    jaxperf: float

    @property
    def ratio(self) -> float:
        """llm_perf's value over jaxperf's."""
        return self.llm_perf / self.jaxperf


def case(model: dict, layout: dict | None = None, tiers: list[dict] | None = None, **more: Any) -> dict:
    """The tool's inputs; `tuner` keys, `device` and `devices` among `more`."""
    layout = dict(PP=1, TP=1, EP=1, SP=1) | (layout or {})
    device, devices = more.pop("device", H100), more.pop("devices", 1024)
    names = ("TP", "EP", "SP", "PP")
    system = {
        "num_devices": devices,
        "device": device,
        "fabrics": {"links": {"tiers": tiers or [FREE]}},
        "collective_fabrics": {axis: ["links"] for axis in names},
    }
    tuner = {"kernel_launch_us": 0.0, "S_decode": 2048, "S_input": 2048, **more}
    return {"model": model, "system": system, "partition": layout, "tuner": tuner}


def model_document(model: dict) -> dict:
    """The same model as a jaxperf document: dense layers first, then those with experts."""
    moe = model.get("moe") or {"n_moe_layers": 0}
    attention = dict(kind="grouped-query", query_heads=model["n_q"], kv_heads=model["n_kv"])
    attention |= dict(head_size=model["H"] // model["n_q"])
    sparse, groups = moe["n_moe_layers"], []
    if model["L"] > sparse:
        dense = dict(kind="gated", width=model["I_dense"])
        groups.append(dict(count=model["L"] - sparse, attention=attention, feed_forward=dense))
    if sparse:
        chosen = dict(experts=moe["n_experts"], experts_per_token=moe["k_active"], expert_width=moe["I_moe"])
        experts = dict(kind="gated", **chosen)
        groups.append(dict(count=sparse, first=model["L"] - sparse, attention=attention, feed_forward=experts))
    return dict(kind="model", name="same", hidden_size=model["H"], vocabulary_size=model["vocab_size"]) | dict(
        layer_groups=groups, exact_today=True, sources=_SOURCES
    )


def system_document(system: dict, algorithms: list[str], peaks: dict[str, float] | None) -> dict:
    """The same machine as a jaxperf document: tiers by their cumulative reach, peaks by 2/bytes unless given."""
    device, reach, tiers = system["device"], 1, []
    for index, tier in enumerate(next(iter(system["fabrics"].values()))["tiers"]):
        reach *= tier["ports"]
        link = dict(bandwidth_GBps=tier["bw_per_port_GBps"], alpha_us=tier["alpha_us"], algorithms=algorithms)
        tiers.append(dict(name=f"tier {index}", topology="crossbar", devices=reach, **link))
    peak = device["peak_flops_TF"]
    hbm = dict(kind="hbm", capacity_GB=device["hbm_capacity_GB"], bandwidth_GBps=device["hbm_bandwidth_GBps"])
    memory = dict(hbm=hbm)
    if "sram_capacity_MB" in device:
        size, speed = device["sram_capacity_MB"] / 1e3, device["sram_bandwidth_TBps"] * 1e3
        memory = dict(sram=dict(kind="sram", capacity_GB=size, bandwidth_GBps=speed), hbm=hbm)
    return dict(kind="system", name="same", devices=min(system["num_devices"], reach), fabric=tiers) | dict(
        device=dict(
            name="same",
            peak_TFLOPS=peaks or dict(bf16=peak, fp16=peak, fp8=2 * peak, fp4=4 * peak),
            memory=memory,
            main_memory="hbm",
        ),
        sources=_SOURCES,
    )


def corrected(
    inputs: dict,
    isl: float,
    osl: float = 2,
    algorithms: tuple[str, ...] = (),
    peaks: dict[str, float] | None = None,
    activations: float | None = None,
    layout: dict | None = None,
    **engine: Any,
) -> Metrics:
    """jaxperf's `Metrics` of the tool's inputs. Its EP becomes attention data parallel times expert parallel, its SP
    context parallel, unless a `layout` says otherwise."""
    axes, tuner, width = inputs["partition"], inputs["tuner"], inputs["model"]["bytes_per_param"]
    ep = axes["EP"]
    degrees = layout or dict(tp=axes["TP"], pp=axes["PP"], ep=ep, attention_dp=ep, cp=axes["SP"])
    formats = dict.fromkeys(WEIGHT_CLASSES, _FORMATS[width]) | dict(kv_cache=_CACHES[width], activations="bf16")
    precision = build_precision(formats)
    if activations is not None:
        precision = eqx.tree_at(lambda p: p.activations, precision, activations)
    with jax.enable_x64(True):
        deployed = Deployment(Parallelism(**degrees), precision, Engine(**engine), build_efficiency(IDEAL))
        arguments = (
            build_model(validate(model_document(inputs["model"]), "model").document),
            build_system(validate(system_document(inputs["system"], list(algorithms), peaks), "system").document),
            deployed,
            Workload(isl, osl, tuner.get("B_decode", 1), tuner.get("B_prefill", 1)),
        )
        return evaluate_quick(*(as_arrays(part) for part in arguments))


def background() -> Iterator[Row]:
    """What remains where no convention differs: one device, one sequence; a short prompt without causal skipping."""
    inputs = case(DENSE)
    yield Row("background", "decode, dense 70B, bf16, one device, B 1, context 2,048", "TPOT [ms]", *tpot(inputs))
    inputs = case(DENSE, S_input=512)
    found = corrected(inputs, 512, causal_work=1.0)
    published_time = published(inputs)["prefill"]["latency"]["t_prefill"]
    yield Row("background", "prefill of 512 tokens, full square", "t_prefill [ms]", ms(published_time), ms(found.ttft))


def ms(seconds: Any) -> float:
    """Milliseconds."""
    return float(seconds) * 1e3


def tpot(inputs: dict, **options: Any) -> tuple[float, float]:
    """TPOT of both [ms]."""
    tuner = inputs["tuner"]
    found = corrected(inputs, tuner["S_decode"] - 1, **options)
    return ms(published(inputs)["decode"]["latency"]["TPOT"]), ms(found.tpot)


def prefill(inputs: dict, field: str = "t_prefill", **options: Any) -> tuple[float, float]:
    """Prefill of both [ms]."""
    found = corrected(inputs, inputs["tuner"]["S_input"], **options)
    return ms(published(inputs)["prefill"]["latency"][field]), ms(found.ttft)


def pipelines() -> Iterator[Row]:
    """PP in decode, and in prefill."""
    for batch, context, regime in ((8, 128, "weights bound"), (64, 128, "weights bound"), (512, 65536, "KV bound")):
        inputs = case(DENSE, dict(PP=8), B_decode=batch, S_decode=context)
        where = f"PP 8, B {batch}, context {context:,} ({regime})"
        yield Row("PP divides a token's weight reads", where, "TPOT [ms]", *tpot(inputs))
    inputs = case(DENSE, dict(PP=8, TP=8), [SLOW], device=FAST_MEMORY, S_input=8192)
    network = published(inputs)["prefill"]["latency"]["t_prefill_comm"]
    mine = corrected(inputs, 8192, causal_work=1.0)
    where = "PP 8, TP 8, ring at 50 GB/s, 8,192 tokens"
    name = "prefill: communication of one stage"
    yield Row(name, where, "communication on a prompt's way [ms]", ms(network), ms(mine.prefill.network))
    yield Row(name, where, "t_prefill [ms]", *prefill(inputs, causal_work=1.0))
    inputs = case(DENSE, dict(PP=8), device=FAST_MEMORY, S_input=2048, B_prefill=8)
    name, where = "prefill: fill with one prompt's time", "PP 8, 8 prompts of 2,048 in one pass"
    yield Row(name, where, "t_prefill_batched [ms]", *prefill(inputs, "t_prefill_batched", causal_work=1.0))
    times = prefill(inputs, "t_prefill_batched", causal_work=1.0, chunk=256.0)
    yield Row(name, "the same; jaxperf: 8 passes of 256 tokens of each", "t_prefill_batched [ms]", *times)


def chunks() -> Iterator[Row]:
    """Chunked prefill, and the full square of scores."""

    def row(name: str, where: str, inputs: dict, **options: Any) -> Row:
        chunk = inputs["tuner"]["chunk_size"]
        times = prefill(inputs, "t_prefill_chunked", chunk=float(chunk), causal_work=1.0, **options)
        return Row(name, where, "t_prefill_chunked [ms]", *times)

    inputs = case(DENSE, dict(PP=8), device=FAST_MEMORY, S_input=8192, chunk_size=1024)
    yield row("chunked: no pipeline fill", "PP 8, 8 chunks of 1,024", inputs)
    inputs = case(DENSE, device=FAST_MEMORY, S_input=1025, chunk_size=1024)
    yield row("chunked: last chunk padded", "1,025 tokens in chunks of 1,024, compute bound", inputs)
    inputs = case(MIXTURE, device=FAST_MEMORY, S_input=2048, chunk_size=2048)
    yield row("chunked: no router", "256 experts of width 2,048, top 8, one chunk", inputs)
    half = MIXTURE | dict(I_dense=28672, moe=EXPERTS | dict(n_moe_layers=30))
    inputs = case(half, device=FAST_MEMORY, S_input=2048, chunk_size=2048)
    yield row("chunked: expert width in every layer", "31 dense layers of width 28,672 and 30 of experts", inputs)
    for tokens in (8192, 131072):
        inputs = case(DENSE, device=FAST_MEMORY, S_input=tokens)
        where = f"{tokens:,} tokens, compute bound"
        yield Row("full S² of scores", where, "t_prefill [ms]", *prefill(inputs))
    yield Row("full S² of scores", "the same, causal_work 1", "t_prefill [ms]", *prefill(inputs, causal_work=1.0))


def experts() -> Iterator[Row]:
    """Mixtures of experts."""
    for batch in (1, 8, 32, 256):
        where = f"256 experts, top 8, one device, B {batch}, context 128"
        inputs = case(MIXTURE, B_decode=batch, S_decode=128)
        yield Row("all experts are read", where, "TPOT [ms]", *tpot(inputs))
    inputs = case(MIXTURE, dict(EP=8), B_decode=512, S_decode=32768)
    where = "EP 8, B 512, context 32,768"
    memory = published(inputs)["decode"]["memory"]["M_kv_device"]
    name = "EP ranks repeat the attention"
    found = corrected(inputs, 32767)
    yield Row(name, where, "KV cache a device [GB]", memory / 1e9, float(found.memory.kv_cache) / 1e9)
    yield Row(name, where, "TPOT [ms]", *tpot(inputs))
    inputs = case(MIXTURE, dict(EP=8), [SLOW], device=FAST_MEMORY, B_decode=512, S_decode=128)
    sent = published(inputs)["decode"]["comm"]["t_comm_stage"]
    where = "EP 8 at 50 GB/s, B 512, experts' exchange"
    yield Row(name, where, "communication of a step [ms]", ms(sent), ms(corrected(inputs, 127).decode.network))


def networks() -> Iterator[Row]:
    """Collectives."""
    rounds, beta = 3, 1 / 50e9
    for name, right in (
        ("tree_pipelined", lambda size: double_tree_all_reduce(size, 8, rounds, 0.0, beta)),
        ("tree", lambda size: tree_all_reduce(size, rounds, 0.0, beta)),
    ):
        inputs = case(DENSE, dict(TP=8), [SLOW], S_input=8192, tp_algorithm=name)
        taken = published(inputs)["prefill"]["comm"]["t_TP_prefill"]
        where = f"{name}, 8 ranks at 50 GB/s, 134 MB"
        yield Row("tree all-reduce moves half", where, "one all-reduce [ms]", ms(taken), ms(right(8192 * 8192 * 2)))
    inputs = case(DENSE, dict(TP=8), [SLOW], device=FAST_MEMORY, S_input=8192, tp_algorithm="tree_pipelined")
    taken = published(inputs)["prefill"]["comm"]["t_prefill_comm"]
    mine = ms(corrected(inputs, 8192, algorithms=("double-tree", "direct")).prefill.network)
    where = "tree_pipelined, TP 8 at 50 GB/s, 8,192 tokens; jaxperf: the cheapest in software"
    yield Row("tree all-reduce moves half", where, "communication of prefill [ms]", ms(taken), mine)
    for ranks in (4, 8, 72):
        size, beta = 1e9, 1e-11
        plain, driven = (in_network_all_reduce(size, ranks, 0.0, beta, multicast=flag) for flag in (0.0, 1.0))
        where = f"all-reduce of 1 GB over {ranks} ranks at 100 GB/s, NVLink multicast"
        yield Row("in-network moves M", where, "time [ms]", ms(plain), ms(driven))
    tiers = [dict(ports=72, bw_per_port_GBps=900.0, alpha_us=0.0), dict(ports=8, bw_per_port_GBps=50.0, alpha_us=0.0)]
    inputs = case(DENSE | dict(n_q=128, H=16384), dict(TP=128), tiers, device=FAST_MEMORY, devices=576)
    taken = published(inputs)["prefill"]["comm"]["t_prefill_comm"]
    mine = ms(corrected(inputs, 2048).prefill.network)
    where = "TP 128 over racks of 72: ⌊128/72⌋ = 1 rack, so nothing leaves it"
    yield Row("groups that do not fill racks", where, "communication of prefill [ms]", ms(taken), mine)
    inputs = case(DENSE, dict(SP=8), [SLOW], device=FAST_MEMORY, B_decode=8, S_decode=32768)
    taken = published(inputs)["decode"]["comm"]["t_comm_stage"]
    where = "SP 8 at 50 GB/s, B 8, context 32,768"
    mine = ms(corrected(inputs, 32767).decode.network)
    yield Row("SP gathers the KV cache in each step", where, "communication of a step [ms]", ms(taken), mine)


def widths() -> Iterator[Row]:
    """Peaks and widths."""
    for width, peaks, where in (
        (1.0, dict(bf16=312, fp16=312, int8=624), "A100, fp8 weights (no fp8 units)"),
        (0.5, dict(bf16=989, fp16=989, fp8=1979, int8=1979), "H100, fp4 weights (no fp4 units)"),
        (0.5, dict(bf16=2500, fp16=2500, fp8=5000, fp4=15000), "B300, fp4 (15 PFLOP/s on the datasheet)"),
    ):
        device = FAST_MEMORY | dict(peak_flops_TF=peaks["bf16"])
        inputs = case(DENSE | dict(bytes_per_param=width), device=device, S_input=512)
        times = prefill(inputs, peaks=peaks, causal_work=1.0)
        yield Row("peaks scale as 2/bytes", f"{where}, 512 tokens", "t_prefill [ms]", *times)
    narrow = DENSE | dict(bytes_per_param=0.5)
    inputs = case(narrow, device=FAST_MEMORY, S_input=131072)
    where = "fp4 weights on fp4 units; jaxperf: scores in bf16; 131,072 tokens"
    yield Row("scores run in the weights' type", where, "t_prefill [ms]", *prefill(inputs, causal_work=1.0))
    inputs = case(narrow, dict(TP=8), [SLOW], device=FAST_MEMORY, B_decode=64)
    taken, where = published(inputs)["decode"]["comm"]["t_comm_stage"], "fp4, TP 8 at 50 GB/s, B 64"
    for activations, note in ((2.0, "bf16 messages"), (0.5, "half-byte messages, for comparison")):
        mine = ms(corrected(inputs, 2047, activations=activations).decode.network)
        yield Row("one width for all", f"{where}; {note}", "communication of a step [ms]", ms(taken), mine)


def sums() -> Iterator[Row]:
    """What is summed, divided and held."""
    time = ms(published(case(DENSE, S_input=128))["e2e"]["TTFT"])
    mine = ms(corrected(case(DENSE), 128, causal_work=1.0).ttft)
    yield Row("TTFT holds a decode step", "128 tokens, one device, B 1", "TTFT [ms]", time, mine)
    small = DENSE | dict(L=32, H=4096, n_q=32, I_dense=14336)
    for stages in (1, 8):
        inputs = case(small, dict(PP=stages))
        taken = published(inputs)["decode"]["memory"]["M_theta_device"] / 1e9
        mine = float(corrected(inputs, 2047).memory.weights) / 1e9
        where = f"8B, untied, PP {stages}, fullest device"
        yield Row("one embedding on every stage", where, "weights [GB]", taken, mine)
    inputs = case(DENSE | dict(L=61), dict(PP=8), S_decode=128)
    taken = published(inputs)["decode"]["memory"]["M_theta_device"] / 1e9
    mine = float(corrected(inputs, 127).memory.weights) / 1e9
    yield Row("stages hold L/PP layers", "61 layers on PP 8: 7.625, or 8", "weights [GB]", taken, mine)
    inputs = case(DENSE, dict(TP=32), B_decode=64, S_decode=32768)
    memory = published(inputs)["decode"]["memory"]["M_kv_device"]
    mine = float(corrected(inputs, 32767).memory.kv_cache) / 1e9
    yield Row("KV heads split beyond Hkv", "8 KV heads on TP 32", "KV cache a device [GB]", memory / 1e9, mine)
    inputs = case(DENSE, dict(TP=8), devices=9, B_decode=8, S_decode=128)
    mine = corrected(inputs, 127)
    rates = published(inputs)["e2e"]["throughput_per_gpu"], float(mine.decode_tokens_per_s / mine.devices)
    yield Row("idle devices in the denominator", "TP 8 on 9 devices, B 8", "tokens/s a device", *rates)
    inputs = case(DENSE, S_decode=100, device=H100 | dict(hbm_capacity_GB=1e6))
    mine = float(corrected(inputs, 98, memory_utilisation=1.0).max_batch)
    where = "100 tokens in blocks of 16, a memory that weights hardly fill: ⌈100/16⌉ blocks, and φ besides"
    yield Row("paging rounds up twice", where, "sequences", published(inputs)["kv_paging"]["max_sequences"], mine)
    sram = H100 | dict(hbm_capacity_GB=32.0, hbm_bandwidth_GBps=50.0, sram_capacity_MB=256.0, sram_bandwidth_TBps=18.75)
    inputs = case(DENSE | dict(L=4), device=sram, S_decode=128)
    where = "4 layers of 70B, 256 MB of SRAM at 18.75 TB/s before 32 GB at 50 GB/s"
    yield Row("LM head from the fastest memory", where, "TPOT [ms]", *tpot(inputs, memory_utilisation=1.0))
    pins = [float(data_pin_count(110e-6, 10e-6, 0.5, count)) for count in (8, 1)]
    yield Row("stacked DRAM: pins times dies", "8 dies on one face, 110 mm², 10 µm, half data", "data pins", *pins)
    right = float(peak_bandwidth(1e7, 8e9)) / TERA
    yield Row("stacked DRAM: worked examples", "1e7 pins at 8 Gb/s, as printed", "bandwidth [TB/s]", 10.0, right)


def rows() -> list[Row]:
    """All differences."""
    return [row for part in (background, pipelines, chunks, experts, networks, widths, sums) for row in part()]


def line(row: Row) -> str:
    """A row as it stands in docs/differences.md."""
    return f"| {row.name} | {row.regime} | {row.unit} | {row.llm_perf:.4g} | {row.jaxperf:.4g} | {row.ratio:.3g} |"


def plain(row: Row) -> str:
    """A row as the terminal shows it."""
    return f"{row.name:38s} {row.llm_perf:10.4g} {row.jaxperf:10.4g} {row.ratio:7.3g}  {row.unit}; {row.regime}"


def as_json(found: list[Row]) -> dict[str, Any]:
    """All rows as JSON."""
    return {"rows": [row._asdict() | {"ratio": row.ratio} for row in found]}


if __name__ == "__main__":
    from pages import publish  # a script finds its neighbours

    publish(__doc__, "differences_llm_perf", rows, line, plain, as_json)
