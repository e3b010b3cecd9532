"""Every worked number of the reference table that today's model covers, computed by jaxperf's own functions."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
import pytest

from jaxperf import closed_form as cf
from jaxperf.collectives.algorithms import point_to_point, ring_all_reduce
from jaxperf.load import load_efficiency, load_model
from jaxperf.ops import EXACT, Counting
from jaxperf.spec.deployment import IDEAL, Deployment, Engine, Parallelism, build_efficiency, build_precision
from jaxperf.spec.library import find, validate
from jaxperf.spec.model import Model, build_model
from jaxperf.stages.flops import attention_flops, flops
from jaxperf.stages.latency import gemm_compute_time
from jaxperf.stages.memory import layer_kv_bytes, parameters
from jaxperf.stages.operators import AttentionCore, Gemm
from jaxperf.stages.routing import active_experts, normal_score, slowest_rank_tokens
from jaxperf.stages.shapes import Pass, attention_shape
from jaxperf.stages.traffic import traffic

from ..conftest import reference_folder
from . import life

TABLE = reference_folder() / "worked_checks.csv"
GIB = 2**30
MANY = 10**9
"""Ranks of a ring so large that (G − 1)/G is 1, as the notes on TPUs and kipply take it."""


def _rows() -> dict[str, dict[str, str]]:
    if not TABLE.is_file():
        return {}
    with TABLE.open(encoding="utf-8") as stream:
        return {row["id"]: row for row in csv.DictReader(stream)}


ROWS = _rows()


def _model(name: str) -> Model:
    """A shipped model of Python ints under the table's spelling."""
    return build_model(find("model", name.split(" (no")[0].split("(V=")[0].removesuffix("-v0.1")).document)


def _described(
    hidden: int, layers: int, heads: int, head_size: int, kv_heads: int, vocabulary: int, width: int
) -> Model:
    """A dense model without norms from the figures of an exercise."""
    attention = dict(kind="grouped-query", query_heads=heads, kv_heads=kv_heads, head_size=head_size)
    group = dict(count=layers, norm_vectors=0, attention=attention, feed_forward=dict(kind="gated", width=width))
    document = dict(
        kind="model",
        name="exercise",
        hidden_size=hidden,
        vocabulary_size=vocabulary,
        final_norm_vectors=0,
        layer_groups=[group],
        exact_today=True,
        sources={"hidden_size": {"source": "an exercise"}},
    )
    return build_model(validate(document, "exercise").document)


def _gemm(m: Any, n: Any, k: Any, copies: Any = 1, width: float = 2.0, peak: float = 1.0) -> Gemm:
    return Gemm(1, copies, m, n, k, width, width, width, peak)


def _pass(tokens: float, prior: float = 0.0, decode: bool = False) -> Pass:
    return Pass(tokens, tokens, 1.0, tokens, prior, 1.0, tokens, decode)


def _params(row: dict, given: dict) -> Any:
    return parameters(_model(given["model"])).total


def _kv(row: dict, given: dict) -> Any:
    return cf.kv_bytes_per_token(_model(given["model"]), given["kv_bytes"])


def _deepseek_kv(row: dict, given: dict) -> float:
    model = _model("deepseek-v3")
    dense, sparse = model.groups[:2]
    longer = eqx.tree_at(lambda m: m.groups[1].count, model, given["L"] - dense.count)
    assert sparse.count == 58
    return cf.kv_bytes_per_token(longer, 2) * given["S"] / GIB


def _dot_product(row: dict, given: dict) -> float:
    """A dot product of N fp32 numbers is a GEMM with m = n = 1."""
    product = _gemm(1.0, 1.0, 1e9, width=4.0)
    work = _pass(1.0)
    return float(cf.ridge_point(flops(product, work, EXACT), traffic(product, work, EXACT).total))


def _step(row: dict, given: dict) -> float:
    return 1e3 * cf.decode_step_time(given["W"], given["B"], given["kv_seq"], given.get("bw", 6.56e12))


def _pope(tokens: int, share: float, steps: int) -> Callable[[dict, dict], float]:
    """Pope's latencies are 2·P·B·tokens over the chips' peak at a stated share of it."""

    def check(row: dict, given: dict) -> float:
        assert f"at MFU {share}" in row["statement"]
        return steps * cf.compute_time(given["P"], tokens, given["chips"] * given["peak"] * share)

    return check


