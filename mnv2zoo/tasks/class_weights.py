"""Class weights in the loss, from class counts or from a file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnv2zoo.errors import RecipeError

BALANCED = "balanced"


def balanced(counts: Sequence[int]) -> list[float]:
    """Computes balanced class weights as in scikit-learn: the mean count divided by the count of the class.

    Args:
        counts: The number of images, or pixels, of each class.

    Returns:
        One weight per class; 1 for a class with count 0.

    Examples:
        >>> from mnv2zoo.tasks.class_weights import balanced
        >>> balanced([30, 10])
        [0.6666666666666666, 2.0]
    """
    mean = sum(counts) / max(sum(count > 0 for count in counts), 1)
    return [mean / count if count else 1.0 for count in counts]


def read(path: Path, class_names: Sequence[str]) -> list[float]:
    """Reads class weights from a file.

    Args:
        path: A JSON file with an object from class names to weights, or a CSV file with rows `name,weight`.
        class_names: The class names.

    Returns:
        One weight per class, in the order of `class_names`.

    Raises:
        RecipeError: If the file cannot be read, or lacks the weight of a class.
    """
    try:
        text = path.read_text(encoding="utf-8")
        given: Any = json.loads(text) if path.suffix.lower() == ".json" else _rows(text)
        if not isinstance(given, dict):
            raise ValueError(f"a JSON {type(given).__name__}")
        weights = {str(name): float(weight) for name, weight in given.items()}
    except (OSError, ValueError, TypeError) as error:
        raise _bad(path, str(error).rstrip(".")) from error
    if missing := [name for name in class_names if name not in weights]:
        raise _bad(path, f"no weight for {', '.join(missing[:5])}")
    if unknown := sorted(weights.keys() - set(class_names)):
        raise _bad(path, f"a weight for {unknown[0]!r}, which is not a class")
    if wrong := [name for name, weight in weights.items() if not (math.isfinite(weight) and weight >= 0)]:
        raise _bad(path, f"{weights[wrong[0]]} for {wrong[0]!r}")
    return [weights[name] for name in class_names]


def _rows(text: str) -> Mapping[str, str]:
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if any(len(row) != 2 for row in rows):
        raise ValueError(f"a row of {next(len(row) for row in rows if len(row) != 2)} cells")
    return dict(rows)


def _bad(path: Path, found: str) -> RecipeError:
    return RecipeError(
        "the class weights cannot be read",
        expected=f"{BALANCED!r}, or a .json or .csv file with a number of 0 or more for each class",
        found=found,
        where=path,
        fix="Correct the file, or pass another --class-weights.",
    )


def weights(choice: str | None, counts: Sequence[int], class_names: Sequence[str]) -> list[float] | None:
    """The class weights of a recipe.

    Args:
        choice: The recipe's `class_weights`.
        counts: The number of images, or pixels, of each class.
        class_names: The class names.

    Returns:
        One weight per class; None for equal weights.

    Raises:
        RecipeError: If a file cannot be read, or lacks the weight of a class.
    """
    if choice is None:
        return None
    return balanced(counts) if choice == BALANCED else read(Path(choice), class_names)
