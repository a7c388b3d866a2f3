"""Metrics of several labels per image, against scikit-learn and by hand."""

import numpy as np
import pytest
import sklearn.metrics
import torch

from mnv2zoo.errors import DataError, RunError
from mnv2zoo.tasks.multilabel.metrics import LabelMetric, best_thresholds, score

NAMES = ("a", "b", "c", "d")


def example(images=200, labels=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(images, labels, generator=generator) < torch.linspace(0.1, 0.6, labels)).float()
    logits = torch.randn(images, labels, generator=generator) + 1.5 * targets - 1
    return logits, targets


def test_every_metric_is_scikit_learns():
    logits, targets = example()
    limits = (0.3, 0.5, 0.4, 0.6)
    scores = score(logits, targets, NAMES, limits)
    probabilities, truth = logits.double().sigmoid().numpy(), targets.numpy().astype(int)
    given = (probabilities >= limits).astype(int)
    assert scores.map == pytest.approx(100 * sklearn.metrics.average_precision_score(truth, probabilities), abs=1e-4)
    for average in ("micro", "macro"):
        wanted = 100 * sklearn.metrics.f1_score(truth, given, average=average)
        assert getattr(scores, f"f1_{average}") == pytest.approx(wanted, abs=1e-4)
    losses = [sklearn.metrics.log_loss(truth[:, k], probabilities[:, k]) for k in range(4)]
    assert scores.loss == pytest.approx(sum(losses))
    wanted = sklearn.metrics.precision_recall_fscore_support(truth, given)
    for name, values in zip(("precision", "recall", "f1"), wanted, strict=False):
        assert [row[name] for row in scores.per_label] == pytest.approx(list(100 * values), abs=1e-4)
    assert [row["images"] for row in scores.per_label] == wanted[3].tolist()
    assert [row["threshold"] for row in scores.per_label] == list(limits)


def test_the_threshold_of_highest_f1_is_in_the_middle_of_two_scores():
    scores = torch.tensor([[0.9], [0.8], [0.6], [0.2]])
    # With 0.7 as threshold: precision 1, recall 2/3, F1 0.8. With 0.4: 2/3, 2/3. With 0.1: 3/4, 1, F1 6/7.
    assert best_thresholds(scores, torch.tensor([[1], [1], [0], [1]])) == (pytest.approx(0.1),)
    assert best_thresholds(scores, torch.tensor([[1], [1], [0], [0]])) == (pytest.approx(0.7),)
    assert best_thresholds(scores, torch.tensor([[0], [0], [0], [0]])) == (0.5,)
    # 0.85 and 0.1 both give F1 2/3; the first is nearer to 0.5.
    assert best_thresholds(scores, torch.tensor([[1], [0], [0], [1]])) == (pytest.approx(0.85),)


def test_no_other_threshold_is_better():
    logits, targets = example()
    probabilities = logits.double().sigmoid()
    chosen = best_thresholds(probabilities, targets)
    best = score(logits, targets, NAMES, chosen).per_label
    for cut in np.linspace(0.01, 0.99, 99):
        rows = score(logits, targets, NAMES, (float(cut),) * 4).per_label
        assert all(row["f1"] <= top["f1"] + 1e-6 for row, top in zip(rows, best, strict=True))
    assert score(logits, targets, NAMES).thresholds == chosen


def test_labels_that_no_image_has_do_not_count():
    logits = torch.tensor([[2.0, -2.0, 2.0, -9.0], [-2.0, -2.0, 1.0, -9.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    scores = score(logits, targets, NAMES, (0.5,) * 4)
    assert scores.map == pytest.approx(75)  # label a: 1; label c: the image comes second, 1/2
    assert scores.f1_micro == pytest.approx(80)  # a and c found, c once too often: precision 2/3, recall 1
    assert scores.f1_macro == pytest.approx((100 + 200 / 3) / 2)  # of a and c; none was given b or d
    assert scores.per_label[1] == {
        **{"class": 1, "label": "b", "images": 0, "threshold": 0.5},
        **dict.fromkeys(("precision", "recall", "f1", "average_precision")),
    }
    assert [row[0] for row in scores.table()[1]] == ["a", "c"]
    wrongly_given = score(torch.tensor([[2.0, 2.0]]), torch.tensor([[1.0, 0.0]]), ("a", "b"), (0.5, 0.5))
    assert wrongly_given.f1_macro == pytest.approx(50)


def test_without_labels_there_is_no_average_precision():
    scores = score(torch.zeros(2, 1), torch.zeros(2, 1), ("a",))
    assert scores.map is None
    assert "map" not in scores.metrics()
    assert "mAP" not in scores.last_line()


def test_batches_add_up_and_images_have_their_labels():
    logits, targets = example()
    metric = LabelMetric(NAMES, lambda: (0.3, 0.5, 0.4, 0.6))
    for part in torch.arange(200).split(64):
        metric.update(logits[part], targets[part])
    assert metric.compute() == score(logits, targets, NAMES, (0.3, 0.5, 0.4, 0.6))
    truth, found, scores = list(metric.by_image())[7]
    assert truth == targets[7].nonzero()[:, 0].tolist()
    assert found == [k for k, limit in enumerate((0.3, 0.5, 0.4, 0.6)) if logits[7, k].double().sigmoid() >= limit]
    assert scores == pytest.approx(logits[7].double().sigmoid().tolist(), rel=1e-12)


def test_json_has_every_label():
    document = score(*example(), NAMES, (0.3, 0.5, 0.4, 0.6)).to_json()
    assert list(document) == ["images", "loss", "map", "f1_micro", "f1_macro", "per_label"]
    assert [row["threshold"] for row in document["per_label"]] == [0.3, 0.5, 0.4, 0.6]


def test_bad_outputs_are_refused():
    with pytest.raises(RunError):
        score(torch.tensor([[float("nan")]]), torch.ones(1, 1), ("a",))
    with pytest.raises(DataError):
        score(torch.zeros(0, 1), torch.zeros(0, 1), ("a",))
    with pytest.raises(ValueError, match="N x 2"):
        score(torch.zeros(1, 1), torch.zeros(1, 1), ("a", "b"))


def test_thresholds_of_scores_that_are_nearly_zero_still_tell_them_apart():
    logits = torch.tensor([[-20.0], [-21.0], [-22.0], [-40.0]])
    targets = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    scores = score(logits, targets, ("a",))
    assert scores.f1_micro == 100
    assert 2.8e-10 < scores.thresholds[0] < 7.6e-10
    assert scores.to_json()["per_label"][0]["threshold"] == scores.thresholds[0]
