"""Images and masks as samples, and class weights by pixel frequency."""

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

MAX_WEIGHT = 10.0  # highest class weight, relative to the median class; 1 / MAX_WEIGHT is the lowest
MAX_ASPECT = 3  # highest aspect ratio of the model's input


def find(place: str | Path, layout: Layout) -> Data:
    """Finds images with their masks.

    Args:
        place: The user's data.
        layout: Provides `ignore_index` and `skip_bad_images`.

    Returns:
        Samples whose targets are masks.

    Raises:
        DataError: If there are no images, a mask is invalid, or all masks show a single class.
    """
    if layout.layout is not None or layout.named:
        raise DataError(
            "data with masks does not support options for split folders",
            expected="folders train, val and test that contain images and masks",
            found=", ".join(filter(None, (layout.layout, *layout.named.values()))),
            where=place,
            fix="Leave out --layout, --train-dir, --val-dir and --test-dir.",
        )
    listing = polygons.read(place, layout.skip_bad_images)
    listing = listing or masks.read(place, layout.ignore_index, layout.skip_bad_images)
    names = listing.class_names
    if not 2 <= len(names) <= MAX_CLASSES:
        raise DataError(
            "the masks show a single class" if len(names) < 2 else f"the masks show too many classes, {len(names)}",
            expected=f"2 to {MAX_CLASSES} classes, numbered from 0",
            found=", ".join(names[:5]),
            where=place,
            fix="If --ignore-index is the number of a class, pass another value.",
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
        notes.append(f"classes without training pixels: {', '.join(unseen[:5])}" + (", …" if unseen[5:] else ""))
    turned = [sample.name for own in splits.values() for sample in own if sample.target.orientation != 1]
    if turned:
        notes.append(f"masks rotated with their photos, according to EXIF: {len(turned)} ({turned[0]}, …)")
    return notes


def input_size(samples: Sequence[AnySample], short: int) -> tuple[int, int]:
    """The input size, with the aspect ratio of most training images.

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

    The frequency of a class is its share of the pixels in the images that show it. Its weight is the median of all
    frequencies divided by its own, limited to 0.1 to 10.

    Args:
        samples: The training images.
        classes: Number of classes.

    Returns:
        One weight per class; 1 for a class that no image shows.
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
    """Renumbers the classes of masks to match a model.

    Args:
        samples: Images with masks.
        class_names: Names of the classes in the masks.
        label_names: Names of the model's classes.

    Returns:
        The samples.

    Raises:
        DataError: If a mask shows a class that the model lacks.
    """
    shown = sorted({number for sample in samples for number in sample.target.classes})
    # Without a classes.txt, the class names are numbers, as in the model.
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
            "the masks show classes that the model lacks",
            expected=", ".join(names[:10]) + (", …" if names[10:] else ""),
            found=", ".join(unknown[:5]),
            fix="Rename the classes in classes.txt, or evaluate a model that was trained on them.",
        )
    known = {number: found for number, found in numbers.items() if found is not None}
    if all(number == found for number, found in known.items()):
        return list(samples)
    return [replace(sample, target=sample.target.renumbered(known)) for sample in samples]