def _pope_context(batch: int) -> Callable[[dict, dict], float]:
    """Tokens of MQA cache (one head of 256) in 30 % of 64 chips of 32 GiB."""

    def check(row: dict, given: dict) -> float:
        palm = _described(18432, given["L"], 48, 256, 1, 256000, 73728)
        return 0.3 * 64 * 32 * GIB / (batch * cf.kv_bytes_per_token(palm, 2))

    return check


def _nanoflow(name: str) -> Callable[[dict, dict], float]:
    """GFLOP of an operation of all layers of LLaMA-2-70B for a dense batch, from the model's own shapes."""

    def check(row: dict, given: dict) -> float:
        return _nanoflow_flops(name, given["B"]) / 1e9

    return check


def _nanoflow_flops(name: str, rows: int) -> float:
    model = _model("llama-2-70b")
    group, hidden = model.groups[0], model.hidden_size
    shape = attention_shape(group.attention, hidden, 1, 0.0, EXACT)
    width = group.feed_forward.width
    gemm = {
        "KQV": _gemm(rows, shape.qkv_n, shape.qkv_k, group.count),
        "O": _gemm(rows, float(hidden), shape.out_k, group.count),
        "UG": _gemm(rows, 2 * width, hidden, group.count),
        "D": _gemm(rows, hidden, width, group.count),
    }[name]
    return float(flops(gemm, _pass(float(rows)), EXACT))


def _nanoflow_sum(row: dict, given: dict) -> float:
    return sum(_nanoflow_flops(name, 2048) for name in given["ops"]) / (8 * 312e12) * 1e3


def _network_ratio(row: dict, given: dict) -> float:
    devices, peak, link = 8, 312e12, 300e9
    network = cf.network_time(devices, 1, given["D"], given["L"], 2, devices * link)
    return network / cf.compute_time(given["P"], 1, devices * peak)


def _liminal(ranks: int, context: int, sync: float) -> Callable[[dict, dict], float]:
    """Batch 1 at fp8 over `ranks` chips of 4 TiB/s, three synchronisations a layer."""

    def check(row: dict, given: dict) -> float:
        assert f"{sync:g} s" in given["sync"] and f"TP{ranks}" in row["statement"]
        model = _model("llama-3.1-405b")
        cache = context * cf.kv_bytes_per_token(model, 1)
        step = cf.decode_step_time(parameters(model).total, 1, cache, ranks * 4 * 2**40)
        return 1 / (step + 3 * model.layers * point_to_point(0.0, sync, 0.0))

    return check


def _exchange(tokens: int, paths: int, hidden: int, bandwidth: float) -> float:
    """Dispatch in fp8 and combine in bf16 of DeepSeek-V3's expert exchange [s]."""
    sent = tokens * paths * hidden
    return point_to_point(sent * 1, 0.0, 1 / bandwidth) + point_to_point(sent * 2, 0.0, 1 / bandwidth)


def _deepseek_step(row: dict, given: dict) -> float:
    exchange = _exchange(32, 9, 7000, given.get("bw", 50e9))
    return 1e3 * given["layers"] * given["per_layer"] * exchange


def _mooncake(row: dict, given: dict) -> float:
    """Mooncake counts a·p·d + b·d² FLOP a token and layer and 2·d/gqa elements of cache."""
    cache = 2 * given["D"] / given["gqa"] * given["s"]
    work = given["a"] * given["p"] * given["D"] + given["b"] * given["D"] ** 2
    return cf.loading_bandwidth(cache, work, given["G"]) / 1e9


def _absorbed_heads(row: dict, given: dict) -> float:
    """Heads that share a byte of the latent at 2 FLOP each: the critical batch of one-byte weights."""
    return cf.critical_batch(cf.ridge_point(given["TFLOPs"], given["TBps"]), 1)


def _latent_core(decode: bool) -> AttentionCore:
    model = load_model("deepseek-v3")
    attention = model.groups[0].attention
    shape = attention_shape(attention, model.hidden_size, 2.0, float(decode), EXACT)
    return AttentionCore(1.0, shape, np.inf, 2.0, 2.0, 1.0, 0.5, 1.0)


def _latent_cycles(row: dict, given: dict) -> float:
    """DeepSeek-V3 has 128 heads: 64 on a rank at tp 2; FLOPs of one more cached token."""
    core = _latent_core(True)
    assert core.shape.heads == given["heads"] and core.shape.score_size == given["d_qk"]
    more = [float(attention_flops(core, _pass(1.0, prior, True), prior, EXACT)) for prior in (1023.0, 1024.0)]
    return (more[1] - more[0]) / given["flop_per_cycle"]


