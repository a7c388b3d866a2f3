"""Lines, and TensorBoard's scalars and figures."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def test_tensorboard_has_the_scalars_and_figures(trained):
    _, run, result = trained
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert [step for step, _ in scalars] == list(range(1, 25))
    assert scalars[-1][1] == pytest.approx(result.history[-1]["train_loss"])
    assert "test/confusion" in events.Tags()["images"]
