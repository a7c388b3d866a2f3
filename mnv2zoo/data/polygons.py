"""Draws masks from COCO annotations: polygons and run-length encodings, one class number per pixel.

Classes are numbered from 1 in the order of the category ids, and 0 is the background. Where objects of different
classes overlap, pixels belong to no class, as in torchvision's COCO reference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mnv2zoo.data import boxes, masks
from mnv2zoo.data.annotations import Trouble, files_in, some
from mnv2zoo.data.discover import Parts
from mnv2zoo.data.masks import VOID, Mask, MaskImage, MaskListing, Numbers, size_of, with_pixels
from mnv2zoo.data.pixels import reason
from mnv2zoo.data.tree import File
from mnv2zoo.errors import DataError, MissingExtraError
from mnv2zoo.system.installation import install_command

BACKGROUND = "background"
# A polygon may reach beyond its image, but not so far that drawing its edges takes forever.
REACH = 4

Region = tuple[int, Any]  # a class, and polygons as bytes of float64 or a COCO run-length encoding


@dataclass(frozen=True, slots=True)
class Regions(Mask):
    """A mask that is drawn from COCO annotations on demand; see `Mask`.

    Attributes:
        stored: Width and height that the annotations are for.
        regions: The class and the polygons or run-length encoding of each object.
    """

    stored: tuple[int, int] = (0, 0)
    regions: tuple[Region, ...] = ()

    def numbers(self) -> Numbers:
        """Draws the mask in the orientation of the annotations; see `Mask.numbers`."""
        width, height = self.stored
        mask = np.zeros((height, width), np.uint8)
        for number, region in self.regions:
            inside = _drawn(region, width, height)
            mask[inside & (mask != 0) & (mask != number)] = VOID
            mask[inside & (mask != VOID)] = number
        return mask


def read(place: str | Path, skip_bad: bool = False) -> MaskListing | None:
    """Reads COCO annotations, and draws all masks to determine their classes.

    Args:
        place: A folder or tar file with images and one `.json` file per split.
        skip_bad: Skip bad annotations and missing images, and count them in a note, instead of raising an error.

    Returns:
        The images, masks and classes. None if no annotation has a polygon or a run-length encoding, or if there are
        mask files.

    Raises:
        DataError: If an annotation is invalid, or two files are for the same split or have different categories.
        MissingExtraError: If `faster-coco-eval`, which draws the masks, is not installed.
    """
    files = files_in(place)
    trouble = Trouble(place, skip_bad)
    documents = {} if masks.are_among(files) else _documents(files, place)
    if not documents:
        return None
    _library()
    categories: dict[int, str] = {}
    for parts, document in documents.items():
        _add_categories(categories, document, f"{place}: {'/'.join(parts)}")
    numbers = {category: number for number, category in enumerate(sorted(categories), 1)}
    splits: dict[str, tuple[MaskImage, ...]] = {}
    for parts, document in documents.items():
        split = boxes.split_of(parts)
        if split in splits:
            raise DataError(
                f"two files have polygons for the split {split}",
                expected="one .json file per split, with the split in its name or its folder's",
                found="/".join(parts),
                where=place,
                fix="Remove one of them, or rename them to train.json, val.json and test.json.",
            )
        splits[split] = tuple(_images(document, parts, files, numbers, trouble))
    splits = {split: own for split, own in splits.items() if own}
    names = (BACKGROUND, *(categories[category] for category in sorted(categories)))
    notes = (f"classes are the categories of the COCO annotations, and 0 is the {BACKGROUND}", *trouble.report())
    present = {split: {number for image in own for number in image.mask.classes} for split, own in splits.items()}
    masks.refuse_unlearned(present, names, place)
    return MaskListing(names, splits, notes)


def _documents(files: Mapping[Parts, File], place: str | Path) -> dict[Parts, dict[str, Any]]:
    """Returns the files with polygons or run-length encodings."""
    found = {}
    for parts, file in files.items():
        if parts[-1].lower().endswith(".json"):
            document = boxes.coco_document("/".join(parts), file, place)
            own = document["annotations"] if document else ()
            if document and any(isinstance(one, dict) and one.get("segmentation") for one in own):
                found[parts] = document
    return found


def _library() -> Any:
    try:
        from faster_coco_eval import mask
    except ImportError as error:
        raise MissingExtraError(
            "masks from COCO polygons need the package faster-coco-eval",
            expected="the extra `train`",
            found=f"no {error.name}",
            fix=f"Run: {install_command('train')}",
        ) from error
    return mask


def _add_categories(categories: dict[int, str], document: Mapping[str, Any], where: str) -> None:
    try:
        own = {int(one["id"]): str(one["name"]) for one in document["categories"]}
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(error, where) from error
    for number, name in own.items():
        if categories.setdefault(number, name) != name:
            raise DataError(
                f"category {number} has different names in two splits",
                expected=f"{categories[number]!r} for category {number}",
                found=repr(name),
                where=where,
                fix="Export all splits with the same categories.",
            )
    if len(set(categories.values()) | {BACKGROUND}) < len(categories) + 1:
        raise DataError(
            f"two categories have the same name, or one is named {BACKGROUND!r}",
            expected=f"different names other than {BACKGROUND!r}",
            found=some(categories.values()),
            where=where,
            fix="Rename the category.",
        )


def _images(
    document: Mapping[str, Any], parts: Parts, files: Mapping[Parts, File], numbers: Mapping[int, int], trouble: Trouble
) -> Iterable[MaskImage]:
    """Yields the images of a document with their masks."""
    where = "/".join(parts)
    known = boxes.images_by_name(files)
    try:
        objects: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for one in document["annotations"]:
            objects[one["image_id"]].append(one)
        for one in document["images"]:
            path = boxes.image_path(str(one["file_name"]), parts, files, known)
            if path is None:
                trouble.add("images that do not exist", str(one["file_name"]))
                continue
            name, size = "/".join(path), (int(one["width"]), int(one["height"]))
            mask = Regions(f"{where}: {one['file_name']}", files[parts], stored=size)
            image = _with_regions(MaskImage(name, files[path], mask), objects[one["id"]], numbers, trouble)
            if image is not None:
                yield image
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _unreadable(error, f"{trouble.place}: {where}") from error


def _unreadable(error: Exception, where: str) -> DataError:
    return DataError(
        "cannot read an annotation file",
        expected="images, annotations and categories in COCO format",
        found=f"{type(error).__name__}: {error}",
        where=where,
        fix="Export the annotations again.",
    )


def _with_regions(
    image: MaskImage, objects: Sequence[Mapping[str, Any]], numbers: Mapping[int, int], trouble: Trouble
) -> MaskImage | None:
    """Returns the image with its mask, which is drawn once. None if it is unusable, which is reported."""
    mask = image.mask
    assert isinstance(mask, Regions)
    try:
        _, orientation, upright = size_of(image.file)
    except (OSError, ValueError) as error:
        trouble.add(f"images that cannot be read, such as with {reason(error)[:100]!r}", image.name)
        return None
    if mask.stored not in (upright, upright[::-1]) or (mask.stored != upright and orientation < 5):
        trouble.add("annotations with another size than their image", image.name)
        return None
    regions = []
    for one in objects:
        if one["category_id"] not in numbers:
            trouble.add("objects of an unknown category", f"annotation {one.get('id')} of {image.name}")
            continue
        try:
            region = _checked(one.get("segmentation"), *mask.stored)
            if region and _drawn(region, *mask.stored).any():
                regions.append((numbers[one["category_id"]], region))
                continue
        except (KeyError, TypeError, ValueError, RuntimeError):  # also from the library
            pass
        trouble.add("objects without a polygon inside their image", f"annotation {one.get('id')} of {image.name}")
    turned = orientation if mask.stored != upright else 1
    drawn = replace(mask, size=upright, orientation=turned, regions=tuple(regions), ignore_index=VOID)
    return replace(image, mask=with_pixels(drawn, drawn.numbers()))


def _checked(segmentation: Any, width: int, height: int) -> Any:
    """Returns a segmentation in its stored form: polygons as bytes, or a run-length encoding of that size."""
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError("a run-length encoding of another size")
        counts = segmentation["counts"]
        return counts.encode() if isinstance(counts, str) else tuple(map(int, counts))
    polygons = []
    for polygon in segmentation:
        points = np.array(polygon, np.float64)
        if points.ndim != 1 or len(points) < 6 or len(points) % 2:
            raise ValueError("a polygon of fewer than three points")
        if not (np.abs(points) <= REACH * max(width, height)).all():  # also catches NaN
            raise ValueError("a polygon far outside its image")
        polygons.append(points.tobytes())
    return ("polygons", *polygons) if polygons else None


def _drawn(region: Any, width: int, height: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Returns the pixels (height, width) of a region."""
    mask = _library()
    size = {"size": [height, width]}
    if isinstance(region, bytes):
        return mask.decode({**size, "counts": region}).astype(bool)
    if region[0] != "polygons":
        return mask.decode(mask.frPyObjects({**size, "counts": list(region)}, height, width)).astype(bool)
    points = [np.frombuffer(polygon, np.float64).tolist() for polygon in region[1:]]
    return mask.decode(mask.merge(mask.frPyObjects(points, height, width))).astype(bool)
