"""The tables of LIFE (arXiv 2508.00904) from jaxperf's operator table; what is a quirk of theirs stands here, named."""

from __future__ import annotations

import equinox as eqx

from jaxperf.load import deployment, load_model, load_system
from jaxperf.ops import EXACT
from jaxperf.spec.deployment import weight_format
from jaxperf.spec.model import Model, stack_groups
from jaxperf.stages.flops import flops
from jaxperf.stages.kernels import dispatches
from jaxperf.stages.memory import layer_kv_bytes
from jaxperf.stages.operators import AttentionCore, Operator, head_table
from jaxperf.stages.options import optioned_table
from jaxperf.stages.plan import Plan, make_plan
from jaxperf.stages.shapes import Pass
from jaxperf.stages.traffic import traffic

GIB, MIB = 2**30, 2**20

SCORE_OPERATIONS = 6
"""LIFE counts six operations a score (scale, mask, softmax) beside the two products; jaxperf's kernels count none."""

EMBEDDING_READS = 2
"""LIFE reads the whole embedding table twice a step; jaxperf gathers rows."""

UNEXPLAINED = 0.024 * GIB
"""A constant that the tables' decode bytes need [bytes]."""

ATTENTION_UNEXPLAINED = 2 * MIB
"""The same for one attention layer [bytes]."""

QUANTISED_CACHE_READS = 1.5
"""Times that LIFE's growth of a 4-bit KV cache has it read; its 16-bit one is read twice."""

EAGER = {"attention": "eager", "fusion": "none"}


def plan(weights: str | None = None, model: str = "llama-2-7b", **settings: object) -> Plan:
    """A plan on LIFE's CPU. LIFE quantises the LM head with the layers."""
    deployed = deployment(model, weights=weights, settings=settings, efficiency="ideal")
    if weights is not None:
        form = eqx.tree_at(lambda f: f.bytes, deployed.precision.lm_head, weight_format(weights).bytes)
        deployed = eqx.tree_at(lambda d: d.precision.lm_head, deployed, form)
    described = load_model(model)
    return make_plan(described, stack_groups(described), load_system("ryzen-ai-cpu"), deployed, EXACT)


def prompt(tokens: float) -> Pass:
    """A whole prompt, with logits for every token."""
    return Pass(tokens, tokens, 1.0, tokens, 0.0, 1.0, tokens, False)


def step(context: float) -> Pass:
    """A decode step that ends at a context."""
    return Pass(1.0, 1.0, 1.0, 1.0, context - 1, 1.0, 1.0, True)


def table(made: Plan, work: Pass) -> list[tuple[float, Operator]]:
    """Layers and head of a dense model of one group: (copies, operator)."""
    group = made.model.groups[0]
    layers = float(group.count)
    rows = [(layers, operator) for operator in optioned_table(group, made, work, EXACT).values()]
    return rows + [(1.0, operator) for operator in head_table(made, work).values()]


def prefill_parts(tokens: float) -> tuple[float, float, float]:
    """Operations of the products with weights, of the scores, and LIFE's others a score."""
    made, work = plan(**EAGER), prompt(tokens)
    products = scores = pairs = 0.0
    for copies, operator in table(made, work):
        counted = copies * float(flops(operator, work, EXACT))
        if isinstance(operator, AttentionCore):
            scores += counted
            pairs += counted / float(2 * (operator.shape.score_size + operator.shape.value_size))
        else:
            products += counted
    return products, scores, SCORE_OPERATIONS * pairs


def weight_bytes(weights: str | None = None) -> float:
    """Weights that a step reads: layers and LM head [bytes]."""
    made, work = plan(weights, **EAGER), step(1.0)
    return sum(copies * float(traffic(operator, work, EXACT).weights) for copies, operator in table(made, work))


def cache_reads(context: float) -> float:
    """KV cache that a step of eager attention reads: once in the core, once more for its copy [bytes]."""
    made, work = plan(**EAGER), step(context)
    rows = optioned_table(made.model.groups[0], made, work, EXACT)
    core, again = (traffic(rows[name], work, EXACT) for name in ("attention", "attention values"))
    written = float(layer_kv_bytes(made.model.groups[0], 1.0, _single_blocks(made), EXACT))
    return float(made.model.layers) * (float(core.kv_cache) - written + float(again.total))


def _single_blocks(made: Plan):
    """The deployment with blocks of one token."""
    return eqx.tree_at(lambda d: d.engine.block_tokens, made.deployment, 1.0)


def decode_bytes(context: float, weights: str | None = None) -> float:
    """LIFE's memory of a decode step [bytes]."""
    model = load_model("llama-2-7b")
    embedding = EMBEDDING_READS * float(model.vocabulary_size * model.hidden_size) * 2
    return weight_bytes(weights) + cache_reads(context) + embedding + UNEXPLAINED


def quantised_growth(tokens: float) -> float:
    """Growth of a 4-bit cache's reads over some tokens [bytes]: an eager kernel's two reads are one and a half here."""
    return QUANTISED_CACHE_READS * (cache_reads(1.0 + tokens) - cache_reads(1.0)) / 2 / 4


def attention_layer(kv_heads: int, tokens: float) -> float:
    """LIFE's memory of one fused attention layer [bytes]: weights, KV cache, hidden states."""
    made = plan()
    attention = eqx.tree_at(lambda a: a.kv_heads, made.model.groups[0].attention, float(kv_heads))
    group = eqx.tree_at(lambda g: g.attention, made.model.groups[0], attention)
    work = prompt(tokens)
    rows = optioned_table(group, made, work, EXACT)
    weights = sum(float(traffic(rows[name], work, EXACT).weights) for name in ("qkv projection", "output projection"))
    hidden = tokens * float(made.model.hidden_size) * 2
    return weights + float(layer_kv_bytes(group, tokens, _single_blocks(made), EXACT)) + hidden + ATTENTION_UNEXPLAINED


def merge(rank: int) -> float:
    """Operations that merge LoRA into every projection of the layers [FLOP]."""
    made = plan(lora={"rank": rank, "mode": "merged-each-pass"})
    work, group = step(1.0), made.model.groups[0]
    rows = optioned_table(group, made, work, EXACT)
    merged = [rows[f"lora merge {name}"] for name in ("attention", "feed-forward")]
    return float(group.count) * sum(float(flops(row, work, EXACT)) for row in merged)


def with_layers(name: str, layers: int) -> Model:
    """A model with some other number of layers, all in its first group."""
    model = load_model(name)
    counts = [float(layers), *[0.0] * (len(model.groups) - 1)]
    return eqx.tree_at(lambda m: [g.count for g in m.groups], model, counts)


def dispatch_calls(name: str, layers: int) -> float:
    """Kernels of a decode step of an eager model without fusion."""
    options = plan(**EAGER).deployment.engine.options
    assert options is not None
    return float(dispatches(stack_groups(with_layers(name, layers)), options))
