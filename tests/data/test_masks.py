"""Masks: which image has which, which classes they show, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv2zoo.data import decode, masks
from mnv2zoo.errors import DataError
from tests.conftest import SHARED
from tests.photos import tar

CAMVID = SHARED / "data/camvid"
SKY, ROAD, VOID = 0, 1, 255


def pair(folder: Path, stem: str, numbers: list[list[int]], size: tuple[int, int] | None = None) -> None:
    """Writes an image and its mask of these numbers."""
    array = np.array(numbers, np.uint8)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size or array.shape[::-1]).save(folder / f"images/{stem}.jpg")
    Image.fromarray(array).save(folder / f"masks/{stem}.png")


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    folder = tmp_path / "streets"
    pair(folder / "train", "a", [[SKY, SKY, VOID], [ROAD, ROAD, 2]])
    pair(folder / "train", "b", [[SKY, ROAD]])
    pair(folder / "val", "c", [[ROAD, VOID]])
    return folder


def test_images_find_their_masks_and_splits(streets: Path) -> None:
    found = masks.read(streets)
    assert found.class_names == ("0", "1", "2")
    assert found.notes == ("classes are named by their numbers, 0 to 2, because there is no classes.txt",)
    assert {split: [image.name for image in own] for split, own in found.splits.items()} == {
        "train": ["train/images/a.jpg", "train/images/b.jpg"],
        "val": ["val/images/c.jpg"],
    }
    assert found.splits["val"][0].mask.file.place == streets / "val/masks/c.png"


def test_classes_txt_names_the_numbers(streets: Path) -> None:
    (streets / "classes.txt").write_text("sky\nroad\ncar\n")
    found = masks.read(streets)
    assert (found.class_names, found.notes) == (("sky", "road", "car"), ())


def test_a_number_without_a_name_is_refused_unless_it_is_ignored(streets: Path) -> None:
    (streets / "classes.txt").write_text("sky\nroad\n")
    with pytest.raises(DataError) as error:
        masks.read(streets)
    assert error.value.found == (
        "masks with numbers that classes.txt has no name for, such as 2: 1 (train/images/a.jpg)"
    )
    assert len(masks.read(streets, skip_bad=True).splits["train"]) == 1
    pair(streets / "train", "a", [[SKY, ROAD, 2]])
    pair(streets / "val", "c", [[ROAD, 2]])
    assert masks.read(streets, ignore_index=2).class_names == ("sky", "road")


@pytest.mark.parametrize("packed", [False, True])
def test_a_tar_for_each_split(streets: Path, tmp_path: Path, packed: bool) -> None:
    """As CamVid is packed, with the split's name within the tar file once more."""
    place = tmp_path / "packed"
    place.mkdir()
    for split in ("train", "val"):
        tar(streets / split, place / f"{split}.tar", f"{split}/" if packed else "")
    inner = "{0}/{0}" if packed else "{0}"
    found = masks.read(place)
    assert [image.name for image in found.splits["train"]] == [
        f"{inner.format('train')}/images/{stem}.jpg" for stem in "ab"
    ]
    assert len(found.splits["val"]) == 1


def test_palettes_are_numbers_and_colors_are_refused(streets: Path) -> None:
    palette = Image.fromarray(np.array([[1, 0]], np.uint8), "P")
    palette.putpalette([0, 0, 0, 250, 10, 10])
    palette.save(streets / "train/masks/b.png")
    assert masks.decode_mask((streets / "train/masks/b.png").read_bytes()).tolist() == [[1, 0]]
    Image.new("RGB", (2, 1)).save(streets / "train/masks/b.png")
    with pytest.raises(DataError) as error:
        masks.read(streets)
    assert "pixels of mode RGB" in error.value.found


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("size", "masks with another size than their image: 1 (train/images/b.jpg)"),
        ("no mask", "images without a mask: 1 (train/images/b.jpg)"),
        ("no image", "masks without an image: 1 (train/masks/b.png)"),
        ("no png", "masks that cannot be read, such as with 'an unknown image format': 1 (train/images/b.jpg)"),
    ],
)
def test_what_does_not_fit_is_named_or_left_out(streets: Path, damage: str, found: str) -> None:
    if damage == "size":
        pair(streets / "train", "b", [[SKY, ROAD]], size=(4, 4))
    elif damage == "no png":
        (streets / "train/masks/b.png").write_bytes(b"nothing")
    else:
        (streets / "train" / ("masks/b.png" if damage == "no mask" else "images/b.jpg")).unlink()
    with pytest.raises(DataError) as error:
        masks.read(streets)
    assert error.value.found.startswith(found)
    assert [image.name for image in masks.read(streets, skip_bad=True).splits["train"]] == ["train/images/a.jpg"]


def test_a_class_that_train_lacks_is_refused(streets: Path) -> None:
    pair(streets / "val", "c", [[ROAD, 7]])
    with pytest.raises(DataError) as error:
        masks.read(streets)
    assert error.value.found == "7"


def test_images_alone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "images/a.png")
    with pytest.raises(DataError) as error:
        masks.read(tmp_path, skip_bad=True)
    assert error.value.found == "1 images without masks"


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"CamVid is not at {CAMVID}")
def test_camvid_has_the_counts_and_classes_that_its_authors_give(tmp_path: Path) -> None:
    found = masks.read(CAMVID, ignore_index=11)
    assert {split: len(own) for split, own in found.splits.items()} == {"train": 367, "val": 101, "test": 233}
    assert len(found.class_names) == 11
    shutil.copy(CAMVID / "val.tar", tmp_path)
    assert len(masks.read(tmp_path, ignore_index=11).splits["val"]) == 101


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_are_upright_as_their_photos(tmp_path: Path, orientation: int) -> None:
    """A mask of the size of the stored photo is rotated with it; one that has the upright size stays."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = Image.fromarray(np.stack([40 * stored] * 3, 2))
    photo.save(tmp_path / "images/a.png", exif=exif)
    Image.fromarray(stored).save(tmp_path / "masks/a.png")
    upright = decode.read(tmp_path / "images/a.png")
    (image,) = masks.read(tmp_path).splits["train"]
    assert (40 * image.mask.read() == np.asarray(upright)[..., 0]).all()
    assert image.mask.size == upright.size
    if orientation < 5:
        return
    Image.fromarray(np.asarray(upright)[..., 0] // 40).save(tmp_path / "masks/a.png")
    (image,) = masks.read(tmp_path).splits["train"]
    assert (40 * image.mask.read() == np.asarray(upright)[..., 0]).all()
    assert image.mask.orientation == 1
    assert image.mask.pixels == tuple((number, 1) for number in range(6))
