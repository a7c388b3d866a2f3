"""Metrics of multi-label classification: average precision, F1 at thresholds, and the thresholds themselves."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional import classification as metrics

from mnv2zoo.data.thresholds import DEFAULT_THRESHOLD
from mnv2zoo.errors import DataError
from mnv2zoo.tasks import base
from mnv2zoo.tasks.classify.metrics import require_finite
from mnv2zoo.tasks.multilabel.task import METRICS

DIGITS = 6  # significant digits of a recorded threshold


@dataclass(frozen=True)
class Scores(base.Scores):
    """The metrics of a model on a set of images with K labels.

    Attributes:
        images: Number of images, at least one.
        loss: Binary cross-entropy (natural logarithm), summed over the labels and averaged over the images.
        map: Mean average precision in percent: the area under the precision-recall curve, averaged over the labels that
            occur. None if no image has a label.
        f1_micro: F1 score in percent over all labels of all images together, at the thresholds.
        f1_macro: F1 score in percent at the thresholds, averaged over the labels. Labels that occur neither in the
            annotations nor in the predictions are left out.
        label_metrics: `precision`, `recall`, `f1` and `average_precision` of the K labels in percent; None for labels
            that do not occur.
        supports: The number of images with each label.
        thresholds: The minimum score at which each label is predicted, from 0 to 1.
        label_names: Names of the K labels.
        measured: A description of the measured images, such as `37 val images that the run held out`.
    """

    loss: float
    map: float | None
    f1_micro: float
    f1_macro: float
    label_metrics: Mapping[str, tuple[float | None, ...]]
    supports: tuple[int, ...]
    thresholds: tuple[float, ...]
    label_names: tuple[str, ...]

    @property
    def per_label(self) -> list[dict[str, Any]]:
        """The number, name, images, threshold and `label_metrics` of each label."""
        return [
            {"class": number, "label": label, "images": self.supports[number], "threshold": self.thresholds[number]}
            | {name: values[number] for name, values in self.label_metrics.items()}
            for number, label in enumerate(self.label_names)
        ]

    def metrics(self) -> dict[str, float]:
        """The metrics that the history of a training records."""
        return {name: value for name in METRICS if (value := getattr(self, name)) is not None}

    def to_json(self) -> dict[str, Any]:
        """The metrics, rounded, and those of each label, as `json.dumps` takes them."""
        rows = [
            {n: round(value, 6) if isinstance(value, float) and n != "threshold" else value for n, value in row.items()}
            for row in self.per_label
        ]
        return {**super().to_json(), "per_label": rows}

    def epoch_line(self) -> list[str]:
        """The parts of the line that training prints after each epoch."""
        mean = "" if self.map is None else f"{self.map:.2f} %"
        return [f"val loss {self.loss:.4f}", f"val mAP {mean}", f"val micro F1 {self.f1_micro:.2f} %"]

    def summary(self) -> str:
        """The metrics in one line, as training prints them at its end."""
        return f"{_words(self)}, of {self.images} images"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The labels that occur, as `mnv2zoo evaluate` prints them."""
        names = ("precision", "recall", "f1", "average_precision")
        rows = [
            [row["label"], str(row["images"]), *(f"{row[name]:.2f}" for name in names), f"{row['threshold']:.3g}"]
            for row in self.per_label
            if row["images"]
        ]
        return ["label", " images", " precision (%)", " recall (%)", " F1 (%)", " AP (%)", " threshold"], rows

    def last_line(self) -> str:
        """The last line that `mnv2zoo evaluate` prints."""
        return f"{self.images} images: {_words(self)}, loss {self.loss:.4f}"


def _words(scores: Scores) -> str:
    mean = "" if scores.map is None else f"mAP {scores.map:.2f} %, "
    return f"{mean}micro F1 {scores.f1_micro:.2f} %, macro F1 {scores.f1_macro:.2f} %"


