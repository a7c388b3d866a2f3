"""Figures of a network, against values worked out by hand; and its surest mistakes."""

import json
import math

import numpy as np
import pytest
import sklearn.metrics as sklearn
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from mnv2zoo.errors import DataError, RunError
from mnv2zoo.tasks.classify import metrics
from mnv2zoo.tasks.classify.metrics import Mistake, score, worst_mistakes
from mnv2zoo.tasks.classify.task import METRICS

PROBABILITIES = [[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.1, 0.82, 0.08], [0.3, 0.25, 0.45]]
LOGITS = torch.tensor(PROBABILITIES, dtype=torch.float64).log()  # of which the softmax is these again
TARGETS = torch.tensor([0, 1, 1, 0])
SIX = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0, 0.0]] * 6)
NAMES = ("ant", "bee", "cat")


def rounded(value):
    return round(value, 2) if isinstance(value, float) else value


def two_classes(confidences, rights):
    """Logits and targets of images that are all taken for class 0."""
    confidences = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([confidences, 1 - confidences], 1).log(), 1 - torch.tensor(rights).long()


@st.composite
def images(draw):
    """Logits and targets of one to thirty images of two to eight classes."""
    count, classes = draw(st.integers(1, 30)), draw(st.integers(2, 8))
    logits = draw(st.lists(st.floats(-30, 30, width=32), min_size=count * classes, max_size=count * classes))
    targets = draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    return torch.tensor(logits).view(count, classes), torch.tensor(targets)


def test_figures_are_those_worked_out_by_hand():
    scores = score(LOGITS, TARGETS, NAMES)
    assert scores.images == 4
    assert scores.loss == pytest.approx(-math.log(0.7 * 0.2 * 0.82 * 0.3) / 4)
    assert scores.top1 == 50
    assert scores.confusion == ((1, 0, 1), (1, 1, 0), (0, 0, 0))
    # Two images share a bin, in which 70 % are expected to be right and half are.
    assert scores.calibration_error == pytest.approx(100 * (2 * (0.7 - 0.5) + (1 - 0.82) + (0.45 - 0)) / 4)


def test_each_class_has_its_images_and_its_top1_or_none_without_images():
    # Predicted: ant, ant, bee, cat. Of ants, the images 0 and 3 have ranks 1 or 2 (tied with image 1) and 3.
    found = [{name: rounded(value) for name, value in row.items()} for row in score(LOGITS, TARGETS, NAMES).per_class]
    none = dict.fromkeys(("top1", "precision", "recall", "f1", "average_precision"))
    ant = {"precision": 50, "recall": 50, "f1": 50, "average_precision": 58.33}
    bee = {"precision": 100, "recall": 50, "f1": 66.67, "average_precision": 75}
    assert found == [
        {"class": 0, "label": "ant", "images": 2, "top1": 50} | ant,
        {"class": 1, "label": "bee", "images": 2, "top1": 50} | bee,
        {"class": 2, "label": "cat", "images": 0} | none,
    ]


def test_means_over_classes_are_those_worked_out_by_hand():
    scores = score(LOGITS, TARGETS, NAMES)
    assert scores.f1_macro == pytest.approx(100 * (1 / 2 + 2 / 3 + 0) / 3)  # an image was taken for a cat
    assert scores.f1_weighted == pytest.approx(100 * (2 / 4 * 1 / 2 + 2 / 4 * 2 / 3))
    assert scores.precision_macro == pytest.approx(50)
    assert scores.balanced_accuracy == 50
    assert scores.average_precision == pytest.approx(100 * (7 / 12 + 3 / 4) / 2)
    # Of the four pairs of an ant and another image, two are in order and one is a tie; of bees too.
    assert scores.roc_auc == pytest.approx(100 * 2.5 / 4)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(8))
