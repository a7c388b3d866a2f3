"""Each notebook runs from top to bottom without a network, and prints its stored outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ROOT

nbformat = pytest.importorskip("nbformat", reason="needs nbclient, of the extra dev")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient, of the extra dev")

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.slow


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """The standard output of each cell, without the progress of training, whose figures differ between machines."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and "finetune(" not in cell.source]
    return ["".join(out.text for out in cell.outputs if out.get("name") == "stdout") for cell in cells]


def test_there_is_a_notebook() -> None:
    assert [path.name for path in NOTEBOOKS] == ["first-steps.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_prints_what_it_shows(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: object
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(path, as_version=4)
    shown = printed(notebook)
    assert any(shown), f"{path.name} is stored without its outputs"
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    *before, score = printed(notebook)
    assert before == shown[:-1]
    # Which few of the 24 images are missed depends on rounding.
    assert score.endswith(" of 24 images are classified correctly\n")
    assert int(score.split()[0]) >= 20
