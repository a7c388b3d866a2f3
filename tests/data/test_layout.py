"""Which folders are splits and which are classes."""

import pytest

from mnv2zoo.data.layout import Layout, read
from mnv2zoo.errors import DataError


def images(folder, *names):
    """Makes files of these names; a layout is found without reading them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(place, **layout):
    return {
        split: [(image.name, image.label) for image in own]
        for split, own in read(place, Layout(**layout)).splits.items()
    }


def test_class_folders_alone_are_for_training(tmp_path):
    assert found(images(tmp_path, "b/1.jpg", "a/deep/2.png")) == {
        "train": [("train/a/deep/2.png", "a"), ("train/b/1.jpg", "b")]
    }


def test_folders_with_usual_names_that_hold_class_folders_are_splits(tmp_path):
    images(tmp_path, "training/a/1.jpg", "dev/a/2.jpg", "testing/b/3.jpg")
    assert found(tmp_path) == {
        "train": [("train/a/1.jpg", "a")],
        "val": [("val/a/2.jpg", "a")],
        "test": [("test/b/3.jpg", "b")],
    }


def test_a_folder_around_everything_is_unwrapped(tmp_path):
    listing = read(images(tmp_path, "photos/a/1.jpg", "photos/b/2.jpg"))
    assert [image.label for image in listing.splits["train"]] == ["a", "b"]
    assert listing.notes == ["the class folders are in photos/, the only folder in the data"]


def test_ambiguous_names_are_refused_until_the_layout_says_what_they_are(tmp_path):
    images(tmp_path, "test/1.jpg", "validation/2.jpg", "cat/3.jpg")
    with pytest.raises(DataError) as failure:
        read(tmp_path)
    assert failure.value.problem == "the folders test, validation may be splits or classes"
    assert [label for _, label in found(tmp_path, layout="classes")["train"]] == ["cat", "test", "validation"]


def test_splits_may_have_any_name_that_is_given(tmp_path):
    images(tmp_path, "spring/a/1.jpg", "summer/a/2.jpg")
    assert found(tmp_path, train_dir="spring", val_dir="summer") == {
        "train": [("train/a/1.jpg", "a")],
        "val": [("val/a/2.jpg", "a")],
    }


def test_a_name_that_is_not_in_the_data_is_refused(tmp_path):
    with pytest.raises(DataError) as failure:
        read(images(tmp_path, "train/a/1.jpg"), Layout(val_dir="winter"))
    assert failure.value.fix == "Correct --val-dir."


def test_what_is_not_used_is_counted(tmp_path):
    images(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "train/a/notes.txt", "eval/a/3.jpg", "4.jpg")
    assert str(read(tmp_path, Layout(layout="splits")).unused) == (
        "ignored: 1 image outside class folders, 1 .txt file, folder eval/"
    )
