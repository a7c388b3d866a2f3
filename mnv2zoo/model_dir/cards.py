"""The model card of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData


def card(model_name: str, architecture: str, origin: str, run: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    """Writes a model card as the Hub reads it.

    Args:
        model_name: What the network is called.
        architecture: Its architecture.
        origin: Where its weights started.
        run: What `describe_run` gave.
        scores: Figures by split.

    Returns:
        The card, as Markdown with metadata.
    """
    dataset = Path(run["data"]).name or "images"
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type="accuracy",
            metric_name="top-1",
            metric_value=round(own.top1, 2),
        )
        for split, own in scores.items()
    ]
    data = ModelCardData(
        library_name="timm",
        tags=["image-classification", "timm", "mnv2zoo"],
        model_name=model_name,
        eval_results=results or None,
    )
    rows = [
        f"| {s} | {own.images} | {own.top1:.2f} | {own.top5:.2f} | {own.calibration_error:.2f} |"
        for s, own in scores.items()
    ]
    values = [f"| `{name}` | `{value}` |" for name, value in run["recipe"].items() if value is not None]
    names = next(iter(scores.values())).label_names if scores else ()
    return "\n".join(
        [
            f"---\n{data.to_yaml()}\n---",
            f"# {model_name}\n",
            f"`{architecture}` fine-tuned on `{dataset}` with mnv2zoo, from {origin}. {len(names)} classes.\n"
            if names
            else f"`{architecture}`, from {origin}.\n",
            "| images | how many | top-1 (%) | top-5 (%) | calibration error (%) |",
            "| --- | --: | --: | --: | --: |",
            *rows,
            "\n## Use\n",
            "```python",
            "import timm, mnv2zoo\n",
            'model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True).eval()',
            "```\n",
            "```sh",
            "mnv2zoo predict --model THIS_FOLDER photo.jpg",
            "```\n",
            "## How it was trained\n",
            "| value | |",
            "| --- | --- |",
            *values,
            "",
        ]
    )
