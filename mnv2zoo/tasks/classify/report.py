"""The report on a trained classifier: curves, confusion matrix and mistakes, as pictures and a page that shows them."""

from __future__ import annotations

import csv
import io
import math
import warnings
from bisect import bisect
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from PIL import Image, ImageOps

from mnv2zoo.system.files import whole_file
from mnv2zoo.tasks import pages
from mnv2zoo.tasks.classify.metrics import Mistake, Scores
from mnv2zoo.tasks.pages import BLUE, DPI, GREEN, ORANGE, PALE, History, duration, escape, one_line, table, values

PHOTO_SIDE = 256  # pixels; of the thinnest image that `decode.read` gives, 1 x 500, a line is left
NAME_WIDTH = 186  # pixels, in letters of 8 points; with "taken for" before it, it is as wide as a photo
CONFUSIONS = 10  # rows of the table
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
) -> None:
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

    Raises:
        OSError: If a file cannot be written. What `read` raises is passed on, before anything is written.
    """
    figures = {
        "curves.png": pages.curves_figure(history, PANELS) if history else None,
        "confusion.png": confusion_figure(scores),
        "mistakes.png": mistakes_figure(mistakes, read, scores.label_names) if mistakes else None,
    }
    pages.save(folder, _page(history, scores, mistakes, title), figures)
    with whole_file(folder / "confusion.csv") as file:
        file.write(_counts(scores).encode("utf-8", "backslashreplace"))


def _counts(scores: Scores) -> str:
    """The confusion matrix as CSV."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["truth \\ prediction", *scores.label_names])
    rows.writerows([name, *counts] for name, counts in zip(scores.label_names, scores.confusion, strict=True))
    return text.getvalue()


def confusion_figure(scores: Scores) -> Figure:
    """Draws the confusion matrix: how many percent of each class's images were taken for which class.

    Args:
        scores: Figures of the network.

    Returns:
        The figure. It grows with the classes, so that each name can be read up to 200 of them; beyond that
        only some are written.
    """
    counts = np.array(scores.confusion, dtype=float)
    classes = len(counts)
    images = counts.sum(1, keepdims=True)
    percent = np.ma.masked_array(100 * counts / np.maximum(images, 1), np.broadcast_to(images == 0, counts.shape))
    side = max(min(0.8, 7 / classes), min(0.11, 22 / classes))  # of a cell, in inches

    figure = Figure(figsize=(side * classes + 3.4, side * classes + 2.4), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    colors = matplotlib.colormaps["Blues"].with_extremes(bad=PALE)
    # By the square root, since what matters in a good network's matrix are the few percent off the diagonal.
    norm = PowerNorm(0.5, 0, 100)
    heat = axes.imshow(percent, cmap=colors, norm=norm, interpolation="nearest")
    bar = figure.colorbar(heat, shrink=min(1, 5 / (side * classes)), aspect=30, ticks=[0, 1, 5, 20, 50, 100])
    bar.set_label("of the true class's images (%)")
    bar.outline.set_visible(False)

    shown = range(0, classes, math.ceil(classes / 200))
    names = [_short(scores.label_names[number], number) for number in shown]
    style: dict[str, Any] = {"fontsize": min(9, 54 * side * shown.step), "parse_math": False}
    axes.set_xticks(shown, names, rotation=90 if side < 0.5 else 40, **style)
    if side >= 0.5:
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(shown, names, **style)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    # Hairlines between the cells lead the eye to the names.
    axes.set_xticks(np.arange(0.5, classes - 1, shown.step), minor=True)
    axes.set_yticks(np.arange(0.5, classes - 1, shown.step), minor=True)
    axes.grid(which="minor", color=PALE, linewidth=min(0.8, 3 * side))
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    grey = "; grey: no images" if (images == 0).any() else ""
    axes.set_title(f"Top-1 {scores.top1:.1f} % of {scores.images} images{grey}", fontsize=11)
    if side >= 0.28:
        for (row, column), count in np.ndenumerate(counts):
            value = 100 * count / max(1, images[row, 0])
            text = "" if not count else "<1" if value < 0.5 else f"{value:.0f}"
            color = "white" if norm(value) > 0.6 else "black"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=min(9, 25 * side))
    return figure


