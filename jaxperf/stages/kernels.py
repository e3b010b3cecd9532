"""Kernels that a pass launches, counted from the operator table."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..ops import Ops, Scalar, choose, larger, smaller
from ..spec.deployment import Deployment
from ..spec.model import LayerGroup, Model
from ..spec.options import Options

COLLECTIVES_PER_LAYER = 2
"""After attention and after the feed-forward."""

KERNELS_BESIDE = 3
"""Kernels of a pass outside its layers: embedding, final norm, LM head."""


def layer_kernels(group: LayerGroup, options: Options) -> Scalar:
    """Kernels (dispatches) of one layer in one pass, as its operator table has them [kernels].

    Usual fusion: 2 norms with their residuals, q·k·v, rope, attention, output, gate·up, activation, down: 9 for a dense
    layer. `apart`: residuals, q, k, v, rope of q and of k, gate and up, activation and product each in one of their
    own; `eager`: 4 for attention (two products, mask, softmax): 19 with both, so a model of L layers has 19·L + 3, as
    LIFE counts (arXiv:2508.00904, Table 8; which 19 these are is our reading). Experts: router, choice, sum besides.
    Recurrent layers: convolution, core, gated norm. MLA: its down- and up-projections. Adapters: 2 a projection inline,
    1 merged. Dequantisation: 1 each.
    """
    a, f, o = group.attention, group.feed_forward, options
    apart, attends = o.apart, a.present
    dense, experts = smaller(f.width, 1.0), smaller(f.experts, 1.0)
    feeds = larger(dense, experts)
    attention_gemms = 2 + 2 * apart * (1 - a.latent) + 2 * a.latent
    ffn_gemms = 2 + apart * f.gated
    activation = (1 - o.joined) * (1 + apart * f.gated)
    adapted = 2 * o.adapters.inline + o.adapters.merging
    unpacked = o.dequantise
    core = (1 - a.linear) * (1 + apart) + 1 + 3 * o.eager * (1 - a.linear) + 2 * a.linear
    shared = smaller(f.shared_width, 1.0)
    return (
        (attends + feeds) * (1 + apart)
        + attends * (core + attention_gemms * (1 + adapted * o.adapters.attention + unpacked))
        + (dense + experts + shared) * (ffn_gemms * (1 + unpacked) + activation)
        + experts * 3
        + adapted * ffn_gemms * (dense * o.adapters.feed_forward + shared * o.adapters.shared_experts)
    )


def dispatches(stacked: LayerGroup, options: Options) -> Scalar:
    """Kernels of one pass through all layers of the groups `stacked`, collectives apart [kernels]: Σ layers + 3."""
    return jnp.sum(jax.vmap(lambda group: group.count * layer_kernels(group, options))(stacked)) + KERNELS_BESIDE


def kernels(model: Model, stacked: LayerGroup, deployment: Deployment, ops: Ops) -> Scalar:
    """Kernels of one pass through the whole model: L·(a layer's + 2 collectives' where a stage has several ranks), a
    layer's as the engine says, or counted (see `dispatches`)."""
    engine, layout = deployment.engine, deployment.parallelism
    several = ops.minimum(layout.ranks - 1, 1.0)
    collectives = several * COLLECTIVES_PER_LAYER * engine.kernels_per_collective
    given = model.layers * engine.kernels_per_layer
    counted = dispatches(stacked, Options() if engine.options is None else engine.options)
    return choose(engine.kernels_per_layer < 0, counted, given) + model.layers * collectives
