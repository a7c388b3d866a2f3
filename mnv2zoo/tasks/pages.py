"""Pages that every task can write: the report on a training with its curves, and the model card."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.figure
from huggingface_hub import EvalResult, ModelCardData
from matplotlib.ticker import MaxNLocator

from mnv2zoo.system.files import whole_file

if TYPE_CHECKING:
    from mnv2zoo.tasks.base import Scores

# Okabe and Ito's palette, which people who do not tell red from green can tell apart: https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
PALE = "#e6e6e6"

DPI = 120

History = Sequence[Mapping[str, Any]]
Figure = matplotlib.figure.Figure
# A panel of curves: its title, and a label and a color for each column of the history in it.
Panels = Sequence[tuple[str, Mapping[str, tuple[str, str]]]]


def write_report(folder: Path, history: History, scores: Scores, title: str) -> None:
    """Writes a report of the scores and of the curves of all metrics.

    Args:
        folder: The folder; it is created if need be.
        history: A row per epoch, with "epoch" from 1, "train_loss", "lr", "seconds" and, where there was a validation,
            a column `val_...` per metric.
        scores: The scores.
        title: The page's heading.

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


def save(folder: Path, parts: Sequence[str], figures: Mapping[str, Figure | None]) -> None:
    """Writes a page `README.md` and its pictures.

    Args:
        folder: The folder; it is created if need be.
        parts: Paragraphs of Markdown.
        figures: Figures by the name of the file; None for a picture that has nothing to show, whose file is removed.

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
    """Draws columns of the history by epoch.

    Args:
        history: A row per epoch.
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
                # A line alone would not show a single epoch, nor one between two that diverged.
                axes.plot(*zip(*found, strict=True), color=color, marker=".", label=label)
        if len(axes.lines) > 1:
            axes.legend(frameon=False)
    return figure


def values(history: History, key: str) -> list[tuple[int, float]]:
    """The epochs that have a value in a column, and that value, which need not be finite."""
    return [(row["epoch"], row[key]) for row in history if row.get(key) is not None]


def duration(history: History) -> str:
    """A sentence on the number of epochs and the time that they took."""
    seconds = sum(value for _, value in values(history, "seconds") if math.isfinite(value))
    return f"Epochs: {len(history)}, in {timedelta(seconds=round(seconds))} (hours, minutes, seconds)."


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; a title that starts with a space is of a column of numbers."""
    rules = ["---:" if title.startswith(" ") else "---" for title in columns]
    lines = [[title.strip() for title in columns], rules, *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def one_line(name: str) -> str:
    """A name as one line of text that any file can hold."""
    # Folders' names may hold bytes that are no UTF-8, which Python keeps as surrogates that no file takes.
    return " ".join(name.encode(errors="replace").decode().split())


def escape(name: str) -> str:
    """A name as one line of Markdown that shows it as it is."""
    return re.sub(r"([\\`*_\[\]<>|~&$#:@])", r"\\\1", one_line(name))


def model_card(
    task: str, model: str, architecture: str, origin: str, run: Mapping[str, Any], scores: Mapping[str, Scores]
) -> str:
    """Writes the model card of a task that has none of its own.

    Args:
        task: The task's name.
        model: The network's name.
        architecture: Its architecture.
        origin: Where its weights started, in words.
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
        f"`{architecture}` trained with mnv2zoo on `{dataset}` for the task `{task}`, from {origin}.",
        table(["images", " number", *(f" {name}" for name in names)], rows),
        f"## Use\n\n```sh\nmnv2zoo predict --model THIS_FOLDER --task {task} photo.jpg\n```",
        f"## Training\n\n{table(['value', ''], used)}",
    ]
    return "\n\n".join(parts) + "\n"
