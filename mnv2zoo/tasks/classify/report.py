"""The report on a trained classifier: curves, confusion matrix and mistakes, as pictures and a page that shows them."""

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

PHOTO_SIDE = 256  # pixels; of the thinnest image that `decode.read` gives, 1 x 500, a line is left
DRAWN = 1000  # largest number of classes whose confusion matrix is drawn, and written as a table of classes by classes
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
    """Writes `README.md` and the pictures that it shows (curves, confusion matrix, mistakes), and `confusion.csv`.

    A picture that has nothing to show is not written, and one that an earlier report left there is removed.

    Args:
        folder: Where to; it is made if need be.
        history: A row each epoch, with "epoch" from 1, "train_loss", "lr", "seconds" and, where there was a
            validation, "val_loss" and "val_top1" in percent.
        scores: Figures of the network.
        mistakes: The mistakes to show, in that order.
        read: Reads the image of a mistake, by its index.
        title: Heading of the page.
        heat: What each mistake rests on, as `explanation.of_mistakes` draws it.
        doubtful: Images whose label is probably wrong, as `explanation.doubtful_labels` finds them.

    Returns:
        The figures by name, without the curves.

    Raises:
        OSError: If a file cannot be written. What `read` raises is passed on, before anything is written.
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
        rows.writerow(["truth", "prediction", "images"])
        rows.writerows([names[t], names[p], count] for (t, p), count in sorted(scores.confusions.items()))
    else:
        rows.writerow(["truth \\ prediction", *names])
        rows.writerows([name, *counts] for name, counts in zip(names, scores.confusion, strict=True))
    return text.getvalue()


def confusion_figure(scores: Scores) -> Figure:
    """Draws the confusion matrix: how many percent of each class's images were taken for which class.

    Args:
        scores: Figures of the network.

    Returns:
        The figure. It grows with the classes, so that each name can be read up to 200 of them; beyond that
        only some are written.
    """
    title = f"Top-1 {scores.top1:.1f} % of {scores.images} images"
    return pages.confusion_figure(scores.confusion, scores.label_names, title, "images")


def mistakes_figure(
    mistakes: Sequence[Mistake],
    read: Callable[[int], Image.Image],
    label_names: Sequence[str],
    heat: Sequence[Image.Image] = (),
) -> Figure:
    """Draws a grid of images that were taken for something else.

    Args:
        mistakes: The mistakes, at least one.
        read: Reads the image of a mistake, by its index.
        label_names: Names of the classes.
        heat: A picture beside each of them; none for the images alone.

    Returns:
        The figure, five images or pairs a row.
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
        axes.set_title(f"truth: {truth}", fontsize=8, pad=3, parse_math=False)
        taken = f"taken for {predicted}\n{100 * mistake.score:.0f} % sure"
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
    parts = [f"# {escape(title)}", table(["figure", " value"], _figures(scores))]
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
        "In counts: [confusion.csv](confusion.csv).",
        pages.confusions(scores.confusions, names, "images", "None: each image was taken for what it is."),
    ]
    if mistakes:
        parts += [
            "## Surest mistakes",
            *(["Beside each image, what speaks most for the answer is red (Grad-CAM)."] if explained else []),
            "![The images, with what each is and what it was taken for](mistakes.png)",
            _table(mistakes, names),
        ]
    if doubtful:
        parts += [
            "## Labels that are probably wrong",
            "cleanlab finds them by confident learning: the network is surer of another class than is usual for images "
            "of that class. Look at each before you change it.",
            "![The images, with their label and what they were taken for](labels.png)",
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
        [" image", "truth", "taken for", " probability (%)"],
        ([row.index, names[row.truth], names[row.predicted], f"{100 * row.score:.1f}"] for row in mistakes),
    )
