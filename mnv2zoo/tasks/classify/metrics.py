"""Metrics of a classifier, and its most confident mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional import classification as metrics

from mnv2zoo.errors import DataError, RunError
from mnv2zoo.tasks import base
from mnv2zoo.tasks.classify.task import METRICS

CALIBRATION_BINS = 15  # as in Guo et al.


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
        class_metrics: `precision`, `recall`, `f1` and `average_precision` of the C classes in percent; None for a class
            without images.
        label_names: Names of the C classes.
        confusion: C rows of C image counts: rows are true classes, columns are predicted classes.
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
    average_precision: float
    class_metrics: Mapping[str, tuple[float | None, ...]]
    label_names: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    temperature: float | None = None
    calibration_error_before: float | None = None

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """The number, label, images, top-1 and `class_metrics` of each class; None for metrics without images."""
        return [
            {"class": number, "label": label, "images": sum(row), "top1": _percent(row[number], sum(row))}
            | {name: values[number] for name, values in self.class_metrics.items()}
            for number, (label, row) in enumerate(zip(self.label_names, self.confusion, strict=True))
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
        return torch.cat(self._logits), torch.cat(self._targets)

    def by_image(self) -> Iterator[tuple[int, int, list[float]]]:
        """The true class, the predicted class and the probabilities of all classes of each image."""
        for logits, targets in zip(self._logits, self._targets, strict=True):
            scores = self._calibrated(logits).softmax(1)
            yield from zip(targets.tolist(), logits.argmax(1).tolist(), scores.tolist(), strict=True)

    def worst_mistakes(self) -> list[Mistake]:
        """The most confident wrong predictions; see the function `worst_mistakes`."""
        logits, targets = self.outputs()
        return worst_mistakes(self._calibrated(logits), targets)

    def doubtful_labels(self) -> list[Mistake]:
        """Probable label errors; see `explanation.doubtful_labels`."""
        from mnv2zoo.tasks.classify import explanation

        logits, targets = self.outputs()
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
    images, classes = logits.shape
    logits = _checked(logits, targets)
    before = None if temperature is None else _calibration_error(logits.softmax(1), targets)
    logits = logits / (temperature or 1)
    probabilities = logits.softmax(1)
    confusion = metrics.multiclass_confusion_matrix(logits, targets, classes)
    averages = metrics.multiclass_f1_score, metrics.multiclass_precision
    f1_macro, precision_macro = (average(logits, targets, classes, average="macro") for average in averages)
    f1_weighted = metrics.multiclass_f1_score(logits, targets, classes, average="weighted")
    by_class = _class_metrics(logits, probabilities, targets)
    best = logits.argsort(descending=True, stable=True)[:, :5]  # ties go to the first class, as in argmax
    return Scores(
        images=images,
        loss=functional.cross_entropy(logits, targets).item(),
        top1=100 * confusion.trace().item() / images,
        top5=100 * (best == targets[:, None]).sum().item() / images,
        calibration_error=_calibration_error(probabilities, targets),
        f1_macro=100 * f1_macro.item(),
        f1_weighted=100 * f1_weighted.item(),
        precision_macro=100 * precision_macro.item(),
        balanced_accuracy=_mean(by_class["recall"]),
        roc_auc=_roc_auc(probabilities, targets),
        average_precision=_mean(by_class["average_precision"]),
        class_metrics=by_class,
        label_names=tuple(label_names),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        temperature=temperature,
        calibration_error_before=before,
    )


def _calibration_error(probabilities: Tensor, targets: Tensor) -> float:
    classes = probabilities.shape[1]
    return 100 * metrics.multiclass_calibration_error(probabilities, targets, classes, CALIBRATION_BINS).item()


def _class_metrics(logits: Tensor, probabilities: Tensor, targets: Tensor) -> dict[str, tuple[float | None, ...]]:
    classes = logits.shape[1]
    functions = {
        "precision": metrics.multiclass_precision,
        "recall": metrics.multiclass_recall,
        "f1": metrics.multiclass_f1_score,
    }
    found = {name: function(logits, targets, classes, average="none") for name, function in functions.items()}
    present = torch.bincount(targets, minlength=classes) > 0
    found["average_precision"] = _one_by_one(metrics.binary_average_precision, probabilities, targets)
    return {
        name: tuple(100 * v if there else None for v, there in zip(values.tolist(), present.tolist(), strict=True))
        for name, values in found.items()
    }


def _roc_auc(probabilities: Tensor, targets: Tensor) -> float | None:
    present = targets.unique()
    if len(present) < 2:
        return None
    return 100 * _one_by_one(metrics.binary_auroc, probabilities, targets)[present].mean().item()


def _one_by_one(metric: Any, probabilities: Tensor, targets: Tensor) -> Tensor:
    """A one-vs-rest metric of each class (C,); 0 for a class without images."""
    found = torch.zeros(probabilities.shape[1], dtype=torch.float64)
    by_class = probabilities.T.contiguous()  # strided columns would be 20 times slower
    for c in targets.unique().tolist():
        found[c] = metric(by_class[c], (targets == c).long(), validate_args=False)
    return found


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)


def _rounded(value: Any, digits: int) -> Any:
    return round(value, digits) if isinstance(value, float) else value


def worst_mistakes(logits: Tensor, targets: Tensor, count: int = 25) -> list[Mistake]:
    """Finds the most confident wrong predictions.

    Args:
        logits: The outputs of the model (N, C).
        targets: The classes of the N images, integers from 0 to C - 1.
        count: Maximum number of mistakes to return.

    Returns:
        The mistakes, the most confident first. Equally confident ones are in the order of the images.

    Raises:
        DataError: If an image belongs to a class that the model lacks.
        RunError: If a logit is not finite.
        ValueError: If the sizes do not fit.
    """
    logits = _checked(logits, targets)
    predicted, probabilities = logits.argmax(1), logits.softmax(1).amax(1)
    wrong = (predicted != targets).nonzero()[:, 0]
    wrong = wrong[probabilities[wrong].argsort(descending=True, stable=True)][:count]
    columns = (wrong, targets[wrong], predicted[wrong], probabilities[wrong])
    return [Mistake(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _checked(logits: Tensor, targets: Tensor) -> Tensor:
    """Checks logits and converts them to double precision, in which high probabilities are not rounded to 1."""
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
    return logits.double()


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
