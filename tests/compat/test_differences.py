"""docs/differences.md quotes what the benchmark computes: a few of its numbers, computed again."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import differences_llm_perf as differences

PAGE = Path(__file__).resolve().parents[2] / "docs" / "differences.md"
PARTS = {
    "background": differences.background,
    "pipelines": differences.pipelines,
    "chunks": differences.chunks,
    "experts": differences.experts,
    "networks": differences.networks,
    "widths": differences.widths,
    "sums": differences.sums,
}


@pytest.mark.parametrize("part", PARTS)
def test_the_page_quotes_every_row(part: str):
    page = PAGE.read_text(encoding="utf-8")
    missing = [row.name for row in PARTS[part]() if differences.line(row) not in page]
    assert not missing


def test_the_factors_are_what_the_conventions_say():
    found: dict[str, list[differences.Row]] = {}
    for row in differences.rows():
        found.setdefault(row.name, []).append(row)

    def ratios(name: str) -> list[float]:
        return [row.ratio for row in found[name]]

    assert all(0.93 < ratio < 1.01 for ratio in ratios("background"))
    assert ratios("PP divides a token's weight reads")[0] == pytest.approx(1 / 8, rel=0.01)
    assert ratios("prefill: communication of one stage")[0] == pytest.approx(1 / 8, rel=0.05)
    assert ratios("chunked: no pipeline fill")[0] == pytest.approx(8 / 15, rel=0.05)
    assert ratios("chunked: last chunk padded")[0] == pytest.approx(2048 / 1025, rel=0.02)
    assert ratios("full S² of scores")[-1] == pytest.approx(1, rel=0.01)
    assert ratios("EP ranks repeat the attention")[0] == pytest.approx(8, rel=0.01)
    assert ratios("tree all-reduce moves half")[:2] == pytest.approx([0.5, 0.5])
    assert ratios("in-network moves M") == pytest.approx([4 / 5, 8 / 9, 72 / 73])
    assert ratios("peaks scale as 2/bytes")[:2] == pytest.approx([1 / 2, 1 / 4], rel=0.01)
    assert ratios("one width for all")[0] == pytest.approx(1 / 4, rel=0.07)
    assert ratios("KV heads split beyond Hkv")[0] == pytest.approx(1 / 4, rel=1e-3)
    assert ratios("idle devices in the denominator")[0] == pytest.approx(8 / 9, rel=0.015)
    assert ratios("all experts are read")[0] > 20 and ratios("all experts are read")[-1] == pytest.approx(1, rel=0.02)