def _latent_ratio(row: dict, given: dict) -> float:
    counted = [float(attention_flops(_latent_core(d), _pass(1.0, 99.0, d), 99.0, EXACT)) for d in (True, False)]
    return counted[0] / counted[1]


def _mlp_up(row: dict, given: dict) -> float:
    product = _gemm(given["tokens"], given["F"], given["D"], peak=given["flops"])
    return 1e6 * float(gemm_compute_time(product, load_efficiency("ideal")))


def _kipply_network(row: dict, given: dict) -> float:
    one = ring_all_reduce(given["B"] * given["D"] * 2, MANY, 0.0, 1 / given["W"])
    return 1e3 * 2 * given["L"] * one


def _fullest(row: dict, given: dict) -> float:
    ep = float(given["E"])
    return float(slowest_rank_tokens(float(given["B"]), ep, float(given["k"]), ep, normal_score(ep)))


def _queue(stages: float, speed: float) -> Callable[[dict, dict], float]:
    """DistServe: a stage or a faster instance serves a prompt in D/n or D/K."""

    def check(row: dict, given: dict) -> float:
        return given["D"] / speed + cf.steady_wait(given["D"] / (stages * speed), given["R"])

    return check


def _block_use(row: dict, given: dict) -> float:
    model = _model("llama-2-7b")
    precision = build_precision(find("model", "llama-2-7b").document["precision"])
    plain = Deployment(Parallelism(), precision, Engine(), build_efficiency(IDEAL))
    held = model.layers * layer_kv_bytes(model.groups[0], given["S"], plain, Counting())
    return given["S"] * cf.kv_bytes_per_token(model, 2) / held


def _life_tera_ops(row: dict, given: dict) -> float:
    """LIFE's Table 4: the whole square of scores, LM head on every row, six more operations a score."""
    tokens = float(given["S"])
    gemms, scores, extra = _life_parts(tokens)
    return (gemms + scores + extra) / 1e12


def _life_layer(row: dict, given: dict) -> float:
    return life.attention_layer(given["K"], 8192.0) / life.MIB


def _life_parts(tokens: float) -> tuple[float, float, float]:
    model = load_model("llama-2-7b")
    group, hidden = model.groups[0], model.hidden_size
    shape = attention_shape(group.attention, hidden, 1.0, 0.0, EXACT)
    width = group.feed_forward.width
    layer = [(shape.qkv_n, hidden), (hidden, shape.out_k), (2 * width, hidden), (hidden, width)]
    rows = [_gemm(tokens, n, k, group.count) for n, k in layer]
    rows.append(_gemm(tokens, model.vocabulary_size, hidden))
    work = _pass(tokens)
    core = AttentionCore(1.0, shape, np.inf, 2.0, 2.0, 1.0, 1.0, 1.0)
    scores = float(group.count * attention_flops(core, work, 0.0, EXACT))
    extra = 6 * scores / float(2 * (shape.score_size + shape.value_size))
    return sum(float(flops(one, work, EXACT)) for one in rows), scores, extra


def _life_share(part: int) -> Callable[[dict, dict], float]:
    def check(row: dict, given: dict) -> float:
        parts = _life_parts(float(given["S"]))
        return parts[part] / sum(parts)

    return check


