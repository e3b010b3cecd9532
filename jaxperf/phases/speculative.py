r"""Speculative decoding: a draft proposes tokens, the model verifies them in one pass.

A round drafts \(g\) tokens one after another (a tree: several candidates at each level), then decodes all of them at
once. It yields \(\tau = 1 + p_1 + p_1 p_2 + \dots\) tokens (see `drafts`). Leviathan et al. 2023, arXiv:2211.17192."""

from __future__ import annotations

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp

from ..ops import EXACT, Ops, Scalar, choose, larger, reals
from ..spec.deployment import Deployment
from ..spec.model import LayerGroup, Model, stack_groups
from ..spec.system import System
from ..spec.workload import Workload
from ..stages.latency import Assembly, table_timing
from ..stages.memory import Beside, embedding_bytes, head_bytes, layer_kv_bytes, layer_weight_bytes
from ..stages.operators import Gemm, Operator
from ..stages.plan import Plan, make_plan
from .decode import PhaseCost, decode_pass, decode_step
from .drafts import Speculation, chain, tokens_per_verify
from .end_to_end import REASONS, Metrics, summary
from .layers import model_shares
from .prefill import prefill_times
from .prepare import prepare


class Speculated(eqx.Module):
    """What speculation does to one configuration.

    `tokens_per_verify` τ [tokens]; `draft_time` of all drafts of a round, `verify_time`, and `plain_time` of a decode
    step without speculation [s]; `speed_up` = plain_time/TPOT; `draft_prefill_time` [s], which TTFT contains;
    `acceptance` [levels] and `verified` tokens of a sequence, as in `Speculation`; `draft_weights` [bytes a device] and
    `draft_kv_cache` [bytes a sequence and device], which the memory contains; `metrics`, everything with speculation
    on: `metrics.tpot` is a round's time over τ, `metrics.decode` a round.
    """

    acceptance: Scalar
    verified: Scalar
    tokens_per_verify: Scalar
    draft_time: Scalar
    verify_time: Scalar
    plain_time: Scalar
    speed_up: Scalar
    draft_prefill_time: Scalar
    draft_weights: Scalar
    draft_kv_cache: Scalar
    metrics: Metrics


def without_host_steps(deployment: Deployment) -> Deployment:
    """The deployment of a draft: the host schedules and samples once a round, which the verify pass counts; a draft's
    pass only launches its kernels."""
    zero = jnp.zeros(())
    where = lambda d: (  # noqa: E731
        d.efficiency.host_step_time,
        d.efficiency.host_sequence_time,
        d.efficiency.host_token_time,
    )
    return eqx.tree_at(where, deployment, (zero, zero, zero))


def _compressed(deployment: Deployment) -> Deployment:
    """The deployment with its KV cache as wide as the engine keeps it."""
    width = deployment.precision.kv_cache * deployment.engine.kv_width
    return eqx.tree_at(lambda d: d.precision.kv_cache, deployment, width)


def _beside(speculation: Speculation, tokens: Scalar, ops: Ops) -> Beside:
    """What the draft takes on a device: weights, and the KV cache of a sequence of `tokens` tokens."""
    draft, deployment = speculation.draft, speculation.deployment
    layout, precision = deployment.parallelism, deployment.precision
    stacked, hidden, own = stack_groups(draft), draft.hidden_size, speculation.own
    counts = speculation.copies * stacked.count
    layer = jax.vmap(lambda group: layer_weight_bytes(group, hidden, deployment, ops))(stacked)
    cache = jax.vmap(lambda group: layer_kv_bytes(group, tokens, deployment, ops))(stacked)
    ends = embedding_bytes(draft, layout, precision) + head_bytes(draft, layout, precision, ops)
    projection = speculation.copies * 2 * hidden * hidden * precision.lm_head.bytes
    return Beside(
        weights=jnp.sum(counts * layer) + (1 - own) * ends + own * projection,
        kv_cache=jnp.sum(counts * cache),
        stacked=stacked,
        counts=counts,
        deployment=deployment,
        tokens=speculation.verified,
    )


