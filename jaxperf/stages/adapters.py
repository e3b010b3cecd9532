"""LoRA adapters: their operations, their bytes, and the memory that they take. Hu et al. 2021, arXiv:2106.09685."""

from __future__ import annotations

import equinox as eqx

from ..ops import Ops, Scalar, larger, smaller
from ..spec.deployment import Deployment
from ..spec.model import LayerGroup
from ..spec.options import Adapters
from .operators import AttentionCore, Elementwise, Gemm, Operator
from .plan import Plan
from .routing import active_experts
from .shapes import AttentionShape, Pass, attention_shape


class AdaptedSize(eqx.Module):
    """The adapted matrices of a class on one rank: `sides`, the sum of their rows and columns n + k [elements], and
    their `weights`, the sum of n·k [elements]. An adapter of rank r has r·sides parameters."""

    sides: Scalar
    weights: Scalar


def adapted_sizes(
    group: LayerGroup, shape: AttentionShape, hidden: Scalar, tp: Scalar
) -> tuple[AdaptedSize, AdaptedSize, AdaptedSize]:
    """Attention, dense feed-forward and shared experts of one layer on one rank (see `AdaptedSize`).

    Every projection has its own A and B: q, k and v read the same input but have three. Split over tp as its matrix is:
    A whole beside columns, B whole beside rows. MLA's up-projection of keys and values, which decode absorbs, has none.
    """
    a, f = group.attention, group.feed_forward
    ordinary = a.present * (1 - a.latent) * (1 - a.linear)
    together = ordinary * (1 + a.value_projection)  # projections that share the fused one's input with the first
    projected = smaller(shape.qkv_n, 1.0)
    two = 2 * smaller(shape.down_n, 1.0)
    attention = AdaptedSize(
        sides=shape.qkv_n
        + projected * (1 + together) * shape.qkv_k
        + shape.down_n
        + two * hidden
        + a.present * (hidden + shape.out_k),
        weights=shape.qkv_n * shape.qkv_k + (shape.down_n + shape.out_k) * hidden,
    )
    matrices = 2 + f.gated
    widths = (f.width / tp, f.shared_width / tp)
    dense, shared = [
        AdaptedSize(smaller(width, 1.0) * matrices * (hidden + width), matrices * hidden * width) for width in widths
    ]
    return attention, dense, shared


def adapter_rows(
    table: dict[str, Operator], adapters: Adapters, group: LayerGroup, plan: Plan, work: Pass
) -> dict[str, Operator]:
    """The rows that adapters add to the operator table of a layer.

    Inline 2·m·r·Σ(n + k) FLOP a class, every adapter that the batch asks for read once: of A equally likely ones in B
    sequences A(1 − (1 − 1/A)^B). Merged in every pass (2r + 2)·Σ n·k FLOP, the wide sum written and read.
    """
    core = table["attention"]
    assert isinstance(core, AttentionCore)
    tp, width = plan.deployment.parallelism.tp, plan.deployment.precision.activations
    asked = larger(active_experts(work.sequences, adapters.count, 1.0), 1.0)
    sizes = adapted_sizes(group, core.shape, plan.model.hidden_size, tp)
    rows: dict[str, Operator] = {}
    for name, size in zip(("attention", "feed_forward", "shared_experts"), sizes, strict=True):
        chosen = getattr(adapters, name) * smaller(size.sides, 1.0)
        inline, merging, rank = adapters.inline * chosen, adapters.merging * chosen, larger(adapters.rank, 1.0)
        short = name.replace("_", "-")
        rows[f"lora {short}"] = Gemm(
            inline, asked, work.rows / asked, size.sides, rank, width, width, width, plan.core_peak
        )
        moved = (2 * size.weights + rank * size.sides) * width
        rows[f"lora merge {short}"] = Elementwise(
            merging, 1.0, moved, merge_operations(size.weights, rank), plan.core_peak
        )
    return rows


def merge_operations(weights: Scalar, rank: Scalar) -> Scalar:
    """Operations that merge an adapter into some weights [FLOP]: 2·k·r·n + 2·k·n each, the product and the sum."""
    return (2 * rank + 2) * weights


def layer_adapter_bytes(group: LayerGroup, hidden: Scalar, deployment: Deployment, ops: Ops) -> Scalar:
    """Bytes of all adapters of one layer on one device [bytes]: count·r·Σ(n + k)·b_a; merged ahead they take none."""
    options, tp = deployment.engine.options, deployment.parallelism.tp
    adapters = Adapters() if options is None else options.adapters
    shape = attention_shape(group.attention, hidden, tp, 1.0, ops)
    sizes = adapted_sizes(group, shape, hidden, tp)
    sides = (
        adapters.attention * sizes[0].sides
        + adapters.feed_forward * sizes[1].sides
        + adapters.shared_experts * sizes[2].sides
    )
    resident = (adapters.inline + adapters.merging) * adapters.count
    return resident * adapters.rank * sides * deployment.precision.activations
