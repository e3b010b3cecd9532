"""`jaxperf plot`: figures of results, and what is said of results that are not what they should be."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from jaxperf.plots.roofline import LABELLED, roofline_figure

from ..commands import Call

CONFIGURATION = ("--model", "deepseek-v3", "--system", "h200-8", "--tp", 8, "--batch", 64, "--isl", 512, "--osl", 64)


@pytest.fixture(scope="module")
def estimated(call: Call) -> dict:
    done = call("estimate", *CONFIGURATION, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[Any], Path]:
    def write(document: Any) -> Path:
        path = tmp_path / "result.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return write


def picture(path: Path) -> np.ndarray:
    """The picture's red, green and blue, 0 to 1."""
    return matplotlib.image.imread(path)[..., :3]


def test_a_roofline_is_drawn(call: Call, estimated: dict, file: Callable, tmp_path: Path) -> None:
    out = tmp_path / "roofline.png"
    done = call("plot", "roofline", file(estimated), "--out", out)
    assert (done.returncode, done.stderr) == (0, "") and str(out) in done.stdout
    found = picture(out)
    assert found.shape[0] > 600 and found.shape[1] > 1200
    for colour in ("#0b6e99", "#d9730d", "#9065b0"):  # points bound by memory, compute and overhead
        wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        half = 0.75 * wanted + 0.25  # markers let the ground shine through
        assert (np.abs(found - half).max(axis=-1) < 0.02).sum() > 20, colour
    for half_of_it in np.array_split(found, 2, axis=1):  # both panels have ink
        assert 0.01 < (half_of_it.min(axis=-1) < 0.9).mean() < 0.3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "roofline.png"]


