"""The names of a network's classes, and which class a name means."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from mnv2zoo.data.layout import composed
from mnv2zoo.errors import DataError


def names_in(cfg: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes' names that timm's description of weights gives, in class order; none if it gives none."""
    descriptions = cfg.get("label_descriptions") or {}
    return tuple(descriptions.get(name, name) for name in cfg.get("label_names") or ())


def classes_of(target: Any) -> tuple[int, ...]:
    """The classes that an image shows.

    Args:
        target: A sample's target: the index of its class, or an object with an attribute `classes`, such as boxes.

    Returns:
        Indices of classes, in order; none for a target that is not of classes.
    """
    return (target,) if isinstance(target, int) else tuple(getattr(target, "classes", ()))


def match_classes(names: Sequence[str], label_names: Sequence[str]) -> list[int]:
    """Finds a network's classes by names of folders.

    Args:
        names: Names of folders: the classes' names as the network has them or, for ImageNet's 1000 classes,
            their synsets, such as `n01440764`.
        label_names: The network's names in class order.

    Returns:
        The index of the class of each folder.

    Raises:
        DataError: If a folder's name is none of them, or is the name of two; the message names the nearest.
    """
    from timm.data import ImageNetInfo  # takes seconds to import, and `names_in` does without

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
                f"the folder name {name!r} is none of the network's classes",
                expected=", ".join(near) or f"one of its {len(label_names)} classes, such as {label_names[0]}",
                found=repr(name),
                fix="`mnv2zoo info` or the run's labels.txt lists the classes.",
            )
        if len(classes) > 1:
            raise DataError(
                f"{len(classes)} of the network's classes are called {name!r}",
                expected=" or ".join(synsets[index] for index in sorted(classes)) if synsets else "different names",
                found=repr(name),
                fix="Name the folder after the class's synset." if synsets else "Give the classes different names.",
            )
        found += classes
    return found
