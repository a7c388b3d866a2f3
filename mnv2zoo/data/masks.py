"""Images with masks: which image has which, and which classes they show.

A mask is a PNG whose pixels are class numbers, with a palette or without. It has the name of its image, and
lies in `masks` beside `images`, as in CamVid, or in `SegmentationClass` beside `JPEGImages`, as in Pascal VOC. COCO
annotations become masks in `polygons`.
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
CLASSES = "classes.txt"  # a name a line, in the order of the numbers in the masks
VOID = 255  # what PNGs without another convention mark pixels of no class with, as Pascal VOC does


# What makes an image upright, by its EXIF orientation; the same that `ImageOps.exif_transpose` does.
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
    """A mask in a file, which is read when it is needed. Its `str` is the same wherever the data lies.

    Attributes:
        name: The mask's path within the data.
        file: Where its bytes are.
        ignore_index: The number of pixels that belong to no class.
        size: Width and height, upright.
        pixels: Pairs of a class and its number of pixels, in order; without ignored pixels.
        orientation: The EXIF orientation that makes it upright, as for its photo; 1 for a mask that is.
        table: The class of each number from 0 to 255, where a network numbers the classes otherwise; None for the
            numbers themselves.
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
        """The classes that it shows, in order."""
        return tuple(number for number, _ in self.pixels)

    def renumbered(self, numbers: Mapping[int, int]) -> Mask:
        """The same mask with other class numbers.

        Args:
            numbers: The new number of each class that it shows.
        """
        table = [VOID] * 256
        for number, _ in self.pixels:
            table[number] = numbers[number]
        pixels = tuple(sorted((numbers[number], count) for number, count in self.pixels))
        return replace(self, table=tuple(table), pixels=pixels)

    def read(self) -> Numbers:
        """Reads it.

        Returns:
            Class numbers (height, width), upright as its photo. Ignored pixels are `VOID`, whatever their number.

        Raises:
            DataError: If it has changed since it was found.
        """
        try:
            mask = _upright(self.numbers(), self.orientation)
        except (OSError, ValueError) as error:
            raise DataError("cannot read a mask", found=reason(error), where=self.name) from error
        if mask.shape != self.size[::-1]:
            raise DataError(
                "a mask has changed since training began",
                expected=f"{self.size[0]} x {self.size[1]} pixels",
                found=f"{mask.shape[1]} x {mask.shape[0]}",
                where=self.name,
            )
        if self.table is not None:
            return np.array(self.table, np.uint8)[mask]
        mask[mask == self.ignore_index] = VOID
        return mask

    def numbers(self) -> Numbers:
        """The numbers in the file, as it stores them.

        Raises:
            ValueError: If it has colors in place of numbers.
            OSError: If it is no image.
        """
        return decode_mask(read_bytes(self.file))


@dataclass(frozen=True, slots=True)
class MaskImage:
    """An image and its mask.

    Attributes:
        name: The image's path within the data.
        file: Where the image's bytes are.
        mask: The mask.
    """

    name: str
    file: File
    mask: Mask


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
            expected="folders images and masks, with a .png file in masks for each image, or a .json file with COCO "
            "polygons",
            found=f"{sum(is_image(parts[-1]) for parts in files)} images, and none has a mask",
            where=place,
            fix="Put the masks into a folder masks beside images, under the names of the images.",
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
    notes = trouble.report(f"Pixels that belong to no class have the number that --ignore-index says, {ignore_index}.")
    found = set().union(*present.values())
    if not found:
        raise DataError("no pixel of any class in the masks", found=f"{ignore_index} alone", where=place)
    refuse_unlearned(present, names, place)
    if names is None:
        names = tuple(map(str, range(max(found) + 1)))
        notes.append(f"classes are called by their numbers, 0 to {max(found)}: there is no {CLASSES}")
    return MaskListing(names, {split: tuple(own) for split, own in splits.items() if own}, tuple(notes))


def are_among(files: Iterable[Parts]) -> bool:
    """Whether there are masks among files, given by their paths."""
    return any(_folder(parts, MASKS) is not None and is_image(parts[-1]) for parts in files)


def _pairs(files: Mapping[Parts, File], trouble: Trouble) -> dict[Parts, MaskImage]:
    """Images with their masks: of the same name, below folders beside each other."""
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


def _examined(image: MaskImage, ignore_index: int) -> MaskImage | str:
    """The image with all that its mask says; for a bad mask, what is wrong with it."""
    try:
        mask = image.mask.numbers()
        stored, orientation, upright = size_of(image.file)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return f"masks that cannot be read, such as with {reason(error)[:100]!r}"
    if mask.shape not in (stored[::-1], upright[::-1]):
        return "masks of another size than their image"
    # A mask of the size of the stored photo is rotated with it. One that is upright already stays.
    turned = orientation if mask.shape == stored[::-1] else 1
    examined = replace(image.mask, ignore_index=ignore_index, size=upright, orientation=turned)
    return replace(image, mask=with_pixels(examined, mask))


def with_pixels(mask: Mask, numbers: Numbers) -> Mask:
    """The mask with the counts of its pixels.

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


def size_of(file: File) -> tuple[tuple[int, int], int, tuple[int, int]]:
    """Reads the size of an image.

    Args:
        file: The image.

    Returns:
        Width and height as it is stored; its EXIF orientation; and width and height upright.

    Raises:
        OSError: If it is no image.
    """
    with Image.open(BytesIO(read_bytes(file))) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return image.size, orientation, image.size[::-1] if orientation in SIDEWAYS else image.size


def refuse_unlearned(present: Mapping[str, set[int]], names: tuple[str, ...] | None, place: str | Path) -> None:
    """Refuses classes that training would not see.

    Args:
        present: The classes that each split shows.
        names: Names of the classes, if there are any.
        place: The data.

    Raises:
        DataError: If another split shows a class that `train` does not.
    """
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
