"""The report on a multi-label classifier: curves, metrics per label, and precision-recall curves."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torchmetrics.functional import classification as metrics

from mnv2zoo.tasks import pages
from mnv2zoo.tasks.multilabel.metrics import Scores
from mnv2zoo.tasks.pages import BLUE, DPI, GREEN, ORANGE, PALE, Figure, History, escape, short, table

LINES = 8  # number of labels with a curve
PANELS: pages.Panels = [
    ("Loss (binary cross-entropy)", {"train_loss": ("training", BLUE), "val_loss": ("validation", ORANGE)}),
    (
        "Validation (%)",
        {"val_map": ("mAP", ORANGE), "val_f1_micro": ("micro F1", BLUE), "val_f1_macro": ("macro F1", GREEN)},
    ),
    ("Learning rate", {"lr": ("learning rate", GREEN)}),
]


def write(
    folder: Path, history: History, scores: Scores, probabilities: Tensor, targets: Tensor, title: str
) -> dict[str, Figure]:
    """Writes `README.md` and its figures: training curves and precision-recall curves.

    Args:
        folder: The folder, which is created if needed.
        history: One row per epoch.
        scores: The scores.
        probabilities: The scores of all labels of the images (N, K).
        targets: 1 for each label of an image and 0 for the others, (N, K).
        title: The heading of the page.

    Returns:
        Figures for TensorBoard, by name.

    Raises:
        OSError: If a file cannot be written.
    """
    figures = {} if scores.map is None else {"precision_recall": curve_figure(scores, probabilities, targets)}
    files = {
        "curves.png": pages.curves_figure(history, PANELS) if history else None,
        "precision_recall.png": figures.get("precision_recall"),
    }
    pages.save(folder, _page(history, scores, title), files)
    return figures


def curve_figure(scores: Scores, probabilities: Tensor, targets: Tensor) -> Figure:
    """Plots the precision-recall curve of all labels together and of the labels with the lowest average precision.

    Args:
        scores: The scores.
        probabilities: The scores of all labels of the images (N, K).
        targets: 1 for each label of an image and 0 for the others, (N, K).

    Returns:
        The figure. A dot marks a label's threshold.
    """
    figure = Figure(figsize=(7.2, 4.2), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    rows = [row for row in scores.per_label if row["images"]]
    for row in sorted(rows, key=lambda row: row["average_precision"])[:LINES]:
        number = row["class"]
        precision, recall, _ = metrics.binary_precision_recall_curve(probabilities[:, number], targets[:, number])
        label = f"{short(row['label'], number)}, AP {row['average_precision']:.1f} %"
        (line,) = axes.plot(100 * recall, 100 * precision, linewidth=1, label=label)
        axes.plot(row["recall"], row["precision"], marker="o", markersize=4, color=line.get_color())
    precision, recall, _ = metrics.binary_precision_recall_curve(probabilities.flatten(), targets.flatten())
    axes.plot(100 * recall, 100 * precision, color="black", linewidth=2, label="all labels together")
    axes.set(xlabel="recall (%)", ylabel="precision (%)", xlim=(0, 102), ylim=(0, 102))
    axes.set_title(f"mAP {scores.map:.1f} % of {scores.images} images", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=PALE)
    legend = axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def labels_table(scores: Scores) -> str:
    """The labels from worst to best, as a Markdown table.

    Args:
        scores: The scores.
    """
    names = ("precision", "recall", "f1", "average_precision")
    rows = sorted(scores.per_label, key=lambda row: (row["f1"] is None, row["f1"]))
    return table(
        ["label", " images", " precision (%)", " recall (%)", " F1 (%)", " AP (%)", " threshold"],
        (
            [escape(row["label"]), row["images"]]
            + ["" if row[name] is None else f"{row[name]:.1f}" for name in names]
            + [f"{row['threshold']:.3g}"]
            for row in rows
        ),
    )


def _page(history: History, scores: Scores, title: str) -> list[str]:
    figures = [
        ["images", str(scores.images)],
        ["mAP", "" if scores.map is None else f"{scores.map:.2f} %"],
        ["micro F1", f"{scores.f1_micro:.2f} %"],
        ["macro F1", f"{scores.f1_macro:.2f} %"],
        ["loss (binary cross-entropy)", f"{scores.loss:.4f}"],
    ]
    parts = [f"# {escape(title)}", table(["metric", " value"], figures)]
    if history:
        parts += [
            "## Curves",
            pages.summary(history, "map", "mAP"),
            "![Loss, validation metrics and learning rate by epoch](curves.png)",
        ]
    parts += [
        "## Labels, from worst to best",
        labels_table(scores),
        "Precision, recall and F1 are measured at the threshold of each label, which was chosen for the highest F1 on "
        "the validation images. AP (average precision) is the area under the label's precision-recall curve.",
    ]
    if scores.map is not None:
        parts += [
            "## Precision and recall",
            f"![Precision-recall curves of all labels together and of up to {LINES} labels](precision_recall.png)",
        ]
    return parts
