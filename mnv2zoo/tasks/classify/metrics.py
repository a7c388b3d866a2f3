"""Metrics of a classifier, and its most confident mistakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional import classification as metrics

from mnv2zoo.errors import DataError, RunError
from mnv2zoo.tasks import base
from mnv2zoo.tasks.classify.task import METRICS

CALIBRATION_BINS = 15  # as in Guo et al.
CHUNK = 2**22  # scores that are in double precision at once: 32 MB
RANKED = 10**8  # largest number of scores, images times classes, of which each class's images are ranked


@dataclass(frozen=True)
class Scores(base.Scores):
    """The metrics of a classifier on a set of images, C classes.

    Attributes:
        images: Number of images, at least one.
        loss: Mean cross-entropy (natural logarithm).
        top1: Top-1 accuracy in percent.
        top5: Top-5 accuracy in percent. With fewer than five classes, it is 100.
        calibration_error: Expected calibration error in percent: the mean difference between the probability of the
            predicted class and the accuracy, over 15 bins of equal width, weighted by their number of images (Guo et
            al. 2017, "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599, eq. 3).
        f1_macro: F1 score in percent, averaged over the classes. As in scikit-learn, averages leave out classes that
            occur neither in the labels nor in the predictions.
        f1_weighted: F1 score in percent, averaged over the classes and weighted by their number of images.
        precision_macro: Precision in percent, averaged over the classes; 0 for a class without predictions.
        balanced_accuracy: Recall in percent, averaged over the classes with images.
        roc_auc: Area under the one-vs-rest ROC curve in percent, averaged over the classes with images; None if all
            images belong to one class.
        average_precision: Area under the precision-recall curve in percent, averaged over the classes with images.
            This and `roc_auc` rank the images of every class. Both are None for more than `RANKED` scores.
        class_metrics: `precision`, `recall`, `f1` and `average_precision` of the C classes in percent; None for a class
            without images.
        label_names: Names of the C classes.
        confusions: The number of images by true and predicted class, for the pairs that occur.
        temperature: The softmax temperature; None for no temperature. It affects the loss, the calibration error and
            the metrics that rank images by probability.
        calibration_error_before: The calibration error without the temperature; None for no temperature.
        measured: A description of the measured images, such as `37 val images that the run held out`. May be empty.
    """

    loss: float
    top1: float
    top5: float
    calibration_error: float
    f1_macro: float
    f1_weighted: float
    precision_macro: float
    balanced_accuracy: float
    roc_auc: float | None
    average_precision: float | None
    class_metrics: Mapping[str, tuple[float | None, ...]]
    label_names: tuple[str, ...]
    confusions: Mapping[tuple[int, int], int]
    temperature: float | None = None
    calibration_error_before: float | None = None

    @property
    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """The confusion matrix: C rows of C image counts. Rows are true classes, columns are predicted classes."""
        classes = range(len(self.label_names))
        return tuple(tuple(self.confusions.get((truth, found), 0) for found in classes) for truth in classes)

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """The number, label, images, top-1 and `class_metrics` of each class; None for metrics without images."""
        images: Counter[int] = Counter()
        for (truth, _), count in self.confusions.items():
            images[truth] += count
        return [
            {
                "class": number,
                "label": label,
                "images": images[number],
                "top1": _percent(self.confusions.get((number, number), 0), images[number]),
                **{name: values[number] for name, values in self.class_metrics.items()},
            }
            for number, label in enumerate(self.label_names)
        ]

    def metrics(self) -> dict[str, float]:
        """The metrics to record in the training history."""
        return {name: value for name in METRICS if (value := getattr(self, name)) is not None}

    def to_json(self) -> dict[str, Any]:
        """The metrics, rounded, and those of each class, as `json.dumps` takes them."""
        return ({"measured": self.measured} if self.measured else {}) | {
            "images": self.images,
            **{name: _rounded(getattr(self, name), 6 if name == "loss" else 4) for name in METRICS},
            **self._calibration(),
            "per_class": [{name: _rounded(value, 4) for name, value in row.items()} for row in self.per_class],
        }

    def _calibration(self) -> dict[str, Any]:
        if self.temperature is None:
            return {}
        before = _rounded(self.calibration_error_before, 4)
        return {"calibration_error_before": before, "temperature": self.temperature}

    def epoch_line(self) -> list[str]:
        """The parts of the line that training prints after each epoch."""
        return [f"val loss {self.loss:.4f}", f"val top-1 {self.top1:.2f} %"]

    def summary(self) -> str:
        """The metrics in one line, as training prints them at its end."""
        calibration = f", calibration error {self._error()}" if self.temperature is not None else ""
        return f"top-1 {self.top1:.2f} %, top-5 {self.top5:.2f} %{calibration}, of {self.images} images"

    def _error(self) -> str:
        """The calibration error as text."""
        text = f"{self.calibration_error:.2f} %"
        if self.temperature is None:
            return text
        return f"{text} ({self.calibration_error_before:.2f} % without the temperature {self.temperature:.4g})"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The classes with images, as `mnv2zoo evaluate` prints them."""
        names = ("precision", "recall", "f1")
        rows = [
            [row["label"], str(row["images"]), *(f"{row[name]:.2f}" for name in names)]
            for row in self.per_class
            if row["images"]
        ]
        return ["class", " images", " precision (%)", " recall (%)", " F1 (%)"], rows

    def last_line(self) -> str:
        """The last line that `mnv2zoo evaluate` prints."""
        return (
            f"{self.images} images: top-1 {self.top1:.2f} %, top-5 {self.top5:.2f} %, macro F1 {self.f1_macro:.2f} %, "
            f"calibration error {self._error()}, loss {self.loss:.4f}"
        )


class Accuracy(base.Metric):
    """Accumulates logits and classes.

    Args:
        label_names: Names of the C classes.
    """

    def __init__(self, label_names: Sequence[str]) -> None:
        self._label_names = tuple(label_names)
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Adds a batch of logits (N, C) and classes (N,)."""
        self._logits.append(outputs)
        self._targets.append(targets)

    def compute(self) -> Scores:
        """Computes the metrics of all batches.

        Raises:
            DataError: If an image belongs to a class that the model lacks.
            RunError: If a logit is not finite.
        """
        return score(*self.outputs(), self._label_names, self.temperature)

    def outputs(self) -> tuple[Tensor, Tensor]:
        """The logits (N, C) and classes (N,) of all batches."""
        self._logits, self._targets = [torch.cat(self._logits)], [torch.cat(self._targets)]
        return self._logits[0], self._targets[0]

    def by_image(self) -> Iterator[tuple[int, int, list[float]]]:
        """The true class, the predicted class and the probabilities of all classes of each image."""
        rows = max(CHUNK // len(self._label_names), 1)
        for logits, targets in zip(*(values.split(rows) for values in self.outputs()), strict=True):
            scores = self._calibrated(logits).softmax(1)
            yield from zip(targets.tolist(), logits.argmax(1).tolist(), scores.tolist(), strict=True)

    def worst_mistakes(self) -> list[Mistake]:
        """The most confident wrong predictions; see the function `worst_mistakes`."""
        return worst_mistakes(*self.outputs(), temperature=self.temperature)

    def doubtful_labels(self) -> list[Mistake]:
        """Probable label errors; see `explanation.doubtful_labels`. Empty for more than `RANKED` scores."""
        from mnv2zoo.tasks.classify import explanation

        logits, targets = self.outputs()
        if logits.numel() > RANKED:
            return []
        return explanation.doubtful_labels(self._calibrated(logits), targets)

    def _calibrated(self, logits: Tensor) -> Tensor:
        """Logits in double precision, divided by the temperature."""
        return logits.double() / (self.temperature or 1)


@dataclass(frozen=True)
class Mistake:
    """A misclassified image.

    Attributes:
        index: Its place among the images that were scored.
        truth: Its class.
        predicted: The class it was taken for.
        score: The probability that the network gave to that, from 0 to 1.
    """

    index: int
    truth: int
    predicted: int
    score: float


def score(logits: Tensor, targets: Tensor, label_names: Sequence[str], temperature: float | None = None) -> Scores:
    """Compares what a network says of images with what they are.

    Args:
        logits: The network's output, N x C.
        targets: The classes of the N images, integers from 0 to C - 1.
        label_names: Names of the C classes.
        temperature: Softmax temperature; None for no temperature.

    Returns:
        The figures.

    Raises:
        DataError: If there are no images, or one is of a class that the network does not have.
        RunError: If a logit is not finite.
        ValueError: If the sizes do not fit.
    """
    if len(targets) == 0:
        raise DataError(
            "there are no images to measure",
            expected="at least one image",
            found="no images",
            fix="Check the folder of the split.",
        )
    if len(label_names) != logits.shape[1]:
        raise ValueError(f"expected a label for each of {logits.shape[1]} classes, found {len(label_names)}")
    _check(logits, targets)
    outcome = _outcome(logits, targets, temperature)
    support, taken = (torch.bincount(of, minlength=len(label_names)) for of in (targets, outcome.predicted))
    by_class = _by_class(outcome.predicted, targets, support, taken)
    ranked = _ranked(logits, targets, outcome, temperature) if logits.numel() <= RANKED else {}
    present, seen = support > 0, support + taken > 0
    return Scores(
        images=len(targets),
        loss=outcome.losses.mean().item(),
        top1=_mean_percent(outcome.ranks < 1),
        top5=_mean_percent(outcome.ranks < 5),
        calibration_error=_calibration_error(outcome),
        f1_macro=_mean_percent(by_class["f1"][seen]),
        f1_weighted=_mean_percent(by_class["f1"][targets]),
        precision_macro=_mean_percent(by_class["precision"][seen]),
        balanced_accuracy=_mean_percent(by_class["recall"][present]),
        roc_auc=_mean_percent(ranked["roc_auc"][present]) if "roc_auc" in ranked else None,
        average_precision=_mean_percent(ranked["average_precision"][present]) if ranked else None,
        class_metrics={
            name: _percents(values, present)
            for name, values in (by_class | {"average_precision": ranked.get("average_precision")}).items()
        },
        label_names=tuple(label_names),
        confusions=_confusions(outcome.predicted, targets),
        temperature=temperature,
        calibration_error_before=None if temperature is None else _calibration_error(_outcome(logits, targets, None)),
    )


class _Outcome(NamedTuple):
    """Facts about each of N images, without the scores of all classes: vectors (N,).

    Attributes:
        predicted: The class of the highest logit.
        confidences: Its probability.
        ranks: The number of classes with a higher logit than the true one.
        losses: Cross-entropy.
        log_norms: The logarithm of the softmax denominator.
    """

    predicted: Tensor
    confidences: Tensor
    ranks: Tensor
    losses: Tensor
    log_norms: Tensor


def _outcome(logits: Tensor, targets: Tensor, temperature: float | None) -> _Outcome:
    """Reads the logits a few rows at a time, in double precision, in which a sure probability is not yet 1."""
    rows = max(CHUNK // logits.shape[1], 1)
    numbers = torch.arange(logits.shape[1])
    parts = []
    for some, truth in zip(logits.split(rows), targets.split(rows), strict=True):
        scores = some.double() / (temperature or 1)
        log_norms, own, truth = scores.logsumexp(1), scores.gather(1, truth[:, None]), truth[:, None]
        best = scores.argmax(1)
        before = (scores > own) | ((scores == own) & (numbers < truth))  # of equals the first, as argmax has it
        confidences = (scores.gather(1, best[:, None])[:, 0] - log_norms).exp()
        parts.append((best, confidences, before.sum(1), log_norms - own[:, 0], log_norms))
    return _Outcome(*map(torch.cat, zip(*parts, strict=True)))


def _confusions(predicted: Tensor, targets: Tensor) -> dict[tuple[int, int], int]:
    """The number of images by true and predicted class."""
    pairs, counts = torch.stack([targets, predicted]).unique(dim=1, return_counts=True)
    return dict(zip(zip(*pairs.tolist(), strict=True), counts.tolist(), strict=True))


def _calibration_error(outcome: _Outcome) -> float:
    right = (outcome.ranks < 1).long()
    return 100 * metrics.binary_calibration_error(outcome.confidences, right, CALIBRATION_BINS).item()


def _by_class(predicted: Tensor, targets: Tensor, support: Tensor, taken: Tensor) -> dict[str, Tensor]:
    """Precision, recall and F1 score of each class (C,), from the images that show it and those taken for it."""
    right = torch.bincount(targets[predicted == targets], minlength=len(support)).double()
    return {
        "precision": right / taken.clamp(min=1),
        "recall": right / support.clamp(min=1),
        "f1": 2 * right / (support + taken).clamp(min=1),
    }


def _ranked(logits: Tensor, targets: Tensor, outcome: _Outcome, temperature: float | None) -> dict[str, Tensor]:
    """The areas under the curves of each class against all others (C,); 0 for a class without images.

    One class alone has no ROC curve.
    """
    functions: dict[str, Callable[..., Tensor]] = {"average_precision": metrics.binary_average_precision}
    if len(targets.unique()) > 1:
        functions["roc_auc"] = metrics.binary_auroc
    found = {name: torch.zeros(logits.shape[1], dtype=torch.float64) for name in functions}
    for some in targets.unique().split(max(CHUNK // len(targets), 1)):
        scores = logits[:, some].double() / (temperature or 1)
        by_class = (scores - outcome.log_norms[:, None]).exp().T.contiguous()
        for number, probabilities in zip(some.tolist(), by_class, strict=True):
            for name, function in functions.items():
                found[name][number] = function(probabilities, (targets == number).long(), validate_args=False)
    return found


def _percents(values: Tensor | None, present: Tensor) -> tuple[float | None, ...]:
    """In percent, and None for a class without images."""
    if values is None:
        return (None,) * len(present)
    return tuple(100 * v if there else None for v, there in zip(values.tolist(), present.tolist(), strict=True))


def _mean_percent(values: Tensor) -> float:
    return 100 * values.double().mean().item()


def _rounded(value: Any, digits: int) -> Any:
    return round(value, digits) if isinstance(value, float) else value


def worst_mistakes(logits: Tensor, targets: Tensor, count: int = 25, temperature: float | None = None) -> list[Mistake]:
    """Finds the most confident wrong predictions.

    Args:
        logits: The outputs of the model (N, C).
        targets: The classes of the N images, integers from 0 to C - 1.
        count: Maximum number of mistakes to return.
        temperature: The softmax temperature; None for no temperature.

    Returns:
        The mistakes, the most confident first. Equally confident ones are in the order of the images.

    Raises:
        DataError: If an image belongs to a class that the model lacks.
        RunError: If a logit is not finite.
        ValueError: If the sizes do not fit.
    """
    _check(logits, targets)
    predicted, probabilities = _outcome(logits, targets, temperature)[:2]
    wrong = (predicted != targets).nonzero()[:, 0]
    wrong = wrong[probabilities[wrong].argsort(descending=True, stable=True)][:count]
    columns = (wrong, targets[wrong], predicted[wrong], probabilities[wrong])
    return [Mistake(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _check(logits: Tensor, targets: Tensor) -> None:
    """Checks that logits and classes have matching shapes and valid values."""
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(f"expected logits of N x C and N targets, found {[*logits.shape]} and {[*targets.shape]}")
    classes = logits.shape[1]
    strays = ((targets < 0) | (targets >= classes)).sum().item()
    if strays:
        raise DataError(
            "some images belong to classes that the model lacks",
            expected=f"classes from 0 to {classes - 1}",
            found=f"other classes for {strays} of {len(targets)} images",
            fix="Evaluate on data with the model's classes, or use a model with the classes of the data.",
        )
    require_finite(logits)


def require_finite(logits: Tensor) -> None:
    """Checks that all logits (N, C) are finite.

    Raises:
        RunError: If a logit is not finite.
    """
    broken = len(logits) - logits.isfinite().all(1).sum().item()
    if broken:
        raise RunError(
            "the outputs of the model are not finite",
            expected="finite logits",
            found=f"NaN or infinity for {broken} of {len(logits)} images",
            fix="If this happens in training, it has diverged. Start a new run with a lower learning rate.",
        )


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None
