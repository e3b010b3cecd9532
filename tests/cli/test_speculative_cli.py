"""`jaxperf estimate` with speculative decoding and prefix caching, as a program."""

from __future__ import annotations

import json

import pytest

from ..commands import Call

BASE = ("estimate", "--model", "llama-3.1-70b", "--system", "h100-sxm-8", "--tp", "8", "--batch", "8")
DRAFT = ("--draft", "llama-3.1-8b", "--acceptance", "0.8")


def _json(call: Call, *words: object) -> dict:
    done = call(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_speculation_adds_a_key_and_changes_the_latencies(call: Call):
    plain, fast = _json(call, *BASE), _json(call, *BASE, *DRAFT, "--draft-length", "3")
    assert set(fast) - set(plain) == {"speculative"}
    assert set(plain) <= set(fast)
    assert set(plain["metrics"]) == set(fast["metrics"])
    found, metrics = fast["speculative"], fast["metrics"]
    assert found["tokens_per_verify"] == pytest.approx(1 + 0.8 + 0.64 + 0.512, rel=1e-6)
    assert found["acceptance"] == pytest.approx([0.8] * 3)
    assert found["verified_tokens"] == 4
    assert found["plain_tpot_s"] == pytest.approx(plain["metrics"]["tpot_s"], rel=1e-5)
    assert found["speed_up"] == pytest.approx(plain["metrics"]["tpot_s"] / metrics["tpot_s"], rel=1e-4)
    round_time = found["draft_s"] + found["verify_s"]
    assert metrics["decode_step_s"] == pytest.approx(round_time, rel=1e-5)
    assert metrics["tpot_s"] == pytest.approx(round_time / found["tokens_per_verify"], rel=1e-5)
    assert metrics["ttft_s"] == pytest.approx(plain["metrics"]["ttft_s"] + found["draft_prefill_s"], rel=1e-4)
    assert metrics["e2e_s"] == pytest.approx(metrics["ttft_s"] + 1023 * metrics["tpot_s"], rel=1e-4)
    weights = [result["memory"]["weights_bytes"] for result in (plain, fast)]
    assert weights[1] - weights[0] == pytest.approx(found["draft_weights_bytes"], rel=1e-4)
    times = {phase: sum(row["time_s"] for row in fast["breakdown"] if row["phase"] == phase) for phase in ("decode",)}
    assert times["decode"] == pytest.approx(found["verify_s"], rel=1e-4)
    drafts = [row["time_s"] for row in fast["breakdown"] if row["phase"] == "draft"]
    assert 3 * sum(drafts) == pytest.approx(found["draft_s"], rel=1e-4)


def test_a_tree_and_a_draft_layout_of_its_own(call: Call):
    found = _json(call, *BASE, *DRAFT, "--draft-tree", "4,2,2", "--draft-tp", "1")["speculative"]
    assert found["verified_tokens"] == 1 + 4 + 8 + 16
    assert (found["draft_tree"], found["draft_tp"], found["draft_length"]) == ([4, 2, 2], 1, 3)
    levels = [1 - 0.2**4, 1 - 0.2**2, 1 - 0.2**2]
    assert found["acceptance"] == pytest.approx(levels, rel=1e-5)
    assert found["draft_weights_bytes"] == pytest.approx(2 * 8_030_261_248, rel=1e-4)


def test_multi_token_prediction(call: Call):
    words = ("estimate", "--model", "deepseek-v3", "--system", "h200-8", "--tp", "8", "--ep", "8", "--batch", "8")
    found = _json(call, *words, "--mtp", "2", "--acceptance", "0.85,0.7")["speculative"]
    assert found["tokens_per_verify"] == pytest.approx(1 + 0.85 + 0.85 * 0.7, rel=1e-6)
    assert found["draft"] is None
    assert 1 < found["speed_up"] < found["tokens_per_verify"]


def test_a_prefix_hit(call: Call):
    plain = _json(call, *BASE, "--isl", "4096")
    tokens = _json(call, *BASE, "--isl", "4096", "--prefix-hit", "1024")
    share = _json(call, *BASE, "--isl", "4096", "--prefix-hit", "25%")
    assert tokens == share
    assert set(tokens) - set(plain) == {"prefix"}
    found = tokens["prefix"]
    assert (found["hit_tokens"], found["hit_ratio"], found["suffix_tokens"]) == (1024, 0.25, 3072)
    assert found["saved_s"] == pytest.approx(plain["metrics"]["ttft_s"] - tokens["metrics"]["ttft_s"], rel=1e-3)
    assert tokens["metrics"]["tpot_s"] == pytest.approx(plain["metrics"]["tpot_s"], rel=1e-6)
    assert found["kv_cache_bytes"] == pytest.approx(1024 * 327680)
    assert [source["tier"] for source in found["load"]] == ["host"]
    assert found["load"][0]["pays"] is True
    whole = _json(call, *BASE, "--isl", "4096", "--prefix-hit", "1.0")
    assert whole["prefix"]["suffix_tokens"] == 1
    assert whole["metrics"]["ttft_s"] < 0.2 * plain["metrics"]["ttft_s"]


def test_the_tables_say_that_the_figures_are_with_it(call: Call):
    done = call(*BASE, *DRAFT, "--prefix-hit", "0.5", "--breakdown")
    assert done.returncode == 0, done.stderr
    assert "All figures below are with speculative decoding and prefix caching." in done.stdout
    for text in ("tokens per verify pass", "3.36", "speed-up", "load from host", "512 tokens", "llama-3.1-8b"):
        assert text in done.stdout
    assert not any("All figures below" in line for line in call(*BASE).stdout.splitlines())


def test_a_draft_that_does_not_fit_exits_1(call: Call):
    words = ("estimate", "--model", "llama-3.1-70b", "--system", "h100-sxm-8", "--tp", "2", "--batch", "4")
    assert call(*words, "--isl", "100", "--osl", "100").returncode in (0, 1)
    done = call(
        *words, "--draft", "llama-3.1-8b", "--acceptance", "0.8", "--draft-tp", "1", "--isl", "100", "--osl", "100"
    )
    assert done.returncode == 1
    assert "out of memory" in done.stdout


ERRORS = [
    ((*DRAFT[:2], "--acceptance", "1.2"), "1.2 is out of range; expected a number from 0 to 1"),
    ((*DRAFT[:2], "--acceptance", "nan"), "out of range; expected a number from 0 to 1"),
    ((*DRAFT[:2], "--acceptance=-0.5"), "out of range; expected a number from 0 to 1"),
    ((*DRAFT[:2], "--acceptance", "high"), "'high' is no number"),
    ((*DRAFT[:2],), "--acceptance is missing"),
    ((*DRAFT, "--draft-length", "0"), "0 is out of range; expected a whole number from 1 to 32"),
    ((*DRAFT, "--draft-length", "1e6"), "1e6 is out of range; expected a whole number from 1 to 32"),
    ((*DRAFT, "--draft-tree", "4,0,2"), "a width of 0 is out of range"),
    ((*DRAFT, "--draft-tree", "4,two"), "'two' is no whole number"),
    ((*DRAFT, "--draft-tree", "64,64"), "nodes to verify"),
    ((*DRAFT, "--draft-tree", "4,2", "--draft-length", "2"), "exclude each other"),
    ((*DRAFT[:2], "--acceptance", "0.8,0.7", "--draft-length", "3"), "2 values for 3 drafted levels"),
    (("--draft", "llama-3.1-405b", "--acceptance", "0.8"), "choose a smaller draft model"),
    (("--draft", "llama-2-7b", "--acceptance", "0.8"), "choose a draft model with the same tokenizer"),
    (("--draft", "llama-3.1-8", "--acceptance", "0.8"), "did you mean 'llama-3.1-8b'"),
    ((*DRAFT, "--draft-tp", "16"), "--draft-tp: 16 is more than the 8 devices"),
    ((*DRAFT, "--draft-tp", "3"), "--draft-tp: 3 does not divide the 32 query heads of llama-3.1-8b"),
    ((*DRAFT, "--mtp", "1"), "--draft and --mtp exclude each other"),
    ((*DRAFT, "--closed-form"), "--closed-form does not price speculative decoding"),
    (("--mtp", "1", "--acceptance", "0.8"), "llama-3.1-70b has no multi-token-prediction layers"),
    (("--acceptance", "0.8"), "give --draft or --mtp, too"),
    (("--draft-length", "4"), "give --draft or --mtp, too"),
    (("--prefix-hit", "2048"), "2,048 tokens are more than the 1,024 of the prompt"),
    (("--prefix-hit", "1.5"), "1.5 is out of range; expected a number from 0 to 1"),
    (("--prefix-hit", "150%"), "'150%' is no share of a prompt"),
    (("--prefix-hit", "many"), "'many' is no number"),
]


@pytest.mark.parametrize(("words", "message"), ERRORS)
def test_mistakes_are_one_line_and_exit_2(call: Call, words: tuple[str, ...], message: str):
    done = call(*BASE, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
