"""How well a network segments: one confusion matrix over all pixels of a split.

The IoU of a class is that of all its pixels in the split. Averaging the IoUs of images gives another figure.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from mnv2zoo.data.masks import VOID
from mnv2zoo.errors import DataError, RunError
from mnv2zoo.tasks import base
from mnv2zoo.tasks.segment.upsampling import class_tensor

WORST = 6  # number of images to store for the report


@dataclass(frozen=True)
class Scores(base.Scores):
    """The metrics of a segmenter on a set of images, C classes.

    Attributes:
        images: Number of images, at least one.
        miou: Mean intersection over union in percent, over the classes with annotated or predicted pixels.
        pixel_accuracy: Labeled pixels with the correct class, in percent.
        mean_accuracy: Percentage of correct pixels per class, averaged over the classes with annotated pixels.
        label_names: Names of the C classes.
        confusion: C rows of C pixel counts: rows are true classes, columns are predicted classes.
        measured: A description of the measured images.
    """

    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    label_names: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """The number, label, pixels, IoU and accuracy (in percent) of each class; None for undefined values."""
        columns = [sum(column) for column in zip(*self.confusion, strict=True)]
        rows = []
        for number, (label, row) in enumerate(zip(self.label_names, self.confusion, strict=True)):
            hit, pixels = row[number], sum(row)
            union = pixels + columns[number] - hit
            rows.append(
                {
                    "class": number,
                    "label": label,
                    "pixels": pixels,
                    "iou": 100 * hit / union if union else None,
                    "accuracy": 100 * hit / pixels if pixels else None,
                }
            )
        return rows

    def to_json(self) -> dict[str, Any]:
        """The metrics, rounded, and those of each class by its name, as `json.dumps` takes them."""
        return ({"measured": self.measured} if self.measured else {}) | {
            "images": self.images,
            "miou": round(self.miou, 4),
            "pixel_accuracy": round(self.pixel_accuracy, 4),
            "mean_accuracy": round(self.mean_accuracy, 4),
            "classes": {
                row["label"]: {"pixels": row["pixels"]} | {key: _rounded(row[key]) for key in ("iou", "accuracy")}
                for row in self.per_class
            },
        }

    def epoch_line(self) -> list[str]:
        """The parts of the line that training prints after each epoch."""
        return [f"val mIoU {self.miou:.2f} %", f"pixel accuracy {self.pixel_accuracy:.2f} %"]

    def summary(self) -> str:
        """The metrics in one line, as training prints them at its end."""
        return f"mIoU {self.miou:.2f} %, pixel accuracy {self.pixel_accuracy:.2f} %, of {self.images} images"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The classes with annotated or predicted pixels, as `mnv2zoo evaluate` prints them."""
        shown = [row for row in self.per_class if row["iou"] is not None]
        rows = [[row["label"], f"{row['pixels']:,}", f"{row['iou']:.2f}", _two(row["accuracy"])] for row in shown]
        return ["class", " pixels", " IoU (%)", " accuracy (%)"], rows

    def last_line(self) -> str:
        """The last line that `mnv2zoo evaluate` prints."""
        return (
            f"{self.images} images: mIoU {self.miou:.2f} %, pixel accuracy {self.pixel_accuracy:.2f} %, "
            f"mean accuracy {self.mean_accuracy:.2f} %"
        )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


@dataclass(frozen=True)
class Worst:
    """An image with a low IoU.

    Attributes:
        index: Its index among the measured images.
        iou: Its mean IoU in percent, over the classes in its annotated or predicted mask.
        prediction: Class numbers (H, W), 8 bits, at the model's output size.
    """

    index: int
    iou: float
    prediction: Tensor


def condense(logits: Tensor, masks: Tensor | Sequence[Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Reduces a batch to one confusion matrix per image, so that logits need not be stored.

    Args:
        logits: Logits (N, C, H, W).
        masks: N masks (height, width) of any size, with `VOID` for ignored pixels. Logits are interpolated to this
            size.

    Returns:
        `confusion`, the matrices (N, C, C); `prediction`, class numbers (N, H, W) at the model's output size; and the
        number of labeled pixels of each image (N,).

    Raises:
        RunError: If a logit is not finite.
    """
    if not logits.isfinite().all():
        raise RunError(
            "the outputs of the model are not finite",
            expected="finite logits",
            found="NaN or infinity",
            fix="Train again with a lower --lr, or with --clip-grad.",
        )
    classes = logits.shape[1]
    found = []
    for own, mask in zip(logits, masks, strict=True):
        height, width = mask.shape
        predicted, truth = class_tensor(own, (width, height)).long(), mask.long()
        found.append(multiclass_confusion_matrix(predicted, truth, classes, ignore_index=VOID, validate_args=False))
    confusion = torch.stack(found)
    return {"confusion": confusion, "prediction": logits.argmax(1).byte()}, confusion.sum((1, 2))


class PixelAccuracy(base.Metric):
    """Accumulates confusion matrices.

    Args:
        label_names: Names of the C classes.
    """

    def __init__(self, label_names: Sequence[str]) -> None:
        self._label_names = tuple(label_names)
        self._confusion = torch.zeros(len(label_names), len(label_names), dtype=torch.long)
        self._images = 0
        self._worst: list[tuple[float, int, Tensor]] = []  # a heap with the best of the worst on top

    def update(self, outputs: dict[str, Tensor], targets: Tensor) -> None:
        """Adds a batch from `condense`."""
        for confusion, prediction in zip(outputs["confusion"], outputs["prediction"], strict=True):
            self._confusion += confusion
            iou = _mean_iou(confusion)
            if iou is not None:
                item = (-iou, self._images, prediction.clone())
                if len(self._worst) < WORST:
                    heapq.heappush(self._worst, item)
                elif item > self._worst[0]:
                    heapq.heapreplace(self._worst, item)
            self._images += 1

    def compute(self) -> Scores:
        """Computes the metrics of all batches.

        Raises:
            DataError: If no pixel has a class.
        """
        confusion = self._confusion.double()
        iou = _mean_iou(confusion)
        if iou is None or not confusion.sum():
            raise DataError(
                "the masks contain no labeled pixels",
                expected="masks with pixels of the model's classes",
                found="only ignored pixels",
                fix="Check the masks and --ignore-index.",
            )
        hits, pixels = confusion.diagonal(), confusion.sum(1)
        return Scores(
            images=self._images,
            miou=iou,
            pixel_accuracy=100 * (hits.sum() / pixels.sum()).item(),
            mean_accuracy=100 * (hits / pixels)[pixels > 0].mean().item(),
            label_names=self._label_names,
            confusion=tuple(tuple(row) for row in self._confusion.tolist()),
        )

    def worst(self) -> list[Worst]:
        """The images with the lowest IoU, the lowest first."""
        return [Worst(index, -iou, prediction) for iou, index, prediction in sorted(self._worst, reverse=True)]


def _mean_iou(confusion: Tensor) -> float | None:
    """The mean IoU in percent; None for an image without labeled pixels."""
    confusion = confusion.double()
    hits = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - hits
    shown = union > 0
    return 100 * (hits[shown] / union[shown]).mean().item() if shown.any() else None
