"""Which images are for training, validation and testing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

from mnv2zoo.data.datasets import AnySample, Data, key_of
from mnv2zoo.data.discover import SPLITS
from mnv2zoo.data.labels import classes_of
from mnv2zoo.errors import DataError


def with_validation(data: Data, fraction: float, seed: int, learned: Set[str] = frozenset()) -> Data:
    """Takes validation images from the training images, class by class, where the data has none.

    Args:
        data: The data.
        fraction: Part of each class to take, 0 for none. Of a class with two images or more at least one is taken
            and at least one is left. An image that shows several classes counts for the rarest of them. Copies of an
            image, which `check` recognizes, stay together. Data without classes is split as a whole.
        seed: Decides which; a class's own choice does not depend on the other classes.
        learned: Keys of images that the weights to start from were trained on. Others are taken as far as there are.

    Returns:
        The data with a split `val`.
    """
    if "val" in data.splits or not fraction:
        return data
    groups: dict[int | None, dict[str, list[AnySample]]] = {}
    shown = Counter(label for sample in data.splits["train"] for label in classes_of(sample.target))
    for sample in data.splits["train"]:
        labels = classes_of(sample.target) if data.class_names else ()
        label = min(labels, key=lambda label: (shown[label], label), default=None)
        groups.setdefault(label, {}).setdefault(key_of(sample), []).append(sample)
    taken: set[str] = set()
    left: set[str] = set()
    for label, group in groups.items():
        count = min(max(round(len(group) * fraction), 1), len(group) - 1)
        chance = random.Random(f"{seed}/{'' if label is None else data.class_names[label]}")
        chosen = set(chance.sample(list(group), count))
        if not learned.isdisjoint(chosen) and (others := [key for key in group if key not in learned]):
            chosen = set(chance.sample(others, min(count, len(others))))
        taken |= chosen
        left |= group.keys() - chosen
    taken -= left  # what has a copy in another class
    splits = {
        "train": tuple(s for s in data.splits["train"] if key_of(s) not in taken),
        "val": tuple(s for s in data.splits["train"] if key_of(s) in taken),
    }
    splits |= {name: split for name, split in data.splits.items() if name == "test"}
    return replace(data, splits={name: split for name, split in splits.items() if split})


def restrict(data: Data, splits: Mapping[str, Any]) -> Data:
    """Takes from the data what a written split says.

    Args:
        data: The data as it is found, before it is split.
        splits: Names of samples by split, as `split.json` has them; what else is in it does not matter here.

    Returns:
        The data in these splits.

    Raises:
        DataError: If an image is no longer there.
    """
    known = {sample.name: sample for split in data.splits.values() for sample in split}
    splits = {split: names for split, names in splits.items() if split in SPLITS}
    for split, names in splits.items():
        gone = [name for name in names if name not in known]
        if gone:
            raise DataError(
                "the data has changed since the run began",
                expected=f"the {len(names)} images of {split} in split.json",
                found=f"{len(gone)} of them gone, such as {gone[0]}",
                fix="Restore them, or begin a new run.",
            )
    return replace(data, splits={split: tuple(known[name] for name in names) for split, names in splits.items()})
