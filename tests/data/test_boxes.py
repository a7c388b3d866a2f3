"""Boxes as Pascal VOC and COCO have them: what is found, in which split, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from mnv2zoo.data import boxes
from mnv2zoo.errors import DataError
from tests.conftest import SHARED
from tests.photos import tar

BCCD = SHARED / "data/bccd"
needs_bccd = pytest.mark.skipif(not BCCD.is_dir(), reason=f"BCCD is not at {BCCD}")


def image(path: Path, size: tuple[int, int] = (80, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def voc(folder: Path, stem: str, *objects: tuple[str, tuple[float, ...]], difficult: bool = False) -> None:
    """Writes an image of 80 x 60 pixels and its annotation."""
    image(folder / f"JPEGImages/{stem}.jpg")
    written = "".join(
        f"<object><name>{label}</name><difficult>{int(difficult)}</difficult><bndbox>"
        + "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
        + "</bndbox></object>"
        for label, corners in objects
    )
    path = folder / f"Annotations/{stem}.xml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"<annotation><size><width>80</width><height>60</height></size>{written}</annotation>")


def coco(path: Path, images: list[str], annotations: list[tuple[int, int, list[float]]], **categories: int) -> None:
    """Writes a document: annotations are (image's number, category's id, [left, top, width, height])."""
    document = {
        "images": [{"id": i, "file_name": name, "width": 80, "height": 60} for i, name in enumerate(images)],
        "annotations": [
            {"id": i, "image_id": on, "category_id": of, "bbox": box, "iscrowd": 0}
            for i, (on, of, box) in enumerate(annotations)
        ],
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Two training images and one to validate on, as Pascal VOC has them."""
    folder = tmp_path / "cells"
    voc(folder, "a", ("red", (1, 2, 30, 40)), ("white", (10, 10, 20, 30)))
    voc(folder, "b", ("red", (5, 6, 7, 8)))
    voc(folder, "c", ("white", (0, 0, 80, 60)))
    lists = folder / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    (lists / "trainval.txt").write_text("a\nb\nc\n")
    (lists / "red_train.txt").write_text("a  1\nb  1\n")
    return folder


def test_voc_has_its_lists_classes_and_corners(cells: Path) -> None:
    found = boxes.read(cells)
    assert (found.form, found.class_names, found.notes) == ("voc", ("red", "white"), ())
    assert {split: [image.name for image in own] for split, own in found.splits.items()} == {
        "train": ["JPEGImages/a.jpg", "JPEGImages/b.jpg"],
        "val": ["JPEGImages/c.jpg"],
    }
    first = found.splits["train"][0]
    assert first.size == (80, 60)
    assert first.boxes == (boxes.Box("red", (1, 2, 30, 40)), boxes.Box("white", (10, 10, 20, 30)))


@pytest.mark.parametrize("how", ["tar", "a tar in a folder", "one folder around"])
def test_a_tar_file_and_folders_around_change_nothing_but_names(cells: Path, tmp_path: Path, how: str) -> None:
    place = tmp_path / "place"
    place.mkdir()
    if how == "one folder around":
        shutil.copytree(cells, place / "BCCD")
    else:
        packed = tar(cells, place / "cells.tar", "BCCD/")
        place = packed if how == "tar" else place
    found, plain = boxes.read(place), boxes.read(cells)
    for split, own in plain.splits.items():
        assert [image.name for image in found.splits[split]] == [f"BCCD/{image.name}" for image in own]
        assert [image.boxes for image in found.splits[split]] == [image.boxes for image in own]


def test_difficult_objects_are_ignored_and_make_no_class(cells: Path) -> None:
    voc(cells, "b", ("red", (5, 6, 7, 8)), ("blue", (5, 6, 7, 8)), difficult=True)
    found = boxes.read(cells)
    assert found.class_names == ("red", "white")
    assert [box.ignored for box in found.splits["train"][1].boxes] == [True, True]


