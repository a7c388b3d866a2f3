"""Metrics of a detector, as COCO defines them: https://cocodataset.org/#detection-eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from torch import Tensor
from torchvision.ops import box_iou

from mnv2zoo.errors import DataError
from mnv2zoo.tasks import base
from mnv2zoo.tasks.detect.rows import THRESHOLD

MATCHED = 0.5  # minimum IoU of a box and its object in the confusion matrix
MAX_DETECTIONS = 100
AREAS = ("all", "small", "medium", "large")  # by 32 x 32 and 96 x 96 pixels of the image

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class ClassScores:
    """The metrics of a class. Metrics are None if there are no objects.

    Attributes:
        label: Its name.
        images: Number of images with objects of this class.
        objects: Number of objects of this class.
        ap: Average precision over IoU thresholds from 0.50 to 0.95, in percent.
        ap50: Average precision at IoU 0.5, in percent.
        precision: Precision in percent at IoU 0.5 and at the score threshold with the highest F1.
        recall: Recall in percent at the same threshold.
        score: This score threshold.
        curve: Precision in percent at recalls of 0, 1, ... 100 %.
    """

    label: str
    images: int
    objects: int
    ap: float | None
    ap50: float | None
    precision: float | None
    recall: float | None
    score: float | None
    curve: tuple[float, ...] = ()


@dataclass(frozen=True)
class Scores(base.Scores):
    """The metrics of a detector on a set of images, C classes.

    Attributes:
        images: Number of images, at least one.
        map: Average precision in percent, averaged over the classes and over IoU thresholds of 0.50, 0.55, ... 0.95,
            with 101 recall points and at most 100 boxes per image.
        map50: The same at IoU 0.5.
        map75: The same at IoU 0.75.
        map_small: `map` of objects smaller than 32 x 32 pixels; None without such objects.
        map_medium: `map` of objects from there to 96 x 96 pixels.
        map_large: `map` of larger objects.
        per_class: The metrics of each class.
        confusion: C + 1 rows of C + 1 counts: rows are true classes, columns are classes of boxes with a score of at
            least 0.5, matched at IoU 0.5. The last row counts boxes without an object, the last column objects without
            a box.
    """

    map: float
    map50: float
    map75: float
    map_small: float | None
    map_medium: float | None
    map_large: float | None
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(row.label for row in self.per_class)

    @property
    def objects(self) -> int:
        """Number of objects."""
        return sum(row.objects for row in self.per_class)

    def to_json(self) -> dict[str, Any]:
        """The metrics, rounded, and those of each class, as `json.dumps` takes them."""
        names = ("images", "objects", "ap", "ap50", "precision", "recall", "score")
        rows = [
            {"class": number, "label": row.label} | {name: _rounded(getattr(row, name)) for name in names}
            for number, row in enumerate(self.per_class)
        ]
        overall = ("map", "map50", "map75", "map_small", "map_medium", "map_large")
        return (
            ({"measured": self.measured} if self.measured else {})
            | {"images": self.images, "objects": self.objects}
            | {name: _rounded(getattr(self, name)) for name in overall}
            | {"per_class": rows, "confusion": [list(row) for row in self.confusion]}
        )

    def epoch_line(self) -> list[str]:
        """The parts of the line that training prints after each epoch."""
        return [f"val mAP {self.map:.2f} %", f"AP50 {self.map50:.2f} %"]

    def summary(self) -> str:
        """The metrics in one line, as training prints them at its end."""
        return f"mAP {self.map:.2f} %, AP50 {self.map50:.2f} %, of {self.images} images with {self.objects} objects"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The classes, as `mnv2zoo evaluate` prints them, with precision and recall at the highest F1."""
        titles = ["class", " images", " objects", " AP (%)", " AP50 (%)", " precision (%)", " recall (%)", " at score"]
        rows = [
            [
                row.label,
                str(row.images),
                str(row.objects),
                *(_percent(value) for value in (row.ap, row.ap50, row.precision, row.recall)),
                _percent(row.score),
            ]
            for row in self.per_class
        ]
        return titles, rows

    def last_line(self) -> str:
        """The last line that `mnv2zoo evaluate` prints."""
        sizes = {"small": self.map_small, "medium": self.map_medium, "large": self.map_large}
        by_size = "".join(f", {name} {value:.2f} %" for name, value in sizes.items() if value is not None)
        return (
            f"{self.images} images with {self.objects} objects: mAP {self.map:.2f} %, AP50 {self.map50:.2f} %, "
            f"AP75 {self.map75:.2f} %{by_size}"
        )


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


