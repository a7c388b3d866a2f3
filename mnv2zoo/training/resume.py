"""A run that is resumed: its recipe, and the checks that it starts from the same data and weights as before."""

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

FILES = ("init", "class_weights")  # fields that may name a file; others may name a folder


def resumed(recorded: dict[str, Any], given: Mapping[str, Any], model: str | None) -> tuple[Recipe, str]:
    """What a run that is resumed was told to do.

    Args:
        recorded: Its `recipe.json`.
        given: Fields of `Recipe` that were given now.
        model: The network that was given now, if any.

    Returns:
        The recipe, and the network's name.

    Raises:
        RecipeError: If what is given now contradicts the run.
        UnknownArgumentError: If there is no such field.
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
    """Where the files and folders are that a run starts from, for a run that is resumed from elsewhere.

    Args:
        model: The network's name.
        recipe: The recipe.

    Returns:
        Absolute paths by `model` and the recipe's fields, of those that are a file or a folder.
    """
    found = {}
    for name, value in (("model", model), *((name, getattr(recipe, name) or "") for name in recipes.PLACES)):
        is_name = value in ("", "pretrained", "random", BALANCED) or value.partition(".")[0] in architecture.CONFIGS
        if not is_name and (Path(value).is_dir() or (name in FILES and Path(value).is_file())):
            found[name] = str(Path(value).resolve())
    return found


def find_run_task(recorded: Mapping[str, Any], task: str | Task | type[Task] | None, where: Path) -> Task:
    """Finds the task of a run that is resumed.

    Args:
        recorded: Its `recipe.json`. Runs from before tasks were recorded are classification.
        task: The task that was given now, if any. A run for a task that is not built in needs it.
        where: The run folder.

    Returns:
        The task.

    Raises:
        TaskError: If there is no such task, or the run's task is not built in and none was given.
        RecipeError: If the given task is not the run's.
    """
    was = str(recorded.get("task", DEFAULT))
    found = find_task(task, was, where)
    if not same(was, found.name):
        raise recipes.contradiction("task", was, found.name)
    return found


# The records that must not have changed when a run is resumed: key, problem and fix.
_UNCHANGED = {
    "images": ("images of the run have changed since it began", "Restore the images"),
    "start": ("the weights that the run started from have changed", "Restore the file or folder given by --init"),
    "teacher": ("the teacher has changed since the run began", "Restore the teacher"),
    "class_weights": ("the weights of the classes have changed since the run began", "Restore the file"),
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
        was, value = recorded.get(key), now.get(key)
        if key == "images" and was is not None:
            was, value = was["sha256"], now[key]["sha256"]
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
