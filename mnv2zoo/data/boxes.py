"""Reads images with boxes in the layout of Pascal VOC or COCO, from folders and tar files.

Pascal VOC (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html, section 5) has an XML file per image
in `Annotations`, the images in `JPEGImages`, and lists of names in `ImageSets/Main`. COCO
(https://cocodataset.org/#format-data) has a JSON file per split. The layout is detected from the files.
"""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from mnv2zoo.data import pixels
from mnv2zoo.data.annotations import Trouble, files_in, read_bytes, some
from mnv2zoo.data.discover import SPLIT_OF, Parts, is_image
from mnv2zoo.data.tree import File
from mnv2zoo.errors import DataError

MAX_XML_BYTES = 2**24

Files = Mapping[Parts, File]


@dataclass(frozen=True, slots=True)
class Box:
    """An object in an image.

    Attributes:
        label: Name of its class.
        corners: Left, top, right and bottom in pixels of the upright image.
        ignored: Whether metrics ignore it: `difficult` in VOC, `iscrowd` in COCO.
    """

    label: str
    corners: tuple[float, float, float, float]
    ignored: bool = False


@dataclass(frozen=True, slots=True)
class BoxImage:
    """An image and its objects.

    Attributes:
        name: Its path in the data.
        file: The file with its bytes.
        size: Width and height of the upright image. None if neither the image nor its annotation has them.
        boxes: The objects. Empty if there are none.
    """

    name: str
    file: File
    size: tuple[int, int] | None
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class BoxListing:
    """The images, boxes and classes of a dataset.

    Attributes:
        form: `voc` or `coco`.
        class_names: Class names: for COCO in the order of the ids, for VOC in alphabetical order.
        splits: The images by split. Images without a split are in `train`.
        notes: Remarks for the user, one sentence each.
    """

    form: str
    class_names: tuple[str, ...]
    splits: dict[str, tuple[BoxImage, ...]]
    notes: tuple[str, ...]


def read(place: str | Path, skip_bad: bool = False) -> BoxListing:
    """Finds the images and boxes in a folder or tar file.

    Args:
        place: A folder or tar file in the layout of Pascal VOC or COCO, or a folder with one such tar file, or one
            per split. Outer folders that contain nothing else are skipped.
        skip_bad: Skip bad boxes and missing images, and count them in a note, instead of raising an error.

    Boxes are in pixels of the upright image. If an annotation has the size of a rotated photo as stored, its boxes are
    rotated with the photo.

    Returns:
        The images and boxes. Boxes that reach beyond their image are clipped.

    Raises:
        DataError: If neither layout is found, a file cannot be read, an image is missing or differs in size from its
            annotation, or a box has no area, swapped corners, or is outside its image.
    """
    files = files_in(place)
    suffixes = {PurePosixPath(parts[-1]).suffix.lower() for parts in files}
    trouble = Trouble(place, skip_bad)
    if ".xml" in suffixes:
        form, names, splits = "voc", *_read_voc(files, trouble)
    elif ".json" in suffixes:
        form, names, splits = "coco", *_read_coco(files, trouble)
    else:
        raise DataError(
            "the data has no boxes",
            expected="a folder or tar file with Pascal VOC (.xml) or COCO (.json) annotations",
            found=f"{sum(is_image(parts[-1]) for parts in files)} images without annotations",
            where=place,
            fix="Pass the folder that also contains the annotations, or train with --task classify.",
        )
    turned: list[str] = []
    upright = {split: list(_upright(images, trouble, turned)) for split, images in splits.items()}
    sound = {split: tuple(_sound(image, trouble) for image in images) for split, images in upright.items() if images}
    notes = trouble.report()
    if turned:
        notes.append(f"images whose boxes were rotated with them, according to EXIF: {len(turned)} ({some(turned)})")
    used = {image.file for images in sound.values() for image in images}
    if unused := sum(is_image(parts[-1]) and file not in used for parts, file in files.items()):
        notes.append(f"images without an annotation or a split are not used: {unused}")
    classes = _classes(names, sound, place, notes)
    return BoxListing(form, classes, sound, tuple(notes))


