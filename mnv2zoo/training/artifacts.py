"""What a run leaves behind: the network, its model card, its figures and its report."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from mnv2zoo.data.datasets import Data, Sample
from mnv2zoo.errors import DataError, RunError
from mnv2zoo.model_dir import files
from mnv2zoo.models.mobilenetv2 import MobileNetV2
from mnv2zoo.tasks.classify.metrics import Scores
from mnv2zoo.tasks.initialization import Start, places
from mnv2zoo.tasks.recipe import Recipe
from mnv2zoo.training.run_dir import RunFolder
from mnv2zoo.version import __version__


def describe_run(
    place: str | Path,
    model_name: str,
    recipe: Recipe,
    lr: float,
    start: Start,
    teacher: str | None,
    data: Data,
    found: int,
) -> dict[str, Any]:
    """Everything that decides a run, with defaults and the weights' own values filled in.

    Args:
        place: The data.
        model_name: The network.
        recipe: The recipe.
        lr: The highest learning rate.
        start: Where it starts.
        teacher: The teacher's fingerprint, if there is one.
        data: The images in their splits.
        found: How many images there are in the data, those that are left out included.

    Returns:
        The run's `recipe.json`.
    """
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
        "places": places(model_name, recipe),
        "start": start.fingerprint,
        "teacher": teacher,
        "classes": list(data.class_names),
        "images": {"found": found, "sha256": images_fingerprint(data)},
        "versions": {name: version(name) for name in ("timm", "torch", "torchvision", "accelerate")}
        | {"python": platform.python_version(), "mnv2zoo": __version__},
    }


def images_fingerprint(data: Data) -> str:
    """A hash of the names, classes and sizes of the images, by which moved data are known."""
    digest = hashlib.sha256()
    for split, samples in sorted(data.splits.items()):
        for sample in samples:
            size = 0
            if isinstance(sample, Sample):
                size = sample.size if sample.offset is not None else sample.place.stat().st_size
            digest.update(f"{split}\0{sample.name}\0{sample.label}\0{size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


# What must be as it was when a run is resumed: its key, what changed, and what to do.
_UNCHANGED = {
    "images": ("images of the run have changed since it began", "Restore the images"),
    "start": ("the weights that the run started from have changed", "Restore the file or folder given by --init"),
    "teacher": ("the teacher has changed since the run began", "Restore the teacher"),
    "processes": ("the run began with another number of processes", "Start as many processes as before"),
}


def check_unchanged(recorded: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    """Refuses to resume a run from something else than it started from.

    Args:
        recorded: The run's `recipe.json`. What an earlier version did not record is not compared.
        now: What `describe_run` gives now.
        where: The file.

    Raises:
        RunError: If something differs.
    """
    for key, (problem, fix) in _UNCHANGED.items():
        was, value = recorded.get(key), now[key]
        if key == "images" and was is not None:
            was, value = was["sha256"], value["sha256"]
        if key in recorded and was != value:
            counts = {"expected": was, "found": value} if key == "processes" else {}
            raise RunError(problem, where=where, fix=f"{fix}, or start a new run with another --out.", **counts)


def check_classes(recorded: Mapping[str, Any], data: Data, place: str | Path) -> None:
    """Refuses to resume a run whose data have got or lost a class, which would number the others anew.

    Args:
        recorded: The run's `recipe.json`.
        data: The data as they are found now.
        place: Where they are.

    Raises:
        DataError: If the classes differ.
    """
    was, now = recorded.get("classes"), list(data.class_names)
    if was is None or was == now:
        return
    changes = [
        f"{verb} {', '.join(names[:5])}"
        for verb, names in (
            ("added:", [name for name in now if name not in was]),
            ("gone:", [name for name in was if name not in now]),
        )
        if names
    ]
    raise DataError(
        "the classes of the data have changed since the run began",
        expected=f"its {len(was)} classes",
        found="; ".join(changes) or "another order",
        where=place,
        fix="Restore the folders as they were, or start a new run with another --out.",
    )


def with_note_of_added(recorded: Mapping[str, Any], data: Data, found: int) -> Data:
    """Adds a note on images that were added since a run began: it goes on without them.

    Args:
        recorded: The run's `recipe.json`.
        data: The images of the run.
        found: How many images there are now.

    Returns:
        The data.
    """
    added = found - recorded.get("images", {}).get("found", found)
    if added <= 0:
        return data
    note = f"{added} images were added since the run began, and are left out: a run keeps the images it began with"
    return dataclasses.replace(data, notes=(*data.notes, note))


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
    for name, data in files.files(model, {**train, **size, "crop_pct": test["crop_pct"]}, class_names).items():
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
