"""The temperature is the one of the lowest cross-entropy, as other minimizers find it, or there is none."""

import math

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional

from mnv2zoo.tasks.classify import temperature
from mnv2zoo.tasks.classify.metrics import Accuracy, score


def outputs(scale, images=400, classes=7, seed=0):
    """Logits that are right about half the time, and so many times surer than they should be."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, generator=generator) * 2
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return logits * scale, targets


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_it_is_the_minimum_that_scipy_finds(scale):
    logits, targets = outputs(scale)
    expected = minimize_scalar(
        lambda t: functional.cross_entropy(logits.double() / t, targets).item(),
        bounds=(0.05, 20),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert temperature.fit(logits, targets) == pytest.approx(expected.x, rel=1e-5)
    assert temperature.fit(logits, targets) == pytest.approx(scale, rel=0.15)  # as the images were drawn


def test_it_is_the_minimum_that_torch_finds():
    logits, targets = outputs(3.0)
    log = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log], max_iter=100, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def closure():
        optimizer.zero_grad()
        loss = functional.cross_entropy(logits.double() / log.exp(), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert temperature.fit(logits, targets) == pytest.approx(log.exp().item(), rel=1e-5)


def test_a_temperature_worked_out_by_hand():
    # Every fourth image is wrong, all with logits 5 and 0. Scores are right at 3/4: 5 / T = ln 3.
    logits, targets = torch.tensor([[5.0, 0.0]] * 40), torch.tensor([0, 0, 0, 1] * 10)
    assert temperature.fit(logits, targets) == pytest.approx(5 / math.log(3), abs=1e-6)
    assert temperature.fit(logits[:30], targets[:30]) is not None
    assert temperature.fit(logits[:29], targets[:29]) is None


@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        ([[5.0, 0.0]] * 4, [0, 0, 0, 0]),  # all right: the surer, the better
        ([[5.0, 0.0]] * 4, [1, 1, 1, 1]),  # all wrong
        ([[1.0, 1.0]] * 4, [0, 1, 0, 1]),  # any temperature does
        ([[math.nan, 1.0]] * 4, [0, 1, 0, 1]),
    ],
)
def test_without_a_minimum_there_is_none(logits, targets):
    assert temperature.fit(torch.tensor(logits * 10), torch.tensor(targets * 10)) is None


def test_scores_before_and_after_are_those_of_torchmetrics():
    from torchmetrics.classification import MulticlassCalibrationError

    logits, targets = outputs(4.0)
    found = temperature.fit(logits, targets)
    metric = Accuracy([str(label) for label in range(7)])
    metric.update(logits, targets)
    plain = metric.compute()
    metric.temperature = found
    scores = metric.compute()
    before, after = (
        100 * MulticlassCalibrationError(7, 15)((logits.double() / t).softmax(1), targets).item() for t in (1, found)
    )
    assert (scores.calibration_error_before, scores.calibration_error) == pytest.approx((before, after), abs=1e-4)
    assert after < before / 2
    assert plain.calibration_error == pytest.approx(before, abs=1e-4)
    assert (plain.temperature, plain.calibration_error_before) == (None, None)
    assert (scores.top1, scores.top5, scores.confusion) == (plain.top1, plain.top5, plain.confusion)
    assert scores.loss == pytest.approx(functional.cross_entropy(logits.double() / found, targets).item())
    assert scores.to_json()["temperature"] == found
    assert "temperature" not in plain.to_json()
    assert f"({before:.2f} % without the temperature {found:.4g})" in scores.last_line()
    rows = [probabilities for _, _, probabilities in metric.by_image()]
    assert torch.tensor(rows).allclose((logits.double() / found).softmax(1).float(), atol=1e-6)


def test_the_order_of_classes_does_not_change():
    logits, targets = outputs(1.0)
    assert score(logits, targets, list("abcdefg"), 0.05).top5 == score(logits, targets, list("abcdefg")).top5


def test_of_many_logits_evenly_spaced_images_are_enough(monkeypatch):
    logits, targets = outputs(3.0, images=2000)
    monkeypatch.setattr(temperature, "MOST", logits.numel() // 4)
    fitted = temperature.fit(logits, targets)
    monkeypatch.undo()
    assert fitted == temperature.fit(logits[::4], targets[::4])