def _upright(images: Sequence[BoxImage], trouble: Trouble, turned: list[str]) -> Iterator[BoxImage]:
    """Yields the images with their actual size, and boxes in pixels of the upright image."""
    with ThreadPoolExecutor() as pool:
        for image, header in zip(images, pool.map(_header, images, chunksize=64), strict=True):
            if header is None:  # checking all images will report it
                yield image
                continue
            stored, orientation = header
            size = stored[::-1] if orientation in pixels.SIDEWAYS else stored
            if image.size in (None, size):
                yield replace(image, size=size)
            elif image.size == stored:
                boxes = tuple(replace(box, corners=_turned(box.corners, stored, orientation)) for box in image.boxes)
                turned.append(image.name)
                yield replace(image, size=size, boxes=boxes)
            else:
                trouble.add("annotations with another size than their image", image.name)


def _header(image: BoxImage) -> tuple[tuple[int, int], int] | None:
    try:
        file = image.file
        return pixels.header(file.place if file.offset is None else BytesIO(read_bytes(file)))
    except Exception:  # decoders can raise anything on malformed files
        return None


def _turned(
    corners: tuple[float, float, float, float], size: tuple[int, int], orientation: int
) -> tuple[float, float, float, float]:
    """Converts a box in a rotated photo from pixels of the file to pixels of the upright image."""
    left, top, right, bottom = corners
    width, height = size
    # Orientations 5 to 8 swap the axes. 6 and 7 mirror the new horizontal axis, 7 and 8 the new vertical one.
    if orientation in (6, 7):
        top, bottom = height - bottom, height - top
    if orientation in (7, 8):
        left, right = width - right, width - left
    return top, left, bottom, right


def _sound(image: BoxImage, trouble: Trouble) -> BoxImage:
    """Returns the image with its valid boxes, clipped to its edges."""
    width, height = image.size or (math.inf, math.inf)
    boxes = []
    for box in image.boxes:
        left, top, right, bottom = box.corners
        inside = (max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height))
        if not all(map(math.isfinite, box.corners)):
            trouble.add("boxes with invalid numbers", image.name)
        elif right < left or bottom < top:
            trouble.add("boxes with swapped corners", image.name)
        elif right == left or bottom == top:
            trouble.add("boxes without area", image.name)
        elif inside[0] >= inside[2] or inside[1] >= inside[3]:
            trouble.add("boxes outside their image", image.name)
        else:
            trouble.clipped += inside != box.corners
            boxes.append(replace(box, corners=inside))
    return replace(image, boxes=tuple(boxes))


def _classes(
    names: Sequence[str], splits: Mapping[str, Sequence[BoxImage]], place: str | Path, notes: list[str]
) -> tuple[str, ...]:
    """Returns the classes that have boxes in the training images."""
    present = {
        split: {box.label for image in images for box in image.boxes if not box.ignored}
        for split, images in splits.items()
    }
    if not any(present.values()):
        raise DataError(
            "no image has boxes",
            expected="at least one box",
            found="none",
            where=place,
            fix="Check the annotations.",
        )
    learned = present.get("train") or set().union(*present.values())
    for split, labels in present.items():
        if unknown := sorted(labels - learned):
            raise DataError(
                f"the split {split} has classes that train lacks",
                expected=f"some of train's {len(learned)} classes",
                found=some(unknown),
                where=place,
                fix="Give them the names that they have in train, or remove their boxes.",
            )
    if empty := [name for name in names if name not in learned]:
        notes.append(f"classes without boxes are ignored: {some(empty)}")
    return tuple(name for name in names if name in learned)


# Pascal VOC