def _projection(plan: Plan, rows: Scalar, own: Scalar) -> dict[str, Operator]:
    """MTP's product of the hidden state beside the last token's embedding, 2D, with 2D×D weights, on every rank."""
    how, hidden, width = plan.lm_head, plan.model.hidden_size, plan.deployment.precision.activations
    return {
        "mtp projection": Gemm(own, 1.0, rows, hidden, 2 * hidden, how.weight_width, how.input_width, width, how.peak)
    }


class _Runner(eqx.Module):
    """A model ready to price steps: its `plan`, its groups `stacked`, and their `shares` of pipeline stages."""

    plan: Plan
    stacked: LayerGroup
    shares: Scalar


def _stack(trees: list[_Runner]) -> _Runner:
    """Pytrees of equal structure as one whose leaves have a leading axis."""

    def column(*leaves: Scalar) -> Scalar:
        return jnp.stack([leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf, float) for leaf in leaves])

    return jax.tree.map(column, *trees)


def _steps(
    runners: list[_Runner], tokens: list[Scalar], own: list[Scalar], workload: Workload, assembly: Assembly, ops: Ops
) -> list[PhaseCost]:
    """A decode step of each runner with some new `tokens` a sequence, MTP's projection included where it is the model's
    `own` layer. One after another: the program holds one decode step, whatever their number."""

    def one(item: tuple[_Runner, Scalar, Scalar]) -> PhaseCost:
        runner, count, mtp = item
        step = decode_step(runner.plan, workload, runner.stacked, runner.shares, assembly, ops, count)
        work, _ = decode_pass(runner.plan.deployment, workload, ops, count)
        extra = table_timing(_projection(runner.plan, work.rows, mtp), runner.plan, work, assembly, ops)
        more = PhaseCost(extra.time, extra.compute, extra.memory, 0.0, extra.overhead, extra.flops, extra.needed_bytes)
        return _together(step, more)

    rows = [jnp.stack([jnp.asarray(value, float) for value in values]) for values in (tokens, own)]
    found = jax.lax.map(one, (_stack(runners), *rows))
    return [jax.tree.map(lambda leaf, index=index: leaf[index], found) for index in range(len(runners))]


def _prefills(runners: list[_Runner], workload: Workload, assembly: Assembly, ops: Ops) -> list[list[PhaseCost]]:
    """Prefill by each runner, of the prompts that TTFT is timed with, and of one on every attention replica."""

    def one(runner: _Runner) -> list[PhaseCost]:
        prompts = (workload.prefill_batch, runner.plan.deployment.parallelism.attention_dp)
        stages = (runner.stacked, runner.shares)
        return prefill_times(runner.plan, workload.isl, prompts, *stages, assembly, ops, workload.prefix_hit)

    found = jax.lax.map(one, _stack(runners))
    return [jax.tree.map(lambda leaf, index=index: leaf[index], found) for index in range(len(runners))]


def _together(mine: PhaseCost, *others: PhaseCost) -> PhaseCost:
    """Phases one after the other."""
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), mine, *others)


