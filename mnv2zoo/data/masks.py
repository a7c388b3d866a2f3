"""Images with masks: which image has which, and which classes they show.

A mask is a PNG whose pixels are class numbers, with a palette or without. It has the name of its image, and
lies in `masks` beside `images`, as in CamVid, or in `SegmentationClass` beside `JPEGImages`, as in Pascal VOC.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from mnv2zoo.data.annotations import Trouble, files_in, read_bytes, some
from mnv2zoo.data.discover import SPLIT_OF, Parts, is_image
from mnv2zoo.data.tree import File
from mnv2zoo.errors import DataError

IMAGES = ("images", "image", "imgs", "jpegimages")
MASKS = ("masks", "mask", "labels", "segmentationclass")
CLASSES = "classes.txt"  # a name a line, in the order of the numbers in the masks
VOID = 255  # what PNGs without another convention mark pixels of no class with, as Pascal VOC does


@dataclass(frozen=True, slots=True)
class MaskImage:
    """An image and its mask.

    Attributes:
        name: The image's path within the data.
        file: Where the image's bytes are.
        mask: Where the mask's bytes are.
    """

    name: str
    file: File
    mask: File


@dataclass(frozen=True)
class MaskListing:
    """What a place holds.

    Attributes:
        class_names: Names of the classes in the order of their numbers; the numbers where there is no `classes.txt`.
        splits: The images by split; images that are in no split are in `train`.
        notes: What a user should know, a sentence each.
    """

    class_names: tuple[str, ...]
    splits: dict[str, tuple[MaskImage, ...]]
    notes: tuple[str, ...]


def read(place: str | Path, ignore_index: int = VOID, skip_bad: bool = False) -> MaskListing:
    """Finds the images and masks of a place, and reads all masks to know their classes.

    Args:
        place: A folder or tar file with `images` and `masks`, or with folders of splits that have these; a folder that
            holds one such tar file, or one for each split.
        ignore_index: The number of pixels that are of no class.
        skip_bad: Leave out images without a mask and bad masks, and count them in a note, instead of raising.

    Returns:
        What was found.

    Raises:
        DataError: If there are no masks, a mask cannot be read, has another size than its image, or numbers that
            `classes.txt` has no name for, or an image lacks its mask.
    """
    files = files_in(place)
    trouble = Trouble(place, skip_bad)
    pairs = _pairs(files, trouble)
    if not pairs:
        raise DataError(
            "no masks",
            expected="folders images and masks, with a .png file in masks for each image",
            found=f"{sum(is_image(parts[-1]) for parts in files)} images, and none has a mask",
            where=place,
            fix="Put the masks into a folder masks beside images, under the names of the images.",
        )
    names = _names(files, place)
    splits: dict[str, list[MaskImage]] = {"train": [], "val": [], "test": []}
    present: dict[str, set[int]] = defaultdict(set)
    for parts, image in pairs.items():
        numbers = _numbers(image, trouble)
        unknown = (
            set() if numbers is None or names is None else {n for n in numbers if n >= len(names)} - {ignore_index}
        )
        if unknown:
            trouble.add(f"masks with numbers that {CLASSES} has no name for, such as {min(unknown)}", image.name)
        elif numbers is not None:
            split = next((SPLIT_OF[part.lower()] for part in reversed(parts) if part.lower() in SPLIT_OF), "train")
            splits[split].append(image)
            present[split] |= numbers - {ignore_index}
    notes = trouble.report()
    found = set().union(*present.values())
    if not found:
        raise DataError("no pixel of any class in the masks", found=f"{ignore_index} alone", where=place)
    _refuse_unlearned(present, names, place)
    if names is None:
        names = tuple(map(str, range(max(found) + 1)))
        notes.append(f"classes are called by their numbers, 0 to {max(found)}: there is no {CLASSES}")
    return MaskListing(names, {split: tuple(own) for split, own in splits.items() if own}, tuple(notes))


def _pairs(files: Mapping[Parts, File], trouble: Trouble) -> dict[Parts, MaskImage]:
    """Images with their masks: of the same name, below folders beside each other."""
    masks: dict[tuple[Parts, Parts], File] = {}
    for parts, file in files.items():
        if (at := _folder(parts, MASKS)) is not None and is_image(parts[-1]):
            masks[_key(parts, at)] = file
    pairs = {}
    for parts, file in files.items():
        if (at := _folder(parts, IMAGES)) is None or not is_image(parts[-1]):
            continue
        mask = masks.pop(_key(parts, at), None)
        if mask is None:
            trouble.add("images without a mask", "/".join(parts))
        else:
            pairs[parts] = MaskImage("/".join(parts), file, mask)
    for (above, below), _ in masks.items():
        trouble.add("masks without an image", "/".join((*above, "masks", *below)))
    return pairs if pairs else {}


def _folder(parts: Parts, names: tuple[str, ...]) -> int | None:
    """Which folder of a path has one of the names; the innermost."""
    return next((at for at in range(len(parts) - 2, -1, -1) if parts[at].lower() in names), None)


def _key(parts: Parts, at: int) -> tuple[Parts, Parts]:
    return parts[:at], (*parts[at + 1 : -1], PurePosixPath(parts[-1]).stem)


def _names(files: Mapping[Parts, File], place: str | Path) -> tuple[str, ...] | None:
    path = min((parts for parts in files if parts[-1].lower() == CLASSES), key=len, default=None)
    if path is None:
        return None
    try:
        names = [line.strip() for line in read_bytes(files[path], 2**20).decode().splitlines()]
    except (OSError, ValueError) as error:
        raise DataError("cannot read the names of the classes", found=str(error), where="/".join(path)) from error
    while names and not names[-1]:
        names.pop()
    if not names or "" in names or len(set(names)) < len(names):
        raise DataError(
            f"{CLASSES} does not name the classes",
            expected="a different name on each line",
            found=some(names) or "an empty file",
            where=f"{place}: {'/'.join(path)}",
            fix="Write one name per line, in the order of the numbers in the masks.",
        )
    return tuple(names)


def _numbers(image: MaskImage, trouble: Trouble) -> set[int] | None:
    """The numbers in a mask; None for a bad one, which is noted."""
    try:
        mask = decode_mask(read_bytes(image.mask))
        size = _size(image.file)
    except (OSError, ValueError) as error:
        trouble.add(f"masks that cannot be read, such as with {str(error)[:100]!r}", image.name)
        return None
    if mask.shape != size[::-1]:
        trouble.add("masks of another size than their image", image.name)
        return None
    return set(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist())


def decode_mask(data: bytes) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Reads a mask.

    Args:
        data: A PNG's bytes.

    Returns:
        Class numbers (height, width).

    Raises:
        ValueError: If it has colors in place of numbers.
        OSError: If it is no image.
    """
    with Image.open(BytesIO(data)) as image:
        if image.mode not in ("L", "P", "1"):
            raise ValueError(f"pixels of mode {image.mode}, in place of class numbers")
        return np.array(image if image.mode != "1" else image.convert("L").point(bool), np.uint8)


def _size(file: File) -> tuple[int, int]:
    """Width and height of an image as it is stored, which masks have too."""
    with Image.open(BytesIO(read_bytes(file))) as image:
        return image.size


def _refuse_unlearned(present: Mapping[str, set[int]], names: tuple[str, ...] | None, place: str | Path) -> None:
    if "train" not in present:
        return
    for split, numbers in present.items():
        if unknown := sorted(numbers - present["train"]):
            raise DataError(
                f"there are classes in {split} that train lacks",
                expected=f"some of the {len(present['train'])} classes in train's masks",
                found=some(names[number] if names else str(number) for number in unknown),
                where=place,
                fix="Pass their number as --ignore-index if they are to be ignored, or add images of them to train.",
            )