def _read_voc(files: Files, trouble: Trouble) -> tuple[list[str], dict[str, list[BoxImage]]]:
    images = {parts: file for parts, file in files.items() if is_image(parts[-1])}
    by_stem: dict[str, list[Parts]] = defaultdict(list)
    for parts in images:
        by_stem[PurePosixPath(parts[-1]).stem].append(parts)
    found: dict[str, dict[str, BoxImage]] = defaultdict(dict)  # by the annotation's folder and stem
    for parts, file in files.items():
        if parts[-1].lower().endswith(".xml"):
            stem = PurePosixPath(parts[-1]).stem
            size, boxes = _parse_voc("/".join(parts), file, trouble)
            # The nearest image of that name: in JPEGImages next to Annotations, or in the same folder.
            near = sorted(by_stem[stem], key=lambda image: (-_shared(image, parts), image))
            if near:
                found["/".join(parts[:-1])][stem] = BoxImage("/".join(near[0]), images[near[0]], size, boxes)
            else:
                trouble.add("annotations without an image", "/".join(parts))
    names = sorted({box.label for own in found.values() for image in own.values() for box in image.boxes})
    lists = {parts: file for parts, file in files.items() if parts[-2:-1] == ("Main",) and parts[-1][-4:] == ".txt"}
    split_of = {parts: SPLIT_OF.get(parts[-1][:-4].lower()) for parts in lists}
    if not any(split_of.values()):
        return names, _by_folder(found)
    splits: dict[str, list[BoxImage]] = {"train": [], "val": [], "test": []}
    everywhere = {stem: image for own in found.values() for stem, image in own.items()}
    for parts, split in split_of.items():
        if split is None:  # trainval.txt, and lists of single classes
            continue
        for line in _text(lists[parts], trouble.place).splitlines():
            stem = line.split()[0] if line.split() else ""
            if stem in everywhere:
                splits[split].append(everywhere[stem])
            elif stem:
                trouble.add("listed images without an annotation", stem)
    return names, splits


def _shared(one: Parts, other: Parts) -> int:
    """Counts the leading folders that two paths share."""
    count = 0
    for own, its in zip(one, other, strict=False):
        if own != its:
            break
        count += 1
    return count


def _by_folder(found: Mapping[str, Mapping[str, BoxImage]]) -> dict[str, list[BoxImage]]:
    """Assigns images to splits by their annotations' folder names. Other folders count as `train`."""
    splits: dict[str, list[BoxImage]] = {"train": [], "val": [], "test": []}
    for folder, images in found.items():
        splits[split_of((*folder.split("/"), ""))] += images.values()
    return splits


