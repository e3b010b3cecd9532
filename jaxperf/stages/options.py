"""What an engine's options make of the operator table: more rows, wider rows, and GEMMs padded to tiles.

With every option at its default the table stays as it is. An engine without options has None, and a program without
any of this: what is not in use costs nothing, neither to run nor to compile."""

from __future__ import annotations

import equinox as eqx

from ..constants import DTYPES
from ..ops import Ops, Scalar, choose, larger, smaller
from ..spec.deployment import Efficiency
from ..spec.model import LayerGroup
from ..spec.options import Options, Tiles
from .adapters import adapter_rows
from .forms import best_table
from .operators import AttentionCore, Elementwise, Gemm, Operator
from .plan import Arithmetic, Plan
from .shapes import Pass

SCORE_PASSES = 2
"""Times that an eager kernel moves a score: the softmax reads what the first product wrote, the second product reads
what the softmax wrote."""

_NARROW = 0.9  # weights below this share of the width that they are computed in are dequantised first


def optioned_table(group: LayerGroup, plan: Plan, work: Pass, ops: Ops) -> dict[str, Operator]:
    """The operators of one layer for a pass (see `best_table`), under the engine's options where it has any."""
    table, options = best_table(group, plan, work, ops), plan.deployment.engine.options
    return table if options is None else with_options(table, options, group, plan, work, ops)


def with_options(
    table: dict[str, Operator], options: Options, group: LayerGroup, plan: Plan, work: Pass, ops: Ops
) -> dict[str, Operator]:
    """The operators of one layer under some `Options`.

    - `apart`: residual + norm move 5·T·D, gate·up·act 5·T·F elements instead of 4 and 3. `joined`: the norm writes
      what quantisation would (2·T·D elements less a site), and the GEMM before it applies the activation.
    - `eager`: the scores are written and read twice (see `SCORE_PASSES`), the KV cache is read once more, and the
      masked half of the square is computed.
    - `dequantise`: 2 operations a weight and pass on the vector units; the wide copy is written and read.
    - `tiles`: GEMMs compute padded tiles in whole waves (see `padding`).
    - adapters: see `adapter_rows`.
    """
    changed = _fused(table, options, group, plan)
    changed = {
        name: eqx.tree_at(
            lambda g: g.peak, row, row.peak / padding(row, options.tiles, plan.deployment.efficiency, ops)
        )
        if isinstance(row, Gemm)
        else row
        for name, row in changed.items()
    }
    more = _eager_rows(changed["attention"], options, work, ops) | _dequantised_rows(changed, options, plan)
    core = changed["attention"]
    assert isinstance(core, AttentionCore)
    square = core.causal_work + options.eager * (1 - core.causal_work)
    changed["attention"] = eqx.tree_at(lambda c: c.causal_work, core, square)
    return changed | more | adapter_rows(table, options.adapters, group, plan, work)


def padding(gemm: Gemm, tiles: Tiles, efficiency: Efficiency, ops: Ops) -> Scalar:
    """What a GEMM executes against what it needs, from 1 up: tiles·rows·columns/(m·n), in whole waves of the units.

    ⌈m/rows⌉·⌈n/columns⌉ tiles a copy; all copies share the waves. 1 where neither is asked for. What an efficiency adds
    to the rows and columns of a small product (m0, n0) stands for the same loss: the larger of the two counts.
    """
    if_tiled = smaller(tiles.rows, 1.0)
    if_waves = smaller(tiles.units, 1.0) * if_tiled
    m, n = larger(gemm.m, 1e-6), larger(gemm.n, 1e-6)
    down = ops.at_least(ops.ceil_divide(m, larger(tiles.rows, 1.0)), 1.0)
    across = ops.at_least(ops.ceil_divide(n, larger(tiles.columns, 1.0)), 1.0)
    count = larger(gemm.copies, 1.0) * down * across
    units = larger(tiles.units, 1.0)
    waves = ops.at_least(ops.ceil_divide(count, units), 1.0)
    rows, columns = gemm.m + efficiency.gemm_rows_half, n + efficiency.gemm_columns_half
    padded = larger(down * tiles.rows / larger(rows, 1e-6), 1.0) * larger(across * tiles.columns / columns, 1.0)
    return 1 + if_tiled * (padded * (1 + if_waves * (larger(waves * units / count, 1.0) - 1)) - 1)


