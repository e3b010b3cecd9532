"""The public tool's case studies: its equations give its published figures; what jaxperf's physics makes of them.

Published figures: README and notebooks of llm_perf (github.com/spiceMonkey/llm_perf, commit fdc49cc). The system is the
library's gb200-nvl72 with the tool's figures (`benchmarks.case_studies.system_document`), efficiency ideal."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from benchmarks import case_studies as cs

PAGE = Path(__file__).resolve().parents[2] / "docs" / "case-studies.md"
WINNER, RUNNER_UP = (8, 8, 1, 1), (6, 4, 1, 1)


@functools.cache
def study(name: str) -> cs.Study:
    return getattr(cs, f"{name}_study")()


def test_layouts():
    found = study("layout").numbers
    assert (found["partitions"], found["points"]) == (260, 37)
    assert found["compat"] == [(WINNER, 33), (RUNNER_UP, 4)]
    assert found["compat_deepest"] > 0.85
    assert found["jaxperf_deepest"] < 0.05 and found["published_layout"] == 0
    assert found["jaxperf_shallow"] > 0.6
    # A step of jaxperf is never faster: PP does not divide it.
    assert all(found["interactivity"][0] > 2 * users for users in found["interactivity"][1:2])
    assert study("layout").verdict == "overturned"


def test_memory_bandwidth_prefers_wide_tp_where_it_is_scarce():
    found = study("memory").numbers
    base, double, fourfold, unbounded = (dict(side) for side in found["compat"])
    assert base[WINNER] == 33 and double[WINNER] == 28 and fourfold[WINNER] == 18
    assert double[8, 4, 2, 1] == 3 and fourfold[8, 4, 2, 1] == 9 and fourfold[8, 4, 1, 1] == 8
    assert unbounded == {(8, 1, 1, 1): 10, (6, 1, 1, 1): 8}
    for side in ("compat", "jaxperf", "best"):
        widths = found["mean_tp"][side]
        assert widths == sorted(widths, reverse=True) and widths[0] > 5 and widths[-1] == pytest.approx(1)
    assert study("memory").verdict == "kept"


def test_links():
    base, wide, prompt, ideal = (dict(side) for side in study("link").numbers["compat"])
    assert base[WINNER] == 33 and set(wide) == {WINNER}
    assert prompt[4, 16, 1, 1] == 6 and ideal == {(4, 16, 1, 1): 39}
    rings, best = study("link").numbers["jaxperf"], study("link").numbers["best"]
    assert [side[0][0][1] for side in rings] == [4, 8, 16, 16]  # TP: bandwidth buys some of it, α the rest
    assert [side[0][0][1] for side in best] == [16] * 4
    assert study("link").verdict == "in part"


def test_peak_flops():
    found = study("peak").numbers
    for tops in found["long"]:
        assert max(tops) / min(tops) < 1.02
    one, four = found["short"]["compat"]
    assert one == pytest.approx(7500, rel=0.01) and four == pytest.approx(9400, rel=0.01)
    one, four = found["short"]["frontier"]
    assert 1.15 < four / one < 1.35
    one, four = found["short"]["jaxperf"]
    assert four / one < 1.05  # at the published layout the links are the limit


def test_framework_overhead_hurts_the_interactive_end_alone():
    found = study("overhead").numbers
    for side, winner in (("compat", WINNER), ("jaxperf", (1, 4, 16, 4))):
        assert {layout for layout, _ in found["winners"][side]} == {winner}
    for users, tops in zip(found["users"], found["tops"], strict=True):
        assert users[-1] / users[0] < 0.5 and tops[-1] / tops[0] > 0.8
        assert users == sorted(users, reverse=True)
    assert study("overhead").verdict == "kept"


def test_chunk_size():
    found = study("chunk").numbers
    published = ((2048, 3.8, 5.37), (4096, 7.6, 5.54), (4096, 15.4, 5.72), (4096, 32.0, 6.08), (4096, 68.5, 6.74))
    for row, (chunk, ttft, speed_up) in zip(found["compat"], published, strict=True):
        assert row["chunk"] == chunk
        assert row["ttft_ms"] == pytest.approx(ttft, rel=0.011)
        assert row["speed_up"] == pytest.approx(speed_up, rel=0.01)
    for prompt, row in zip(found["prompts"], found["jaxperf"], strict=True):
        assert 256 <= row["chunk"] <= 1024  # a short chunk fills eight stages sooner
        assert row["flat"][1] / row["flat"][0] >= 2.5  # the valley is flat all the same
        assert row["flat"][1] < min(2049, prompt)
    gains = [row["speed_up"] for row in found["jaxperf"]]
    assert gains == sorted(gains) and 1.5 < gains[0] < 2.5 and 4 < gains[-1] < 6
    assert study("chunk").verdict == "overturned"


def test_one_prompt_on_an_unlike_layout():
    compat, single, chunked = study("handoff").numbers["pays"]
    assert compat == [65536, 131072]
    assert single == list(cs.LONG_PROMPTS) and chunked == []
    assert study("handoff").verdict == "overturned"


@pytest.mark.slow
def test_two_pools():
    found = study("pool").numbers
    for limit, least, most in ((20, 1.5, 2.4), (50, 1.05, 1.5)):
        for prompt in (2048, 8192, 32768, 131072):
            point = found[f"{limit} ms, {prompt}"]
            assert least < point["gain"] < most
            # jaxperf.phases.handoff.disaggregated and the harmonic mean of the pools agree.
            assert point["apart"] == pytest.approx(1 / (1 / point["prefill"][0] + 1 / point["decode"][0]), rel=1e-6)
            assert 0 < point["handoff_s"] < point["ttft_s"]


def test_cluster_size():
    found = study("cluster").numbers
    for side in found["compat"]:
        assert {layout[0] for layout, count in side if count > 5} == {8}
    assert [side[0][0][1] for side in found["compat"]] == [8, 16, 16, 16, 16]
    for side, ep in zip(found["compat"][1:4], (2, 4, 8), strict=True):
        assert (8, 8, ep, 1) in dict(side)
    assert {side[0][0][0] for side in found["jaxperf"]} == {1}
    assert study("cluster").verdict == "overturned"


def test_collectives():
    found = study("collective").numbers
    assert found["tpot_ms"]["compat"] == pytest.approx([0.70, 0.47, 0.42], rel=0.01)
    ring, software, network = found["tpot_ms"]["jaxperf"]
    assert ring > 3 * software and software > network > 0.8 * software
    _, software, network = found["tops"]["compat"]
    assert network / software < 1.01


def test_a_torus_against_a_switch():
    found = study("torus").numbers
    assert found["tops"][:2] == pytest.approx([429, 1305], rel=0.002)
    assert found["users"][:2] == pytest.approx([646, 201], rel=0.002)
    assert found["tops"][2] < found["tops"][3] and found["users"][2] < found["users"][3]


@pytest.mark.parametrize("name", ["layout", "memory", "overhead", "chunk", "handoff"])
def test_the_page_quotes_what_the_studies_give(name: str):
    assert cs.line(study(name)) in PAGE.read_text(encoding="utf-8")
