"""Images with labels as samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mnv2zoo.data import multilabel
from mnv2zoo.data.datasets import AnySample, Data, Sample
from mnv2zoo.data.labels import match_classes
from mnv2zoo.data.layout import Layout
from mnv2zoo.errors import DataError

if TYPE_CHECKING:
    from mnv2zoo.data.copies import Reader


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of an image, out of K.

    Attributes:
        classes: The sorted indices of its labels; empty for an image without labels.
        count: The number of labels K.
    """

    classes: tuple[int, ...]
    count: int

    def hot(self) -> Tensor:
        """A vector (K,) with 1 for each label of the image and 0 for the others."""
        target = torch.zeros(self.count)
        target[list(self.classes)] = 1
        return target


@dataclass(frozen=True)
class WithTargets:
    """A transform of images whose labels become vectors of 0 and 1.

    Attributes:
        transform: From an RGB image to a tensor (3, H, W).
        reader: As for `tasks.base.ImageTransform`.
    """

    transform: Callable[[Any], Any]
    reader: Reader | None = None

    def __call__(self, image: Any, target: Labels) -> tuple[Any, Tensor]:
        """Transforms an image; the target becomes a vector (K,)."""
        return self.transform(image), target.hot()


def find(place: str | Path, layout: Layout) -> Data:
    """Finds images with their labels.

    Args:
        place: The data, as for `data.multilabel.read`.
        layout: As for `data.multilabel.read`.

    Returns:
        Samples whose targets are `Labels`.

    Raises:
        DataError: As `data.multilabel.read`.
    """
    listing = multilabel.read(place, layout)
    index = {name: number for number, name in enumerate(listing.class_names)}
    splits: dict[str, tuple[AnySample, ...]] = {
        split: tuple(
            Sample(
                image.name,
                Labels(tuple(sorted(index[label] for label in image.labels)), len(index)),
                image.file.place,
                image.file.offset,
                image.file.size,
                channels=layout.in_chans,
            )
            for image in images
        )
        for split, images in listing.splits.items()
    }
    return Data(listing.class_names, splits, listing.notes, listing.form)


def counts(samples: Sequence[AnySample]) -> Counter[int]:
    """Counts the images of each label."""
    return Counter(label for sample in samples for label in sample.target.classes)


def check_validation(splits: Mapping[str, Sequence[AnySample]]) -> None:
    """Checks that the validation images have labels.

    Args:
        splits: The images by split.

    Raises:
        DataError: If there are validation images, and none of them has a label.
    """
    if "val" in splits and not counts(splits["val"]):
        raise DataError(
            "none of the validation images has a label",
            expected="at least one image with a label",
            found=f"{len(splits['val'])} images without labels",
            where="val",
            fix="Add images with labels, pass a larger --val-fraction, or pass 0 to train on all images.",
        )


def align(samples: Sequence[AnySample], class_names: Sequence[str], label_names: Sequence[str]) -> list[AnySample]:
    """Renumbers the labels of samples to match a model.

    Args:
        samples: The samples.
        class_names: Names of their labels.
        label_names: Names of the model's labels.

    Returns:
        The samples.

    Raises:
        DataError: If the model lacks a label. The message suggests the closest name.
    """
    present = sorted(counts(samples))
    number = dict(zip(present, match_classes([class_names[label] for label in present], label_names), strict=True))
    return [
        replace(sample, target=Labels(tuple(sorted(number[c] for c in sample.target.classes)), len(label_names)))
        for sample in samples
    ]
