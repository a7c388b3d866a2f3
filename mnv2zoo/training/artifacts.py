"""The documents that a run writes."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mnv2zoo.data.datasets import Data, Sample
from mnv2zoo.model_dir.records import RESULTS
from mnv2zoo.tasks import Scores, Task
from mnv2zoo.tasks.initialization import CROP_MODES, Start
from mnv2zoo.tasks.recipe import OF_FITTING, Recipe
from mnv2zoo.training.resume import places
from mnv2zoo.training.run_dir import RunFolder
from mnv2zoo.version import __version__


def describe_run(
    place: str | Path,
    model_name: str,
    recipe: Recipe,
    lr: float,
    start: Start,
    task: Task,
    data: Data,
    found: int,
) -> dict[str, Any]:
    """Records everything that affects the result of a run, with all default values filled in.

    Args:
        place: The data.
        model_name: The model.
        recipe: The recipe.
        lr: The peak learning rate.
        start: The model and its initial weights.
        task: The task, after `setup`.
        data: The images by split.
        found: Number of images in the data, including those that were left out.

    Returns:
        The content of the run's `recipe.json`.
    """
    test = start.test_preprocessing
    modes = {mode: name for name, mode in CROP_MODES.items()}
    used = {
        "lr": lr,
        "input_size": _size(start.preprocessing, task, recipe.input_size),
        "test_input_size": _size(test, task, recipe.test_input_size or recipe.input_size),
        "in_chans": test["input_size"][0],
        "resize": modes[test.get("crop_mode", "center")],
        **{key: test[key] for key in ("crop_pct", "interpolation", "mean", "std")},
    }
    return {
        "data": str(place),
        "task": task.name,
        "model": model_name,
        "recipe": recipe.to_json() | {name: value for name, value in used.items() if name not in task.ignores},
        "places": places(model_name, recipe),
        "start": start.fingerprint,
        **task.fingerprints(),
        "classes": list(data.class_names),
        "images": {"found": found, "sha256": images_fingerprint(data)},
        "versions": {name: version(name) for name in ("timm", "torch", "torchvision", "accelerate")}
        | {"python": platform.python_version(), "mnv2zoo": __version__},
    }


def _size(preprocessing: Mapping[str, Any], task: Task, given: int | tuple[int, ...] | None) -> int | list[int]:
    """The size as a recipe has it: height and width, or one side if the task computes the other."""
    _, height, width = preprocessing["input_size"]
    if height == width or (set(OF_FITTING) <= set(task.ignores) and not isinstance(given, tuple)):
        return min(height, width)
    return [height, width]


def images_fingerprint(data: Data) -> str:
    """Hashes the names, classes and sizes of the images, to recognize data that was moved."""
    digest = hashlib.sha256()
    for split, samples in sorted(data.splits.items()):
        for sample in samples:
            size = 0
            if isinstance(sample, Sample):
                size = sample.size if sample.offset is not None else sample.place.stat().st_size
            digest.update(f"{split}\0{sample.name}\0{sample.target}\0{size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def preprocessing_of(start: Start) -> dict[str, Any]:
    """The preprocessing of a trained model for its `config.json`, with timm's names."""
    train, test = start.preprocessing, start.test_preprocessing
    size = {"test_input_size": test["input_size"]} if test["input_size"] != train["input_size"] else {}
    return {**train, **size, "crop_pct": test["crop_pct"]}


def write_results(folder: RunFolder, epoch: int, scores: Mapping[str, Scores]) -> None:
    """Writes `results.json`, the metrics of the saved weights."""
    folder.write_json(RESULTS, {"epoch": epoch} | {split: own.to_json() for split, own in scores.items()})
