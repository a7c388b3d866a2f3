"""The report on a trained detector: curves, confusion matrix, classes and the worst images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from mnv2zoo.data.drawing import class_color, draw_boxes
from mnv2zoo.tasks import pages
from mnv2zoo.tasks.detect.metrics import Array, Judged, Scores
from mnv2zoo.tasks.pages import BLUE, DPI, GREEN, ORANGE, PALE, History, escape, one_line, table

WORST = 6  # number of images to show
CLASSES = 40  # most classes in the confusion matrix and in the legend of the precision-recall curves
PICTURE_SIDE = 640  # longest side of an image in the report, in pixels
PANELS: pages.Panels = [
    ("Loss", {"train_loss": ("training", BLUE)}),
    ("Validation (%)", {"val_map": ("mAP", ORANGE), "val_map50": ("AP50", BLUE)}),
    ("Learning rate", {"lr": ("learning rate", GREEN)}),
]


def write(
    folder: Path,
    history: History,
    scores: Scores,
    judged: Sequence[Judged],
    read: Callable[[int], Image.Image],
    names: Sequence[str],
    title: str,
) -> dict[str, Figure]:
    """Writes `README.md` and its figures.

    Args:
        folder: The folder, which is created if needed.
        history: One row per epoch.
        scores: The scores.
        judged: The boxes of each image, matched with its objects.
        read: Reads an image by its index in `judged`.
        names: The names of the images.
        title: The heading of the page.

    Returns:
        The figures, by name.

    Raises:
        OSError: If a file cannot be written.
    """
    worst = worst_images(judged)
    figures: dict[str, Figure | None] = {
        "curves": pages.curves_figure(history, PANELS) if history else None,
        "precision_recall": precision_recall_figure(scores) if scores.objects else None,
        "confusion": confusion_figure(scores),
        "worst": worst_figure(worst, judged, read, scores.label_names) if worst else None,
    }
    mistakes = [(names[number], judged[number].mistakes) for number in worst]
    pages.save(folder, _page(history, scores, mistakes, title), {f"{name}.png": own for name, own in figures.items()})
    return {name: own for name, own in figures.items() if own is not None and name != "curves"}


def worst_images(judged: Sequence[Judged]) -> list[int]:
    """The images with the most mistakes, the worst first. Images without mistakes are left out."""
    wrong = [number for number, image in enumerate(judged) if image.mistakes]
    return sorted(wrong, key=lambda number: -judged[number].mistakes)[:WORST]


def precision_recall_figure(scores: Scores) -> Figure:
    """Plots precision over recall at IoU 0.5, one line per class."""
    figure = Figure(figsize=(6.4, 4.2), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(f"Precision-recall curves at IoU 0.5, AP50 {scores.map50:.1f} %", fontsize=11)
    axes.set(xlabel="recall (%)", ylabel="precision (%)", xlim=(0, 101), ylim=(0, 103))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=PALE)
    for number, row in enumerate(scores.per_class):
        if row.curve and row.ap50 is not None:
            color = [part / 255 for part in class_color(number)]
            label = f"{one_line(row.label)[:30]} ({row.ap50:.1f} %)"
            axes.plot(range(101), row.curve, color=color, label=label.replace("$", r"\$"))
    if 0 < len(axes.lines) <= CLASSES:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


def confusion_figure(scores: Scores) -> Figure:
    """Plots the confusion matrix of objects and boxes, in percent of each row."""
    counts, names = np.array(scores.confusion), [*map(_short, scores.label_names), "nothing"]
    if len(names) > CLASSES + 1:  # show only the classes with the most objects
        shown = [*sorted(np.argsort(-counts[:-1].sum(1), kind="stable")[:CLASSES]), len(counts) - 1]
        counts, names = counts[np.ix_(shown, shown)], [names[number] for number in shown]
    percent = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(0.32, min(0.8, 7 / len(names)))
    figure = Figure(figsize=(side * len(names) + 2.6, side * len(names) + 2), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(percent, cmap=matplotlib.colormaps["Blues"], vmin=0, vmax=100, interpolation="nearest")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title("Boxes with scores of at least 0.5, matched at IoU 0.5", fontsize=10)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if percent[row, column] > 60 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=min(9, 22 * side))
    return figure


def worst_figure(
    worst: Sequence[int], judged: Sequence[Judged], read: Callable[[int], Image.Image], label_names: Sequence[str]
) -> Figure:
    """Draws each image twice: with its objects, and with the predicted boxes.

    Args:
        worst: The images, at least one.
        judged: The boxes of each image, matched with its objects.
        read: Reads an image.
        label_names: Names of the classes.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(10, 3.9 * len(worst)), dpi=DPI, layout="constrained")
    for row, number in enumerate(worst):
        image, own = read(number).convert("RGB"), judged[number]
        scale = min(1.0, PICTURE_SIDE / max(image.size))
        small = image.resize([max(round(side * scale), 1) for side in image.size])
        shown = (_drawn(own.truth, scale, label_names), _drawn(own.found, scale, label_names))
        for column, (boxes, what) in enumerate(zip(shown, ("annotated", "predicted"), strict=True)):
            axes = figure.add_subplot(len(worst), 2, 2 * row + column + 1)
            axes.imshow(draw_boxes(small, boxes))
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            mistakes = f", {own.mistakes} mistakes" if column else ""
            axes.set_title(f"{what}: {len(boxes)} boxes{mistakes}", fontsize=9)
    return figure


def _drawn(own: Mapping[str, Array], scale: float, label_names: Sequence[str]) -> list[dict[str, Any]]:
    """Objects or boxes as `draw_boxes` takes them."""
    boxes: list[dict[str, Any]] = []
    for box, label in zip(own["boxes"] * scale, own["labels"], strict=True):
        boxes.append({"class": int(label), "label": _short(label_names[label]), "box": box.tolist()})
    for row, value in zip(boxes, own.get("scores", ()), strict=False):
        row["score"] = float(value)
    for row, ignored in zip(boxes, own.get("ignored", ()), strict=False):
        row["label"] += " (ignored)" if ignored else ""
    return boxes


def _short(name: str) -> str:
    text = one_line(name)
    return text if len(text) <= 24 else f"{text[:23]}…"


def _page(history: History, scores: Scores, worst: Sequence[tuple[str, int]], title: str) -> list[str]:
    percent = {name: f"{value:.2f} %" for name, value in scores.metrics().items()}
    rows = [["images", str(scores.images)], ["objects", str(scores.objects)], *percent.items()]
    parts = [f"# {escape(title)}", table(["metric", " value"], rows)]
    if history:
        parts += [
            "## Curves",
            pages.summary(history, "map", "mAP"),
            "![Loss, validation mAP and learning rate by epoch](curves.png)",
        ]
    columns, cells = scores.table()
    parts += [
        "## Classes",
        "Precision and recall are at IoU 0.5 and at the score threshold with the highest F1.",
        table(columns, ([escape(row[0]), *row[1:]] for row in cells)),
    ]
    if scores.objects:
        parts.append("![Precision-recall curve of each class](precision_recall.png)")
    parts += [
        "## Confusions",
        "The row `nothing` counts boxes without an object (false positives). The column `nothing` counts objects "
        "without a box (false negatives).",
        "![Confusion matrix](confusion.png)",
    ]
    if worst:
        rows = [[escape(name), str(mistakes)] for name, mistakes in worst]
        parts += [
            "## Worst images",
            "Mistakes are objects without a box, boxes without an object, and boxes with the wrong class.",
            "![Left: annotated objects. Right: predicted boxes.](worst.png)",
            table(["image", " mistakes"], rows),
        ]
    return parts