def mistakes_figure(
    mistakes: Sequence[Mistake], read: Callable[[int], Image.Image], label_names: Sequence[str]
) -> Figure:
    """Draws a grid of images that were taken for something else.

    Args:
        mistakes: The mistakes, at least one.
        read: Reads the image of a mistake, by its index.
        label_names: Names of the classes.

    Returns:
        The figure, five images a row.
    """
    columns = min(5, len(mistakes))
    rows = math.ceil(len(mistakes) / columns)
    figure = Figure(figsize=(2.2 * columns, 2.7 * rows), dpi=DPI, layout="constrained")
    for place, mistake in enumerate(mistakes, start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(ImageOps.pad(read(mistake.index).convert("RGB"), (PHOTO_SIDE, PHOTO_SIDE), color=PALE))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        truth, predicted = (_short(label_names[number], number) for number in (mistake.truth, mistake.predicted))
        axes.set_title(f"truth: {truth}", fontsize=8, pad=3, parse_math=False)
        taken = f"taken for {predicted}\n{100 * mistake.score:.0f} % sure"
        axes.set_xlabel(taken, fontsize=8, labelpad=3, color=ORANGE, parse_math=False)
    return figure


def _short(name: str, number: int) -> str:
    """Makes a name fit into a picture; one that the fonts cannot write is replaced by the class's number."""
    renderer, font = RendererAgg(1, 1, DPI), FontProperties(size=8)

    def width(text: str) -> int:
        return math.ceil(renderer.get_text_width_height_descent(text, font, ismath=False)[0])

    text = one_line(name)[:80]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # measuring warns of glyphs that are missing, as drawing would
            if width(text) <= NAME_WIDTH:
                return text
            too_long = bisect(range(len(text)), NAME_WIDTH, key=lambda length: width(f"{text[:length]}…"))
    except UserWarning:
        return f"class {number}"
    return f"{text[: too_long - 1].rstrip()}…"


def _page(history: History, scores: Scores, mistakes: Sequence[Mistake], title: str) -> list[str]:
    names = [escape(name) for name in scores.label_names]
    figures = [
        ["images", str(scores.images)],
        ["top-1", f"{scores.top1:.2f} %"],
        ["top-5", f"{scores.top5:.2f} %"],
        ["loss (cross-entropy)", f"{scores.loss:.4f}"],
        ["calibration error", f"{scores.calibration_error:.2f} %"],
        ["F1, macro", f"{scores.f1_macro:.2f} %"],
        ["F1, weighted", f"{scores.f1_weighted:.2f} %"],
        ["precision, macro", f"{scores.precision_macro:.2f} %"],
        ["balanced accuracy", f"{scores.balanced_accuracy:.2f} %"],
        ["ROC AUC", "" if scores.roc_auc is None else f"{scores.roc_auc:.2f} %"],
        ["average precision", f"{scores.average_precision:.2f} %"],
    ]
    parts = [f"# {escape(title)}", table(["figure", " value"], figures)]
    if history:
        parts += ["## Curves", _summary(history), "![Loss, validation top-1 and learning rate by epoch](curves.png)"]

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
        "![Confusion matrix](confusion.png)",
        "In counts: [confusion.csv](confusion.csv).",
        _confusions(scores, names),
    ]
    if mistakes:
        parts += [
            "## Surest mistakes",
            "![The images, with what each is and what it was taken for](mistakes.png)",
            table(
                [" image", "truth", "taken for", " probability (%)"],
                ([row.index, names[row.truth], names[row.predicted], f"{100 * row.score:.1f}"] for row in mistakes),
            ),
        ]
    return parts


def _summary(history: History) -> str:
    text = duration(history)
    top1 = [(value, epoch) for epoch, value in values(history, "val_top1") if math.isfinite(value)]
    if top1:
        value, epoch = max(top1, key=itemgetter(0))
        text += f" Best validation top-1: {value:.2f} %, first in epoch {epoch}."
    return text


def _confusions(scores: Scores, names: Sequence[str]) -> str:
    pairs = [
        (count, truth, predicted)
        for truth, row in enumerate(scores.confusion)
        for predicted, count in enumerate(row)
        if count and truth != predicted
    ]
    if not pairs:
        return "None: each image was taken for what it is."
    most = sorted(pairs, key=lambda pair: -pair[0])[:CONFUSIONS]
    return table(
        ["truth", "taken for", " images", " of the true class's (%)"],
        (
            [names[truth], names[predicted], count, f"{100 * count / sum(scores.confusion[truth]):.1f}"]
            for count, truth, predicted in most
        ),
    )
