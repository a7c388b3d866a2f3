"""Reads images with masks, and finds the classes in them.

A mask is a PNG whose pixels are class numbers, with or without a palette. It has the same name as its image, and is in
`masks` next to `images`, as in CamVid, or in `SegmentationClass` next to `JPEGImages`, as in Pascal VOC. `polygons`
converts COCO annotations to masks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from mnv2zoo.data.annotations import Trouble, files_in, read_bytes, some
from mnv2zoo.data.discover import SPLIT_OF, Parts, is_image
from mnv2zoo.data.pixels import SIDEWAYS, reason
from mnv2zoo.data.tree import File
from mnv2zoo.errors import DataError

IMAGES = ("images", "image", "imgs", "jpegimages")
MASKS = ("masks", "mask", "labels", "segmentationclass")
CLASSES = "classes.txt"  # one name per line, in the order of the numbers in the masks
VOID = 255  # usual number of pixels without a class, as in Pascal VOC


# Operation that makes an image upright, by EXIF orientation, as in `ImageOps.exif_transpose`.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Numbers = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask in a file, which is read on demand. Its `str` does not depend on where the data is stored.

    Attributes:
        name: The mask's path in the data.
        file: The file with its bytes.
        ignore_index: Number of pixels that belong to no class.
        size: Width and height, upright.
        pixels: Pairs of a class and its number of pixels, in order, without ignored pixels.
        orientation: The EXIF orientation that makes it upright, as for its image; 1 if it is upright.
        table: The class of each number from 0 to 255, if a model numbers the classes differently. None keeps the
            numbers.
    """

    name: str
    file: File
    ignore_index: int = VOID
    size: tuple[int, int] = (0, 0)
    pixels: tuple[tuple[int, int], ...] = ()
    orientation: int = 1
    table: tuple[int, ...] | None = None

    def __str__(self) -> str:
        counts = ", ".join(f"{number}: {count}" for number, count in self.pixels)
        return f"{self.name} ({counts})"

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes in the mask, in order."""
        return tuple(number for number, _ in self.pixels)

    def renumbered(self, numbers: Mapping[int, int]) -> Mask:
        """Returns the mask with other class numbers.

        Args:
            numbers: The new number of each class in the mask.
        """
        table = [VOID] * 256
        for number, _ in self.pixels:
            table[number] = numbers[number]
        pixels = tuple(sorted((numbers[number], count) for number, count in self.pixels))
        return replace(self, table=tuple(table), pixels=pixels)

    def read(self) -> Numbers:
        """Reads the mask.

        Returns:
            Class numbers (height, width), upright like its image. Ignored pixels are `VOID`, whatever their number.

        Raises:
            DataError: If the file has changed since it was found.
        """
        try:
            mask = _upright(self.numbers(), self.orientation)
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot read the mask {self.name}",
                expected="a PNG image of class numbers",
                found=reason(error),
                where=self.name,
                fix="Restore the file.",
            ) from error
        if mask.shape != self.size[::-1]:
            raise DataError(
                f"the mask {self.name} has changed since training began",
                expected=f"{self.size[0]} x {self.size[1]} pixels",
                found=f"{mask.shape[1]} x {mask.shape[0]} pixels",
                where=self.name,
                fix="Restore the file, or start a new run.",
            )
        if self.table is not None:
            return np.array(self.table, np.uint8)[mask]
        mask[mask == self.ignore_index] = VOID
        return mask

    def numbers(self) -> Numbers:
        """Returns the numbers as stored in the file.

        Raises:
            ValueError: If the file contains colors instead of numbers.
            OSError: If the file is not an image.
        """
        return decode_mask(read_bytes(self.file))


@dataclass(frozen=True, slots=True)
class MaskImage:
    """An image and its mask.

    Attributes:
        name: The image's path in the data.
        file: The file with the image's bytes.
        mask: The mask.
    """

    name: str
    file: File
    mask: Mask


@dataclass(frozen=True)
class MaskListing:
    """The images, masks and classes of a dataset.

    Attributes:
        class_names: Class names in order of their numbers, or the numbers if there is no `classes.txt`.
        splits: The images by split. Images without a split are in `train`.
        notes: Remarks for the user, one sentence each.
    """

    class_names: tuple[str, ...]
    splits: dict[str, tuple[MaskImage, ...]]
    notes: tuple[str, ...]


def read(place: str | Path, ignore_index: int = VOID, skip_bad: bool = False) -> MaskListing:
    """Finds images and masks, and reads all masks to determine their classes.

    Args:
        place: A folder or tar file with `images` and `masks`, or with split folders that contain these; or a folder
            with one such tar file, or one per split.
        ignore_index: Number of pixels that belong to no class.
        skip_bad: Skip images without a mask and bad masks, and count them in a note, instead of raising an error.

    Returns:
        The images, masks and classes.

    Raises:
        DataError: If there are no masks, an image has no mask, or a mask cannot be read, differs in size from its
            image, or has numbers that `classes.txt` has no name for.
    """
    files = files_in(place)
    trouble = Trouble(place, skip_bad)
    pairs = _pairs(files, trouble)
    if not pairs:
        raise DataError(
            "the data has no masks",
            expected="folders named images and masks, with a .png file in masks for each image, or a .json file with "
            "COCO polygons",
            found=f"{sum(is_image(parts[-1]) for parts in files)} images without masks",
            where=place,
            fix="Put the masks in a folder named masks next to images, with the same names as the images.",
        )
    names = _names(files, place)
    splits: dict[str, list[MaskImage]] = {"train": [], "val": [], "test": []}
    present: dict[str, set[int]] = defaultdict(set)
    with ThreadPoolExecutor() as pool:
        all_examined = list(pool.map(lambda image: _examined(image, ignore_index), pairs.values()))
    for parts, examined in zip(pairs, all_examined, strict=True):
        if isinstance(examined, str):
            trouble.add(examined, "/".join(parts))
            continue
        numbers = set(examined.mask.classes)
        unknown = set() if names is None else {number for number in numbers if number >= len(names)}
        if unknown:
            trouble.add(f"masks with numbers that {CLASSES} has no name for, such as {min(unknown)}", "/".join(parts))
        else:
            split = next((SPLIT_OF[part.lower()] for part in reversed(parts) if part.lower() in SPLIT_OF), "train")
            splits[split].append(examined)
            present[split] |= numbers
    notes = trouble.report(f"Set the number of pixels without a class with --ignore-index (now {ignore_index}).")
    found = set().union(*present.values())
    if not found:
        raise DataError(
            "the masks show no class",
            expected="pixels of at least one class",
            found=f"only ignored pixels ({ignore_index})",
            where=place,
            fix="Correct the masks, or --ignore-index.",
        )
    refuse_unlearned(present, names, place)
    if names is None:
        names = tuple(map(str, range(max(found) + 1)))
        notes.append(f"classes are named by their numbers, 0 to {max(found)}, because there is no {CLASSES}")
    return MaskListing(names, {split: tuple(own) for split, own in splits.items() if own}, tuple(notes))


def are_among(files: Iterable[Parts]) -> bool:
    """Checks whether there are masks among files, given their paths."""
    return any(_folder(parts, MASKS) is not None and is_image(parts[-1]) for parts in files)


def _pairs(files: Mapping[Parts, File], trouble: Trouble) -> dict[Parts, MaskImage]:
    """Pairs images and masks with the same name in neighboring folders."""
    masks: dict[tuple[Parts, Parts], Mask] = {}
    for parts, file in files.items():
        if (at := _folder(parts, MASKS)) is not None and is_image(parts[-1]):
            masks[_key(parts, at)] = Mask("/".join(parts), file)
    pairs = {}
    for parts, file in files.items():
        if (at := _folder(parts, IMAGES)) is None or not is_image(parts[-1]):
            continue
        mask = masks.pop(_key(parts, at), None)
        if mask is None:
            trouble.add("images without a mask", "/".join(parts))
        else:
            pairs[parts] = MaskImage("/".join(parts), file, mask)
    for mask in masks.values():
        trouble.add("masks without an image", mask.name)
    return pairs


def _folder(parts: Parts, names: tuple[str, ...]) -> int | None:
    """Returns the position of the innermost folder in a path that has one of the names."""
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
        raise DataError(
            f"cannot read {CLASSES}",
            expected="a text file in UTF-8",
            found=str(error),
            where="/".join(path),
            fix="Save the file as UTF-8, with one class name per line.",
        ) from error
    while names and not names[-1]:
        names.pop()
    if not names or "" in names or len(set(names)) < len(names):
        raise DataError(
            f"the class names in {CLASSES} are invalid",
            expected="a different name on each line",
            found=some(names) or "an empty file",
            where=f"{place}: {'/'.join(path)}",
            fix="Write one name per line, in the order of the numbers in the masks.",
        )
    return tuple(names)


def _examined(image: MaskImage, ignore_index: int) -> MaskImage | str:
    """Returns the image with its mask's data, or a description of what is wrong with the mask."""
    try:
        mask = image.mask.numbers()
        stored, orientation, upright = size_of(image.file)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return f"masks that cannot be read, such as with {reason(error)[:100]!r}"
    if mask.shape not in (stored[::-1], upright[::-1]):
        return "masks with another size than their image"
    # A mask with the size of the stored photo is rotated like it. A mask that is upright is not.
    turned = orientation if mask.shape == stored[::-1] else 1
    examined = replace(image.mask, ignore_index=ignore_index, size=upright, orientation=turned)
    return replace(image, mask=with_pixels(examined, mask))


