"""Masks from COCO annotations are those that faster-coco-eval draws, class by class."""

import json
import pickle

import numpy as np
import pytest
from faster_coco_eval import mask as coco
from PIL import Image

from mnv2zoo.data import decode, polygons
from mnv2zoo.data.layout import Layout
from mnv2zoo.errors import DataError
from mnv2zoo.tasks.segment import data

SIZE = (24, 16)  # width and height
SQUARE = [2, 3, 8, 3, 8, 9, 2, 9]  # pixels 2 to 7 across and 3 to 8 down
OTHER = [6, 5, 12, 5, 12, 12, 6, 12]
CATEGORIES = [{"id": 7, "name": "car"}, {"id": 3, "name": "road"}]


def square(corners):
    """The pixels of a square, without any library."""
    left, top, right, bottom = corners
    inside = np.zeros(SIZE[::-1], bool)
    inside[top:bottom, left:right] = True
    return inside


def write(folder, annotations, split="train", size=SIZE, stored=SIZE, orientation=1, **image):
    folder.mkdir(exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", stored).save(folder / f"{split}.jpg", exif=exif)
    one = {"id": 1, "file_name": f"{split}.jpg", "width": size[0], "height": size[1], **image}
    own = [{"id": n, "image_id": 1, "iscrowd": 0, **annotation} for n, annotation in enumerate(annotations)]
    document = {"images": [one], "annotations": own, "categories": CATEGORIES}
    (folder / f"{split}.json").write_text(json.dumps(document))
    return folder


def found(folder, skip=False):
    return polygons.read(folder, skip).splits["train"][0].mask


def test_classes_are_numbered_from_one_and_overlaps_belong_to_none(tmp_path):
    write(tmp_path, [{"category_id": 3, "segmentation": [SQUARE]}, {"category_id": 7, "segmentation": [OTHER]}])
    listing = polygons.read(tmp_path)
    assert listing.class_names == ("background", "road", "car")
    assert listing.notes == ("classes are the categories of the COCO annotations, and 0 is the background",)
    (image,) = listing.splits["train"]
    wanted = np.zeros(SIZE[::-1], np.uint8)
    road, car = square((2, 3, 8, 9)), square((6, 5, 12, 12))
    wanted[road], wanted[car], wanted[road & car] = 1, 2, 255
    mask = pickle.loads(pickle.dumps(image.mask))
    assert (mask.read() == wanted).all()
    assert mask.pixels == tuple((n, int((wanted == n).sum())) for n in (0, 1, 2))
    assert str(mask) == f"train.json: train.jpg (0: {(wanted == 0).sum()}, 1: {28}, 2: {34})"


def test_objects_of_one_class_may_overlap_and_have_several_parts(tmp_path):
    far = [15, 1, 20, 1, 20, 4, 15, 4]
    write(tmp_path, [{"category_id": 3, "segmentation": [SQUARE, far]}, {"category_id": 3, "segmentation": [OTHER]}])
    wanted = square((2, 3, 8, 9)) | square((6, 5, 12, 12)) | square((15, 1, 20, 4))
    assert (found(tmp_path).read() == wanted).all()


@pytest.mark.parametrize("compressed", [False, True])
def test_run_length_encodings(tmp_path, compressed):
    inside = square((2, 3, 8, 9))
    encoded = coco.encode(np.asfortranarray(inside.astype(np.uint8)))
    if compressed:
        counts = encoded["counts"].decode()
    else:  # column by column, the first run of zeros
        flat = inside.ravel(order="F")
        ends = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff([0, *ends, flat.size]).tolist()
    rle = {"size": [SIZE[1], SIZE[0]], "counts": counts}
    write(tmp_path, [{"category_id": 7, "iscrowd": 1, "segmentation": rle}])
    assert (found(tmp_path).read() == 2 * inside).all()


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 1, 4, 4]],
        [[1, 1, 4, 4, 5]],
        [["a", 1, 4, 4, 5, 5]],
        [[1, 1, 1e12, 4, 5, 5]],
        [[float("nan"), 1, 5, 4, 5, 5]],
        [[30, 1, 40, 1, 40, 9]],
        [],
        None,
        {"size": [10**6, 10**6], "counts": [10**12]},
        {"size": [16, 24], "counts": [2, 10**9]},
        {"size": [16, 24], "counts": "PPYo0"},
        {"size": [16, 24]},
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_named_or_left_out(tmp_path, segmentation):
    good = {"category_id": 3, "segmentation": [SQUARE]}
    write(tmp_path, [good, {"category_id": 7, "segmentation": segmentation}])
    with pytest.raises(DataError) as error:
        polygons.read(tmp_path)
    assert error.value.found == "objects without a polygon inside their image: 1 (annotation 1 of train.jpg)"
    assert found(tmp_path, skip=True).classes == (0, 1)


def test_other_mistakes(tmp_path):
    good = {"category_id": 3, "segmentation": [SQUARE]}
    for values, words in (
        ({"width": 30}, "annotations with another size than their image: 1"),
        ({"file_name": "gone.jpg"}, "images that do not exist: 1"),
    ):
        write(tmp_path, [good], **values)
        with pytest.raises(DataError) as error:
            polygons.read(tmp_path)
        assert error.value.found.startswith(words)
    write(tmp_path, [{**good, "category_id": 99}])
    with pytest.raises(DataError) as error:
        polygons.read(tmp_path)
    assert error.value.found.startswith("objects of an unknown category: 1")
    write(tmp_path, [good])
    write(tmp_path, [{**good, "category_id": 7}], "val")
    with pytest.raises(DataError) as error:
        polygons.read(tmp_path)
    assert error.value.found == "car"  # which train does not show


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_are_upright_as_their_photos(tmp_path, orientation):
    upright = SIZE[::-1] if orientation > 4 else SIZE
    write(tmp_path, [{"category_id": 3, "segmentation": [SQUARE]}], orientation=orientation)
    mask = found(tmp_path)
    assert mask.size == upright
    photo = Image.fromarray(np.stack([square((2, 3, 8, 9)).astype(np.uint8) * 200] * 3, 2))
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.save(tmp_path / "photo.png", exif=exif)
    seen = np.asarray(decode.read(tmp_path / "photo.png"))[..., 0] > 100
    if orientation > 4:  # the annotation is for the photo as it is stored
        assert (mask.read() == seen).all()
    else:  # it has the upright size too
        assert (mask.read() == square((2, 3, 8, 9))).all()


def test_masks_come_first_and_other_documents_are_none(tmp_path):
    write(tmp_path / "boxes", [{"category_id": 3, "bbox": [1, 1, 5, 5]}])
    assert polygons.read(tmp_path / "boxes") is None
    write(tmp_path / "both", [{"category_id": 3, "segmentation": [SQUARE]}])
    (tmp_path / "both/masks").mkdir()
    Image.new("L", SIZE).save(tmp_path / "both/masks/train.png")
    assert polygons.read(tmp_path / "both") is None


def test_they_are_data_for_the_task(tmp_path):
    write(tmp_path, [{"category_id": 3, "segmentation": [SQUARE]}, {"category_id": 7, "segmentation": [OTHER]}])
    found = data.find(tmp_path, Layout())
    assert found.class_names == ("background", "road", "car")
    assert found.splits["train"][0].target.classes == (0, 1, 2)
