"""Images and masks as samples, and the weights of classes by how few pixels they have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from mnv2zoo.data import masks, polygons
from mnv2zoo.data.datasets import AnySample, Data, Sample
from mnv2zoo.data.layout import Layout
from mnv2zoo.errors import DataError
from mnv2zoo.segmentation import MAX_CLASSES

MAX_WEIGHT = 10.0  # how many times more or less than the median class a class may count
MAX_ASPECT = 3  # of the network's input


def find(place: str | Path, layout: Layout) -> Data:
    """Finds images with their masks.

    Args:
        place: The data that the user names.
        layout: Gives `ignore_index` and `skip_bad_images`.

    Returns:
        Samples whose targets are masks.

    Raises:
        DataError: If there are none, a mask cannot be used, or all of them show one class.
    """
    if layout.layout is not None or layout.named:
        raise DataError(
            "images with masks are found by the names of their folders alone",
            expected="train, val and test with images and masks in them",
            found=", ".join(filter(None, (layout.layout, *layout.named.values()))),
            where=place,
            fix="Leave out --layout, --train-dir, --val-dir and --test-dir.",
        )
    listing = polygons.read(place, layout.skip_bad_images)
    listing = listing or masks.read(place, layout.ignore_index, layout.skip_bad_images)
    names = listing.class_names
    if not 2 <= len(names) <= MAX_CLASSES:
        raise DataError(
            "the masks show one class alone" if len(names) < 2 else "too many classes",
            expected=f"2 to {MAX_CLASSES} classes, numbered from 0",
            found=", ".join(names[:5]),
            where=place,
            fix="If the number of an object is the one to ignore, pass another --ignore-index.",
        )
    splits: dict[str, tuple[AnySample, ...]] = {
        split: tuple(
            Sample(image.name, image.mask, image.file.place, image.file.offset, image.file.size) for image in own
        )
        for split, own in listing.splits.items()
    }
    return Data(names, splits, (*listing.notes, *_notes(names, splits)))


def _notes(names: Sequence[str], splits: Mapping[str, Sequence[AnySample]]) -> list[str]:
    notes = []
    shown = {number for sample in splits.get("train", ()) for number in sample.target.classes}
    unseen = [name for number, name in enumerate(names) if number not in shown]
    if "train" in splits and unseen:
        notes.append(f"no training pixel shows {', '.join(unseen[:5])}" + (", …" if unseen[5:] else ""))
    turned = [sample.name for own in splits.values() for sample in own if sample.target.orientation != 1]
    if turned:
        notes.append(f"masks that are rotated with their photos, as EXIF says: {len(turned)} ({turned[0]}, …)")
    return notes


def input_size(samples: Sequence[AnySample], short: int) -> tuple[int, int]:
    """The size of the network's input: the aspect of most training images.

    Args:
        samples: The training images.
        short: The short side in pixels.

    Returns:
        Height and width. The long side is a multiple of 8.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    for sample in samples:
        width, height = sample.target.size
        ratio = min(max(width, height) / min(width, height), MAX_ASPECT)
        long = short if width == height else max(round(short * ratio / 8) * 8, short)
        sizes[(short, long) if width >= height else (long, short)] += 1
    return max(sizes, key=lambda size: (sizes[size], -max(size), size))


def balanced(samples: Sequence[AnySample], classes: int) -> list[float]:
    """Weights by median-frequency balancing (Eigen and Fergus 2015, https://arxiv.org/abs/1411.4734, section 6.3.2).

    A class's frequency is its share of the pixels of those images that show it. Its weight is the median of all
    frequencies divided by its own, from a tenth to ten.

    Args:
        samples: The training images.
        classes: Number of classes.

    Returns:
        A weight per class; 1 for a class that no image shows.
    """
    own: Counter[int] = Counter()
    beside: Counter[int] = Counter()
    for sample in samples:
        total = sum(count for _, count in sample.target.pixels)
        for number, count in sample.target.pixels:
            own[number] += count
            beside[number] += total
    frequencies = {number: own[number] / beside[number] for number in own}
    middle = median(frequencies.values())
    weights = {number: middle / frequency for number, frequency in frequencies.items()}
    return [min(max(weights.get(number, 1.0), 1 / MAX_WEIGHT), MAX_WEIGHT) for number in range(classes)]


def align(samples: Sequence[AnySample], class_names: Sequence[str], label_names: Sequence[str]) -> list[AnySample]:
    """Numbers the classes of masks as a network does.

    Args:
        samples: Images with masks.
        class_names: Names of the classes in the masks.
        label_names: Names of the network's classes.

    Returns:
        The samples.

    Raises:
        DataError: If a mask shows a class that the network does not have.
    """
    shown = sorted({number for sample in samples for number in sample.target.classes})
    # Without a classes.txt, classes are called by their numbers, which are then the network's own.
    plain = list(class_names) == [*map(str, range(len(class_names)))]
    names = list(label_names)
    numbers = {
        number: names.index(class_names[number])
        if class_names[number] in names
        else number
        if plain and number < len(names)
        else None
        for number in shown
    }
    if unknown := [class_names[number] for number, found in numbers.items() if found is None]:
        raise DataError(
            "the masks show classes that the network does not have",
            expected=", ".join(names[:10]) + (", …" if names[10:] else ""),
            found=", ".join(unknown[:5]),
            fix="Rename them in classes.txt, or evaluate a model that was trained on them.",
        )
    known = {number: found for number, found in numbers.items() if found is not None}
    if all(number == found for number, found in known.items()):
        return list(samples)
    return [replace(sample, target=sample.target.renumbered(known)) for sample in samples]
