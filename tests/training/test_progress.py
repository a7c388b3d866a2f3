"""Lines, and TensorBoard's scalars and figures."""

import io

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnv2zoo.training import progress


def test_tensorboard_has_the_scalars_and_figures(trained):
    _, run, result = trained
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert [step for step, _ in scalars] == list(range(1, 25))
    assert scalars[-1][1] == pytest.approx(result.history[-1]["train_loss"])
    assert "test/confusion" in events.Tags()["images"]


ROW = {"epoch": 2, "train_loss": 0.12345, "lr": 0.005, "images_per_second": 99.6, "seconds": 1.25}


def test_an_epoch_is_one_line():
    stream = io.StringIO()
    progress.Log(stream).epoch(ROW, 3, ["val top1 50.00"])
    assert stream.getvalue() == "epoch 2/3  loss 0.1235  val top1 50.00  lr 0.005  100 images/s  1.2 s\n"


def test_a_process_that_is_not_active_is_silent():
    stream = io.StringIO()
    log = progress.Log(stream)
    log.active = False
    log.say("a line")
    log.epoch(ROW, 3)
    assert stream.getvalue() == ""


def test_a_stage_is_told_of_at_times_and_with_what_is_left(monkeypatch):
    stream, clock = io.StringIO(), iter([0.0, 10.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.Log(stream).stage("epoch 1/2", 100) as stage:
        stage.advance(20)  # too early for a line
        stage.advance(60)
    assert stream.getvalue() == "epoch 1/2: 80/100 images, 2 images/s, 10 s left\n"
