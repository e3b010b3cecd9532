"""Optimisations on the command line: what they do to an estimate, and what is refused."""

from __future__ import annotations

import json

import pytest

from ..commands import Call

BASE = ("estimate", "--model", "llama-2-7b", "--isl", "256", "--osl", "32", "--efficiency", "ideal", "--json")


def test_options_reach_the_estimate(call: Call) -> None:
    def metrics(*more: object) -> dict:
        done = call(*BASE, "--system", "rtx-4090-1", *more)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["metrics"]

    plain, eager = metrics(), metrics("--attention", "eager")
    adapted = metrics("--lora-rank", 16, "--lora-adapters", 4)
    assert eager["ttft_s"] > plain["ttft_s"]
    assert adapted["tpot_s"] > plain["tpot_s"]
    assert adapted["max_batch"] < plain["max_batch"]
    narrow = metrics("--weights", "Q4_K_M", "--kv-kept", 0.5)
    assert narrow["tpot_s"] < plain["tpot_s"] / 3
    assert narrow["max_batch"] > 2 * plain["max_batch"]


def test_options_of_wide_expert_parallelism(call: Call) -> None:
    """288 slots on 144 ranks: refused without copies; a skew costs, forwarding and two halves pay."""
    wide = ("estimate", "--model", "deepseek-v3", "--system", "h800", "--json", "--isl", 1024, "--osl", 64)
    wide = (*wide, "--ep", 144, "--dp-attention", 144, "--batch", 144 * 64, "--prefill-batch", 144)
    refused = call(*wide)
    assert refused.returncode == 2
    assert "ep: 144 does not divide the 256 experts" in refused.stderr

    def metrics(*more: object) -> dict:
        done = call(*wide, "--redundant-experts", 32, "--expert-placement", "balanced", *more)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["metrics"]

    plain, skewed = metrics(), metrics("--expert-skew", 0.8)
    assert skewed["tpot_s"] > plain["tpot_s"]
    assert metrics("--two-batch-overlap")["tpot_s"] < plain["tpot_s"]
    assert metrics("--expert-forwarding")["ttft_s"] < plain["ttft_s"]
    pools = (*wide[:10], "--ep", 32, "--dp-attention", 32, "--expert-forwarding", "--link-GBps", 50, "--decode")
    other = "ep=144 dp-attention=144 batch=9216 redundant-experts=32 expert-placement=balanced no-expert-forwarding"
    pair = call(*pools, other)
    assert pair.returncode == 0, pair.stderr
    assert json.loads(pair.stdout)["metrics"]["tpot_s"] == pytest.approx(plain["tpot_s"], rel=1e-3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--expert-skew", "-1"), "expected a number from 0 to 4"),
        (("--expert-skew", "much"), "'much' is no number"),
        (("--redundant-experts", "2.5"), "no whole number"),
        (("--expert-placement", "greedy"), "known: anywhere, balanced"),
        (("--redundant-experts", "8"), "llama-2-7b has none"),
        (("--weights", "int3"), "no weight format is called 'int3'"),
        (("--attention", "eagre"), "eager"),
        (("--lora-rank", "0"), "out of range"),
        (("--lora-adapters", "4"), "need --lora-rank"),
        (("--lora-rank", "8", "--lora-adapters", "2", "--lora-mode", "merged-ahead"), "cannot be merged"),
        (("--kv-kept", "0"), "above 0"),
        (("--kv-rank", "2"), "out of range"),
        (("--fusion", "most"), "usual"),
    ],
)
def test_bad_options_are_one_line(call: Call, words: tuple[str, ...], said: str) -> None:
    done = call(*BASE, "--system", "rtx-4090-1", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_other_verbs_refuse_what_they_would_ignore(call: Call) -> None:
    done = call("sensitivity", "--model", "llama-2-7b", "--system", "rtx-4090-1", "--attention", "eager")
    assert done.returncode == 2
