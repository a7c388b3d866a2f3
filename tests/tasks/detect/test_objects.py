"""The objects in images: found in Pascal VOC and COCO, split, checked, and numbered as a network does."""

import pickle

import pytest
from PIL import Image

from mnv2zoo.data import checks
from mnv2zoo.data.layout import Layout
from mnv2zoo.data.splits import with_validation
from mnv2zoo.errors import DataError
from mnv2zoo.tasks.detect import Detect, objects
from mnv2zoo.tasks.detect.objects import Objects
from tests.data.test_boxes import BCCD, needs_bccd
from tests.tasks.detect.scenes import fill_coco, fill_voc, picture, write_voc


@pytest.mark.parametrize(("fill", "form"), [(fill_voc, "Pascal VOC"), (fill_coco, "COCO")])
def test_both_formats_give_the_same_objects(tmp_path, fill, form):
    data = objects.find(fill(tmp_path / "cells"), Layout())
    assert (data.form, data.class_names) == (form, ("disk", "square"))
    for number, sample in enumerate(data.splits["train"]):
        image, boxes = picture(number)
        assert sample.target.size == image.size
        assert list(zip(sample.target.labels, sample.target.corners, strict=True)) == [
            (("disk", "square").index(label), tuple(map(float, corners))) for label, corners in boxes
        ]


def test_objects_pickle_and_read_the_same_always():
    one = Objects(((1.0, 2.0, 3.0, 4.0), (5.0, 5.0, 9.0, 9.0)), (1, 0), (False, True), (96, 72))
    assert pickle.loads(pickle.dumps(one)) == one
    assert str(one) == (
        "Objects(corners=((1.0, 2.0, 3.0, 4.0), (5.0, 5.0, 9.0, 9.0)), labels=(1, 0), ignored=(False, True), "
        "size=(96, 72))"
    )
    assert one.classes == (1,)


def test_the_data_is_checked_and_split(tmp_path):
    place = fill_voc(tmp_path / "cells", train=20, val=0)
    data = checks.check(objects.find(place, Layout()), skip_bad=False)
    assert data.form == "Pascal VOC"
    split = with_validation(data, 0.2, seed=0)
    assert split.form == "Pascal VOC"
    assert {name: len(own) for name, own in split.splits.items()} == {"train": 16, "val": 4}


def test_a_sideways_photo_turns_its_boxes_if_they_are_of_the_stored_size(tmp_path):
    folder = fill_voc(tmp_path / "cells", train=2, val=1)
    image = Image.new("RGB", (96, 72))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: what is stored as left is at the top
    for stem, size in (("stored", (96, 72)), ("upright", (72, 96))):
        canvas = Image.new("RGB", size)
        write_voc(folder, stem, canvas, [("disk", (10, 20, 30, 50))])
        image.save(folder / f"JPEGImages/{stem}.png", exif=exif)
        with (folder / "ImageSets/Main/train.txt").open("a") as file:
            file.write(f"{stem}\n")
    data = objects.find(folder, Layout())
    found = {sample.name: sample.target for sample in data.splits["train"]}
    assert found["JPEGImages/upright.png"] == Objects(((10, 20, 30, 50),), (0,), (False,), (72, 96))
    assert found["JPEGImages/stored.png"] == Objects(((22, 10, 52, 30),), (0,), (False,), (72, 96))
    assert data.notes == ("images whose boxes were rotated with them, according to EXIF: 1 (JPEGImages/stored.png)",)


def test_a_size_that_is_not_the_images_is_an_error_or_left_out(tmp_path):
    folder = fill_voc(tmp_path / "cells", train=4, val=1)
    Image.new("RGB", (50, 50)).save(folder / "JPEGImages/001.png")
    with pytest.raises(DataError) as error:
        objects.find(folder, Layout())
    assert error.value.found == "annotations with another size than their image: 1 (JPEGImages/001.png)"
    data = objects.find(folder, Layout(skip_bad_images=True))
    assert [sample.name for sample in data.splits["train"]] == [f"JPEGImages/00{n}.png" for n in (0, 2, 3)]


def test_folders_of_splits_are_refused(tmp_path):
    with pytest.raises(DataError) as error:
        objects.find(fill_voc(tmp_path / "cells"), Layout(val_dir="val"))
    assert error.value.found == "val"


def test_classes_are_numbered_as_the_network_does(tmp_path):
    data = objects.find(fill_voc(tmp_path / "cells"), Layout())
    samples = data.splits["val"]
    aligned = objects.align(samples, data.class_names, ("square", "star", "disk"))
    for before, after in zip(samples, aligned, strict=True):
        assert after.target.labels == tuple({0: 2, 1: 0}[label] for label in before.target.labels)
        assert after.target.corners == before.target.corners
    with pytest.raises(DataError) as error:
        objects.align(samples, data.class_names, ("square", "dis"))
    assert (error.value.expected, error.value.found) == ("dis", "'disk'")


@needs_bccd
def test_the_cells_of_bccd_and_its_two_boxes_without_area():
    with pytest.raises(DataError) as error:
        objects.find(BCCD, Layout())
    assert error.value.found.startswith("boxes without area: 2 (")
    data = objects.find(BCCD, Layout(skip_bad_images=True))
    assert {split: len(own) for split, own in data.splits.items()} == {"train": 205, "val": 87, "test": 72}
    counts = objects.count(sample for own in data.splits.values() for sample in own)
    named = {data.class_names[number]: count for number, count in counts.items()}
    assert named == {"RBC": 4155 - 2, "WBC": 372, "Platelets": 361}
    assert (
        Detect().found(data).endswith("; images: 205 train, 87 val, 72 test; boxes: 361 Platelets, 4153 RBC, 372 WBC")
    )
