"""A finished run, and runs that were interrupted."""

import pytest

import mnv2zoo
from tests.photos import QUICK, fill
from tests.training.runs import MODEL, interrupted_after


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run on a plain folder with a test split of its own, and what it gave."""
    folder = tmp_path_factory.mktemp("trained")
    fill(folder / "photos" / "train", 16)
    fill(folder / "photos" / "test", 4, first=20)
    values = {**QUICK, "epochs": 24, "batch_size": 14, "smoothing": 0.0, "keep": "last"}
    result = mnv2zoo.finetune(folder / "photos", MODEL, folder / "run", **values)
    return folder / "photos", folder / "run", result


@pytest.fixture
def stopped(photos, tmp_path, monkeypatch):
    """Makes a run that was interrupted after its first epoch."""

    def make(model=MODEL, **values):
        with interrupted_after(monkeypatch, 1, 0):
            mnv2zoo.finetune(photos, model, tmp_path / "run", **{**QUICK, "epochs": 2, **values})
        return tmp_path / "run"

    return make