@dataclass(frozen=True)
class Judged:
    """The boxes of an image, matched with its objects, in pixels of the image.

    Attributes:
        truth: The objects: `boxes` (n, 4), `labels` (n,) from 0 and `ignored` (n,).
        found: The boxes with a score of at least `THRESHOLD`, the highest first: `boxes`, `labels` and `scores`.
        of: The index of each box's object; -1 for no object, -2 for an ignored object.
    """

    truth: Mapping[str, Array]
    found: Mapping[str, Array]
    of: tuple[int, ...]

    @property
    def mistakes(self) -> int:
        """The number of objects without a box, boxes without an object, and boxes with the wrong class."""
        matched = [number for number in self.of if number >= 0]
        missed = int((~self.truth["ignored"]).sum()) - len(matched)
        confused = sum(
            self.found["labels"][place] != self.truth["labels"][number]
            for place, number in enumerate(self.of)
            if number >= 0
        )
        return missed + self.of.count(-1) + int(confused)


class Detections(base.Metric):
    """Accumulates detections and objects.

    Args:
        label_names: Names of the C classes.
    """

    def __init__(self, label_names: Sequence[str]) -> None:
        self._label_names = tuple(label_names)
        self._images: list[tuple[dict[str, Array], dict[str, Array]]] = []

    def update(self, outputs: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]) -> None:
        """Adds a batch: the `boxes`, `labels` and `scores` of each image, and its target from `Evaluation`."""
        for found, target in zip(outputs, targets, strict=True):
            scale = target["scale"].repeat(2)
            self._images.append((_arrays(found, scale), _arrays(target, scale)))

    def compute(self) -> Scores:
        """Computes the metrics of all batches.

        Raises:
            DataError: If there are no images, or an object belongs to a class that the model lacks.
        """
        return score(self._images, self._label_names)

    def judged(self) -> list[Judged]:
        """The boxes of each image, matched with its objects, in the order in which they were added."""
        return [judge(found, truth) for found, truth in self._images]


def _arrays(values: Mapping[str, Tensor], scale: Tensor) -> dict[str, Array]:
    """Boxes in pixels of the image, and classes from 0. Boxes of the background, which RetinaNet may predict, go."""
    arrays = {"boxes": (values["boxes"] * scale).double().numpy(), "labels": values["labels"].numpy() - 1}
    arrays |= {name: values[name].numpy() for name in ("scores", "ignored") if name in values}
    return {name: array[arrays["labels"] >= 0] for name, array in arrays.items()}


def score(images: Sequence[tuple[Mapping[str, Array], Mapping[str, Array]]], label_names: Sequence[str]) -> Scores:
    """Computes the metrics of boxes.

    Args:
        images: For each image its boxes (`boxes` as left, top, right and bottom, `labels` from 0, `scores`) and its
            objects (`boxes`, `labels`, `ignored`). Ignored objects are treated like COCO's crowds. Objects without area
            are left out.
        label_names: Names of the classes.

    Returns:
        The metrics.

    Raises:
        DataError: If there are no images, or an object belongs to a class that the model lacks.
    """
    if not images:
        raise DataError(
            "there are no images to measure",
            expected="at least one image",
            found="no images",
            fix="Check the folder of the split.",
        )
    if strays := sum(int((truth["labels"] >= len(label_names)).sum()) for _, truth in images):
        raise DataError(
            "some objects belong to classes that the model lacks",
            expected=f"classes from 0 to {len(label_names) - 1}",
            found=f"other classes for {strays} objects",
            fix="Evaluate on data with the model's classes, or use a model with the classes of the data.",
        )
    precision, scores = _evaluated(images, len(label_names))  # (IoU, recall, class, area)
    return Scores(
        images=len(images),
        map=_mean(precision[..., 0]) or 0.0,
        map50=_mean(precision[0, ..., 0]) or 0.0,
        map75=_mean(precision[5, ..., 0]) or 0.0,
        map_small=_mean(precision[..., 1]),
        map_medium=_mean(precision[..., 2]),
        map_large=_mean(precision[..., 3]),
        per_class=tuple(
            _class_scores(label, number, images, precision[:, :, number, 0], scores[0, :, number, 0])
            for number, label in enumerate(label_names)
        ),
        confusion=confusion([judge(*image) for image in images], len(label_names)),
    )