def _parse_voc(name: str, file: File, trouble: Trouble) -> tuple[tuple[int, int] | None, tuple[Box, ...]]:
    try:
        root = ElementTree.fromstring(read_bytes(file, MAX_XML_BYTES))
        size = (_number(root, "size/width"), _number(root, "size/height"))
        boxes = tuple(
            Box(
                (one.findtext("name") or "").strip(),
                tuple(_number(one, f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")),  # type: ignore[arg-type]
                (one.findtext("difficult") or "0").strip() == "1",
            )
            for one in root.iter("object")
        )
        if not all(box.label for box in boxes):
            raise ValueError("an object without a name")
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise DataError(
            f"cannot read the annotation {name}",
            expected="an .xml file in Pascal VOC format",
            found=str(error),
            where=f"{trouble.place}: {name}",
            fix="Correct the file, or remove it together with its image.",
        ) from error
    return (int(size[0]), int(size[1])) if min(size) > 0 else None, boxes


def _number(element: ElementTree.Element, path: str) -> float:
    text = element.findtext(path)
    if text is None:
        if path.startswith("size/"):
            return 0.0
        raise ValueError(f"an object without {path}")
    return float(text)


# COCO


def _read_coco(files: Files, trouble: Trouble) -> tuple[list[str], dict[str, list[BoxImage]]]:
    names: dict[str, None] = {}
    splits: dict[str, list[BoxImage]] = {"train": [], "val": [], "test": []}
    read: dict[Parts, str] = {}
    for parts, file in files.items():
        if not parts[-1].lower().endswith(".json"):
            continue
        document = coco_document("/".join(parts), file, trouble.place)
        if document is None:  # captions, a settings file, ...
            continue
        split = split_of(parts)
        if split in read.values():
            other = next(own for own, its in read.items() if its == split)
            raise DataError(
                f"two files have boxes for the split {split}",
                expected="one .json file per split, with the split in its name or its folder's",
                found=f"{'/'.join(other)} and {'/'.join(parts)}",
                where=trouble.place,
                fix="Remove one of them, or rename them to train.json, val.json and test.json.",
            )
        read[parts] = split
        own, images = _parse_coco(document, parts, files, trouble)
        names |= dict.fromkeys(own)
        splits[split] = images
    if not read:
        raise DataError(
            "the data has no boxes",
            expected="a COCO .json file with images, annotations and categories",
            found="other .json files",
            where=trouble.place,
            fix="Export the annotations as COCO or Pascal VOC.",
        )
    return list(names), splits


def split_of(parts: Parts) -> str:
    """Returns the split of a file, from the words in its name or the nearest folder: `instances_val2017.json`."""
    for part in reversed((*parts[:-1], parts[-1].rpartition(".")[0])):
        for word in "".join(c if c.isalpha() else " " for c in part.lower()).split():
            if word in SPLIT_OF:
                return SPLIT_OF[word]
    return "train"


def coco_document(name: str, file: File, place: str | Path) -> dict[str, Any] | None:
    """Returns a file's content, or None if it is not about boxes."""
    try:
        document = json.loads(read_bytes(file))
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(
            f"cannot read the annotation file {name}",
            expected="a JSON file",
            found=str(error)[:200],
            where=f"{place}: {name}",
            fix="Export the annotations again, or remove the file.",
        ) from error
    keys = ("images", "annotations", "categories")
    if not isinstance(document, dict) or any(not isinstance(document.get(key), list) for key in keys):
        return None
    return document


def _parse_coco(
    document: dict[str, Any], parts: Parts, files: Files, trouble: Trouble
) -> tuple[list[str], list[BoxImage]]:
    """Returns the classes in order of their ids, and the images with their boxes."""
    where = "/".join(parts)
    try:
        labels = {int(one["id"]): str(one["name"]) for one in document["categories"]}
        boxes: dict[int, list[Box]] = defaultdict(list)
        for one in document["annotations"]:
            if one["category_id"] not in labels:
                trouble.add("boxes of an unknown category", f"annotation {one.get('id')} in {where}")
                continue
            left, top, width, height = map(float, one["bbox"])
            corners = (left, top, left + width, top + height)
            boxes[one["image_id"]].append(Box(labels[one["category_id"]], corners, bool(one.get("iscrowd", 0))))
        images = []
        ending = images_by_name(files)
        for one in document["images"]:
            path = image_path(str(one["file_name"]), parts, files, ending)
            if path is None:
                trouble.add("images that do not exist", str(one["file_name"]))
                continue
            size = (int(one["width"]), int(one["height"])) if one.get("width") and one.get("height") else None
            images.append(BoxImage("/".join(path), files[path], size, tuple(boxes[one["id"]])))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"cannot read the annotation file {where}",
            expected="images, annotations and categories in COCO format",
            found=f"{type(error).__name__}: {error}",
            where=f"{trouble.place}: {where}",
            fix="Export the annotations again.",
        ) from error
    if len(set(labels.values())) < len(labels):
        raise DataError(
            "two categories have the same name",
            expected="a different name for each category",
            found=some(labels.values()),
            where=f"{trouble.place}: {where}",
            fix="Rename one of them.",
        )
    return [labels[number] for number in sorted(labels)], images


def images_by_name(files: Files) -> dict[str, list[Parts]]:
    """Returns the paths of the images by file name, for `image_path`."""
    names: dict[str, list[Parts]] = defaultdict(list)
    for parts in files:
        if is_image(parts[-1]):
            names[parts[-1]].append(parts)
    return names


def image_path(name: str, document: Parts, files: Files, names: Mapping[str, list[Parts]]) -> Parts | None:
    """Finds the image that an annotation file refers to: the path with that ending that is nearest to the file."""
    wanted = tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
    fitting = [path for path in names.get(wanted[-1], []) if path[-len(wanted) :] == wanted] if wanted else []
    split = split_of(document)
    # COCO keeps the images of a split in a folder such as val2017, next to annotations/.
    fitting.sort(key=lambda path: (split_of((*path[:-1], "")) != split, -_shared(path, document), path))
    return fitting[0] if fitting else None


def _text(file: File, place: str | Path) -> str:
    try:
        return read_bytes(file).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the list of images {file.name}",
            expected="a text file in UTF-8",
            found=str(error),
            where=f"{place}: {file.name}",
            fix="Correct the file, or remove it.",
        ) from error
