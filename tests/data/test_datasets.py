"""Photos are found wherever they lie, split, checked and batched."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mnv2zoo.data.datasets import Photos, check, find, restrict, with_validation
from mnv2zoo.data.sampler import Batches
from mnv2zoo.errors import DataError, ImageReadError
from tests.photos import encoded, fill, photo, tar


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


def test_a_dataset_of_timm_is_found_by_its_name(tmp_path, monkeypatch):
    import pickle

    # The files of CIFAR-10 as its authors pack them, with few images; torchvision checks their names alone.
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    labels = [0, 1, 2, 0, 1, 2, 3]
    rows = np.random.default_rng(0).integers(0, 255, (7, 3072), dtype=np.uint8)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    monkeypatch.setattr("torchvision.datasets.utils.check_integrity", lambda *args: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    data = find("torch/cifar10", root=tmp_path)
    assert data.class_names[3] == "class 3"
    assert list(data.splits) == ["train", "test"]  # one split must not be there under two names
    assert [s.target for s in data.splits["test"]] == labels
    assert np.array_equal(np.asarray(data.splits["test"][2].read()), rows[2].reshape(3, 32, 32).transpose(1, 2, 0))


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
    with pytest.raises(DataError, match="classes in test that train lacks") as error:
        find(folder)
    assert error.value.found == "purple"


def test_an_empty_class_is_an_error_that_names_it(photos):
    (photos / "yellow").mkdir()
    with pytest.raises(DataError, match="'yellow' is a class without images"):
        find(photos)


def test_one_class_is_an_error(tmp_path):
    with pytest.raises(DataError, match="too few classes") as error:
        find(fill(tmp_path / "photos", colors=["red"]))
    assert error.value.found == "'red' alone"


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


def test_validation_images_are_taken_class_by_class(photos):
    fill(photos, 1, ["red"], first=8)
    data = with_validation(find(photos), 0.25, seed=0)
    counts = [[sum(s.target == label for s in data.splits[split]) for label in range(3)] for split in ("train", "val")]
    assert counts == [[6, 6, 7], [2, 2, 2]]
    assert names(data) == names(with_validation(find(photos), 0.25, seed=0))
    assert names(data) != names(with_validation(find(photos), 0.25, seed=1))


def test_a_class_of_one_image_keeps_it_for_training(tmp_path):
    folder = fill(tmp_path / "photos", 4)
    for file in list((folder / "red").iterdir())[1:]:
        file.unlink()
    data = with_validation(find(folder), 0.5, seed=0)
    assert [s.target for s in data.splits["train"]].count(2) == 1
    assert [s.target for s in data.splits["val"]].count(2) == 0


def test_a_class_is_split_alike_whatever_the_others_are(photos):
    before = names(with_validation(find(photos), 0.25, seed=3))["val"]
    for file in (photos / "blue").iterdir():
        file.unlink()
    (photos / "blue").rmdir()
    after = names(with_validation(find(photos), 0.25, seed=3))["val"]
    assert after == [name for name in before if "blue" not in name]


def test_a_written_split_is_taken_up_and_missing_images_are_told_of(photos):
    data = with_validation(find(photos), 0.25, seed=0)
    assert names(restrict(find(photos), names(data))) == names(data)
    (photos / "red" / "03.png").unlink()
    with pytest.raises(DataError, match=r"(?s)changed since the run began.*train/red/03.png"):
        restrict(find(photos), {"train": ["train/red/03.png"]})


def test_images_that_cannot_be_read_stop_a_training_before_it_begins(photos):
    (photos / "red" / "00.png").write_bytes(b"")
    (photos / "blue" / "01.png").write_bytes((photos / "blue" / "02.png").read_bytes()[:200])
    with pytest.raises(DataError) as caught:
        check(find(photos), skip_bad=False)
    assert "2 of 24 images" in str(caught.value)
    assert "train/red/00.png (an empty file)" in str(caught.value)
    assert "train/blue/01.png" in str(caught.value)

    done = []
    data = check(find(photos), skip_bad=True, advance=done.append)
    assert len(data.splits["train"]) == 22
    assert any("2 images are left out" in note and "train/red/00.png" in note for note in data.notes)
    assert sum(done) == 24


def test_a_class_that_is_left_without_images_is_an_error(photos):
    for file in (photos / "red").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)without readable images.*red"):
        check(find(photos), skip_bad=True)


def test_odd_images_are_named_counted_and_used(photos):
    picture = photo("red", 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    (photos / "red" / "a.jpg").write_bytes(encoded(picture, "JPEG", exif=exif))
    (photos / "red" / "b.jpg").write_bytes(encoded(picture.convert("CMYK"), "JPEG"))
    (photos / "red" / "c.gif").write_bytes(
        encoded(picture, "GIF", save_all=True, append_images=[photo("blue", 1), photo("green", 2)])
    )
    wide = Image.fromarray(np.full((36, 40), 30_000, np.uint16))
    (photos / "red" / "d.png").write_bytes(encoded(wide, "PNG"))
    data = check(find(photos), skip_bad=False)
    assert len(data.splits["train"]) == 28
    for kind, name in (("rotated", "a.jpg"), ("CMYK", "b.jpg"), ("animated", "c.gif"), ("16-bit", "d.png")):
        assert any(f"1 image is {kind}" in note and f"train/red/{name}" in note for note in data.notes), data.notes
    sizes = {s.name[-5:]: s.read().size for s in data.splits["train"]}
    assert sizes["a.jpg"] == (36, 40)


def test_a_tar_file_cut_short_after_it_was_listed_is_an_error(tmp_path, photos):
    place = tar(photos, tmp_path / "photos.tar")
    sample = find(place).splits["train"][-1]
    with place.open("r+b") as file:
        file.truncate(sample.offset + 100)
    with pytest.raises(ImageReadError, match=sample.name):
        sample.read()


@settings(max_examples=60, deadline=None)
@given(count=st.integers(2, 60), batch_size=st.integers(2, 40), seed=st.integers(0, 9), epoch=st.integers(0, 5))
def test_every_image_comes_in_every_epoch_and_every_batch_is_whole(count, batch_size, seed, epoch):
    batches = Batches(count, batch_size, seed)
    batches.epoch = epoch
    steps = list(batches)
    assert len(steps) == len(batches) == batches.steps
    assert all(len(batch) == batch_size for batch in steps)
    indices = [index for batch in steps for index, _ in batch]
    assert sorted(indices[:count]) == list(range(count))
    assert set(indices) == set(range(count))
    assert list(batches) == steps
    batches.first = min(2, batches.steps - 1)
    assert list(batches) == steps[batches.first :]


def test_epochs_differ():
    batches = Batches(100, 10, 0)
    first = list(batches)
    batches.epoch = 1
    assert list(batches) != first


def test_augmentation_depends_on_the_seed_of_the_sample_alone(photos):
    samples = find(photos).splits["train"]
    dataset = Photos(samples, lambda image: torch.rand(3))
    torch.manual_seed(5)
    one = dataset[3, 77][0]
    dataset[4, 78]
    assert torch.equal(one, dataset[3, 77][0])
    assert not torch.equal(one, dataset[3, 78][0])
    assert dataset[3][1] == dataset[3, 77][1] == 0