@pytest.fixture
def drawn(estimated: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The matplotlib figure of the roofline."""
    import jaxperf.plots.roofline as module

    kept: list[Any] = []
    monkeypatch.setattr(module, "save_figure", lambda figure, path: kept.append(figure))
    roofline_figure(estimated, tmp_path / "unused.png")
    return kept[0]


def test_points_ceilings_ridges_and_labels_are_those_of_the_estimate(estimated: dict, drawn: Any) -> None:
    for panel, phase in zip(drawn.axes, ("prefill", "decode"), strict=True):
        rows = [row for row in estimated["breakdown"] if row["phase"] == phase and row["flops"] > 0]
        points = {(float(f"{x:.5g}"), float(f"{y:.5g}")) for x, y in panel.collections[0].get_offsets()}
        wanted = {(float(f"{r['intensity']:.5g}"), float(f"{r['flops'] / r['time_s']:.5g}")) for r in rows}
        assert points == wanted
        texts = [text.get_text() for text in panel.texts]
        named = {row["operator"] for row in rows if row["share"] >= LABELLED}
        for row in rows:
            assert any(text.startswith(row["operator"] + " ") for text in texts) == (row["operator"] in named)
        for text in ("fp8, int8: 1.98 PFLOP/s", "bf16, fp16: 990 TFLOP/s", "fp32: 67 TFLOP/s", "hbm: 4.8 TB/s"):
            assert text in texts
        assert {"206", "412", "14"} <= set(texts)  # 989.5 T, 1979 T and 67 T over 4.8 TB/s
        left_out = 1 - sum(row["share"] for row in rows)
        assert panel.get_title(loc="left") == f"{phase}: {left_out:.0%} of the time without FLOPs"
    title = drawn.get_suptitle()
    assert title.startswith("deepseek-v3 on h200-8\ntp 8, weights bf16/fp8-block") and "batch 64" in title


def test_areas_are_shares_of_the_time(estimated: dict, drawn: Any) -> None:
    for panel, phase in zip(drawn.axes, ("prefill", "decode"), strict=True):
        rows = [row for row in estimated["breakdown"] if row["phase"] == phase and row["flops"] > 0]
        shares = sorted((row["share"] for row in rows), reverse=True)
        areas = sorted(panel.collections[0].get_sizes(), reverse=True)
        assert areas[0] / areas[1] == pytest.approx(shares[0] / shares[1], rel=1e-5)


def test_no_label_lies_on_another(drawn: Any) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    for panel in drawn.axes:
        renderer = FigureCanvasAgg(drawn).get_renderer()
        boxes = [Text.get_window_extent(text, renderer) for text in panel.texts if not text.get_rotation()]
        assert len(boxes) > 8
        for index, one in enumerate(boxes):
            assert not any(one.overlaps(other) for other in boxes[index + 1 :])


@pytest.mark.parametrize(("name", "start"), [("a.svg", b"<?xml"), ("a.pdf", b"%PDF"), ("A.PNG", b"\x89PNG")])
def test_the_suffix_says_the_format(
    call: Call, estimated: dict, file: Callable, tmp_path: Path, name: str, start: bytes
) -> None:
    done = call("plot", "roofline", file(estimated), "--out", tmp_path / name, "--json")
    assert json.loads(done.stdout) == {"kind": "roofline", "written": str(tmp_path / name)}
    assert (tmp_path / name).read_bytes().startswith(start)


def test_a_frontier_is_drawn_from_json_and_from_csv(call: Call, tmp_path: Path) -> None:
    words = ("--model", "llama-3.1-8b", "--system", "h100-sxm-8", "--tp", "1,2,4", "--batch", "1,8,64", "--isl", 512)
    done = call("scan", *words, "--osl", 64, "--out", tmp_path / "scan", "--json")
    assert done.returncode == 0
    (tmp_path / "scan.json").write_text(done.stdout)
    pictures = []
    for result in (tmp_path / "scan.json", tmp_path / "scan" / "frontier.csv"):
        out = tmp_path / f"{result.stem}.png"
        assert call("plot", "pareto", result, "--out", out).returncode == 0
        pictures.append(picture(out))
    assert np.array_equal(pictures[0], picture(tmp_path / "scan" / "frontier.png"))
    bottoms = [found[len(found) // 4 :] for found in pictures]  # only the title differs: a CSV does not count
    assert np.array_equal(*bottoms) and bottoms[0].min() < 0.5


def without(document: dict, path: str) -> dict:
    document = copy.deepcopy(document)
    node, *keys = document, *path.split("/")
    for key in keys[:-1]:
        node = node[int(key)] if isinstance(node, list) else node[key]
    del node[keys[-1]]
    return document


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("breakdown", "result.json: breakdown: missing; a roofline draws what"),
        ("device", "result.json: device: missing"),
        ("device/memory_bandwidth_bytes_per_s/hbm", "device.memory_bandwidth_bytes_per_s.hbm: missing"),
        ("breakdown/3/time_s", "breakdown[3].time_s: missing"),
        ("model", "model: missing"),
    ],
)
def test_a_result_without_what_a_roofline_needs(
    call: Call, estimated: dict, file: Callable, tmp_path: Path, path: str, said: str
) -> None:
    refused(call("plot", "roofline", file(without(estimated, path)), "--out", tmp_path / "a.png"), said, tmp_path)


def refused(done: Any, said: str, folder: Path) -> None:
    """One line, exit code 2, nothing written."""
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and said in done.stderr
    assert not list(folder.glob("*.png")) and not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "the result is no JSON object"),
        ('{"model": 3}', "model: expected text, got int"),
        ('{"model": "a", "system": "b", "deployment": {"precision": {}}, "device": 3}', "device: expected an object"),
    ],
)
def test_malformed_results(call: Call, file: Callable, tmp_path: Path, text: str, said: str) -> None:
    refused(call("plot", "roofline", file(text), "--out", tmp_path / "a.png"), said, tmp_path)


def test_numbers_that_cannot_be(call: Call, estimated: dict, file: Callable, tmp_path: Path) -> None:
    for change, said in (
        (lambda d: d["device"]["peak_flops_per_s"].update(bf16=-1.0), "bf16: -1.0 is out of range"),
        (lambda d: d["device"]["peak_flops_per_s"].clear(), "peak_flops_per_s: empty"),
        (lambda d: d["breakdown"][0].update(flops="many"), "breakdown[0].flops: expected a number, got str"),
        (lambda d: d["breakdown"].clear(), "breakdown: empty"),
    ):
        document = copy.deepcopy(estimated)
        change(document)
        refused(call("plot", "roofline", file(document), "--out", tmp_path / "a.png"), said, tmp_path)


def test_a_folder_that_is_missing_is_made(call: Call, estimated: dict, file: Callable, tmp_path: Path) -> None:
    """As every command that writes a file does."""
    out = tmp_path / "new" / "folder" / "a.svg"
    assert call("plot", "roofline", file(estimated), "--out", out).returncode == 0
    assert [path.name for path in out.parent.iterdir()] == ["a.svg"]


def test_a_place_that_cannot_be_written_is_named_as_given(
    call: Call, estimated: dict, file: Callable, tmp_path: Path
) -> None:
    result, taken = file(estimated), tmp_path / "taken.png"
    taken.mkdir()
    for out, reason in (
        (taken, "Is a directory"),
        (result / "a.png", "File exists"),
        ("/proc/a.png", ""),
    ):
        done = call("plot", "roofline", result, "--out", out)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"jaxperf: error: {out}: cannot be written: {reason}")
        assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "taken.png"]


def test_unknown_kinds_suffixes_and_places(call: Call, estimated: dict, file: Callable, tmp_path: Path) -> None:
    result = file(estimated)
    refused(call("plot", "rooflin", result, "--out", tmp_path / "a.png"), "did you mean 'roofline'", tmp_path)
    refused(call("plot", "roofline", result, "--out", tmp_path / "a.gif"), "ends in none of .png, .svg, .pdf", tmp_path)
    refused(call("plot", "roofline", tmp_path / "none.json", "--out", tmp_path / "a.png"), "no such file", tmp_path)
    refused(call("plot", "pareto", result, "--out", tmp_path / "a.png"), "objectives: missing", tmp_path)
    table = tmp_path / "table.csv"
    table.write_text("model,isl\nx,3\n")
    refused(call("plot", "pareto", table, "--out", tmp_path / "a.png"), "the column 'osl' is missing", tmp_path)
    refused(call("plot", "roofline", result), "--out", tmp_path)
