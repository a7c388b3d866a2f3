"""The collector is paused, and runs again afterwards if it ran before."""

import gc

import pytest

from mnv2zoo.data import datasets, splits
from mnv2zoo.system import collector
from tests.conftest import save_photos


@pytest.fixture(params=[True, False])
def enabled(request):
    before = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if before else gc.disable)()


def test_it_is_paused_and_then_as_before(enabled):
    with collector.paused():
        assert not gc.isenabled()
    assert gc.isenabled() == enabled


def test_it_runs_again_after_an_error(enabled):
    with pytest.raises(KeyError), collector.paused():
        raise KeyError("no such image")
    assert gc.isenabled() == enabled


def test_images_are_found_and_split_without_it(tmp_path):
    for name in ("a", "b"):
        save_photos(tmp_path / name, 1, links=5000)
    runs = []

    def note(phase, _):
        runs.append(phase)

    gc.callbacks.append(note)
    try:
        data = splits.with_validation(datasets.find(tmp_path), 0.1, 0)
    finally:
        gc.callbacks.remove(note)
    assert len(data.splits["val"]) == 1000
    assert len(runs) <= 2 * 3  # a start and a stop: one run after each pause, and one at most between them
