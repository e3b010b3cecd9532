"""One compiled program serves every model, system, layout and workload."""

from __future__ import annotations

import itertools

import jax
import numpy as np

from jaxperf.constants import PLACE_WORDS
from jaxperf.load import deployment, load_model, load_system, workload
from jaxperf.phases.end_to_end import evaluate
from jaxperf.spec.library import names

LAYOUTS = [
    dict(),
    dict(tp=8),
    dict(tp=4, pp=3, cp=2, attention_dp=2, chunk=512),
    dict(tp=8, weights="fp8", kv="fp8"),
    dict(tp=2, engine="vllm", weights="int4"),
]


def test_one_program_serves_everything():
    traces = 0

    def counted(*args):
        nonlocal traces
        traces += 1
        return evaluate(*args)

    compiled = jax.jit(counted)
    systems = itertools.cycle(names("system"))
    layouts = itertools.cycle(LAYOUTS)
    loads = itertools.cycle([(1, 1, 1), (1024, 128, 16), (30000.0, 7, 512)])
    pairs = [(model, next(systems)) for model in names("model")]
    pairs += [("llama-3.1-8b", system) for system in names("system")]
    for (model, system), layout, (isl, osl, batch) in zip(pairs, layouts, loads, strict=False):
        metrics = compiled(
            load_model(model),
            load_system(system),
            deployment(model, efficiency="ideal", **layout),
            workload(isl, osl, batch),
        )
        assert np.isfinite(float(metrics.e2e))
        assert float(metrics.e2e) > 0
        assert 0 < float(metrics.mfu) <= 1.0001
        assert 0 < float(metrics.mbu) <= 1.0001
    assert traces == 1


def test_leaves_are_strongly_typed_arrays():
    """A weakly typed leaf compiles again; a string would be static."""
    trees = (
        load_model("deepseek-v3"),
        load_system("h100-sxm-8"),
        deployment("deepseek-v3", tp=8, efficiency="ideal"),
        workload(10, 10),
    )
    for leaf in jax.tree.leaves(trees):
        assert isinstance(leaf, jax.Array)
        assert not leaf.weak_type
        assert leaf.shape in ((), (PLACE_WORDS,))
