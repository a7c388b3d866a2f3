"""Reads the training records in a run folder. Needs no PyTorch."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from mnv2zoo.errors import RunError, ZooError
from mnv2zoo.models import names

RECIPE, SPLIT = "recipe.json", "split.json"
WEIGHTS, RESULTS = "model.safetensors", "results.json"


def run_folder(model: str) -> Path:
    """Returns the folder of a run name, whether it exists or not."""
    return Path(model.removeprefix("local-dir:"))


def read_json(folder: Path, name: str) -> Any:
    """Reads a JSON file from a run folder.

    Args:
        folder: The run folder.
        name: Path of the file in the folder.

    Returns:
        The parsed content.

    Raises:
        RunError: If the file is missing or is not JSON.
    """
    file = folder / name
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"cannot read {name} in the run folder",
            expected="a valid run folder",
            found=str(error).rstrip("."),
            where=file,
            fix="Restore the file, or start a new run with another --out.",
        ) from error


def recorded(model: str) -> dict[str, Any]:
    """Reads what a run recorded about its training.

    Args:
        model: A run folder, or any other model name.

    Returns:
        The content of `recipe.json`. Empty if the file does not exist or cannot be read.
    """
    with contextlib.suppress(RunError):
        document = read_json(run_folder(model), RECIPE)
        return document if isinstance(document, dict) else {}
    return {}


def task_name(model: str) -> str | None:
    """Reads the task that a model was trained for from `recipe.json`, or in a package from `config.json`.

    Args:
        model: A run folder, or any other model name.

    Returns:
        The name of the task. None for other models, and for runs from before tasks were recorded, which are
        classification runs.
    """
    task = recorded(model).get("task")
    if task is None:
        with contextlib.suppress(ZooError):  # loading the model will report a wrong name
            return names.describe(model).task
    return None if task is None else str(task)