def _evaluated(images: Sequence[tuple[Mapping[str, Array], Mapping[str, Array]]], classes: int) -> tuple[Array, Array]:
    """Precision and scores by IoU (10), recall (101), class and area (4); -1 for missing objects."""
    truths: list[dict[str, Any]] = []
    # faster-coco-eval needs at least one box, so add one outside the image.
    boxes: list[dict[str, Any]] = [{"image_id": 1, "category_id": 1, "bbox": [-2.0, -2.0, 1.0, 1.0], "score": 0.0}]
    for number, (found, truth) in enumerate(images, start=1):
        for corners, label, ignored in zip(truth["boxes"], truth["labels"], truth["ignored"], strict=True):
            bbox = _as_coco(corners)
            area = bbox[2] * bbox[3]
            if min(bbox[2:]) > 0:
                own = {"image_id": number, "category_id": int(label) + 1, "bbox": bbox, "area": area}
                truths.append({"id": len(truths) + 1, "iscrowd": int(ignored), **own})
        for corners, label, value in zip(found["boxes"], found["labels"], found["scores"], strict=True):
            own = {"image_id": number, "category_id": int(label) + 1, "bbox": _as_coco(corners)}
            boxes.append({"score": float(value), **own})
    truth_file = {
        "images": [{"id": number} for number in range(1, len(images) + 1)],
        "annotations": truths,
        "categories": [{"id": number + 1, "name": str(number)} for number in range(classes)],
    }
    truth_index = COCO(truth_file)
    evaluation = COCOeval_faster(truth_index, truth_index.loadRes(boxes), "bbox", print_function=lambda *words: None)
    evaluation.params.maxDets = [1, 10, MAX_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    shape = (10, 101, classes, len(AREAS), 3)
    precision, scores = (np.asarray(evaluation.eval[name]).reshape(shape) for name in ("precision", "scores"))
    return precision[..., -1], scores[..., -1]


def _as_coco(corners: Array) -> list[float]:
    left, top, right, bottom = map(float, corners)
    return [left, top, right - left, bottom - top]


def _mean(precision: Array) -> float | None:
    valid = precision[precision > -1]
    return 100 * float(valid.mean()) if valid.size else None


def _class_scores(label: str, number: int, images: Sequence[Any], precision: Array, scores: Array) -> ClassScores:
    counts = [int(((truth["labels"] == number) & ~truth["ignored"]).sum()) for _, truth in images]
    if not any(counts) or precision[0, 0] < 0:
        return ClassScores(label, 0, 0, None, None, None, None, None)
    curve, recall = precision[0], np.linspace(0, 1, 101)
    f1 = 2 * curve * recall / np.maximum(curve + recall, 1e-12)
    best = int(f1.argmax())
    known = f1[best] > 0
    return ClassScores(
        label,
        images=sum(count > 0 for count in counts),
        objects=sum(counts),
        ap=_mean(precision),
        ap50=_mean(curve),
        precision=100 * float(curve[best]) if known else 0.0,
        recall=100 * float(recall[best]) if known else 0.0,
        score=float(scores[best]) if known else None,
        curve=tuple(100 * float(value) for value in curve),
    )


def judge(found: Mapping[str, Array], truth: Mapping[str, Array]) -> Judged:
    """Matches boxes with objects: in the order of their scores, each box gets the free object with the highest IoU.

    Args:
        found: The boxes, as for `score`.
        truth: The objects.

    Returns:
        The boxes, the objects and their matches. Among objects with equal IoU, one of the box's class is preferred.
    """
    order = np.argsort(-found["scores"], kind="stable")
    order = order[found["scores"][order] >= THRESHOLD]
    found = {name: values[order] for name, values in found.items()}
    overlaps = _overlaps(found["boxes"], truth["boxes"])
    free = ~truth["ignored"]
    of = []
    for label, box, row in zip(found["labels"], found["boxes"], overlaps, strict=True):
        fitting = np.where(free & (row >= MATCHED))[0]
        if len(fitting):
            best = max(fitting, key=lambda number: (row[number], truth["labels"][number] == label))
            free[best] = False
            of.append(int(best))
        else:
            of.append(-2 if _within(box, truth["boxes"][truth["ignored"]]) else -1)
    return Judged(truth, found, tuple(of))


def _overlaps(boxes: Array, others: Array) -> Array:
    return box_iou(*(Tensor(each).reshape(-1, 4).double() for each in (boxes, others))).numpy()


def _within(box: Array, crowds: Array) -> bool:
    """Whether at least half of a box lies in an ignored object, as COCO defines it for crowds."""
    if not len(crowds):
        return False
    sides = np.minimum(box[2:], crowds[:, 2:]) - np.maximum(box[:2], crowds[:, :2])
    shared = sides.clip(min=0).prod(1).max()
    return bool(shared >= MATCHED * (box[2:] - box[:2]).prod() > 0)


def confusion(images: Sequence[Judged], classes: int) -> tuple[tuple[int, ...], ...]:
    """Computes the confusion matrix.

    Args:
        images: The images.
        classes: Number of classes.

    Returns:
        The confusion matrix; see `Scores`.
    """
    counts = np.zeros((classes + 1, classes + 1), int)
    for image in images:
        for label, number in zip(image.found["labels"], image.of, strict=True):
            if number > -2:
                counts[image.truth["labels"][number] if number >= 0 else classes, label] += 1
        missed = set(np.where(~image.truth["ignored"])[0]) - set(image.of)
        for number in missed:
            counts[image.truth["labels"][number], classes] += 1
    return tuple(tuple(row) for row in counts.tolist())