def test_metrics_are_those_of_scikit_learn(seed):
    generator = torch.Generator().manual_seed(seed)
    logits, targets = torch.randn(60, 5, generator=generator), torch.randint(0, 4, (60,), generator=generator)
    logits = logits.double() + torch.nn.functional.one_hot(targets, 5)
    scores, truth, predicted = score(logits, targets, "abcde"), targets.numpy(), logits.argmax(1).numpy()
    one_hot, probabilities = np.eye(5)[truth][:, :4], logits.softmax(1).numpy()[:, :4]
    expected = {
        "f1_macro": sklearn.f1_score(truth, predicted, average="macro"),
        "f1_weighted": sklearn.f1_score(truth, predicted, average="weighted"),
        "precision_macro": sklearn.precision_score(truth, predicted, average="macro", zero_division=0),
        "balanced_accuracy": sklearn.balanced_accuracy_score(truth, predicted),
        "roc_auc": sklearn.roc_auc_score(one_hot, probabilities, average="macro"),
        "average_precision": sklearn.average_precision_score(one_hot, probabilities, average="macro"),
    }
    assert {name: getattr(scores, name) for name in expected} == {
        name: pytest.approx(100 * value, abs=1e-4) for name, value in expected.items()
    }
    by_class = zip(*sklearn.precision_recall_fscore_support(truth, predicted, zero_division=0)[:3], strict=True)
    for row, (precision, recall, f1) in zip(scores.per_class[:4], by_class, strict=False):
        assert (row["precision"], row["recall"], row["f1"]) == pytest.approx((100 * precision, 100 * recall, 100 * f1))


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_metrics_do_not_depend_on_the_chunks_that_are_read_at_once(chunk, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(50, 6, generator=generator), torch.randint(0, 6, (50,), generator=generator)
    wanted, mistakes = score(logits, targets, "abcdef", 1.5), worst_mistakes(logits, targets, 25, 1.5)
    monkeypatch.setattr(metrics, "CHUNK", chunk)
    assert score(logits, targets, "abcdef", 1.5) == wanted
    assert worst_mistakes(logits, targets, 25, 1.5) == mistakes


def test_with_too_many_scores_images_are_not_ranked(monkeypatch):
    ranked = score(LOGITS, TARGETS, NAMES)
    monkeypatch.setattr(metrics, "RANKED", LOGITS.numel() - 1)
    scores = score(LOGITS, TARGETS, NAMES)
    assert (scores.roc_auc, scores.average_precision) == (None, None)
    assert scores.class_metrics["average_precision"] == (None, None, None)
    assert scores.class_metrics["recall"] == ranked.class_metrics["recall"]
    assert scores.metrics() == {
        name: value for name, value in ranked.metrics().items() if name not in ("roc_auc", "average_precision")
    }


def test_one_class_has_no_roc_curve():
    scores = score(LOGITS, torch.zeros(4, dtype=torch.long), NAMES)
    assert scores.roc_auc is None
    assert "roc_auc" not in scores.metrics()
    assert scores.to_json()["roc_auc"] is None


def test_top5_leaves_out_the_sixth():
    scores = score(SIX, torch.arange(6), "abcdef")
    assert (scores.top1, scores.top5) == (pytest.approx(100 / 6), pytest.approx(500 / 6))


def test_top5_of_fewer_than_five_classes_counts_all_of_them():
    assert score(LOGITS, TARGETS, NAMES).top5 == 100


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_network_that_tells_nothing_apart_gains_nothing_by_equal_logits(dtype):
    scores = score(torch.zeros(10, 10, dtype=dtype), torch.arange(10), "abcdefghij")
    assert (scores.top1, scores.top5) == (10, 50)


def test_a_network_that_is_right_as_often_as_it_expects_is_calibrated():
    logits, targets = two_classes([0.61] * 100, [True] * 61 + [False] * 39)
    assert score(logits, targets, "ab").calibration_error == pytest.approx(0, abs=1e-4)


def test_a_network_that_is_sure_and_right_half_the_time_is_off_by_half():
    assert score(torch.tensor([[99.0, 0.0]] * 4), torch.tensor([0, 1, 0, 1]), "ab").calibration_error == 50


@given(st.lists(st.tuples(st.integers(501, 999).filter(lambda n: n % 200), st.booleans()), min_size=1, max_size=60))
def test_calibration_error_is_that_of_the_paper(predictions):
    confidences, rights = [n / 1000 for n, _ in predictions], [right for _, right in predictions]
    bins = {}
    for confidence, right in zip(confidences, rights, strict=True):
        bins.setdefault(int(confidence * 15), []).append((confidence, right))
    gaps = [abs(sum(confidence - right for confidence, right in content)) for content in bins.values()]
    found = score(*two_classes(confidences, rights), "ab").calibration_error
    assert found == pytest.approx(100 * sum(gaps) / len(predictions), abs=1e-3)


@given(images(), st.randoms())
def test_the_order_of_the_images_and_a_constant_in_the_logits_change_nothing(batch, random):
    logits, targets = batch
    logits = logits.round(decimals=2).double()  # so that the constant takes no digit away
    order = random.sample(range(len(targets)), len(targets))
    names = [str(number) for number in range(logits.shape[1])]
    one, other = score(logits, targets, names), score(logits[order] + 64, targets[order], names)
    assert one.confusion == other.confusion
    for figure in ("loss", "top1", "top5"):
        assert getattr(one, figure) == pytest.approx(getattr(other, figure), abs=1e-9)


@given(images())
@example((torch.tensor([[-1e-40, 0.0]]), torch.tensor([1])))  # alike as probabilities
def test_figures_agree_with_one_another(batch):
    logits, targets = batch
    scores = score(logits, targets, [str(number) for number in range(logits.shape[1])])
    right = sum(row[number] for number, row in enumerate(scores.confusion))
    assert sum(map(sum, scores.confusion)) == scores.images == len(targets)
    assert scores.top1 == pytest.approx(100 * right / scores.images)
    assert 0 <= scores.top1 <= scores.top5 <= 100
    assert 0 <= scores.calibration_error <= 100
    assert len(worst_mistakes(logits, targets, 99)) == scores.images - right


def test_json_holds_rounded_figures_and_those_of_the_classes():
    document = score(SIX, torch.tensor([0, 1, 1, 0, 1, 5]), "abcdef").to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert list(document) == ["images", *METRICS, "per_class"]
    assert (document["images"], document["top1"], document["top5"]) == (6, 33.3333, 83.3333)
    assert document["per_class"][1]["images"] == 3
    assert document["per_class"][1]["recall"] == 0
    assert document["per_class"][2]["average_precision"] is None


def test_mistakes_come_surest_first():
    first, second = worst_mistakes(LOGITS, TARGETS)
    assert first == Mistake(index=1, truth=1, predicted=0, score=pytest.approx(0.7))
    assert second == Mistake(index=3, truth=0, predicted=2, score=pytest.approx(0.45))


def test_of_mistakes_so_many_are_given_at_most():
    assert [mistake.index for mistake in worst_mistakes(SIX, torch.full((6,), 5), 3)] == [0, 1, 2]
    assert worst_mistakes(SIX, torch.full((6,), 5), 0) == []


def test_without_mistakes_there_are_none():
    assert worst_mistakes(SIX, torch.zeros(6, dtype=torch.long)) == []
    assert worst_mistakes(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)) == []


