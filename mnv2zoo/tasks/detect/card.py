"""The model card of a trained detector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2zoo.tasks.pages import card, card_metadata, escape, table

if TYPE_CHECKING:
    from mnv2zoo.tasks.detect.metrics import Scores

KIND = "object-detection"
NAMES = {"map": "mAP", "map50": "AP50", "map75": "AP75"}


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
    classes = ", ".join(map(escape, run["classes"][:20])) + (", ..." if len(run["classes"]) > 20 else "")
    rows = [
        [split, own.images, own.objects, *(f"{getattr(own, name):.2f}" for name in NAMES)]
        for split, own in scores.items()
    ]
    head = f"the head `{run['recipe']['head']}` and the backbone " if run["recipe"].get("head") else ""
    parts = [
        f"An object detector with {head}`{architecture}`, trained with mnv2zoo on `{dataset}`. Initial weights: "
        f"{origin}. It detects {len(run['classes'])} classes: {classes}.",
        table(["split", " images", " objects", *(f" {name} (%)" for name in NAMES.values())], rows),
        "mAP is the COCO metric: the mean over classes and over IoU thresholds from 0.50 to 0.95.",
        "## Use",
        "```python\nimport mnv2zoo\n\n"
        'detector = mnv2zoo.detection.load("THIS_FOLDER")\n'
        "# Input: a list of images (3, H, W) from 0 to 1. Output: boxes, labels (from 1) and scores for each.\n```",
        "```sh\nmnv2zoo predict photo.jpg --model THIS_FOLDER --save-images drawn\n```",
    ]
    return card(card_metadata(model, dataset, scores, KIND, NAMES), parts, run["recipe"])
