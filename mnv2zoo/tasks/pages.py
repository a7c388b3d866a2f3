"""Pages that all tasks share: the training report with its curves, and the model card."""

from __future__ import annotations

import math
import re
import warnings
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import matplotlib.figure
import numpy as np
from huggingface_hub import EvalResult, ModelCardData
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import PowerNorm
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator

from mnv2zoo.system.files import whole_file

if TYPE_CHECKING:
    from mnv2zoo.tasks.base import Scores

# The colorblind-safe palette by Okabe and Ito: https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
PALE = "#e6e6e6"

DPI = 120
CONFUSIONS = 10  # rows of the table of confusions
NAME_WIDTH = 186  # pixels, at 8 points; "predicted:" and the name together are as wide as a photo

History = Sequence[Mapping[str, Any]]
Figure = matplotlib.figure.Figure
# A panel of curves: its title, and a label and a color for each column of the history in it.
Panels = Sequence[tuple[str, Mapping[str, tuple[str, str]]]]


def write_report(folder: Path, history: History, scores: Scores, title: str) -> None:
    """Writes a report with the metrics and their curves.

    Args:
        folder: The folder, which is created if needed.
        history: One row per epoch, with "epoch" from 1, "train_loss", "lr", "seconds" and, if there was a validation,
            one column `val_...` per metric.
        scores: The scores.
        title: The heading of the page.

    Raises:
        OSError: If a file cannot be written.
    """
    metrics = scores.metrics()
    rows = [["images", str(scores.images)], *([name, f"{value:.4g}"] for name, value in metrics.items())]
    parts = [f"# {escape(title)}", table(["metric", " value"], rows)]
    figures = {}
    if history:
        losses = {"train_loss": ("training", BLUE), "val_loss": ("validation", ORANGE)}
        others = [(name, {f"val_{name}": ("validation", ORANGE)}) for name in metrics if name != "loss"]
        figures["curves.png"] = curves_figure(
            history, [("loss", losses), *others, ("learning rate", {"lr": ("", GREEN)})]
        )
        parts += ["## Curves", duration(history), "![Loss, metrics and learning rate by epoch](curves.png)"]
    save(folder, parts, figures)


def card_metadata(
    model: str, dataset: str, scores: Mapping[str, Any], kind: str, metrics: Mapping[str, str]
) -> ModelCardData:
    """The Hub's metadata of a model card.

    Args:
        model: The model's name.
        dataset: The name of its data.
        scores: Scores by split.
        kind: The Hub's task name, such as `object-detection`.
        metrics: Fields of the scores, with their display names.

    Returns:
        The metadata.
    """
    results = [
        EvalResult(
            task_type=kind,
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type=name,
            metric_name=words,
            metric_value=round(getattr(own, name), 2),
        )
        for split, own in scores.items()
        for name, words in metrics.items()
    ]
    return ModelCardData(
        library_name="mnv2zoo",
        pipeline_tag=kind,
        tags=[kind, "mnv2zoo"],
        model_name=model,
        eval_results=results or None,
    )


def card(metadata: ModelCardData, parts: Sequence[str], recipe: Mapping[str, Any]) -> str:
    """Puts a model card together.

    Args:
        metadata: The Hub's metadata.
        parts: The content between the title and the recipe.
        recipe: The values of the recipe. Values that are None are left out.

    Returns:
        Markdown.
    """
    values = ([f"`{name}`", f"`{value}`"] for name, value in recipe.items() if value is not None)
    front = f"---\n{metadata.to_yaml()}\n---"
    whole = [front, f"# {metadata.model_name}", *parts, "## Training", table(["field", "value"], values)]
    return "\n\n".join(whole) + "\n"


def summary(history: History, name: str, words: str) -> str:
    """Describes the duration of training and the best value of a validation metric.

    Args:
        history: One row per epoch.
        name: The metric.
        words: The display name of the metric.

    Returns:
        One or two sentences.
    """
    text = duration(history)
    found = [(value, epoch) for epoch, value in values(history, f"val_{name}") if math.isfinite(value)]
    if found:
        value, epoch = max(found, key=itemgetter(0))
        text += f" Best validation {words}: {value:.2f} %, first reached in epoch {epoch}."
    return text


