"""What a run leaves behind: the network, its model card, its figures and its report."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from mnv2zoo import network
from mnv2zoo.model import MobileNetV2
from mnv2zoo.training.folder import RunFolder
from mnv2zoo.training.metrics import Scores
from mnv2zoo.training.recipe import Recipe
from mnv2zoo.training.start import Start


def describe_run(place: str | Path, model_name: str, recipe: Recipe, lr: float, start: Start) -> dict[str, Any]:
    """Everything that decides a run, with defaults and the weights' own values filled in."""
    test = start.test_preprocessing
    used = {
        "lr": lr,
        "input_size": start.preprocessing["input_size"][-1],
        "test_input_size": test["input_size"][-1],
        **{key: test[key] for key in ("crop_pct", "interpolation", "mean", "std")},
    }
    return {
        "data": str(place),
        "model": model_name,
        "recipe": recipe.to_json() | used,
        "versions": {name: version(name) for name in ("timm", "torch", "torchvision", "accelerate")}
        | {"python": platform.python_version()},
    }


def write_model(folder: RunFolder, model: MobileNetV2, start: Start, class_names: tuple[str, ...]) -> None:
    """Writes the network so that timm's `local-dir:` reads it.

    Args:
        folder: The run folder.
        model: The network.
        start: Tells the preprocessing.
        class_names: Names of its classes in class order.
    """
    train, test = start.preprocessing, start.test_preprocessing
    size = {"test_input_size": test["input_size"]} if test["input_size"] != train["input_size"] else {}
    for name, data in network.files(model, {**train, **size, "crop_pct": test["crop_pct"]}, class_names).items():
        folder.write(name, data)


def write_results(folder: RunFolder, epoch: int, scores: Mapping[str, Scores]) -> None:
    """Writes the figures of the kept weights."""
    folder.write_json("results.json", {"epoch": epoch} | {split: own.to_json() for split, own in scores.items()})


def card(model_name: str, architecture: str, origin: str, run: Mapping[str, Any], scores: Mapping[str, Scores]) -> str:
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
