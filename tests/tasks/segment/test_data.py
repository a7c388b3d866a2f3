"""Masks as targets: sizes, weights, numbering, and what a user is told."""

import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from mnv2zoo.data.layout import Layout
from mnv2zoo.data.masks import Mask
from mnv2zoo.data.tree import File
from mnv2zoo.errors import DataError
from mnv2zoo.tasks.segment import data
from mnv2zoo.training.artifacts import images_fingerprint
from tests.tasks.segment.scenes import NAMES, VOID, fill, mask


class Shown:
    """A sample whose mask has these pixels."""

    def __init__(self, size=(1, 1), **pixels):
        numbers = tuple((int(name.strip("_")), count) for name, count in pixels.items())
        self.target = Mask("a.png", File("a.png", None), size=size, pixels=numbers)


def test_targets_are_read_when_needed_and_move_with_the_data(tmp_path):
    found = data.find(fill(tmp_path / "data"), Layout())
    assert found.class_names == NAMES
    sample = pickle.loads(pickle.dumps(found.splits["train"][3]))
    wanted = mask(3)
    assert (sample.target.read() == wanted).all()
    assert sample.target.classes == (0, 1, 2)
    counts = ", ".join(f"{number}: {(wanted == number).sum()}" for number in range(3))
    assert str(sample.target) == f"train/masks/03.png ({counts})"
    was = images_fingerprint(found)
    shutil.move(tmp_path / "data", tmp_path / "moved")
    moved = data.find(tmp_path / "moved", Layout())
    assert images_fingerprint(moved) == was


def test_ignored_numbers_are_void(tmp_path):
    folder = fill(tmp_path / "data")
    with pytest.raises(DataError) as error:
        data.find(folder, Layout(ignore_index=7))
    assert "such as 255: 12 (" in error.value.found
    assert "--ignore-index (now 7)" in error.value.fix
    for file in folder.glob("*/masks/*.png"):
        numbers = np.array(Image.open(file))
        Image.fromarray(np.where(numbers == VOID, 7, numbers).astype(np.uint8)).save(file)
    sample = data.find(folder, Layout(ignore_index=7)).splits["train"][0]
    assert (sample.target.read() == mask(0)).all()
    assert sample.target.classes == (0, 1, 2)


def test_a_mask_that_changed_is_an_error(tmp_path):
    sample = data.find(fill(tmp_path / "data"), Layout()).splits["train"][0]
    Image.new("L", (5, 5)).save(sample.target.file.place)
    with pytest.raises(DataError) as error:
        sample.target.read()
    assert (error.value.expected, error.value.found) == ("48 x 36 pixels", "5 x 5 pixels")


def test_names_that_no_pixel_has_are_noted(tmp_path):
    fill(tmp_path / "data")
    (tmp_path / "data/classes.txt").write_text("sky\nroad\ncar\ntrain\n")
    found = data.find(tmp_path / "data", Layout())
    assert found.notes == ("classes without training pixels: train",)
    assert len(found.class_names) == 4


def test_one_class_alone_is_refused(tmp_path):
    folder = tmp_path / "data"
    fill(folder, 2, 0)
    (folder / "classes.txt").unlink()
    for file in (folder / "train/masks").glob("*.png"):
        Image.fromarray(np.where(np.array(Image.open(file)) == 2, 255, 0).astype(np.uint8)).save(file)
    with pytest.raises(DataError) as error:
        data.find(folder, Layout())
    assert "--ignore-index" in error.value.fix


def test_folders_of_splits_cannot_be_named(tmp_path):
    with pytest.raises(DataError) as error:
        data.find(fill(tmp_path / "data"), Layout(val_dir="val"))
    assert error.value.found == "val"


@pytest.mark.parametrize(
    ("sizes", "short", "expected"),
    [
        ([(480, 360)] * 3, 360, (360, 480)),
        ([(480, 360), (1000, 500), (1000, 500)], 100, (100, 200)),
        ([(36, 48)], 64, (88, 64)),
        ([(50, 50)], 70, (70, 70)),
        ([(4000, 10)], 32, (32, 96)),
    ],
)
def test_the_size_of_the_input(sizes, short, expected):
    assert data.input_size([Shown(size) for size in sizes], short) == expected


def test_weights_by_median_frequency():
    # Frequencies: 0 in both images 12 of 20, 1 in both 6 of 20, 2 in the second alone 2 of 10. The median is 0.3.
    samples = [Shown(_0=7, _1=3), Shown(_0=5, _1=3, _2=2)]
    assert data.balanced(samples, 4) == pytest.approx([0.5, 1, 1.5, 1])
    rare = [Shown(_0=10_000, _1=10_000, _2=1)]
    assert data.balanced(rare, 3) == pytest.approx([1, 1, 10])


def test_numbers_follow_names(tmp_path):
    found = data.find(fill(tmp_path / "data"), Layout())
    samples = found.splits["val"]
    (first, *_) = data.align(samples, found.class_names, ("car", "tree", "road", "sky"))
    wanted = mask(8)
    assert (first.target.read() == np.array([3, 2, 0] + [VOID] * 253, np.uint8)[wanted]).all()
    assert first.target.classes == (0, 2, 3)
    assert data.align(samples, found.class_names, (*NAMES, "more")) == list(samples)
    assert data.align(samples, ("0", "1", "2"), NAMES) == list(samples)
    with pytest.raises(DataError) as error:
        data.align(samples, found.class_names, ("sky", "road"))
    assert error.value.found == "car"
