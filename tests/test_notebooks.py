"""Every notebook runs from top to bottom."""

from __future__ import annotations

import os
import re
from pathlib import Path

import jupytext
import nbclient
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(path.parents[1]), os.environ.get("PYTHONPATH", "")]))
    book = jupytext.read(path)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert all(cell.execution_count for cell in cells)
    if path.stem == "quickstart":
        assert len(cells) <= 10
        texts = [output.get("text", "") + str(output.get("data", "")) for cell in cells for output in cell.outputs]
        assert any("TTFT" in text for text in texts)
        assert any("image/png" in text for text in texts)
        assert any("held-out MAPE" in text for text in texts)
        [added] = re.findall(r"one more sequence adds (\d+) microseconds", " ".join(texts))
        assert 110 < int(added) < 130  # a step with 65 sequences takes 120 microseconds longer than one with 64


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS]
