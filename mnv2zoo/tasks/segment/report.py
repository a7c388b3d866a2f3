"""The report on a segmenter: curves, metrics per class, confusions, and the images with the lowest IoU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mnv2zoo.data import drawing
from mnv2zoo.data.datasets import AnySample
from mnv2zoo.tasks import pages
from mnv2zoo.tasks.pages import BLUE, DPI, GREEN, ORANGE, Figure, History, escape, table
from mnv2zoo.tasks.segment.metrics import Scores, Worst

PICTURE_SIDE = 360  # longer side of an image, in pixels
PANELS: pages.Panels = [
    ("Loss", {"train_loss": ("training", BLUE)}),
    (
        "Validation (%)",
        {
            "val_miou": ("mIoU", ORANGE),
            "val_mean_accuracy": ("mean accuracy", BLUE),
            "val_pixel_accuracy": ("pixel accuracy", GREEN),
        },
    ),
    ("Learning rate", {"lr": ("learning rate", GREEN)}),
]


def write(
    folder: Path,
    history: History,
    scores: Scores,
    worst: Sequence[Worst],
    samples: Sequence[AnySample],
    title: str,
) -> dict[str, Figure]:
    """Writes `README.md` and its figures: curves, confusion matrix and worst images.

    Args:
        folder: The folder, which is created if needed.
        history: One row per epoch.
        scores: The scores.
        worst: The images to show, in this order.
        samples: The measured images.
        title: The heading of the page.

    Returns:
        Figures for TensorBoard, by name.

    Raises:
        OSError: If a file cannot be written.
        ImageReadError: If an image can no longer be read.
    """
    confusion = pages.confusion_figure(
        scores.confusion, scores.label_names, f"mIoU {scores.miou:.1f} % of {scores.images} images", "pixels"
    )
    figures = {"confusion": confusion}
    if worst:
        figures["worst"] = worst_figure(worst, samples, scores.label_names)
    files = {
        "curves.png": pages.curves_figure(history, PANELS) if history else None,
        **{f"{name}.png": figures.get(name) for name in ("confusion", "worst")},
    }
    pages.save(folder, _page(history, scores, worst, samples, title), files)
    return figures


def worst_figure(worst: Sequence[Worst], samples: Sequence[AnySample], label_names: Sequence[str]) -> Figure:
    """Draws images with their annotated and their predicted mask.

    Args:
        worst: The images, at least one.
        samples: The measured images.
        label_names: Names of the classes.

    Returns:
        The figure, with one row per image and a legend of the classes below.
    """
    drawn = [pictures(one, samples[one.index], label_names) for one in worst]
    heights = [3.4 * own[0].height / own[0].width for own in drawn]
    shown: set[int] = set().union(*(numbers for *_, numbers in drawn))
    names = sorted(number for number in shown if number < len(label_names))
    legend = 0.22 * math.ceil(len(names) / 5) + 0.2
    figure = Figure(figsize=(10.4, sum(heights) + 0.3 * len(worst) + legend), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(len(worst) + 1, 3, height_ratios=[*heights, legend])
    for row, (one, own) in enumerate(zip(worst, drawn, strict=True)):
        titles = (f"image {one.index}", "annotated", f"predicted, IoU {one.iou:.1f} %")
        for column, (picture, text) in enumerate(zip(own[:3], titles, strict=True)):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.set_title(text, fontsize=8, pad=3)
    axes = figure.add_subplot(grid[-1, :])
    axes.set_axis_off()
    for number in names:
        color = tuple(value / 255 for value in drawing.class_color(number))
        axes.scatter([], [], marker="s", s=50, color=color, label=pages.short(label_names[number], number))
    if names:
        axes.legend(loc="center", ncols=5, frameon=False, fontsize=8)
    return figure


def pictures(
    one: Worst, sample: AnySample, label_names: Sequence[str]
) -> tuple[Image.Image, Image.Image, Image.Image, set[int]]:
    """Draws an image with its annotated and its predicted mask.

    Args:
        one: The image's index and its prediction.
        sample: The image.
        label_names: Names of the classes.

    Returns:
        The image alone, with its annotated mask, and with its predicted mask; and the class numbers in these masks.
    """
    image, truth = sample.read(), Image.fromarray(sample.target.read())
    scale = min(PICTURE_SIDE / max(image.size), 1)
    size = tuple(max(round(side * scale), 1) for side in image.size)
    image = image.resize(size)  # type: ignore[arg-type]
    masks = [
        np.array(mask.resize(size, Image.Resampling.NEAREST))  # type: ignore[arg-type]
        for mask in (truth, Image.fromarray(one.prediction.numpy()))
    ]
    drawn = [drawing.draw_mask(image, mask, label_names, legend=False) for mask in masks]
    return image, drawn[0], drawn[1], {int(number) for mask in masks for number in np.unique(mask)}


def _page(
    history: History, scores: Scores, worst: Sequence[Worst], samples: Sequence[AnySample], title: str
) -> list[str]:
    names = [escape(name) for name in scores.label_names]
    figures = [
        ["images", str(scores.images)],
        ["mIoU", f"{scores.miou:.2f} %"],
        ["pixel accuracy", f"{scores.pixel_accuracy:.2f} %"],
        ["mean accuracy", f"{scores.mean_accuracy:.2f} %"],
    ]
    parts = [f"# {escape(title)}", table(["metric", " value"], figures)]
    if history:
        parts += [
            "## Curves",
            pages.summary(history, "miou", "mIoU"),
            "![Loss, validation metrics and learning rate by epoch](curves.png)",
        ]
    classes = sorted(scores.per_class, key=lambda row: (row["iou"] is None, row["iou"]))
    parts += [
        "## Classes, from worst to best",
        table(
            [" class", "label", " pixels", " IoU (%)", " accuracy (%)"],
            ([r["class"], names[r["class"]], f"{r['pixels']:,}", _one(r["iou"]), _one(r["accuracy"])] for r in classes),
        ),
        "The IoU of a class is the intersection of annotated and predicted pixels over their union, over all images.",
        "## Confusions",
        "![Confusion matrix](confusion.png)",
        pages.confusions(_by_pair(scores), names, "pixels", "None: all labeled pixels are predicted correctly.", ","),
    ]
    if worst:
        parts += [
            "## Images with the lowest IoU",
            "![Images with their annotated and predicted mask](worst.png)",
            table(
                [" image", "name", " IoU (%)"],
                ([one.index, escape(samples[one.index].name), f"{one.iou:.1f}"] for one in worst),
            ),
        ]
    return parts


def _by_pair(scores: Scores) -> dict[tuple[int, int], int]:
    """The pixels by true and predicted class."""
    return {(t, p): count for t, row in enumerate(scores.confusion) for p, count in enumerate(row)}


def _one(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
