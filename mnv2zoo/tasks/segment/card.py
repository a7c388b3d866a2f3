"""The model card of a trained segmenter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2zoo.tasks.pages import card, card_metadata, escape, table

if TYPE_CHECKING:
    from mnv2zoo.tasks.segment.metrics import Scores

NAMES = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy", "mean_accuracy": "mean accuracy"}
KIND = "image-segmentation"


def model_card(model: str, architecture: str, origin: str, run: Mapping[str, Any], scores: Mapping[str, Scores]) -> str:
    """Writes the model card.

    Args:
        model: The model's name.
        architecture: Its architecture.
        origin: Its initial weights, as text.
        run: The content of `recipe.json`.
        scores: Scores by split.

    Returns:
        Markdown with the Hub's metadata.
    """
    dataset = Path(run["data"]).name or "images"
    rows = [[s, own.images, *(f"{getattr(own, name):.2f}" for name in NAMES)] for s, own in scores.items()]
    parts = [
        f"A semantic segmentation model with the head `{run['recipe']['head']}` and the backbone `{architecture}`, "
        f"trained with mnv2zoo on `{dataset}`. Initial weights: {origin}. It segments {len(run['classes'])} classes.",
        table(["split", " images", *(f" {name} (%)" for name in NAMES.values())], rows),
        *_classes(scores),
        "Metrics are computed over all labeled pixels of a split together. Ignored pixels do not count.",
        "## Use",
        "```python\nimport mnv2zoo\n\n"
        'segmenter = mnv2zoo.segmentation.load("THIS_FOLDER")\n'
        "# Input: normalized images (N, 3, H, W). Output: logits (N, classes, H, W).\n```",
        "```sh\nmnv2zoo predict photo.jpg --model THIS_FOLDER --files masks --save-images drawn\n```",
    ]
    return card(card_metadata(model, dataset, scores, KIND, NAMES), parts, run["recipe"])


def _classes(scores: Mapping[str, Scores]) -> list[str]:
    """A table with the IoU of each class in each split."""
    if not scores:
        return []
    first = next(iter(scores.values()))
    columns = [[row["iou"] for row in own.per_class] for own in scores.values()]
    rows = [
        [escape(label), *("" if iou is None else f"{iou:.1f}" for iou in own)]
        for label, *own in zip(first.label_names, *columns, strict=True)
    ]
    return [table(["class", *(f" IoU, {split} (%)" for split in scores)], rows)]
