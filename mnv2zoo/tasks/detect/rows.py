"""Formats detections as rows, text and COCO results. Does not need PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mnv2zoo.errors import TaskError
from mnv2zoo.tasks.base import Seen

THRESHOLD = 0.5  # default minimum score of a box


def rows(
    outputs: Sequence[Mapping[str, Any]], images: Sequence[Seen], label_names: Sequence[str], threshold: float | None
) -> list[dict[str, Any]]:
    """Turns a detector's outputs into rows.

    Args:
        outputs: For each image its `boxes` (n, 4) in pixels of the network's input, `labels` from 1 and `scores`.
        images: The images.
        label_names: Names of the classes.
        threshold: Lowest score of a box; None for 0.5.

    Returns:
        For each image `{"detections": [{"class", "label", "score", "box"}]}`: the class from 0 and the box as left,
        top, right and bottom in pixels of the upright image, the highest score first.

    Raises:
        TaskError: If the size of an image is not known.
    """
    lowest = THRESHOLD if threshold is None else threshold
    return [
        {"detections": _detections(own, seen, label_names, lowest)} for own, seen in zip(outputs, images, strict=True)
    ]


def _detections(
    outputs: Mapping[str, Any], seen: Seen, label_names: Sequence[str], lowest: float
) -> list[dict[str, Any]]:
    if seen.size is None or seen.input_size is None:
        raise TaskError(
            "the boxes of an image cannot be scaled, because its size is unknown",
            expected="images preprocessed by this package",
            found="an image without its original size",
            where=seen.name,
            fix="Predict with `mnv2zoo.predict` or a session instead of calling the task directly.",
        )
    scores = np.asarray(outputs["scores"], np.float64).round(6)  # as rows show them
    order = np.argsort(-scores, kind="stable")
    labels = np.asarray(outputs["labels"]) - 1  # 0 is the background, which RetinaNet may find
    order = order[(scores[order] >= lowest) & (labels[order] >= 0)]
    scale = np.tile(np.divide(seen.size, seen.input_size), 2)
    corners = np.clip(np.asarray(outputs["boxes"], np.float64)[order] * scale, 0, np.tile(seen.size, 2))
    return [
        {"class": label, "label": label_names[label], "score": score, "box": [round(c, 2) for c in box]}
        for label, score, box in zip(labels[order].tolist(), scores[order].tolist(), corners.tolist(), strict=True)
    ]


def describe(row: Mapping[str, Any]) -> str:
    """Formats one line per box."""
    lines = [
        f"  {one['score']:.4f}  {one['label']}  " + " ".join(f"{corner:.0f}" for corner in one["box"])
        for one in row["detections"]
    ]
    return "\n".join([row["image"], *(lines or ["  nothing found"])])


def coco(row: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    """The results of an image in COCO's format, https://cocodataset.org/#format-results.

    Args:
        row: The image's row.
        number: Its number, from 1.

    Returns:
        One dict per box. `image_id` is the number, and `category_id` is the class from 1. `file_name` and
        `category_name` identify them, because these ids differ from those in the annotation file.
    """
    return [
        {
            "image_id": number,
            "file_name": row["image"],
            "category_id": one["class"] + 1,
            "category_name": one["label"],
            "bbox": [one["box"][0], one["box"][1], *(round(one["box"][n + 2] - one["box"][n], 2) for n in (0, 1))],
            "score": one["score"],
        }
        for one in row["detections"]
    ]
