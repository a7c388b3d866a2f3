"""The objects in an image, which are the targets of detection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mnv2zoo.data import boxes
from mnv2zoo.data.boxes import BoxImage
from mnv2zoo.data.datasets import AnySample, Data, Sample
from mnv2zoo.data.labels import composed
from mnv2zoo.data.layout import Layout
from mnv2zoo.errors import DataError, nearest

FORMS = {"voc": "Pascal VOC", "coco": "COCO"}


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects in an image.

    Attributes:
        corners: Left, top, right and bottom of each object, in pixels of the upright image.
        labels: The class index of each object, from 0.
        ignored: Whether each object is ignored in the metrics.
        size: Width and height of the upright image; None for an image that cannot be read.
    """

    corners: tuple[tuple[float, float, float, float], ...] = ()
    labels: tuple[int, ...] = ()
    ignored: tuple[bool, ...] = ()
    size: tuple[int, int] | None = None

    @property
    def classes(self) -> tuple[int, ...]:
        """The sorted class indices of objects that are not ignored."""
        return tuple(sorted({label for label, ignored in zip(self.labels, self.ignored, strict=True) if not ignored}))


def find(place: str | Path, layout: Layout) -> Data:
    """Finds images and the objects in them.

    Args:
        place: The data, as for `data.boxes.read`.
        layout: Whether to skip invalid annotations.

    Returns:
        The data. Objects of classes whose objects are all ignored are left out.

    Raises:
        DataError: As `data.boxes.read`, or if the layout names split folders.
    """
    if layout.layout is not None or layout.named:
        raise DataError(
            "data with boxes does not support options for split folders",
            expected="lists in ImageSets/Main, one .json file per split, or folders named train, val and test",
            found=", ".join(layout.named.values()) or f"the layout {layout.layout!r}",
            where=place,
            fix="Leave out --layout, --train-dir, --val-dir and --test-dir.",
        )
    listing = boxes.read(place, layout.skip_bad_images)
    index = {name: number for number, name in enumerate(listing.class_names)}
    splits: dict[str, tuple[AnySample, ...]] = {
        split: tuple(_sample(image, index) for image in images) for split, images in listing.splits.items() if images
    }
    return Data(listing.class_names, splits, listing.notes, FORMS[listing.form])


def _sample(image: BoxImage, index: dict[str, int]) -> Sample:
    known = [box for box in image.boxes if box.label in index]
    objects = Objects(
        tuple(box.corners for box in known),
        tuple(index[box.label] for box in known),
        tuple(box.ignored for box in known),
        image.size,
    )
    return Sample(image.name, objects, image.file.place, image.file.offset, image.file.size)


def count(samples: Iterable[AnySample]) -> Counter[int]:
    """Counts the objects of each class that are not ignored."""
    return Counter(
        label
        for sample in samples
        for label, ignored in zip(sample.target.labels, sample.target.ignored, strict=True)
        if not ignored
    )


def align(samples: Sequence[AnySample], class_names: Sequence[str], label_names: Sequence[str]) -> list[AnySample]:
    """Renumbers the classes of samples to match a model.

    Args:
        samples: The samples.
        class_names: Names of their classes.
        label_names: Names of the model's classes.

    Returns:
        The samples with new targets.

    Raises:
        DataError: If the model lacks a class. The message suggests the closest name.
    """
    known = {composed(label): number for number, label in enumerate(label_names)}
    present = {label for sample in samples for label in sample.target.classes}
    for number in sorted(present):
        if composed(class_names[number]) not in known:
            raise DataError(
                f"the model has no class {class_names[number]!r}",
                expected=nearest(class_names[number], tuple(label_names), 3),
                found=repr(class_names[number]),
                fix="Rename the class in the annotations. labels.txt in the run folder lists the model's classes.",
            )
    numbers = [known.get(composed(name)) for name in class_names]
    return [replace(sample, target=_renumbered(sample.target, numbers)) for sample in samples]


def _renumbered(objects: Objects, numbers: Sequence[int | None]) -> Objects:
    """The objects with renumbered classes. Objects of unknown classes, which are all ignored, are left out."""
    kept = [place for place, label in enumerate(objects.labels) if numbers[label] is not None]
    labels = (numbers[objects.labels[place]] for place in kept)
    return Objects(
        tuple(objects.corners[place] for place in kept),
        tuple(label for label in labels if label is not None),
        tuple(objects.ignored[place] for place in kept),
        objects.size,
    )
