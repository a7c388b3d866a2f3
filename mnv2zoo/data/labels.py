"""Class names of a model, and matching folder names to classes."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from mnv2zoo.errors import DataError


def composed(name: str) -> str:
    """Returns a class name in Unicode's composed form. macOS stores a decomposed form that looks the same."""
    return unicodedata.normalize("NFC", name)


def names_in(cfg: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the class names in a pretrained cfg, in class order. Empty if it has none."""
    descriptions = cfg.get("label_descriptions") or {}
    return tuple(descriptions.get(name, name) for name in cfg.get("label_names") or ())


def classes_of(target: Any) -> tuple[int, ...]:
    """Returns the classes in an image.

    Args:
        target: A sample's target: a class index, or an object with an attribute `classes`, such as boxes.

    Returns:
        Class indices in order. Empty if the target has no classes.
    """
    return (target,) if isinstance(target, int) else tuple(getattr(target, "classes", ()))


def match_classes(names: Sequence[str], label_names: Sequence[str]) -> list[int]:
    """Matches folder names to a model's classes.

    Args:
        names: Folder names: the model's class names or, for ImageNet's 1000 classes, synsets such as
            `n01440764`.
        label_names: The model's class names in class order.

    Returns:
        The class index of each folder.

    Raises:
        DataError: If a folder name matches no class, or two. The message suggests the closest names.
    """
    from timm.data import ImageNetInfo  # takes seconds to import, and `names_in` does not need it

    synsets = ImageNetInfo().label_names() if len(label_names) == 1000 else ()
    known: dict[str, set[int]] = {}
    for labels in (synsets, label_names):
        for index, label in enumerate(labels):
            known.setdefault(composed(label), set()).add(index)
    found: list[int] = []
    for name in names:
        classes = known.get(composed(name), set())
        if not classes:
            near = difflib.get_close_matches(name, known, n=3)
            raise DataError(
                f"the folder name {name!r} is not one of the model's classes",
                expected=", ".join(near) or f"one of its {len(label_names)} classes, such as {label_names[0]}",
                found=repr(name),
                fix="Rename the folder. `mnv2zoo info` and the run's labels.txt list the classes.",
            )
        if len(classes) > 1:
            raise DataError(
                f"the model has {len(classes)} classes named {name!r}",
                expected=" or ".join(synsets[index] for index in sorted(classes)) if synsets else "different names",
                found=repr(name),
                fix="Name the folder after the class's synset." if synsets else "Give the classes different names.",
            )
        found += classes
    return found