@pytest.mark.parametrize(
    ("corners", "kind"),
    [
        ((5, 6, 5, 20), "boxes without area: 1 (JPEGImages/b.jpg)"),
        ((30, 6, 20, 20), "boxes with swapped corners: 1 (JPEGImages/b.jpg)"),
        ((90, 6, 99, 20), "boxes outside their image: 1 (JPEGImages/b.jpg)"),
        (("nan", 6, 99, 20), "boxes with invalid numbers: 1 (JPEGImages/b.jpg)"),
    ],
)
def test_a_bad_box_is_refused_or_left_out_and_told(cells: Path, corners: tuple[float, ...], kind: str) -> None:
    voc(cells, "b", ("red", (5, 6, 7, 8)), ("red", corners))
    with pytest.raises(DataError) as error:
        boxes.read(cells)
    assert (error.value.found, error.value.where) == (kind, cells)
    found = boxes.read(cells, skip_bad=True)
    assert found.notes == (f"skipped: {kind}",)
    assert found.splits["train"][1].boxes == (boxes.Box("red", (5, 6, 7, 8)),)


def test_a_box_beyond_its_image_ends_at_the_edge(cells: Path) -> None:
    voc(cells, "b", ("red", (-5, 6, 90, 70)))
    found = boxes.read(cells)
    assert found.splits["train"][1].boxes[0].corners == (0, 6, 80, 60)
    assert found.notes == ("boxes that were clipped to their image: 1",)


def test_images_without_objects_stay(cells: Path) -> None:
    voc(cells, "b")
    assert boxes.read(cells).splits["train"][1].boxes == ()


def test_a_listed_image_without_an_annotation_is_told(cells: Path) -> None:
    (cells / "ImageSets/Main/train.txt").write_text("a\nb\nz\n")
    with pytest.raises(DataError) as error:
        boxes.read(cells)
    assert error.value.found == "listed images without an annotation: 1 (z)"
    (cells / "JPEGImages/b.jpg").unlink()
    found = boxes.read(cells, skip_bad=True)
    assert [image.name for image in found.splits["train"]] == ["JPEGImages/a.jpg"]


def test_a_class_that_train_lacks_is_refused(cells: Path) -> None:
    voc(cells, "c", ("green", (0, 0, 80, 60)))
    with pytest.raises(DataError) as error:
        boxes.read(cells)
    assert error.value.found == "green"


@pytest.mark.parametrize(
    "text", ["<annotation>", "<annotation><object><name>a</name></object></annotation>", "no xml at all"]
)
def test_a_damaged_annotation_is_named(cells: Path, text: str) -> None:
    (cells / "Annotations/b.xml").write_text(text)
    with pytest.raises(DataError) as error:
        boxes.read(cells)
    assert str(error.value.where).endswith("cells: Annotations/b.xml")


def test_coco_has_its_own_classes_in_order_of_ids_with_gaps(tmp_path: Path) -> None:
    for name in ("train2017/1.jpg", "train2017/2.jpg", "val2017/1.jpg"):
        image(tmp_path / name)
    ids = {"zebra": 3, "ant": 90, "unseen": 5}
    coco(
        tmp_path / "annotations/instances_train2017.json",
        ["1.jpg", "2.jpg"],
        [(0, 90, [1, 2, 3, 4]), (1, 3, [0, 0, 10, 20])],
        **ids,
    )
    coco(tmp_path / "annotations/instances_val2017.json", ["1.jpg"], [(0, 3, [5, 5, 5, 5])], **ids)
    (tmp_path / "annotations/captions_train2017.json").write_text('{"annotations": []}')
    found = boxes.read(tmp_path)
    assert (found.form, found.class_names) == ("coco", ("zebra", "ant"))
    assert found.notes == ("classes without boxes are ignored: unseen",)
    names = {split: [image.name for image in own] for split, own in found.splits.items()}
    assert names == {"train": ["train2017/1.jpg", "train2017/2.jpg"], "val": ["val2017/1.jpg"]}
    assert found.splits["train"][0].boxes == (boxes.Box("ant", (1, 2, 4, 6)),)


