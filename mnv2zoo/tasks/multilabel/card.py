"""The model card of a multi-label classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2zoo.tasks.multilabel.report import labels_table
from mnv2zoo.tasks.pages import card, card_metadata, table

if TYPE_CHECKING:
    from mnv2zoo.tasks.multilabel.metrics import Scores

NAMES = {"map": "mAP", "f1_micro": "micro F1", "f1_macro": "macro F1"}
KIND = "image-classification"


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
    dataset = Path(run["data"]).stem or "images"
    measured = {split: own for split, own in scores.items() if own.map is not None}
    data = card_metadata(model, dataset, measured, KIND, NAMES)
    data.library_name, data.tags = "timm", [KIND, "multi-label", "timm", "mnv2zoo"]
    rows = [[s, own.images, *(f"{getattr(own, name):.2f}" for name in NAMES)] for s, own in measured.items()]
    tables = [f"### {split}\n\n{labels_table(own)}" for split, own in measured.items()]
    parts = [
        f"A multi-label classifier: `{architecture}`, trained with mnv2zoo on `{dataset}`. Initial weights: {origin}. "
        f"It predicts any number of {len(run['classes'])} labels per image.",
        table(["split", " images", *(f" {name} (%)" for name in NAMES.values())], rows),
        "F1 is measured at a threshold per label, which was chosen on the validation images and is in `config.json`.",
        *(["## Labels", *tables] if tables else []),
        "## Use",
        "```sh\nmnv2zoo predict photo.jpg --model THIS_FOLDER\n```",
        "```python\nimport timm, mnv2zoo\n\n"
        'model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True).eval()\n'
        "# The sigmoid of a logit is the score of its label.\n```",
    ]
    return card(data, parts, run["recipe"])
