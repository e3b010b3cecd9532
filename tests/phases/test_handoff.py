"""A prompt's cache on its way from where it was prefilled to where it is decoded, against hand calculations."""

import pytest

import jaxperf
from jaxperf.compiling import quick
from jaxperf.phases.handoff import Handoff, Link, handoff, handoff_time

HBM = 3350e9


def moved(
    model: str, source: dict, target: dict, isl: float, link: Link | None = None, prefill: float = 0.0
) -> Handoff:
    """A handoff on H100 at the physical bound."""
    sides = [jaxperf.deployment(model, efficiency="ideal", **side) for side in (source, target)]
    memory, work = jaxperf.load_system("h100-sxm-8").device.memory, jaxperf.workload(isl, 128)
    link = link or Link(0.0, 50e9)
    loaded = jaxperf.load_model(model)
    return quick(lambda: handoff(loaded, *sides, memory, work, prefill, link))()


def test_size_is_the_cache_of_one_prompt():
    # 80 layers, 8 key/value heads of 128, bf16, keys and values
    found = moved("llama-3.1-70b", {"tp": 8}, {"tp": 8}, 4096)
    assert float(found.size) == pytest.approx(4096 * 80 * 8 * 2 * 128 * 2)
    assert float(found.repack) == 0.0
    assert float(found.transfer) == pytest.approx(float(found.size) / 50e9)


def test_latent_cache_is_moved_once_though_every_rank_holds_it():
    found = moved("deepseek-v3", {"tp": 8}, {"tp": 8}, 4096)
    assert float(found.size) == pytest.approx(4096 * 61 * (512 + 64) * 2)


def test_one_replica_of_attention_repacks_its_own_prompt():
    found = moved("llama-3.1-70b", {"tp": 8}, {"tp": 4, "attention_dp": 2}, 4096)
    assert float(found.repack) == pytest.approx(2 * float(found.size) / (4 * HBM), rel=1e-5)


def test_a_wider_cache_is_read_narrow_and_written_wide():
    found = moved("llama-3.1-70b", {"tp": 8, "kv": "fp8"}, {"tp": 8}, 4096)
    assert float(found.repack) == pytest.approx(3 * float(found.size) / (8 * HBM), rel=1e-5)


def test_windowed_layers_send_the_blocks_that_they_keep():
    # 21 layers of 8192 tokens and 21 of a window of 4096, in blocks of 16, over two devices
    found = moved("gemma-2-9b", {"tp": 2}, {"tp": 2}, 8192)
    assert float(found.requests) == (21 * 512 + 21 * 256) / 2


def test_overlap_hides_the_transfer_behind_prefill_and_never_turns_negative():
    link = Link(1e-5, 50e9, 1.0, 1e-6, 1.0)
    exposed = 1e-5 + 100 * 1e-6 + 1e9 / 50e9 + 1e-3
    assert float(handoff_time(1e9, 100.0, 1e-3, 0.01, link)) == pytest.approx(exposed - 0.01)
    assert float(handoff_time(1e9, 100.0, 1e-3, 10.0, link)) == 0.0
