"""The model card of a trained detector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2zoo.tasks.pages import card_metadata, escape, table

if TYPE_CHECKING:
    from mnv2zoo.tasks.detect.metrics import Scores

KIND = "object-detection"
NAMES = {"map": "mAP", "map50": "AP50", "map75": "AP75"}


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
    recipe = {name: value for name, value in run["recipe"].items() if value is not None}
    classes = ", ".join(map(escape, run["classes"][:20])) + (", ..." if len(run["classes"]) > 20 else "")
    rows = [
        [split, own.images, own.objects, *(f"{getattr(own, name):.2f}" for name in NAMES)]
        for split, own in scores.items()
    ]
    head = f"the head `{recipe['head']}` on " if "head" in recipe else ""
    parts = [
        f"---\n{card_metadata(model, dataset, scores, KIND, NAMES).to_yaml()}\n---",
        f"# {model}",
        f"A detector: {head}`{architecture}`, trained with mnv2zoo on `{dataset}`, from {origin}. "
        f"It finds {len(run['classes'])} classes: {classes}.",
        table(["images", " number", " objects", *(f" {name} (%)" for name in NAMES.values())], rows),
        "mAP is COCO's: the mean over the classes and over IoU of 0.50 to 0.95.",
        "## Use",
        "```python\nimport mnv2zoo\n\n"
        'detector = mnv2zoo.detection.load("THIS_FOLDER")\n'
        "# A list of images (3, H, W) from 0 to 1 goes in; boxes, labels (from 1) and scores come out.\n```",
        "```sh\nmnv2zoo predict photo.jpg --model THIS_FOLDER --save-images drawn\n```",
        "## Training",
        table(["value", ""], ([f"`{name}`", f"`{value}`"] for name, value in recipe.items())),
    ]
    return "\n\n".join(parts) + "\n"
