"""The records of a training in its run folder, for everything that reads them afterwards. Needs no PyTorch."""

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
    """The folder that a run's name stands for, whether it exists or not."""
    return Path(model.removeprefix("local-dir:"))


def read_json(folder: Path, name: str) -> Any:
    """Reads a JSON document of a run folder.

    Args:
        folder: The run folder.
        name: The document's path in the folder.

    Returns:
        The document.

    Raises:
        RunError: If the file is missing or is not JSON.
    """
    file = folder / name
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            "cannot read a file of the run",
            expected="a run folder",
            found=str(error).rstrip("."),
            where=file,
            fix="Restore the file, or start a new run with another --out.",
        ) from error


def recorded(model: str) -> dict[str, Any]:
    """Reads what a run recorded about its training.

    Args:
        model: A run folder, or any other name of a model.

    Returns:
        The content of its `recipe.json`; an empty dict if there is none, or none that can be read.
    """
    with contextlib.suppress(RunError):
        document = read_json(run_folder(model), RECIPE)
        return document if isinstance(document, dict) else {}
    return {}


def task_name(model: str) -> str | None:
    """Reads which task a model was trained for, from its `recipe.json` or, in a package, its `config.json`.

    Args:
        model: A run folder, or any other name of a model.

    Returns:
        The recorded name; None for other models, and for runs from before tasks were recorded, which are
        classification.
    """
    task = recorded(model).get("task")
    if task is None:
        with contextlib.suppress(ZooError):  # a name that is wrong is reported where the model is loaded
            return names.describe(model).task
    return None if task is None else str(task)
