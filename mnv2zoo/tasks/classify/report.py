"""What a training came to, as pictures and as a page that shows them."""

from __future__ import annotations

import math
import re
import warnings
from bisect import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageOps

from mnv2zoo.system.files import whole_file
from mnv2zoo.tasks.classify.metrics import Mistake, Scores

# Okabe and Ito's palette, which people who do not tell red from green can tell apart: https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
PALE = "#e6e6e6"

DPI = 120
PHOTO_SIDE = 256  # pixels; of the thinnest image that `decode.read` gives, 1 x 500, a line is left
NAME_WIDTH = 186  # pixels, in letters of 8 points; with "taken for" before it, it is as wide as a photo
CONFUSIONS = 10  # rows of the table

History = Sequence[Mapping[str, Any]]


def write(
    folder: Path,
    history: History,
    scores: Scores,
    mistakes: Sequence[Mistake],
    read: Callable[[int], Image.Image],
    title: str,
) -> None:
    """Writes `README.md` and the pictures that it shows: curves, confusion matrix and mistakes.

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
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "curves.png": _curves_figure(history) if history else None,
        "confusion.png": confusion_figure(scores),
        "mistakes.png": mistakes_figure(mistakes, read, scores.label_names) if mistakes else None,
    }
    for name, figure in figures.items():
        if figure is None:
            (folder / name).unlink(missing_ok=True)
        else:
            with whole_file(folder / name) as file:
                figure.savefig(file, format="png")
    with whole_file(folder / "README.md") as file:
        file.write(_page(history, scores, mistakes, title).encode())


def _curves_figure(history: History) -> Figure:
    panels: list[tuple[str, dict[str, tuple[str, str]]]] = [
        ("Loss (cross-entropy)", {"train_loss": ("training", BLUE), "val_loss": ("validation", ORANGE)}),
        ("Validation top-1 (%)", {"val_top1": ("validation", ORANGE)}),
        ("Learning rate", {"lr": ("learning rate", GREEN)}),
    ]
    panels = [panel for panel in panels if any(_values(history, key) for key in panel[1])]
    figure = Figure(figsize=(4 * max(1, len(panels)), 3.2), dpi=DPI, layout="constrained")
    for place, (title, lines) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("epoch")
        axes.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=PALE)
        for key, (label, colour) in lines.items():
            if values := _values(history, key):
                # A line alone would not show a single epoch, nor one between two that diverged.
                axes.plot(*zip(*values, strict=True), color=colour, marker=".", label=label)
        if len(axes.lines) > 1:
            axes.legend(frameon=False)
    return figure


def _values(history: History, key: str) -> list[tuple[int, float]]:
    """Gives the epochs that have a figure, and that figure, which need not be finite."""
    return [(row["epoch"], row[key]) for row in history if row.get(key) is not None]


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
    colours = matplotlib.colormaps["Blues"].with_extremes(bad=PALE)
    # By the square root, since what matters in a good network's matrix are the few percent off the diagonal.
    norm = PowerNorm(0.5, 0, 100)
    heat = axes.imshow(percent, cmap=colours, norm=norm, interpolation="nearest")
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
            colour = "white" if norm(value) > 0.6 else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=min(9, 25 * side))
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

    text = _one_line(name)[:80]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # measuring warns of glyphs that are missing, as drawing would
            if width(text) <= NAME_WIDTH:
                return text
            too_long = bisect(range(len(text)), NAME_WIDTH, key=lambda length: width(f"{text[:length]}…"))
    except UserWarning:
        return f"class {number}"
    return f"{text[: too_long - 1].rstrip()}…"


def _one_line(name: str) -> str:
    # Folders' names may hold bytes that are no UTF-8, which Python keeps as surrogates that no file takes.
    return " ".join(name.encode(errors="replace").decode().split())


def _page(history: History, scores: Scores, mistakes: Sequence[Mistake], title: str) -> str:
    names = [_escape(name) for name in scores.label_names]
    figures = [
        ["images", str(scores.images)],
        ["top-1", f"{scores.top1:.2f} %"],
        ["top-5", f"{scores.top5:.2f} %"],
        ["loss (cross-entropy)", f"{scores.loss:.4f}"],
        ["calibration error", f"{scores.calibration_error:.2f} %"],
    ]
    parts = [f"# {_escape(title)}", _table(["figure", " value"], figures)]
    if history:
        parts += ["## Curves", _summary(history), "![Loss, validation top-1 and learning rate by epoch](curves.png)"]

    classes = sorted(scores.per_class, key=lambda row: (row["top1"] is None, row["top1"]))
    parts += [
        "## Classes, from worst to best",
        _table(
            [" class", "label", " images", " top-1 (%)"],
            (
                [row["class"], names[row["class"]], row["images"], "" if row["top1"] is None else f"{row['top1']:.1f}"]
                for row in classes
            ),
        ),
        "## Confusions",
        "![Confusion matrix](confusion.png)",
        _confusions(scores, names),
    ]
    if mistakes:
        parts += [
            "## Surest mistakes",
            "![The images, with what each is and what it was taken for](mistakes.png)",
            _table(
                [" image", "truth", "taken for", " probability (%)"],
                ([row.index, names[row.truth], names[row.predicted], f"{100 * row.score:.1f}"] for row in mistakes),
            ),
        ]
    return "\n\n".join(parts) + "\n"


def _summary(history: History) -> str:
    seconds = sum(value for _, value in _values(history, "seconds") if math.isfinite(value))
    text = f"Epochs: {len(history)}, in {timedelta(seconds=round(seconds))} (hours, minutes, seconds)."
    top1 = [(value, epoch) for epoch, value in _values(history, "val_top1") if math.isfinite(value)]
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
    return _table(
        ["truth", "taken for", " images", " of the true class's (%)"],
        (
            [names[truth], names[predicted], count, f"{100 * count / sum(scores.confusion[truth]):.1f}"]
            for count, truth, predicted in most
        ),
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Makes a Markdown table; a title that starts with a space is of a column of figures."""
    rules = ["---:" if title.startswith(" ") else "---" for title in columns]
    lines = [[title.strip() for title in columns], rules, *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _escape(name: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|~&$#:@])", r"\\\1", _one_line(name))