class LabelMetric(base.Metric):
    """Accumulates logits and targets.

    Args:
        label_names: Names of the K labels.
        given: Returns the thresholds once they have been chosen. If it returns None, the thresholds with the highest F1
            on these images are used.
    """

    def __init__(self, label_names: Sequence[str], given: Callable[[], Sequence[float] | None] = lambda: None) -> None:
        self._label_names, self._given = tuple(label_names), given
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Adds a batch of logits and targets (N, K)."""
        self._logits.append(outputs)
        self._targets.append(targets)

    def compute(self) -> Scores:
        """Computes the metrics of all batches.

        Raises:
            RunError: If a logit is not finite.
        """
        return score(torch.cat(self._logits), torch.cat(self._targets), self._label_names, self._given())

    def thresholds(self) -> tuple[float, ...]:
        """The given thresholds, or those with the highest F1."""
        given = self._given()
        return best_thresholds(*self.pooled()) if given is None else tuple(given)

    def pooled(self) -> tuple[Tensor, Tensor]:
        """The probabilities and the targets of all images, (N, K)."""
        logits, targets = torch.cat(self._logits), torch.cat(self._targets)
        return logits.double().sigmoid(), targets.long()

    def by_image(self) -> Iterator[tuple[list[int], list[int], list[float]]]:
        """The annotated labels, the predicted labels and the scores of all labels of each image."""
        limits = torch.tensor(self.thresholds(), dtype=torch.float64)
        for scores, targets in zip(*self.pooled(), strict=True):
            found = (scores >= limits).nonzero()[:, 0].tolist()
            yield targets.nonzero()[:, 0].tolist(), found, scores.tolist()


def score(
    logits: Tensor, targets: Tensor, label_names: Sequence[str], thresholds: Sequence[float] | None = None
) -> Scores:
    """Computes the metrics of a model's outputs.

    Args:
        logits: The outputs of the model (N, K).
        targets: 1 for each label of an image and 0 for the others, (N, K).
        label_names: Names of the K labels.
        thresholds: The minimum score of each label; None to choose those with the highest F1.

    Returns:
        The metrics.

    Raises:
        DataError: If there are no images.
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
    if logits.shape != targets.shape or logits.shape[1] != len(label_names):
        raise ValueError(
            f"expected logits and targets of N x {len(label_names)}, found {[*logits.shape]} and {[*targets.shape]}"
        )
    require_finite(logits)
    logits, hot = logits.double(), targets.long()
    scores, count = logits.sigmoid(), len(label_names)
    limits = best_thresholds(scores, hot) if thresholds is None else tuple(thresholds)
    given = (scores >= torch.tensor(limits, dtype=torch.float64)).long()
    f1 = _each(metrics.multilabel_f1_score, given, hot)
    by_label = {
        "precision": _each(metrics.multilabel_precision, given, hot),
        "recall": _each(metrics.multilabel_recall, given, hot),
        "f1": f1,
        "average_precision": _average_precision(scores, hot),
    }
    supports = hot.sum(0)
    present = (supports > 0).tolist()
    known = [value for value, there in zip(by_label["average_precision"].tolist(), present, strict=True) if there]
    counted = f1[(supports > 0) | (given.sum(0) > 0)]
    loss = functional.binary_cross_entropy_with_logits(logits, hot.double(), reduction="none")
    return Scores(
        images=len(logits),
        loss=loss.sum(1).mean().item(),
        map=100 * sum(known) / len(known) if known else None,
        f1_micro=100 * metrics.multilabel_f1_score(given, hot, count, average="micro", validate_args=False).item(),
        f1_macro=100 * counted.mean().item() if len(counted) else 0.0,
        label_metrics={
            name: tuple(100 * v if there else None for v, there in zip(values.tolist(), present, strict=True))
            for name, values in by_label.items()
        },
        supports=tuple(supports.tolist()),
        thresholds=limits,
        label_names=tuple(label_names),
    )


def _each(metric: Any, given: Tensor, hot: Tensor) -> Tensor:
    """A metric of each label (K,), without torchmetrics' checks, which reject a single label."""
    return torch.atleast_1d(metric(given, hot, hot.shape[1], average="none", validate_args=False))


def _average_precision(scores: Tensor, hot: Tensor) -> Tensor:
    """The area under the precision-recall curve of each label (K,); 0 for a label that does not occur."""
    found = torch.zeros(scores.shape[1], dtype=torch.float64)
    for label in hot.any(0).nonzero()[:, 0].tolist():
        found[label] = metrics.binary_average_precision(scores[:, label], hot[:, label], validate_args=False)
    return found


def best_thresholds(scores: Tensor, targets: Tensor) -> tuple[float, ...]:
    """Chooses the threshold of highest F1 for each label.

    A threshold lies in the middle between two neighboring scores, so that the small differences of another engine do
    not change what is over it. Of equally good ones it is the nearest to 0.5.

    Args:
        scores: Probabilities (N, K).
        targets: 1 for each label of an image and 0 for each other, (N, K).

    Returns:
        A threshold per label; 0.5 for a label that no image has.
    """
    return tuple(_best_threshold(scores[:, label], targets[:, label]) for label in range(scores.shape[1]))


def _best_threshold(scores: Tensor, targets: Tensor) -> float:
    if not targets.any():
        return DEFAULT_THRESHOLD
    precision, recall, found = metrics.binary_precision_recall_curve(scores, targets.long(), validate_args=False)
    precision, recall = precision[:-1].double(), recall[:-1].double()  # the last point has no threshold
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    below = torch.cat([found.new_zeros(1), found[:-1]])  # thresholds rise
    middle = ((found + below) / 2).tolist()
    rated = [(round(value, 9), -abs(cut - DEFAULT_THRESHOLD)) for value, cut in zip(f1.tolist(), middle, strict=True)]
    best, _ = max(enumerate(rated), key=operator.itemgetter(1))
    return float(f"{middle[best]:.{DIGITS}g}")
