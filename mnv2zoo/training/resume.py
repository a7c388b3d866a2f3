"""Resumes a run: merges its recipe, and checks that its data and initial weights have not changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnv2zoo import architecture
from mnv2zoo.data.datasets import Data
from mnv2zoo.errors import DataError, RunError
from mnv2zoo.models import names
from mnv2zoo.tasks import Task, find_task
from mnv2zoo.tasks import recipe as recipes
from mnv2zoo.tasks.base import DEFAULT
from mnv2zoo.tasks.class_weights import BALANCED
from mnv2zoo.tasks.lookup import same
from mnv2zoo.tasks.recipe import Recipe

FILES = ("init", "class_weights")  # fields that can be the path of a file; others can only be that of a folder


def resumed(recorded: dict[str, Any], given: Mapping[str, Any], model: str | None) -> tuple[Recipe, str]:
    """Returns the recipe and the model of a resumed run.

    Args:
        recorded: The run's `recipe.json`.
        given: Fields of `Recipe` passed for this call.
        model: The model passed for this call, if any.

    Returns:
        The recipe and the name of the model.

    Raises:
        RecipeError: If a given value contradicts the run.
        UnknownArgumentError: If a field is unknown.
    """
    places = recorded.get("places", {})
    own = {name: place for name, place in places.items() if name in recipes.PLACES}
    recipe = recipes.resumed(recorded["recipe"] | own, dict(given))
    was = places.get("model", recorded["model"])
    if model is None or model in (was, recorded["model"]):
        return recipe, was
    if recipes.may_have_moved(model, was):
        return recipe, model
    if names.describe(model).name != names.describe(was).name:
        raise recipes.contradiction("model", recorded["model"], model)
    return recipe, was


def places(model: str, recipe: Recipe) -> dict[str, str]:
    """Records the absolute paths of a run's input files and folders, so that it can be resumed from another directory.

    Args:
        model: The name of the model.
        recipe: The recipe.

    Returns:
        The absolute paths of `model` and of those recipe fields that are a file or folder, by name.
    """
    found = {}
    for name, value in (("model", model), *((name, getattr(recipe, name) or "") for name in recipes.PLACES)):
        is_name = value in ("", "pretrained", "random", BALANCED) or value.partition(".")[0] in architecture.CONFIGS
        if not is_name and (Path(value).is_dir() or (name in FILES and Path(value).is_file())):
            found[name] = str(Path(value).resolve())
    return found


def find_run_task(recorded: Mapping[str, Any], task: str | Task | type[Task] | None, where: Path) -> Task:
    """Finds the task of a resumed run.

    Args:
        recorded: The run's `recipe.json`. If it records no task, the task is classification.
        task: The task passed for this call, if any. Required if the run's task is not built in.
        where: The run folder.

    Returns:
        The task.

    Raises:
        TaskError: If the task is unknown, or the run's task is not built in and `task` is None.
        RecipeError: If the given task differs from the run's.
    """
    was = str(recorded.get("task", DEFAULT))
    found = find_task(task, was, where)
    if not same(was, found.name):
        raise recipes.contradiction("task", was, found.name)
    return found


# The records that must not change before a run is resumed: key, problem and fix.
_UNCHANGED = {
    "images": ("the images of the run have changed since it started", "Restore the images"),
    "start": ("the initial weights of the run have changed", "Restore the file or folder given by --init"),
    "teacher": ("the teacher has changed since the run started", "Restore the teacher"),
    "class_weights": ("the class weights have changed since the run started", "Restore the file"),
    "processes": ("the run was started with another number of processes", "Use as many processes as before"),
}


def check_unchanged(recorded: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    """Checks that the images, the initial weights and the processes of a resumed run have not changed.

    Args:
        recorded: The run's `recipe.json`. Facts that an earlier version did not record are not compared.
        now: The current facts, from `describe_run`.
        where: The path of `recipe.json`.

    Raises:
        RunError: If something differs.
    """
    for key, (problem, fix) in _UNCHANGED.items():
        was, value = recorded.get(key), now.get(key)
        if key == "images" and was is not None:
            was, value = was["sha256"], now[key]["sha256"]
        if key in recorded and was != value:
            counts = {"expected": was, "found": value} if key == "processes" else {}
            raise RunError(problem, where=where, fix=f"{fix}, or start a new run with another --out.", **counts)


def check_classes(recorded: Mapping[str, Any], data: Data, place: str | Path) -> None:
    """Checks that the classes of the data have not changed, because that would renumber them.

    Args:
        recorded: The run's `recipe.json`.
        data: The current data.
        place: The location of the data.

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
            ("missing:", [name for name in was if name not in now]),
        )
        if names
    ]
    raise DataError(
        "the classes of the data have changed since the run started",
        expected=f"the {len(was)} classes of the run",
        found="; ".join(changes) or "another order",
        where=place,
        fix="Restore the folders as they were, or start a new run with another --out.",
    )


def with_note_of_added(recorded: Mapping[str, Any], data: Data, found: int) -> Data:
    """Adds a note about images that were added since the run started. The run resumes without them.

    Args:
        recorded: The run's `recipe.json`.
        data: The images of the run.
        found: The current number of images.

    Returns:
        The data.
    """
    added = found - recorded.get("images", {}).get("found", found)
    if added <= 0:
        return data
    images = "1 image was" if added == 1 else f"{added} images were"
    note = f"{images} added since the run started and ignored, because a run keeps its first images"
    return dataclasses.replace(data, notes=(*data.notes, note))