def with_pixels(mask: Mask, numbers: Numbers) -> Mask:
    """Returns the mask with its pixel counts.

    Args:
        mask: The mask.
        numbers: Its numbers.
    """
    counts = np.bincount(numbers.ravel(), minlength=256)
    counts[mask.ignore_index] = 0
    return replace(mask, pixels=tuple((number, int(counts[number])) for number in np.flatnonzero(counts).tolist()))


def _upright(mask: Numbers, orientation: int) -> Numbers:
    if orientation not in UPRIGHT:
        return mask
    return np.array(Image.fromarray(mask).transpose(UPRIGHT[orientation]))


def decode_mask(data: bytes) -> Numbers:
    """Decodes a mask.

    Args:
        data: A PNG's bytes.

    Returns:
        Class numbers (height, width).

    Raises:
        ValueError: If it contains colors instead of numbers.
        OSError: If it is not an image.
    """
    with Image.open(BytesIO(data)) as image:
        if image.mode not in ("L", "P", "1"):
            raise ValueError(f"pixels of mode {image.mode} instead of class numbers")
        return np.array(image if image.mode != "1" else image.convert("L").point(bool), np.uint8)


def size_of(file: File) -> tuple[tuple[int, int], int, tuple[int, int]]:
    """Reads the size of an image.

    Args:
        file: The image.

    Returns:
        Width and height as stored, the EXIF orientation, and width and height upright.

    Raises:
        OSError: If the file is not an image.
    """
    with Image.open(BytesIO(read_bytes(file))) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return image.size, orientation, image.size[::-1] if orientation in SIDEWAYS else image.size


def refuse_unlearned(present: Mapping[str, set[int]], names: tuple[str, ...] | None, place: str | Path) -> None:
    """Rejects classes that are not in the training images.

    Args:
        present: The classes in each split.
        names: Class names, if there are any.
        place: The data.

    Raises:
        DataError: If another split has a class that `train` lacks.
    """
    if "train" not in present:
        return
    for split, numbers in present.items():
        if unknown := sorted(numbers - present["train"]):
            raise DataError(
                f"the split {split} has classes that train lacks",
                expected=f"some of the {len(present['train'])} classes in train's masks",
                found=some(names[number] if names else str(number) for number in unknown),
                where=place,
                fix="To ignore them, pass their number as --ignore-index. Otherwise add images of them to train.",
            )
