"""The report on a trained classifier: a page with curves, a confusion matrix and the worst mistakes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from mnv2zoo.system.files import whole_file
from mnv2zoo.tasks import pages
from mnv2zoo.tasks.classify.metrics import Mistake, Scores
from mnv2zoo.tasks.pages import BLUE, DPI, GREEN, ORANGE, PALE, History, escape, short, table

PHOTO_SIDE = 256  # pixels; even the thinnest image that `decode.read` returns, 1 x 500, stays visible
DRAWN = 1000  # maximum number of classes for a drawn confusion matrix, and for one with a row and column per class
CLASS_METRICS = ("precision", "recall", "f1", "average_precision")
PANELS: pages.Panels = [
    ("Loss (cross-entropy)", {"train_loss": ("training", BLUE), "val_loss": ("validation", ORANGE)}),
    ("Validation top-1 (%)", {"val_top1": ("validation", ORANGE)}),
    ("Learning rate", {"lr": ("learning rate", GREEN)}),
]


def write(
    folder: Path,
    history: History,
    scores: Scores,
    mistakes: Sequence[Mistake],
    read: Callable[[int], Image.Image],
    title: str,
    heat: Sequence[Image.Image] = (),
    doubtful: Sequence[Mistake] = (),
) -> dict[str, Figure]:
    """Writes `README.md`, its figures (curves, confusion matrix, mistakes) and `confusion.csv`.

    Figures with nothing to show are not written, and those of an earlier report are removed.

    Args:
        folder: The folder, which is created if needed.
        history: One row per epoch, with "epoch" from 1, "train_loss", "lr", "seconds" and, if there was a validation,
            "val_loss" and "val_top1" in percent.
        scores: The scores of the model.
        mistakes: The mistakes to show, in this order.
        read: Reads the image of a mistake by its index.
        title: The heading of the page.
        heat: The heat map of each mistake, from `explanation.of_mistakes`.
        doubtful: Images with probable label errors, from `explanation.doubtful_labels`.

    Returns:
        The figures by name, without the curves.

    Raises:
        OSError: If a file cannot be written. Errors of `read` are raised before anything is written.
    """
    figures = {
        "curves": pages.curves_figure(history, PANELS) if history else None,
        "confusion": confusion_figure(scores) if len(scores.label_names) <= DRAWN else None,
        "mistakes": mistakes_figure(mistakes, read, scores.label_names, heat) if mistakes else None,
        "labels": mistakes_figure(doubtful, read, scores.label_names) if doubtful else None,
    }
    page = _page(history, scores, mistakes, title, doubtful, bool(heat))
    pages.save(folder, page, {f"{name}.png": own for name, own in figures.items()})
    with whole_file(folder / "confusion.csv") as file:
        file.write(_counts(scores).encode("utf-8", "backslashreplace"))
    return {name: own for name, own in figures.items() if own is not None and name != "curves"}


def _counts(scores: Scores) -> str:
    """The confusion matrix as CSV: a row per class, or for more than `DRAWN` classes a row per pair that occurs."""
    text, names = io.StringIO(), scores.label_names
    rows = csv.writer(text, lineterminator="\n")
    if len(names) > DRAWN:
        rows.writerow(["true", "predicted", "images"])
        rows.writerows([names[t], names[p], count] for (t, p), count in sorted(scores.confusions.items()))
    else:
        rows.writerow(["true \\ predicted", *names])
        rows.writerows([name, *counts] for name, counts in zip(names, scores.confusion, strict=True))
    return text.getvalue()


def confusion_figure(scores: Scores) -> Figure:
    """Plots the confusion matrix; see `pages.confusion_figure`.

    Args:
        scores: The scores of the model.

    Returns:
        The figure.
    """
    title = f"Top-1 {scores.top1:.1f} % of {scores.images} images"
    return pages.confusion_figure(scores.confusion, scores.label_names, title, "images")


def mistakes_figure(
    mistakes: Sequence[Mistake],
    read: Callable[[int], Image.Image],
    label_names: Sequence[str],
    heat: Sequence[Image.Image] = (),
) -> Figure:
    """Draws a grid of misclassified images.

    Args:
        mistakes: The mistakes, at least one.
        read: Reads the image of a mistake by its index.
        label_names: Names of the classes.
        heat: A heat map next to each image; empty for the images alone.

    Returns:
        The figure, with five images or pairs per row.
    """
    columns = min(5, len(mistakes))
    rows = math.ceil(len(mistakes) / columns)
    figure = Figure(figsize=((4.2 if heat else 2.2) * columns, 2.7 * rows), dpi=DPI, layout="constrained")
    for place, mistake in enumerate(mistakes, start=1):
        axes = figure.add_subplot(rows, columns, place)
        beside = heat[place - 1 : place]
        axes.imshow(np.hstack([_square(one) for one in (read(mistake.index), *beside)]))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        truth, predicted = (short(label_names[number], number) for number in (mistake.truth, mistake.predicted))
        axes.set_title(f"label: {truth}", fontsize=8, pad=3, parse_math=False)
        taken = f"predicted: {predicted}\nprobability: {100 * mistake.score:.0f} %"
        axes.set_xlabel(taken, fontsize=8, labelpad=3, color=ORANGE, parse_math=False)
    return figure


def _square(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(ImageOps.pad(image.convert("RGB"), (PHOTO_SIDE, PHOTO_SIDE), color=PALE))


def _page(
    history: History,
    scores: Scores,
    mistakes: Sequence[Mistake],
    title: str,
    doubtful: Sequence[Mistake],
    explained: bool,
) -> list[str]:
    names = [escape(name) for name in scores.label_names]
    parts = [f"# {escape(title)}", table(["metric", " value"], _figures(scores))]
    if history:
        parts += [
            "## Curves",
            pages.summary(history, "top1", "top-1"),
            "![Loss, validation top-1 and learning rate by epoch](curves.png)",
        ]

    classes = sorted(scores.per_class, key=lambda row: (row["top1"] is None, row["top1"]))
    parts += [
        "## Classes, from worst to best",
        table(
            [" class", "label", " images", " precision (%)", " recall (%)", " F1 (%)", " average precision (%)"],
            (
                [row["class"], names[row["class"]], row["images"]]
                + ["" if row[name] is None else f"{row[name]:.1f}" for name in CLASS_METRICS]
                for row in classes
            ),
        ),
        "## Confusions",
        *(["![Confusion matrix](confusion.png)"] if len(names) <= DRAWN else []),
        "Counts: [confusion.csv](confusion.csv).",
        pages.confusions(scores.confusions, names, "images", "None: all predictions are correct."),
    ]
    if mistakes:
        parts += [
            "## Most confident mistakes",
            *(
                ["The heat map next to each image (Grad-CAM) shows the parts that support the prediction in red."]
                if explained
                else []
            ),
            "![The images, with their label and the predicted class](mistakes.png)",
            _table(mistakes, names),
        ]
    if doubtful:
        parts += [
            "## Probable label errors",
            "Found by confident learning (cleanlab): the model predicts another class with a higher probability than "
            "is usual for images of that class. Check each image before you change its label.",
            "![The images, with their label and the predicted class](labels.png)",
            _table(doubtful, names),
        ]
    return parts


def _figures(scores: Scores) -> list[list[str]]:
    return [
        ["images", str(scores.images)],
        ["top-1", f"{scores.top1:.2f} %"],
        ["top-5", f"{scores.top5:.2f} %"],
        ["loss (cross-entropy)", f"{scores.loss:.4f}"],
        ["calibration error", f"{scores.calibration_error:.2f} %"],
        *(
            [["calibration error, without the temperature", f"{scores.calibration_error_before:.2f} %"]]
            if scores.calibration_error_before is not None
            else []
        ),
        ["F1, macro", f"{scores.f1_macro:.2f} %"],
        ["F1, weighted", f"{scores.f1_weighted:.2f} %"],
        ["precision, macro", f"{scores.precision_macro:.2f} %"],
        ["balanced accuracy", f"{scores.balanced_accuracy:.2f} %"],
        ["ROC AUC", "" if scores.roc_auc is None else f"{scores.roc_auc:.2f} %"],
        ["average precision", "" if scores.average_precision is None else f"{scores.average_precision:.2f} %"],
    ]


def _table(mistakes: Sequence[Mistake], names: Sequence[str]) -> str:
    return table(
        [" image", "label", "predicted class", " probability (%)"],
        ([row.index, names[row.truth], names[row.predicted], f"{100 * row.score:.1f}"] for row in mistakes),
    )