def _fused(table: dict[str, Operator], options: Options, group: LayerGroup, plan: Plan) -> dict[str, Operator]:
    """The table with element-wise work apart from, or joined with, its neighbours."""
    width = plan.deployment.precision.activations
    feed_forward, hidden = group.feed_forward, plan.model.hidden_size
    attends, gated = group.attention.present, feed_forward.gated
    has_dense, has_experts = smaller(feed_forward.width, 1.0), smaller(feed_forward.experts, 1.0)
    feeds = larger(has_dense, has_experts)
    narrow = choose(plan.attention.input_width < width, attends, 0.0)
    before = has_dense * plan.feed_forward.input_width + has_experts * plan.routed_experts.input_width
    narrow = narrow + choose(before < width, feeds, 0.0)
    changed = dict(table)

    norm = table["norm, rope, quantise"]
    assert isinstance(norm, Elementwise)
    moved = options.apart * (attends + feeds) - options.joined * 2 * narrow
    changed["norm, rope, quantise"] = eqx.tree_at(lambda e: e.row_bytes, norm, norm.row_bytes + moved * hidden * width)
    passes = 1 + options.apart * 2 * gated / (2 + gated)
    for name in ("activation", "expert activation"):
        kernel = table[name]
        assert isinstance(kernel, Elementwise)
        replaced = (kernel.present * (1 - options.joined), kernel.row_bytes * passes)
        changed[name] = eqx.tree_at(lambda e: (e.present, e.row_bytes), kernel, replaced)
    for name in ("ffn gate, up", "shared gate, up", "expert gate, up"):
        product = table[name]
        assert isinstance(product, Gemm)
        halved = product.output_width * (1 - options.joined * gated / 2)
        changed[name] = eqx.tree_at(lambda g: g.output_width, product, halved)
    return changed


def _eager_rows(core: Operator, options: Options, work: Pass, ops: Ops) -> dict[str, Operator]:
    """What eager attention moves besides, in kernels of their own, at the mean of the first and the last chunk."""
    assert isinstance(core, AttentionCore)
    shape = core.shape
    eager = options.eager * core.present * smaller(shape.heads, 1.0)

    def seen(prior: Scalar) -> Scalar:
        return ops.minimum(prior, core.window - 1) + work.new_tokens

    context = (seen(work.prior) + seen(work.last_context - work.new_tokens)) / 2
    scores = shape.heads * context / core.recent_weight * core.activation_width / core.cp
    cached = shape.kv_elements * core.kv_width * context / (core.cp if work.decode else 1.0)
    return {
        "attention scores": Elementwise(eager, work.sequences * work.new_tokens, SCORE_PASSES * scores),
        "attention softmax": Elementwise(eager, work.sequences * work.new_tokens, SCORE_PASSES * scores),
        "attention values": Elementwise(eager, work.sequences, cached),
    }


def _dequantised_rows(table: dict[str, Operator], options: Options, plan: Plan) -> dict[str, Operator]:
    """Kernels that widen quantised weights for a GEMM: 2 operations a weight, its wide copy written and read."""
    vector_peak = plan.system.device.peak[DTYPES.index("fp32")]
    classes: dict[str, tuple[Arithmetic, tuple[str, ...]]] = {
        "attention": (plan.attention, ("down projections", "qkv projection", "latent up", "output projection")),
        "ffn": (plan.feed_forward, ("ffn gate, up", "ffn down")),
        "shared": (plan.shared_experts, ("shared gate, up", "shared down")),
        "expert": (plan.routed_experts, ("expert gate, up", "expert down")),
    }
    rows: dict[str, Operator] = {}
    for name, (how, members) in classes.items():
        gemms = [table[member] for member in members]
        weights = sum(gemm.present * gemm.n * gemm.k for gemm in gemms if isinstance(gemm, Gemm))
        present = larger(gemms[0].present, gemms[1].present)
        quantised = choose(how.weight_width < _NARROW * how.input_width, options.dequantise, 0.0)
        copies = gemms[0].copies if isinstance(gemms[0], Gemm) else 1.0
        rows[f"dequantise {name}"] = Elementwise(
            quantised * present, copies, 2 * weights * how.input_width, 2 * weights, vector_peak
        )
    return rows
