"""Validation images are taken class by class, and a written split is found again."""

import pytest

from mnv2zoo.data.datasets import Data, Sample, find
from mnv2zoo.data.splits import restrict, with_validation
from mnv2zoo.errors import DataError
from tests.photos import fill


def names(data):
    return {split: sorted(sample.name for sample in samples) for split, samples in data.splits.items()}


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


class Several(tuple):
    """A target that shows several classes."""

    @property
    def classes(self):
        return tuple(self)


def test_images_of_several_classes_are_split_by_the_rarest(tmp_path):
    targets = [Several((0, 1))] * 4 + [Several((0,))] * 20
    samples = tuple(Sample(f"{number}.jpg", target, tmp_path) for number, target in enumerate(targets))
    data = with_validation(Data(("often", "rarely"), {"train": samples}), 0.25, seed=0)
    assert [sum(1 in s.target for s in data.splits[split]) for split in ("train", "val")] == [3, 1]
    assert [len(data.splits[split]) for split in ("train", "val")] == [18, 6]


def test_a_fraction_of_zero_takes_no_image(photos):
    assert list(with_validation(find(photos), 0, seed=0).splits) == ["train"]