CHECKS: dict[str, Callable[[dict, dict], Any]] = {
    "KV042": _deepseek_kv,
    "ROO043": lambda r, g: cf.critical_batch(cf.ridge_point(g["flops"], g["bw"]), 2),
    "ROO045": lambda r, g: cf.critical_batch(cf.ridge_point(g["ops"], g["bw"]), 1),
    "ROO047": lambda r, g: cf.ridge_point(g["flops"], g["bw"]),
    "ROO048": _dot_product,
    "ROO049": lambda r, g: cf.critical_batch(cf.ridge_point(g["flops"], g["bw"]), 2),
    "SCA050": lambda r, g: g["S"] * cf.kv_bytes_per_token(_model("llama-2-13b"), g["bytes"]),
    "SCA063": lambda r, g: cf.kv_bytes_per_token(_model("llama-3.1-70b"), 1),
    "SCA067": lambda r, g: 1e3 * cf.memory_time(g["hbm"], g["bw"]),
    "SCA069": lambda r, g: cf.request_rate(g["B"], g["step_ms"] * 1e-3, g["decode_steps"]) / g["chips"],
    "SCA070": lambda r, g: cf.request_rate(g["B"], g["step_ms"] * 1e-3, g["decode_steps"]) / g["chips"],
    "SCA071": lambda r, g: cf.compute_time(g["P"], g["S"], 16 * 197e12 * g["mfu"]),
    "SCA072": lambda r, g: cf.freed_tokens(g["B"], g["P"], g["G"]),
    "SCA074": lambda r, g: 1e6 * point_to_point(64 * 8192 * 2, 0.0, 1 / g["W_ici"]),
    "SCA078": lambda r, g: 1e6 * ring_all_reduce(g["rows"] * g["cols"] * g["bytes"], MANY, 0.0, 1 / g["W"]),
    "SCA080": lambda r, g: parameters(_described(g["D"], g["L"], g["Hq"], g["dk"], g["Hkv"], g["V"], g["F"])).total,
    "SCA081": lambda r, g: parameters(_described(g["D"], g["L"], 40, 100, 40, g["V"], g["F"])).total,
    "KIP083": lambda r, g: flops(_gemm(1, 2 * g["D"], g["D"], g["L"]), _pass(1.0), EXACT),
    "KIP085": lambda r, g: cf.kv_bytes_per_token(
        _described(g["D"], g["L"], 64, 128, 64, 50000, 4 * g["D"]), g["bytes"]
    ),
    "KIP088": lambda r, g: 1e3 * cf.compute_time(g["P"], g["B"], g["gpus"] * g["flops"]),
    "KIP090": lambda r, g: 1e3 * cf.compute_time(g["P"], g["B"], g["gpus"] * g["flops"]),
    "KIP089": _kipply_network,
    "KIP091": _kipply_network,
    "KIP094": _mlp_up,
    "POP096": _pope(64, 0.14, 64),
    "POP097": _pope(512, 0.76, 2048),
    "POP098": _pope(512, 0.33, 64),
    "POP100": lambda r, g: 1e3 * cf.memory_time(g["P"] * g["bytes"], g["chips"] * g["bw"]),
    "POP102": _pope_context(128),
    "POP103": _pope_context(512),
    "NAN107": _nanoflow("KQV"),
    "NAN108": _nanoflow("O"),
    "NAN109": _nanoflow("UG"),
    "NAN110": _nanoflow("D"),
    "NAN111": _nanoflow_sum,
    "NAN112": lambda r, g: cf.network_bytes(g["N"], g["B"], g["D"], g["L"], g["S"]) / 1e9,
    "NAN114": lambda r, g: 1e3 * cf.memory_time(g["kv_GB"] * 1e9, g["bw"]),
    "NAN118": _network_ratio,
    "NAN119": _network_ratio,
    "LIM121": _liminal(8, 131072, 2e-7),
    "LIM122": _liminal(32, 4096, 1.5e-6),
    "LIM123": _liminal(32, 131072, 1.5e-6),
    "LIM125": _liminal(128, 131072, 1.5e-6),
    "LIF126": _life_tera_ops,
    "LIF127": _life_tera_ops,
    "LIF128": _life_tera_ops,
    "LIF129": _life_tera_ops,
    "LIF130": _life_tera_ops,
    "LIF131": _life_share(0),
    "LIF132": _life_share(1),
    "LIF133": lambda r, g: g["S"] * cf.kv_bytes_per_token(_model(g["model"]), 2) / GIB,
    "LIF134": lambda r, g: life.dispatch_calls("gemma-2-9b", g["layers"]),
    "LIF135": lambda r, g: life.dispatch_calls("llama-2-7b", g["layers"]),
    "LIF136": lambda r, g: life.dispatch_calls("qwen3-32b", g["layers"]),
    "LIF137": lambda r, g: life.merge(g["r"]) / 1e9,
    "LIF138": lambda r, g: (life.weight_bytes() - life.weight_bytes("int4")) / GIB,
    "LIF139": lambda r, g: life.decode_bytes(g["S"]) / GIB,
    "LIF140": lambda r, g: life.decode_bytes(g["S"]) / GIB,
    "LIF141": lambda r, g: life.decode_bytes(g["S"], "int4") / GIB,
    "LIF142": lambda r, g: (life.cache_reads(g["tokens"] + 1.0) - life.cache_reads(1.0)) / GIB,
    "LIF143": lambda r, g: sum(life.prefill_parts(float(g["S"]))) / (g["efficiency"] * g["GFLOPS"] * 1e9),
    "LIF146": _life_layer,
    "LIF147": _life_layer,
    "LIF148": _life_layer,
    "LIF144": lambda r, g: 1 / cf.memory_time(g["GB"], g["GBps"] * g["efficiency"]),
    "LIF145": lambda r, g: 1 / cf.memory_time(g["GB"], g["GBps"] * g["efficiency"]),
    "DEE149": lambda r, g: 1e6 * _exchange(g["tokens"], g["paths"], g["hidden"], g["bw"]),
    "DEE150": _deepseek_step,
    "DEE151": _deepseek_step,
    "DEE153": lambda r, g: cf.revenue([g["cached_in"], g["in"], g["out"]], g["usd_per_M"]),
    "MOO155": _mooncake,
    "MLA156": _absorbed_heads,
    "MLA157": _latent_cycles,
    "MLA158": _latent_ratio,
    "SPE162": lambda r, g: cf.verification_work(g["alpha"], g["gamma"]),
    "SPE163": lambda r, g: cf.tokens_per_verification(g["alpha"], g["gamma"]),
    "SPE164": lambda r, g: cf.verification_work(g["alpha"], g["gamma"]),
    "SPE165": lambda r, g: cf.tokens_per_verification(g["alpha"], g["gamma"]),
    "SPE166": lambda r, g: cf.verification_work(g["alpha"], g["gamma"]),
    "SPE167": lambda r, g: cf.tokens_per_verification(g["alpha"], g["gamma"]),
    "SPE169": lambda r, g: cf.tokens_per_verification(g["alpha"], g["gamma"]),
    "SPE171": lambda r, g: cf.tokens_per_verification(g["p"], g["depth"]),
    "QUE172": _queue(1, 1.0),
    "QUE173": _queue(2, 1.0),
    "QUE174": _queue(1, 1.8),
    "MOE180": _fullest,
    "MOE181": _fullest,
    "MOE182": _fullest,
    "MOE184": lambda r, g: float(active_experts(float(g["tokens"]), float(g["E"]), float(g["k"]))),
    "MOE185": lambda r, g: cf.critical_batch(g["B_crit_dense"], 2, g["E"], g["k"]),
    "TEN188": lambda r, g: cf.memory_time(parameters(_model("llama-3.1-70b")).total * g["bytes"], g["bw"]),
    "CHA196": lambda r, g: cf.request_time(g["ttft_ms"], g["tpot_ms"], g["tokens"], first_from_prefill=False),
    "CHA197": lambda r, g: 1e3 * cf.memory_time(g["bytes"], g["bw"]),
    "CHA199": lambda r, g: cf.token_gap_spread(g["gap_ms"], g["stall_ms"], g["every"]),
    "CHA201": _block_use,
    "SCA105": lambda r, g: cf.devices_for_two_axes(g["F/D"]),
}
CHECKS |= {name: _params for name in ROWS if name.startswith("PAR")}
CHECKS |= {name: _kv for name in ROWS if name.startswith("KV") and name != "KV042"}
CHECKS |= dict.fromkeys(("SCA053", "SCA054", "SCA056", "SCA057", "SCA058"), _step)


@pytest.mark.skipif(not ROWS, reason=f"the reference figures are absent: no {TABLE}")
def test_every_row_is_covered():
    assert set(CHECKS) == set(ROWS)
    topics = {row["topic"] for name, row in ROWS.items() if name in CHECKS}
    assert topics >= {"params", "kv", "roofline", "kipply", "scaling-book", "pope", "nanoflow", "moe"}


@pytest.mark.skipif(not ROWS, reason=f"the reference figures are absent: no {TABLE}")
@pytest.mark.parametrize("name", [name for name in ROWS if name in CHECKS] or ["absent"])
def test_worked_check(name: str):
    row = ROWS[name]
    expected, tolerance = float(row["expected"]), float(row["rel_tol"])
    computed = CHECKS[name](row, json.loads(row["inputs"]))
    if tolerance == 0 and isinstance(computed, int):
        assert computed == int(row["expected"])
    else:
        assert float(computed) == pytest.approx(expected, rel=max(tolerance, 1e-12))
