"""Validation images are taken class by class or group by group, folds are even, and a written split is found again."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from mnv2zoo.data.datasets import Data, Sample, find
from mnv2zoo.data.splits import folds, of_fold, restrict, with_grouped_validation, with_validation
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


def data_of(groups, classes=("a", "b")):
    """Data with one image per letter of each group's text, of the class that the letter names."""
    samples, names = [], {}
    for group, letters in groups.items():
        for number, letter in enumerate(letters):
            name = f"train/{letter}/{group}-{number}.jpg"
            samples.append(Sample(name, classes.index(letter), Path(name), key=name))
            names[name] = group
    return Data(tuple(classes), {"train": tuple(samples)}), names


def groups_in(data, groups):
    return {split: {groups[sample.name] for sample in own} for split, own in data.splits.items()}


def test_groups_are_held_out_whole_and_each_class_by_its_share():
    data, groups = data_of({f"plant{number}": "aaaa" if number < 10 else "bb" for number in range(20)})
    split = with_grouped_validation(data, 0.2, 0, groups)
    assert [len(own) for own in groups_in(split, groups).values()] == [16, 4]
    assert [Counter(s.target for s in split.splits[name]) for name in ("train", "val")] == [
        {0: 32, 1: 16},
        {0: 8, 1: 4},
    ]
    assert names(with_grouped_validation(data, 0.2, 0, groups)) == names(split)
    assert names(with_grouped_validation(data, 0.2, 1, groups)) != names(split)


def test_each_class_keeps_a_group_and_gives_one_if_it_has_another():
    data, groups = data_of({"one": "aaaaaaaa", "two": "a", "lone": "bbb"})
    split = groups_in(with_grouped_validation(data, 0.1, 0, groups), groups)
    assert split == {"train": {"one", "lone"}, "val": {"two"}}


def test_copies_join_the_groups_that_they_are_in():
    data, groups = data_of({f"plant{number}": "ab" for number in range(6)})
    one, *rest = data.splits["train"]
    copied = replace(data, splits={"train": (replace(one, key=rest[-1].key), *rest)})
    for fold in folds(copied, 3, 0, groups):
        assert (one.name in fold) == (rest[-1].name in fold)


def test_a_group_in_two_splits_of_the_data_is_named():
    data, groups = data_of({"plant1": "ab", "plant2": "ab"})
    first, *others = data.splits["train"]
    torn = replace(data, splits={"train": tuple(others), "test": (first,)})
    for split in (
        lambda: with_grouped_validation(torn, 0.1, 0, groups),
        lambda: folds(torn, 2, 0, groups),
    ):
        with pytest.raises(DataError) as error:
            split()
        assert (error.value.problem, error.value.found) == ("1 groups are in both train and test", "plant1")


def test_folds_hold_each_image_once_and_as_many_of_each_class_as_scikit_learns():
    classes = ["a"] * 17 + ["b"] * 9 + ["c"] * 5
    data, _ = data_of({f"{number:02}": letter for number, letter in enumerate(classes)}, ("a", "b", "c"))
    found = folds(data, 4, 0)
    assert sorted(name for fold in found for name in fold) == sorted(s.name for s in data.splits["train"])
    counts = [Counter(name.split("/")[1] for name in fold) for fold in found]
    theirs = [held for _, held in StratifiedKFold(4).split(classes, classes)]
    for letter in "abc":
        expected = sorted(sum(classes[index] == letter for index in held) for held in theirs)
        assert sorted(count[letter] for count in counts) == expected
    assert max(map(len, found)) - min(map(len, found)) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_folds_of_groups_are_as_even_as_scikit_learns(seed):
    chance = random.Random(seed)
    sizes = {f"g{number}": "".join(chance.choices("abc", (5, 3, 1), k=chance.randint(1, 12))) for number in range(40)}
    data, groups = data_of(sizes, ("a", "b", "c"))
    targets = [sample.target for sample in data.splits["train"]]
    of_image = [groups[sample.name] for sample in data.splits["train"]]

    def unevenness(parts):
        """The largest distance of a class's share in a fold from a fifth."""
        total = Counter(targets)
        return max(abs(Counter(part)[label] / total[label] - 1 / 5) for part in parts for label in total)

    ours = folds(data, 5, seed, groups)
    label = {sample.name: sample.target for sample in data.splits["train"]}
    assert all(
        len({number for number, fold in enumerate(ours) if set(own) & set(fold)}) == 1
        for own in ([name for name in label if groups[name] == group] for group in sizes)
    )
    theirs = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(targets, targets, of_image)
    mine = unevenness([[label[name] for name in fold] for fold in ours])
    assert mine <= unevenness([[targets[index] for index in held] for _, held in theirs]) + 0.02


def test_images_of_several_classes_and_of_none_are_folded():
    targets = [Several((0, 1))] * 4 + [Several((0,))] * 20
    samples = tuple(Sample(f"{number}.jpg", target, Path()) for number, target in enumerate(targets))
    found = folds(Data(("often", "rarely"), {"train": samples}), 4, 0)
    assert [sum(int(name[:-4]) < 4 for name in fold) for fold in found] == [1, 1, 1, 1]
    plain = tuple(Sample(f"{number}.jpg", float(number), Path()) for number in range(10))
    assert sorted(map(len, folds(Data((), {"train": plain}), 4, 0))) == [2, 2, 3, 3]


def test_a_fold_is_held_out_and_the_test_images_stay():
    data, _ = data_of({f"{number}": "ab" for number in range(6)})
    *train, test = data.splits["train"]
    data = replace(data, splits={"train": tuple(train[:6]), "val": tuple(train[6:]), "test": (test,)})
    parts = folds(data, 3, 0)
    second = of_fold(data, parts, 2)
    assert sorted(s.name for s in second.splits["val"]) == sorted(parts[1])
    assert sorted(s.name for s in second.splits["train"]) == sorted(parts[0] + parts[2])
    assert second.splits["test"] == (test,)


@pytest.mark.parametrize(
    ("groups", "problem", "found"),
    [
        ({"one": "ab", "two": "ab"}, "there are only 2 groups for 3 folds", "2"),
        (
            {"one": "aab", "two": "a", "three": "a"},
            "1 classes would have no training images in some fold",
            "b (fold",
        ),
    ],
)
def test_folds_that_cannot_be_made_are_an_error(groups, problem, found):
    data, of_image = data_of(groups)
    with pytest.raises(DataError) as error:
        folds(data, 3, 0, of_image)
    assert error.value.problem == problem
    assert found in str(error.value.found)
