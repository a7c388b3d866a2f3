"""Processes work together, and what fails in one of them is the error of all."""

import json

import pytest
import timm
import torch
from torch import nn

import mnv2zoo
from mnv2zoo.errors import DataError, RunError, ZooError
from mnv2zoo.training import distributed, trainer
from tests.conftest import GOOGLE, needs_google
from tests.photos import fill
from tests.training.runs import (
    MODEL,
    ONE,
    cli,
    one_and_two,
    rows,
    weights,
    words,
)

resource = pytest.importorskip("resource", reason="needs limits that Windows does not have")


@pytest.mark.parametrize("kind", ["classifier", "c20", "detector", "segmenter"])
def test_synchronized_norms_stay_the_same_modules_with_the_same_names(kind):
    make = {
        "classifier": lambda: timm.create_model(MODEL, num_classes=3),
        "c20": lambda: timm.create_model("mnv2zoo_100_c20"),
        "detector": lambda: mnv2zoo.detection.ssdlite(MODEL, 3),
        "segmenter": lambda: mnv2zoo.segmentation.lraspp(MODEL, 3),
    }[kind]
    model = make().eval()
    images = [torch.rand(3, 96, 96)] if kind == "detector" else torch.rand(2, 3, 96, 96)
    names, modules, expected = list(model.state_dict()), list(model.modules()), model(images)
    distributed.synchronize_norms(model)
    assert list(model.state_dict()) == names
    assert all(one is other for one, other in zip(model.modules(), modules, strict=True))
    torch.testing.assert_close(model(images), expected, rtol=0, atol=0)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) and norm.process_group is None for norm in norms)


@pytest.mark.slow
def test_two_processes_do_what_one_does_where_statistics_are_frozen(photos, tmp_path):
    one, two = map(weights, one_and_two(photos, tmp_path, "--no-cache-features", train="head", epochs=3))
    assert max((one[key].double() - two[key].double()).abs().max() for key in one) < 1e-4


@pytest.mark.slow
@needs_google
def test_two_processes_come_as_far_as_one_where_statistics_are_trained(tmp_path):
    # Each process then has the statistics of its own half of a batch: docs/finetune.md states this tolerance.
    photos = fill(tmp_path / "photos", 24)
    start = {"init": GOOGLE, "pad_type": "same", "model": "mnv2zoo_100", "input_size": 96, "lr": 0.005}
    one, two = one_and_two(photos, tmp_path, **start, batch_size=32, epochs=3)
    for mine, other in zip(rows(one), rows(two), strict=True):
        assert other["train_loss"] == pytest.approx(mine["train_loss"], rel=0.15)
    assert weights(one)["conv_stem.weight"].equal(weights(two)["conv_stem.weight"]) is False  # they do differ


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_vanishes_while_the_run_reads_it_is_one_clear_error(photos, tmp_path, monkeypatch, workers):
    real = trainer.Trainer.begin

    def begin(self):
        real(self)
        next(sample.place for sample in self.data.splits["train"]).unlink()

    monkeypatch.setattr(trainer.Trainer, "begin", begin)
    with pytest.raises(ZooError) as error:
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **{**ONE, "workers": workers})
    assert "Traceback" not in str(error.value)
    assert "no such file" in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.environment
@pytest.mark.parametrize("train", ["head", "all"])
def test_more_batches_than_open_files(tmp_path, train):
    photos = fill(tmp_path / "photos" / "train", 100)
    fill(tmp_path / "photos" / "val", 90, first=200)

    def few_files():
        resource.setrlimit(resource.RLIMIT_NOFILE, (96, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    words_of_command = words(photos.parent, tmp_path / "run", batch_size=2, workers=2, train=train, epochs=1)
    done = cli(*words_of_command, preexec_fn=few_files)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["val"]["images"] == 270


def test_an_error_of_a_worker_is_the_error_that_was_raised_there():
    wrapped = DataError(
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback:\n  File x\n"
        "mnv2zoo.errors.DataError: no file\n  found: none\n  where: a.png\n"
    )
    error = distributed.of_worker(wrapped)
    assert (type(error), error.problem, error.found, error.where) == (DataError, "no file", "none", "a.png")
    own = RunError("no longer finite")
    assert distributed.of_worker(own) is own
