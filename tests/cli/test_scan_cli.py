"""`jaxperf scan` as a person runs it."""

from __future__ import annotations

import csv
import io
import json

import pytest

SMALL = ["scan", "--model", "llama-3.1-8b", "--system", "h100-sxm-8", "--tp", "1,2", "--batch", "1..64*2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("scan")


def test_scan_writes_frontier_and_figure_and_refuses_to_write_twice(folder, call):
    out = folder / "results"
    first = call(*SMALL, "--out", str(out))
    assert first.returncode == 0, first.stderr
    assert "llama-3.1-8b" in first.stdout
    rows = list(csv.DictReader(io.StringIO((out / "frontier.csv").read_text())))
    assert rows
    assert {row["system"] for row in rows} == {"h100-sxm-8"}
    assert (out / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.iterdir()) == ["frontier.csv", "frontier.png"]

    before = (out / "frontier.csv").read_bytes()
    second = call(*SMALL, "--out", str(out))
    assert second.returncode == 2
    assert "--force" in second.stderr
    assert (out / "frontier.csv").read_bytes() == before


def test_scan_json_is_one_object(folder, call):
    done = call(*SMALL, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"configurations", "feasible", "infeasible", "compile_s", "wall_s", "configurations_per_s"} <= set(found)
    assert found["configurations"] == 2 * 7
    group = found["groups"][0]
    assert {"model", "best", "frontier"} <= set(group)
    assert group["frontier"][0]["tpot_s"] > 0


def test_scan_where_nothing_is_feasible(folder, call):
    done = call(*SMALL, "--slo-tpot", "0.001", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["feasible"] == 0
    assert "TPOT above its target" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tp", "0"], "out of range"),
        (["--tp", "1,,2"], "no number"),
        (["--batch", "9..3"], "from 9 is above to 3"),
        (["--batch", "1..x"], "no number"),
        (["--weights", "fp9"], "fp9"),
        (["--objective", "speed"], "no metric is called 'speed'"),
        (["--field", "device.memory.hbm.bandwith_GBps=1"], "did you mean 'bandwidth_GBps'"),
        (["--field", "devices"], "PATH=LIST"),
        (["--tp", "7"], "no layout"),
        (["--max-devices", "-1"], "out of range"),
        (["--out", "/dev/null/x"], "/dev/null"),
        (["--engine", "vlm"], "did you mean 'vllm'"),
    ],
)
def test_bad_scans(words, message, call):
    done = call(*SMALL, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "text", ["models = [", 'models = ["llama-3.1-8b"]', "tp = 3\nmodels = 4\nsystems = []", "\x00"]
)
def test_bad_space_files(text, folder, call):
    path = folder / "space.toml"
    path.write_text(text)
    done = call("scan", path)
    assert done.returncode == 2
    assert "space.toml" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_more_results_more_files_and_a_journal_to_go_on_from(folder, call):
    """One scan with everything on: files beside the frontier, a table, a journal that gives the same once more."""
    out, table, journal = folder / "more", folder / "more.parquet", folder / "more.bin"
    words = (*SMALL, "--out", out, "--table", table, "--journal", journal, "--top", "3")
    words = (*words, "--quantiles", "ttft,tpot_s", "--marginals")
    first = call(*words)
    assert first.returncode == 0, first.stderr
    names = ["frontier.csv", "frontier.png", "marginals.csv", "quantiles.csv", "top.csv"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert table.read_bytes().startswith(b"PAR1")
    before = {name: (out / name).read_text() for name in names if name.endswith("csv")}
    ranks = [int(row["rank"]) for row in csv.DictReader(io.StringIO(before["top.csv"]))]
    assert ranks == [1, 2, 3] * 2

    again = call(*words)
    assert again.returncode == 2
    resumed = call(*words, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "14 of them from the journal" in resumed.stdout
    assert {name: (out / name).read_text() for name in before} == before
    other = call(*words, "--resume", "--slo-tpot", "5")
    assert other.returncode == 2
    assert "another space (slo_tpot differs)" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pareto", "ttft"], "expected two or three"),
        (["--pareto", "ttft,tpot,e2e,mfu"], "4 are given"),
        (["--pareto", "ttft,tpot", "--objective", "mfu"], "exclude each other"),
        (["--pareto", "ttft,tpot", "--best"], "exclude each other"),
        (["--quantiles", "speed"], "no metric is called 'speed'"),
        (["--top", "0"], "out of range"),
        (["--table", "x.txt"], "ends in .parquet or .csv"),
        (["--resume", "--force"], "exclude each other"),
        (["--resume", "--json"], "no journal without --out or --journal"),
        (["--process-id", "0"], "--process-id needs --distributed"),
        (["--distributed", "--coordinator", "here", "--processes", "2", "--process-id", "0"], "is no HOST:PORT"),
        (["--distributed", "--coordinator", "a:1", "--processes", "2", "--process-id", "2"], "out of range"),
        (["--journal", ""], "the name is empty"),
        (["--journal", "/dev/null/x"], "/dev/null/x"),
        (["--memory", "-1"], "expected a finite number above 0"),
    ],
)
def test_flags_that_do_not_go_together(words, message, call, tmp_path):
    done = call(*SMALL, *words, *(() if "--json" in words else ("--out", str(tmp_path / "out"))))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
