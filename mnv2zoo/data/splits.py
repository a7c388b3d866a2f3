"""Splits images for training, validation and testing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import combinations
from typing import Any

from mnv2zoo.data.annotations import some
from mnv2zoo.data.datasets import AnySample, Data, in_other_splits, key_of
from mnv2zoo.data.discover import SPLITS
from mnv2zoo.data.labels import classes_of
from mnv2zoo.errors import DataError
from mnv2zoo.system import collector


@collector.paused()
def with_validation(data: Data, fraction: float, seed: int, learned: Set[str] = frozenset()) -> Data:
    """Takes validation images from the training images of each class, if the data has none.

    Args:
        data: The data.
        fraction: Share of each class to take, 0 for none. If a class has at least two images, at least one is taken
            and at least one is left. An image with several classes counts for the rarest of them. Copies of an
            image, which `check` recognizes, stay together. Data without classes is split as a whole.
        seed: Random seed. The choice in one class does not depend on the other classes.
        learned: Identifiers of images that the initial weights were trained on. Other images are taken first.

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
    taken -= left  # images with a copy in another class
    splits = {
        "train": tuple(s for s in data.splits["train"] if key_of(s) not in taken),
        "val": tuple(s for s in data.splits["train"] if key_of(s) in taken),
    }
    splits |= {name: split for name, split in data.splits.items() if name == "test"}
    return replace(data, splits={name: split for name, split in splits.items() if split})


def restrict(data: Data, splits: Mapping[str, Any]) -> Data:
    """Restricts the data to a recorded split.

    Args:
        data: The data as found, before it is split.
        splits: Names of samples by split, as in `split.json`. Other content is ignored.

    Returns:
        The data in these splits.

    Raises:
        DataError: If an image no longer exists.
    """
    known = {sample.name: sample for split in data.splits.values() for sample in split}
    splits = {split: names for split, names in splits.items() if split in SPLITS}
    for split, names in splits.items():
        gone = [name for name in names if name not in known]
        if gone:
            raise DataError(
                "the data has changed since the run began",
                expected=f"the {len(names)} images of {split} in split.json",
                found=f"{len(gone)} of them missing, such as {gone[0]}",
                fix="Restore the images, or start a new run.",
            )
    return replace(data, splits={split: tuple(known[name] for name in names) for split, names in splits.items()})


Groups = Mapping[str, str]  # the group of each image, by the image's name


@dataclass
class _Unit:
    """Images that stay together: those of a group, with all copies of each.

    Attributes:
        names: Names of the images.
        classes: Number of images of each class.
    """

    names: set[str] = field(default_factory=set)
    classes: Counter[int] = field(default_factory=Counter)


def with_grouped_validation(data: Data, fraction: float, seed: int, groups: Groups) -> Data:
    """Takes validation images from the training images by group, if the data has none.

    Args:
        data: The data.
        fraction: Share of the images to take, of each class as far as the groups allow, 0 for none. Each class keeps
            one group to train on, and gives one if it has another.
        seed: Random seed, which decides among similar groups.
        groups: The group of each image.

    Returns:
        The data with a split `val`.

    Raises:
        DataError: If the data's own splits divide a group.
    """
    _refuse_torn(data, groups)
    if "val" in data.splits or not fraction:
        return data
    units = _units(data.splits["train"], groups, bool(data.class_names))
    share = Fraction(fraction).limit_denominator(1000)
    train, val = _parts(units, [1 - share, share], seed)
    _exchange(train, val, data.class_names)
    held = set().union(*(unit.names for unit in val))
    splits = {
        "train": tuple(s for s in data.splits["train"] if s.name not in held),
        "val": tuple(s for s in data.splits["train"] if s.name in held),
        "test": data.splits.get("test", ()),
    }
    return replace(data, splits={name: split for name, split in splits.items() if split})


def folds(data: Data, count: int, seed: int, groups: Groups | None = None) -> list[list[str]]:
    """Divides the training and validation images into folds, each class as evenly as the groups allow.

    Args:
        data: The data.
        count: Number of folds.
        seed: Random seed, which decides among similar images.
        groups: The group of each image. None treats each image as its own group.

    Returns:
        Names of the images in each fold.

    Raises:
        DataError: If there are too few groups or images, a class would have no training images in some fold, or the
            data's test images share a group with others.
    """
    samples = [sample for split in ("train", "val") for sample in data.splits.get(split, ())]
    what = "images that are not copies of others" if groups is None else "groups"
    if groups is not None:
        _refuse_torn(replace(data, splits={"train": tuple(samples), "test": data.splits.get("test", ())}), groups)
    units = _units(samples, groups or {}, bool(data.class_names))
    if len(units) < count:
        raise DataError(
            f"there are only {len(units)} {what} for {count} folds",
            expected=f"at least {count}",
            found=len(units),
            fix="Choose fewer --folds.",
        )
    parts = _parts(units, [Fraction(1, count)] * count, seed)
    held_in = {
        label: {number for number, part in enumerate(parts, 1) if any(label in unit.classes for unit in part)}
        for label in {label for unit in units for label in unit.classes}
    }
    lone = {label: min(own) for label, own in sorted(held_in.items()) if len(own) == 1}
    if lone:
        raise DataError(
            f"{len(lone)} classes would have no training images in some fold",
            expected=f"images of each class in two or more {what}",
            found=some(f"{data.class_names[label]} (fold {number})" for label, number in lone.items()),
            fix="Add images of these classes, or leave the classes out.",
        )
    names = [set().union(*(unit.names for unit in part)) for part in parts]
    return [[sample.name for sample in samples if sample.name in own] for own in names]


