"""The documents of a run tell all that was used."""

import dataclasses
import hashlib
import json
from types import SimpleNamespace

import pytest

from mnv2zoo.data.datasets import find
from mnv2zoo.tasks.classify.task import Classify
from mnv2zoo.tasks.segment.task import Segment
from mnv2zoo.training import artifacts
from tests.photos import fill
from tests.training.runs import (
    MODEL,
    rows,
)


def test_the_folder_tells_all_that_was_used(trained):
    photos, run, result = trained
    document = json.loads((run / "recipe.json").read_text())
    assert document["model"] == MODEL
    assert document["data"] == str(photos)
    assert document["recipe"]["lr"] == 0.01
    assert document["recipe"]["crop_pct"] == 0.75
    assert None not in (document["recipe"][key] for key in ("mean", "std", "interpolation", "input_size"))
    split = json.loads((run / "split.json").read_text())
    assert {name: len(names) for name, names in split.items()} == {"train": 42, "val": 6, "test": 12, "images": 60}
    assert set(split["images"]) == {*split["train"], *split["val"], *split["test"]}
    assert rows(run) == result.history
    card = (run / "README.md").read_text()
    assert f"| test | 12 | {result.scores['test'].top1:.2f} |" in card
    assert (run / "labels.txt").read_text() == "blue\ngreen\nred\n"
    assert {"README.md", "curves.png", "confusion.png"} <= {f.name for f in (run / "report" / "test").iterdir()}


def test_the_fingerprint_of_images_is_that_of_their_names_classes_and_sizes(tmp_path):
    folder = fill(tmp_path / "photos", 2)
    data = find(folder)
    lines = [
        f"train\0train/{color}/{number:02}.png\0{target}\0{(folder / color / f'{number:02}.png').stat().st_size}\n"
        for target, color in enumerate(("blue", "green", "red"))
        for number in range(2)
    ]
    assert artifacts.images_fingerprint(data) == hashlib.sha256("".join(lines).encode()).hexdigest()
    folder.rename(tmp_path / "moved")
    assert artifacts.images_fingerprint(find(tmp_path / "moved")) == artifacts.images_fingerprint(
        dataclasses.replace(data, splits=find(tmp_path / "moved").splits)
    )


def test_the_preprocessing_names_the_test_size_only_where_it_differs():
    train = {"input_size": (3, 32, 32), "crop_pct": 0.875, "mean": (0.5,) * 3}
    same = SimpleNamespace(preprocessing=train, test_preprocessing=train | {"crop_pct": 1.0})
    assert artifacts.preprocessing_of(same) == train | {"crop_pct": 1.0}
    larger = SimpleNamespace(preprocessing=train, test_preprocessing=train | {"input_size": (3, 64, 64)})
    assert artifacts.preprocessing_of(larger) == train | {"test_input_size": (3, 64, 64)}


@pytest.mark.parametrize(
    ("task", "size", "given", "expected"),
    [
        (Classify, (32, 32), None, 32),
        (Classify, (32, 64), None, [32, 64]),  # of the weights that it starts from
        (Segment, (32, 64), 32, 32),  # the other side follows from the images
        (Segment, (32, 64), (32, 64), [32, 64]),
    ],
)
def test_a_recorded_size_gives_the_same_size_again(task, size, given, expected):
    assert artifacts._size({"input_size": (3, *size)}, task(), given) == expected
