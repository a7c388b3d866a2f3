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
        model: The network's name.
        architecture: Its architecture.
        origin: Where its weights started, in words.
        run: The content of `recipe.json`.
        scores: Scores by split.

    Returns:
        Markdown with the Hub's metadata.
    """
    dataset = Path(run["data"]).name or "images"
    rows = [[s, own.images, *(f"{getattr(own, name):.2f}" for name in NAMES)] for s, own in scores.items()]
    parts = [
        f"A segmenter: the head `{run['recipe']['head']}` on `{architecture}`, trained with mnv2zoo on `{dataset}`, "
        f"from {origin}. It tells {len(run['classes'])} classes apart.",
        table(["images", " number", *(f" {name} (%)" for name in NAMES.values())], rows),
        *_classes(scores),
        "Metrics are of all pixels of a split together, without those that belong to no class.",
        "## Use",
        "```python\nimport mnv2zoo\n\n"
        'segmenter = mnv2zoo.segmentation.load("THIS_FOLDER")\n'
        "# Normalized images (N, 3, H, W) go in, logits (N, classes, H, W) come out.\n```",
        "```sh\nmnv2zoo predict photo.jpg --model THIS_FOLDER --files masks --save-images drawn\n```",
    ]
    return card(card_metadata(model, dataset, scores, KIND, NAMES), parts, run["recipe"])


def _classes(scores: Mapping[str, Scores]) -> list[str]:
    """The IoU of each class in each split."""
    if not scores:
        return []
    first = next(iter(scores.values()))
    columns = [[row["iou"] for row in own.per_class] for own in scores.values()]
    rows = [
        [escape(label), *("" if iou is None else f"{iou:.1f}" for iou in own)]
        for label, *own in zip(first.label_names, *columns, strict=True)
    ]
    return [table(["class", *(f" IoU, {split} (%)" for split in scores)], rows)]
