"""Photos are found wherever they lie, split, checked and batched."""

import numpy as np
import pytest
import torch

from mnv2zoo.data.datasets import Photos, find
from mnv2zoo.data.layout import Layout
from mnv2zoo.errors import DataError, ImageReadError
from tests.photos import fill, photo, tar


def names(data):
    return {split: sorted(sample.name for sample in samples) for split, samples in data.splits.items()}


def splits(folder):
    """Folders of a training, a validation and a test split."""
    fill(folder / "train", 4)
    fill(folder / "val", 2, first=4)
    fill(folder / "test", 3, first=6)
    return folder


def test_a_plain_folder_is_all_for_training(photos):
    data = find(photos)
    assert data.class_names == ("blue", "green", "red")
    assert list(data.splits) == ["train"]
    assert [s.target for s in data.splits["train"]] == [0] * 8 + [1] * 8 + [2] * 8
    assert data.splits["train"][8].name == "train/green/00.png"


@pytest.mark.parametrize("spelling", [("train", "val", "test"), ("Training", "validation", "testing")])
def test_folders_of_splits_are_splits(tmp_path, spelling):
    for name, count in zip(spelling, (4, 2, 3), strict=True):
        fill(tmp_path / "data" / name, count)
    data = find(tmp_path / "data")
    assert {split: len(samples) for split, samples in data.splits.items()} == {"train": 12, "val": 6, "test": 9}


def test_every_layout_in_tar_files_gives_what_the_folders_give(tmp_path):
    folder = splits(tmp_path / "data")
    expected = find(folder)
    whole = tar(folder, tmp_path / "whole.tar")
    wrapped = tar(folder, tmp_path / "wrapped.tar", prefix="./a-name/")
    (tmp_path / "own").mkdir()
    (tmp_path / "bare").mkdir()
    for split in ("train", "val", "test"):
        tar(folder / split, tmp_path / "own" / f"{split}.tar", prefix=f"{split}/")
        tar(folder / split, tmp_path / "bare" / f"{split}.tar")
    (tmp_path / "own" / "classes.csv").write_text("not an image")
    for place in (whole, wrapped, tmp_path / "own", tmp_path / "bare"):
        data = find(place)
        assert (data.class_names, names(data)) == (expected.class_names, names(expected)), place
        for one, other in zip(data.splits["val"], expected.splits["val"], strict=True):
            assert one.target == other.target
            assert np.array_equal(np.asarray(one.read()), np.asarray(other.read()))


def test_a_plain_folder_in_a_tar_file_is_all_for_training(tmp_path, photos):
    assert names(find(tar(photos, tmp_path / "photos.tar", prefix="photos/"))) == names(find(photos))


@pytest.mark.parametrize("place", ["nowhere", "torch/no-such-dataset"])
def test_what_is_not_there_is_an_error(place):
    with pytest.raises(DataError, match=place):
        find(place)


def test_classes_come_from_train(tmp_path):
    folder = splits(tmp_path / "data")
    fill(folder / "val", 1, ["red"])
    for file in (folder / "test" / "green").iterdir():
        file.unlink()
    data = find(folder)
    assert data.notes == ("test has no images of 1 of 3 classes: green",)
    (folder / "test" / "purple").mkdir()
    photo("red", 1).save(folder / "test" / "purple" / "1.png")
    with pytest.raises(DataError, match="the split test has classes that train lacks") as error:
        find(folder)
    assert error.value.found == "purple"


def test_an_empty_class_is_an_error_that_names_it(photos):
    (photos / "yellow").mkdir()
    with pytest.raises(DataError, match="the class folder 'yellow' has no images"):
        find(photos)


def test_one_class_is_an_error(tmp_path):
    with pytest.raises(DataError, match="only one class") as error:
        find(fill(tmp_path / "photos", colors=["red"]))
    assert error.value.found == "'red' only"


def test_images_in_no_class_are_told_of(photos):
    photo("red", 1).save(photos / "lost.png")
    assert find(photos).notes == ("ignored: 1 image outside class folders",)


def test_a_folder_that_links_to_itself_ends(photos):
    (photos / "red" / "again").symlink_to(photos)
    assert len(find(photos).splits["train"]) == 24


def test_a_compressed_or_broken_tar_file_is_an_error(tmp_path):
    (tmp_path / "bad.tar").write_bytes(b"no tar file at all" * 100)
    with pytest.raises(DataError, match="uncompressed tar file"):
        find(tmp_path / "bad.tar")


def test_a_tar_file_cut_short_after_it_was_listed_is_an_error(tmp_path, photos):
    place = tar(photos, tmp_path / "photos.tar")
    sample = find(place).splits["train"][-1]
    with place.open("r+b") as file:
        file.truncate(sample.offset + 100)
    with pytest.raises(ImageReadError, match=sample.name):
        sample.read()


def test_augmentation_depends_on_the_seed_of_the_sample_alone(photos):
    samples = find(photos).splits["train"]
    dataset = Photos(samples, lambda image: torch.rand(3))
    torch.manual_seed(5)
    one = dataset[3, 77][0]
    dataset[4, 78]
    assert torch.equal(one, dataset[3, 77][0])
    assert not torch.equal(one, dataset[3, 78][0])
    assert dataset[3][1] == dataset[3, 77][1] == 0


def test_arrays_are_samples_of_a_network_that_does_not_take_rgb(tmp_path):
    for label in ("ant", "bee"):
        (tmp_path / label).mkdir()
        np.save(tmp_path / label / "0.npy", np.full((4, 6, 2), 255, np.uint8))
    with pytest.raises(DataError):
        find(tmp_path)
    data = find(tmp_path, layout=Layout(in_chans=2))
    assert [sample.name for sample in data.splits["train"]] == ["train/ant/0.npy", "train/bee/0.npy"]
    assert data.splits["train"][0].read().values.tolist() == np.ones((4, 6, 2)).tolist()
    with pytest.raises(DataError) as error:
        find("torch/cifar10", tmp_path / "none", Layout(in_chans=2))
    assert error.value.found == "in_chans=2"