def test_of_two_mistakes_whose_probability_single_precision_rounds_to_1_the_surer_comes_first():
    logits = torch.tensor([[0.0, 20.0], [0.0, 30.0], [0.0, 25.0]])
    assert [mistake.index for mistake in worst_mistakes(logits, torch.tensor([0, 0, 0]))] == [1, 2, 0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("measure", [lambda *batch: score(*batch, NAMES), worst_mistakes])
def test_a_network_that_gives_no_figures_is_refused_with_the_number_of_images(measure, value):
    logits = LOGITS.clone()
    logits[1:3, 2] = value
    with pytest.raises(RunError, match="NaN or infinity for 2 of 4 images"):
        measure(logits, TARGETS)


def test_no_images_are_an_error():
    with pytest.raises(DataError, match="no images to measure"):
        score(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), NAMES)


@pytest.mark.parametrize(
    ("logits", "targets", "names", "reason"),
    [
        (LOGITS, TARGETS, NAMES[:2], "a label for each of 3 classes, found 2"),
        (LOGITS, TARGETS[:3], NAMES, "4, 3"),
        (LOGITS, torch.tensor([0, 1, -1, 3]), NAMES, r"(?s)classes from 0 to 2.*other classes for 2 of 4 images"),
    ],
)
def test_what_does_not_fit_is_an_error(logits, targets, names, reason):
    with pytest.raises(ValueError, match=reason):
        score(logits, targets, names)