def of_fold(data: Data, parts: Sequence[Sequence[str]], fold: int) -> Data:
    """Uses one fold for validation and the others for training.

    Args:
        data: The data.
        parts: Names of the images in each fold, from `folds`.
        fold: Number of the fold, from 1.

    Returns:
        The data. Its test images are unchanged.

    Raises:
        DataError: If an image of the folds no longer exists.
    """
    others = [name for number, part in enumerate(parts, 1) if number != fold for name in part]
    tests = [sample.name for sample in data.splits.get("test", ())]
    return in_other_splits(data, restrict(data, {"train": others, "val": parts[fold - 1], "test": tests}).splits)


def _refuse_torn(data: Data, groups: Groups) -> None:
    """Rejects splits that share a group."""
    of_split = {split: {groups[sample.name] for sample in own} for split, own in data.splits.items()}
    for one, other in combinations(of_split, 2):
        if torn := sorted(of_split[one] & of_split[other]):
            raise DataError(
                f"{len(torn)} groups are in both {one} and {other}",
                expected="all images of a group in one split",
                found=some(torn),
                where="group_by",
                fix="Move their images to one of the two, or correct --group-by.",
            )


def _units(samples: Sequence[AnySample], groups: Groups, labeled: bool) -> list[_Unit]:
    """Returns the images that stay together, in the order of their first image."""
    found: dict[str, _Unit] = {}  # by group and by the identifier that copies share
    for sample in samples:
        group = groups.get(sample.name)
        keys = [f"image {key_of(sample)}"] if group is None else [f"group {group}", f"image {key_of(sample)}"]
        known = {id(found[key]): found[key] for key in keys if key in found}
        unit, *others = known.values() or [_Unit()]
        for other in others:  # a copy of the image is in another group
            unit.names |= other.names
            unit.classes += other.classes
            found |= {key: unit for key, own in found.items() if own is other}
        unit.names.add(sample.name)
        unit.classes.update(classes_of(sample.target) if labeled else ())
        found |= dict.fromkeys(keys, unit)
    return list({id(unit): unit for unit in found.values()}.values())


def _parts(units: Sequence[_Unit], shares: Sequence[Fraction], seed: int) -> list[list[_Unit]]:
    """Divides units among parts so that each class has the parts' shares.

    Large units come first. Each goes to the part that, with the unit in it, has the fewest images of its classes for
    its share, as D'Hondt's method allots seats.
    """
    order = sorted(units, key=lambda unit: min(unit.names))
    random.Random(seed).shuffle(order)
    order.sort(key=lambda unit: -len(unit.names))
    total = sum((unit.classes for unit in units), Counter[int]())
    counts: list[Counter[int]] = [Counter() for _ in shares]
    sizes = [0] * len(shares)
    parts: list[list[_Unit]] = [[] for _ in shares]
    for unit in order:

        def filled(number: int, unit: _Unit = unit) -> tuple[Fraction, Fraction, int]:
            of_classes = sum(
                (Fraction(own * (counts[number][c] + own), total[c] ** 2) for c, own in unit.classes.items()),
                Fraction(0),
            )
            return of_classes / shares[number], (sizes[number] + len(unit.names)) / shares[number], number

        best = min(range(len(shares)), key=filled)
        counts[best] += unit.classes
        sizes[best] += len(unit.names)
        parts[best].append(unit)
    return parts


def _exchange(train: list[_Unit], val: list[_Unit], class_names: Sequence[str]) -> None:
    """Moves units so that each class has one to train on and, if it has several, one to validate on."""
    for taker, giver, least in ((train, val, 0), (val, train, 1)):
        for label in range(len(class_names)):
            if any(label in unit.classes for unit in taker):
                continue
            having = [unit for unit in giver if label in unit.classes]
            spare = [unit for unit in having if _can_go(unit, giver, least)]
            if spare:
                unit = min(spare, key=lambda unit: (len(unit.names), min(unit.names)))
                giver.remove(unit)
                taker.append(unit)


def _can_go(unit: _Unit, giver: Sequence[_Unit], least: int) -> bool:
    """Checks whether that many other units have each of its classes."""
    return all(sum(label in other.classes for other in giver) - 1 >= least for label in unit.classes)