def test_coco_beside_the_images_of_each_split(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        image(tmp_path / split / "x.jpg")
        coco(tmp_path / split / "_annotations.coco.json", ["x.jpg"], [(0, 1, [1, 1, 2, 2])], cell=1)
    found = boxes.read(tmp_path)
    names = {split: [image.name for image in own] for split, own in found.splits.items()}
    assert names == {"train": ["train/x.jpg"], "val": ["valid/x.jpg"]}


def test_a_tar_for_each_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        image(tmp_path / f"made/{split}/images/x.jpg")
        coco(tmp_path / f"made/{split}/boxes.json", ["images/x.jpg"], [(0, 1, [1, 1, 2, 2])], cell=1)
        tar(tmp_path / "made" / split, tmp_path / f"{split}.tar")
    shutil.rmtree(tmp_path / "made")
    found = boxes.read(tmp_path)
    names = {split: [image.name for image in own] for split, own in found.splits.items()}
    assert names == {"train": ["train/images/x.jpg"], "val": ["val/images/x.jpg"]}
    file = found.splits["val"][0].file
    with tarfile.open(tmp_path / "val.tar") as packed:
        assert file.offset == packed.getmember("images/x.jpg").offset_data


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"bbox": [1, 2, 3]}, "ValueError: not enough values to unpack (expected 4, got 3)"),
        ({"bbox": None}, "TypeError: 'NoneType' object is not iterable"),
    ],
)
def test_a_document_that_is_not_coco_is_named(tmp_path: Path, change: dict[str, object], found: str) -> None:
    image(tmp_path / "x.jpg")
    coco(tmp_path / "boxes.json", ["x.jpg"], [(0, 1, [1, 1, 2, 2])], cell=1)
    document = json.loads((tmp_path / "boxes.json").read_text())
    document["annotations"][0] |= change
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    with pytest.raises(DataError) as error:
        boxes.read(tmp_path)
    assert error.value.found.startswith(found[:20])
    assert str(error.value.where).endswith(": boxes.json")


def test_unknown_categories_and_missing_images_are_told_together(tmp_path: Path) -> None:
    image(tmp_path / "x.jpg")
    coco(tmp_path / "boxes.json", ["x.jpg", "gone.jpg"], [(0, 1, [1, 1, 2, 2]), (0, 7, [1, 1, 2, 2])], cell=1)
    with pytest.raises(DataError) as error:
        boxes.read(tmp_path)
    assert error.value.found == (
        "boxes of an unknown category: 1 (annotation 1 in boxes.json); images that do not exist: 1 (gone.jpg)"
    )
    found = boxes.read(tmp_path, skip_bad=True)
    assert found.splits["train"][0].boxes == (boxes.Box("cell", (1, 1, 3, 3)),)


def test_two_documents_for_one_split_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "x.jpg")
    for name in ("one", "two"):
        coco(tmp_path / f"{name}.json", ["x.jpg"], [(0, 1, [1, 1, 2, 2])], cell=1)
    with pytest.raises(DataError, match="two files have boxes for the split train"):
        boxes.read(tmp_path)


def test_images_alone_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "a/x.jpg")
    with pytest.raises(DataError) as error:
        boxes.read(tmp_path)
    assert (error.value.problem, error.value.found) == ("the data has no boxes", "1 images without annotations")


@needs_bccd
@pytest.mark.parametrize("place", [BCCD, BCCD / "bccd.tar"])
def test_bccd_has_the_counts_that_its_authors_give(place: Path) -> None:
    with pytest.raises(DataError, match="boxes without area: 2") as error:
        boxes.read(place)
    assert "BloodImage_00338" in error.value.found
    assert "BloodImage_00343" in error.value.found
    found = boxes.read(place, skip_bad=True)
    assert {split: len(own) for split, own in found.splits.items()} == {"train": 205, "val": 87, "test": 72}
    counts = Counter(box.label for own in found.splits.values() for image in own for box in image.boxes)
    assert counts == {"RBC": 4155 - 2, "WBC": 372, "Platelets": 361}


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_turn_as_their_photo_does(tmp_path: Path, orientation: int) -> None:
    picture = Image.new("L", (80, 60))
    picture.paste(255, (10, 20, 30, 50))
    exif = Image.Exif()
    exif[0x0112] = orientation
    voc(tmp_path, "a", ("red", (10, 20, 30, 50)))
    picture.save(tmp_path / "JPEGImages/a.jpg", exif=exif)
    (found,) = boxes.read(tmp_path).splits["train"]
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "JPEGImages/a.jpg"))
    assert found.size == upright.size == (60, 80)
    assert found.boxes[0].corners == upright.point(lambda value: 255 * (value > 128)).getbbox()


def test_the_size_of_an_image_bounds_boxes_whose_annotation_has_none(tmp_path: Path) -> None:
    voc(tmp_path, "a", ("red", (10, 20, 300, 50)))
    file = tmp_path / "Annotations/a.xml"
    file.write_text(re.sub("<size>.*</size>", "", file.read_text()))
    found = boxes.read(tmp_path)
    assert found.splits["train"][0].boxes[0].corners == (10, 20, 80, 50)
    assert found.notes == ("boxes that were clipped to their image: 1",)
