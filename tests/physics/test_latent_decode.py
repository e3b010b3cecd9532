"""Decode over a latent cache has a share of the peak of its own: measured kernels, bounds, older calibrations."""

from __future__ import annotations

import json

import equinox as eqx
import pytest

import jaxperf
from jaxperf.load import efficiency_document_of, load_efficiency
from jaxperf.ops import EXACT
from jaxperf.spec.deployment import IDEAL, build_efficiency, complete_efficiency, efficiency_document
from jaxperf.spec.library import find
from jaxperf.spec.model import as_arrays, stack_groups
from jaxperf.stages.forms import best_table
from jaxperf.stages.latency import operator_timing
from jaxperf.stages.plan import make_plan
from jaxperf.stages.shapes import Pass

from .specs import priced

MEASURED = [
    ("h100-sxm-8", 64, 64, 2048, 82.98),
    ("h100-sxm-8", 64, 128, 8192, 417.3),
    ("h100-sxm-8", 128, 64, 2048, 84.24),
    ("h100-sxm-8", 128, 128, 8192, 514.8),
    ("b200-8", 64, 128, 2048, 72.17),
    ("b200-8", 64, 128, 8192, 235.4),
    ("b200-8", 128, 64, 2048, 43.82),
    ("b200-8", 128, 128, 8192, 238.4),
]
"""System, query heads on the rank, sequences, context [tokens], microseconds of absorbed MLA in bf16, TensorRT-LLM
1.3.0rc20. Source: NVIDIA aiconfigurator kernel tables, commit 095f58a5, Apache-2.0."""


@eqx.filter_jit
def core_time(model, system, deployed, sequences, tokens, context):
    """Seconds of one layer's attention core in a decode step of `tokens` new tokens a sequence."""
    plan = make_plan(model, stack_groups(model), system, deployed, EXACT)
    work = Pass(sequences * tokens, sequences * tokens, sequences, tokens, context - tokens, 1.0, sequences, True)
    return operator_timing(best_table(model.groups[0], plan, work, EXACT)["attention"], plan, work, EXACT).time


def core(system, heads, sequences, context, efficiency="default", tokens=1.0, model="deepseek-v3"):
    deployed = jaxperf.deployment(model, tp=128 / heads, kv="bf16", efficiency=efficiency)
    numbers = as_arrays((float(sequences), float(tokens), float(context)))
    return float(core_time(jaxperf.load_model(model), jaxperf.load_system(system), deployed, *numbers))


def with_share(**shares):
    return as_arrays(build_efficiency(efficiency_document_of("default") | shares))


def as_before():
    """The default efficiency with latent attention at the share of other attention."""
    return with_share(latent_decode_compute=None)


@pytest.mark.parametrize(("system", "heads", "sequences", "context", "microseconds"), MEASURED)
def test_latent_decode_is_near_measured_kernels(system, heads, sequences, context, microseconds):
    found = core(system, heads, sequences, context) * 1e6
    assert found == pytest.approx(microseconds, rel=0.3)
    assert core(system, heads, sequences, context, as_before()) * 1e6 > 2.5 * microseconds


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("tokens", [1.0, 4.0])
def test_latent_decode_is_never_faster_than_the_bound(share, tokens):
    for heads, sequences, context in ((128, 64, 4096), (16, 8, 512)):
        fitted = core("h100-sxm-8", heads, sequences, context, with_share(latent_decode_compute=share), tokens)
        assert fitted >= core("h100-sxm-8", heads, sequences, context, "ideal", tokens) * (1 - 1e-6)


def test_more_tokens_never_raise_a_share_that_is_above_that_of_prefill():
    """A verify pass over a latent cache takes as long as its scores, where one over mostly empty tiles takes no longer
    than one token."""
    free = {name: 0.0 for name in IDEAL if name.endswith("_us")} | {"memory_bytes_half": 0.0, "attention_memory": 1.0}
    bound = with_share(**free, latent_decode_compute=0.05, attention_prefill_compute=0.05)
    one, four = (core("h100-sxm-8", 128, 64, 8192, bound, tokens) for tokens in (1.0, 4.0))
    assert four == pytest.approx(4 * one, rel=1e-3)
    filling = with_share(**free, latent_decode_compute=0.05, attention_prefill_compute=0.4)
    assert core("h100-sxm-8", 128, 64, 8192, filling, 4.0) == pytest.approx(one, rel=1e-3)


def tpot(model, efficiency, **layout):
    deployed = jaxperf.deployment(model, efficiency=efficiency, **(layout or {"tp": 8}))
    work = jaxperf.workload(4096, 64, 256)
    return float(priced(jaxperf.load_model(model), jaxperf.load_system("h100-sxm-8"), deployed, work).tpot)


@pytest.mark.parametrize("model", ["llama-3.1-70b", "gpt-oss-120b"])
def test_other_models_do_not_see_the_factor(model):
    assert tpot(model, with_share(latent_decode_compute=0.02)) == tpot(model, "default")


@pytest.mark.parametrize("model", ["deepseek-v3", "deepseek-v4-flash"])
def test_models_with_a_latent_cache_see_no_other(model):
    """Compressed attention works on its entries as absorbed MLA does."""
    assert tpot(model, with_share(attention_decode_compute=0.02)) == tpot(model, "default")
    assert tpot(model, "default") < tpot(model, with_share(latent_decode_compute=0.02))


def test_an_older_calibration_means_what_it_meant(tmp_path):
    """A file without the factor takes its own share of other decode attention; so does null."""
    document = json.loads(json.dumps(find("calibration", "default").document))
    factors = document["groups"][0]["efficiency"]
    for value in ("absent", None):
        factors.pop("latent_decode_compute", None)
        factors |= {} if value == "absent" else {"latent_decode_compute": value}
        document["sources"] = {"groups": document["sources"]["groups"]}
        path = tmp_path / f"{value}.json"
        path.write_text(json.dumps(document))
        loaded = efficiency_document_of(path)
        assert loaded["latent_decode_compute"] == factors["attention_decode_compute"]
        assert complete_efficiency(loaded) == loaded
        again = efficiency_document(load_efficiency(path))
        assert again["latent_decode_compute"] == pytest.approx(factors["attention_decode_compute"])
        layout = {"attention_dp": 8, "ep": 8}  # all 128 heads on each rank
        older, before, now = (tpot("deepseek-v3", given, **layout) for given in (path, as_before(), "default"))
        assert older == before > 1.2 * now