@partial(jax.jit, static_argnames=("assembly",), inline=True)
def speculate(
    model: Model,
    system: System,
    deployment: Deployment,
    workload: Workload,
    speculation: Speculation,
    ops: Ops = EXACT,
    assembly: Assembly = "operator",
) -> Speculated:
    """One configuration with speculative decoding: TPOT = (Σ t_draft + t_verify)/τ.

    The verify pass is a decode step with as many rows as tokens are verified: every sequence's KV cache is read once,
    and more rows wake more experts. The draft's weights and cache, and the drafted tokens' cache, take memory. All
    sequences draft together before they are verified, also where pipeline stages would draft for one group while
    others verify (an upper bound for pp > 1). The draft prefills the prompt, too, before the first token is out.

    **Arguments:** as in `evaluate`, and a `Speculation` (`chain`, `tree`, or by names `jaxperf.speculation`).
    **Returns:** `Speculated`.
    """
    model, system, deployment, workload = reals(model, system, deployment, workload)
    quiet = _compressed(without_host_steps(speculation.deployment))
    speculation = eqx.tree_at(lambda s: s.deployment, speculation, quiet)
    tokens = deployment.engine.kv_kept * (workload.isl + workload.osl + speculation.verified)
    beside = _beside(speculation, tokens, ops)
    alone = prepare(model, system, deployment, workload, ops)
    ready = prepare(model, system, deployment, workload, ops, beside)
    draft_plan = make_plan(speculation.draft, beside.stacked, system, quiet, ops)
    draft = _Runner(draft_plan, beside.stacked, model_shares(beside.stacked, draft_plan, ops))
    target, before = (_Runner(found.plan, found.stacked, found.shares) for found in (ready, alone))

    kinds = speculation.rows.shape[0]
    plain, verify, *passes = _steps(
        [before, target, *[draft] * kinds],
        [1.0, speculation.verified, *speculation.rows],
        [0.0, 0.0, *[speculation.own] * kinds],
        workload,
        assembly,
        ops,
    )
    times = speculation.steps
    drafts = _together(*[jax.tree.map(lambda leaf, n=n: times[n] * leaf, cost) for n, cost in enumerate(passes)])
    # `summary` counts the bytes of every pipeline group; the draft reads its weights once for all of them.
    groups = ops.minimum(workload.batch, deployment.parallelism.pp)
    counted = eqx.tree_at(lambda cost: cost.needed_bytes, drafts, drafts.needed_bytes / groups)
    decode = _together(verify, counted)
    prefills, drafted = _prefills([target, draft], workload, assembly, ops)
    prefill, loaded = [_together(mine, other) for mine, other in zip(prefills, drafted, strict=True)]

    accepted = tokens_per_verify(speculation.acceptance)
    metrics = summary(model, system, deployment, workload, ready, prefill, loaded, decode, ops, accepted)
    return Speculated(
        acceptance=speculation.acceptance,
        verified=speculation.verified,
        tokens_per_verify=accepted,
        draft_time=drafts.time,
        verify_time=verify.time,
        plain_time=plain.time,
        speed_up=plain.time / metrics.tpot,
        draft_prefill_time=drafted[0].time,
        draft_weights=beside.weights,
        draft_kv_cache=beside.kv_cache,
        metrics=_within_context(metrics, speculation.draft, workload),
    )


def _within_context(metrics: Metrics, draft: Model, workload: Workload) -> Metrics:
    """The metrics, infeasible where the draft's context is too short."""
    code = float(REASONS.index("longer than the model's context"))
    long = (metrics.reason == 0) & (workload.isl + workload.osl > draft.max_context)
    reason = choose(long, code, metrics.reason)
    return eqx.tree_at(lambda m: (m.reason, m.feasible), metrics, (reason, choose(reason == 0, 1.0, 0.0)))


def speed_ups(
    model: Model,
    system: System,
    deployment: Deployment,
    workload: Workload,
    speculation: Speculation,
    acceptance: Scalar,
    most: int = 16,
    ops: Ops = EXACT,
) -> Scalar:
    """Speed-up of chains of 1 to `most` drafts of the same draft and one `acceptance`, [most]."""

    def one(drafts: Scalar) -> Scalar:
        drawn = chain(speculation.draft, speculation.deployment, acceptance, drafts, speculation.own)
        drawn = eqx.tree_at(lambda s: s.copies, drawn, speculation.copies)
        return speculate(model, system, deployment, workload, drawn, ops).speed_up

    return jax.lax.map(one, jnp.arange(1, most + 1).astype(float))


def best_draft_length(
    model: Model,
    system: System,
    deployment: Deployment,
    workload: Workload,
    speculation: Speculation,
    acceptance: Scalar,
    most: int = 16,
    ops: Ops = EXACT,
) -> tuple[Scalar, Scalar]:
    """The draft length of 1 to `most` with the highest speed-up, 0 where none is faster than plain decoding, and that
    speed-up (1 for none). Arguments as in `speed_ups`."""
    gains = speed_ups(model, system, deployment, workload, speculation, acceptance, most, ops)
    best = jnp.argmax(gains)
    pays = gains[best] > 1
    return choose(pays, best + 1, 0), larger(gains[best], 1.0)