def confusions(
    counts: Mapping[tuple[int, int], int], names: Sequence[str], unit: str, none: str, number: str = "d"
) -> str:
    """Creates a table of the most frequent confusions.

    Args:
        counts: Counts by true and predicted class.
        names: Names of the classes, escaped.
        unit: The unit of the counts.
        none: The sentence for counts without confusions.
        number: The format specification of the counts.

    Returns:
        Markdown.
    """
    totals: Counter[int] = Counter()
    for (truth, _), count in counts.items():
        totals[truth] += count
    confused = sorted(pair for pair, count in counts.items() if count and pair[0] != pair[1])
    if not confused:
        return none
    most = sorted(confused, key=lambda pair: -counts[pair])[:CONFUSIONS]
    return table(
        ["true class", "predicted class", f" {unit}", " of the true class (%)"],
        ([names[t], names[p], format(counts[t, p], number), f"{100 * counts[t, p] / totals[t]:.1f}"] for t, p in most),
    )


def save(folder: Path, parts: Sequence[str], figures: Mapping[str, Figure | None]) -> None:
    """Writes a page `README.md` and its figures.

    Args:
        folder: The folder, which is created if needed.
        parts: Paragraphs of Markdown.
        figures: Figures by file name. None removes the file, because there is nothing to show.

    Raises:
        OSError: If a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        if figure is None:
            (folder / name).unlink(missing_ok=True)
        else:
            with whole_file(folder / name) as file:
                figure.savefig(file, format="png")
    with whole_file(folder / "README.md") as file:
        file.write(("\n\n".join(parts) + "\n").encode())


def curves_figure(history: History, panels: Panels) -> Figure:
    """Plots columns of the history over epochs.

    Args:
        history: One row per epoch.
        panels: The panels. Columns without values are left out.

    Returns:
        The figure, with the panels side by side.
    """
    panels = [panel for panel in panels if any(values(history, key) for key in panel[1])]
    figure = Figure(figsize=(4 * max(1, len(panels)), 3.2), dpi=DPI, layout="constrained")
    for place, (title, lines) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("epoch")
        axes.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=PALE)
        for key, (label, color) in lines.items():
            if found := values(history, key):
                # With markers, because a line does not show a single epoch between missing values.
                axes.plot(*zip(*found, strict=True), color=color, marker=".", label=label)
        if len(axes.lines) > 1:
            axes.legend(frameon=False)
    return figure


def confusion_figure(confusion: Sequence[Sequence[int]], label_names: Sequence[str], title: str, what: str) -> Figure:
    """Plots a confusion matrix in percent of each true class.

    Args:
        confusion: Counts; rows are the true classes, columns the predicted classes.
        label_names: Names of the classes.
        title: The figure's title.
        what: The unit of the counts, such as `images`.

    Returns:
        The figure. It grows with the number of classes. Up to 200 classes, all names are shown; beyond that, only some.
    """
    counts = np.array(confusion, dtype=float)
    classes = len(counts)
    totals = counts.sum(1, keepdims=True)
    percent = np.ma.masked_array(100 * counts / np.maximum(totals, 1), np.broadcast_to(totals == 0, counts.shape))
    side = max(min(0.8, 7 / classes), min(0.11, 22 / classes))  # of a cell, in inches

    figure = Figure(figsize=(side * classes + 3.4, side * classes + 2.4), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    colors = matplotlib.colormaps["Blues"].with_extremes(bad=PALE)
    # A square-root scale, because the few percent off the diagonal matter most for a good model.
    norm = PowerNorm(0.5, 0, 100)
    heat = axes.imshow(percent, cmap=colors, norm=norm, interpolation="nearest")
    bar = figure.colorbar(heat, shrink=min(1, 5 / (side * classes)), aspect=30, ticks=[0, 1, 5, 20, 50, 100])
    bar.set_label(f"{what} of the true class (%)")
    bar.outline.set_visible(False)

    shown = range(0, classes, math.ceil(classes / 200))
    names = [short(label_names[number], number) for number in shown]
    style: dict[str, Any] = {"fontsize": min(9, 54 * side * shown.step), "parse_math": False}
    axes.set_xticks(shown, names, rotation=90 if side < 0.5 else 40, **style)
    if side >= 0.5:
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(shown, names, **style)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    # Thin lines between the cells guide the eye to the names.
    axes.set_xticks(np.arange(0.5, classes - 1, shown.step), minor=True)
    axes.set_yticks(np.arange(0.5, classes - 1, shown.step), minor=True)
    axes.grid(which="minor", color=PALE, linewidth=min(0.8, 3 * side))
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    gray = f"; gray: no {what}" if (totals == 0).any() else ""
    axes.set_title(f"{title}{gray}", fontsize=11)
    if side >= 0.28:
        for (row, column), count in np.ndenumerate(counts):
            value = 100 * count / max(1, totals[row, 0])
            text = "" if not count else "<1" if value < 0.5 else f"{value:.0f}"
            color = "white" if norm(value) > 0.6 else "black"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=min(9, 25 * side))
    return figure


def short(name: str, number: int) -> str:
    """Shortens a name to fit into a figure.

    Args:
        name: The name of a class.
        number: The number of the class, which replaces a name that the fonts cannot render.

    Returns:
        The name, shortened if needed.
    """
    renderer, font = RendererAgg(1, 1, DPI), FontProperties(size=8)

    def width(text: str) -> int:
        return math.ceil(renderer.get_text_width_height_descent(text, font, ismath=False)[0])

    text = one_line(name)[:80]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # like drawing, measuring warns about missing glyphs
            if width(text) <= NAME_WIDTH:
                return text
            too_long = bisect(range(len(text)), NAME_WIDTH, key=lambda length: width(f"{text[:length]}…"))
    except UserWarning:
        return f"class {number}"
    return f"{text[: too_long - 1].rstrip()}…"


def values(history: History, key: str) -> list[tuple[int, float]]:
    """The epochs with a value in a column, and these values, which need not be finite."""
    return [(row["epoch"], row[key]) for row in history if row.get(key) is not None]


def duration(history: History) -> str:
    """A sentence with the number of epochs and the training time."""
    seconds = sum(value for _, value in values(history, "seconds") if math.isfinite(value))
    return f"Epochs: {len(history)}. Training time (h:mm:ss): {timedelta(seconds=round(seconds))}."


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table. A title that starts with a space marks a right-aligned column of numbers."""
    rules = ["---:" if title.startswith(" ") else "---" for title in columns]
    lines = [[title.strip() for title in columns], rules, *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def one_line(name: str) -> str:
    """A name as one line of text that can be written to any file."""
    # Folder names can contain bytes that are not UTF-8. Python represents them as surrogates, which cannot be encoded.
    return " ".join(name.encode(errors="replace").decode().split())


def escape(name: str) -> str:
    """A name as one line of Markdown, escaped so that it is displayed literally."""
    return re.sub(r"([\\`*_\[\]<>|~&$#:@])", r"\\\1", one_line(name))


def model_card(
    task: str, model: str, architecture: str, origin: str, run: Mapping[str, Any], scores: Mapping[str, Scores]
) -> str:
    """Writes the default model card.

    Args:
        task: The task's name.
        model: The model's name.
        architecture: Its architecture.
        origin: Its initial weights, as text.
        run: The content of `recipe.json`.
        scores: Scores by split.

    Returns:
        The card: Markdown with the Hub's metadata.
    """
    dataset = Path(run["data"]).name or "images"
    figures = {split: own.metrics() for split, own in scores.items()}
    results = [
        EvalResult(
            task_type="other",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type=name,
            metric_value=round(value, 6),
        )
        for split, own in figures.items()
        for name, value in own.items()
    ]
    data = ModelCardData(library_name="timm", tags=["timm", "mnv2zoo"], model_name=model, eval_results=results or None)
    names = list(dict.fromkeys(name for own in figures.values() for name in own))
    rows = [[s, scores[s].images, *(f"{own[name]:.4g}" for name in names)] for s, own in figures.items()]
    used = [[f"`{name}`", f"`{value}`"] for name, value in run["recipe"].items() if value is not None]
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {model}",
        f"`{architecture}`, trained with mnv2zoo on `{dataset}` for the task `{task}`. Initial weights: {origin}.",
        table(["split", " images", *(f" {name}" for name in names)], rows),
        f"## Use\n\n```sh\nmnv2zoo predict --model THIS_FOLDER --task {task} photo.jpg\n```",
        f"## Training\n\n{table(['field', 'value'], used)}",
    ]
    return "\n\n".join(parts) + "\n"
