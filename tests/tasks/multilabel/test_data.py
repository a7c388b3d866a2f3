"""Samples with labels."""

import pickle
from collections import Counter

import pytest

from mnv2zoo.data import checks
from mnv2zoo.data.labels import classes_of
from mnv2zoo.data.layout import Layout
from mnv2zoo.data.splits import with_validation
from mnv2zoo.errors import DataError
from mnv2zoo.tasks.multilabel.data import Labels, align, check_validation, counts, find
from tests.tasks.multilabel.scenes import NAMES, fill, fill_columns, labels_of


def test_labels_pickle_and_say_what_they_are():
    labels = Labels((0, 2), 4)
    assert pickle.loads(pickle.dumps(labels)) == labels
    assert str(labels) == "Labels(classes=(0, 2), count=4)"
    assert classes_of(labels) == (0, 2)
    assert labels.hot().tolist() == [1, 0, 1, 0]
    assert Labels((), 2).hot().tolist() == [0, 0]


def test_samples_have_the_labels_of_their_rows(tmp_path):
    data = find(fill(tmp_path / "data"), Layout())
    assert data.class_names == NAMES
    for sample in data.splits["train"]:
        assert [NAMES[c] for c in sample.target.classes] == labels_of(int(sample.name[-7:-4]))
    assert counts(data.splits["train"]) == {0: 8, 1: 8, 2: 8}


def test_the_split_is_by_the_rarest_label_of_an_image(tmp_path):
    folder = fill_columns(tmp_path / "data", 40)
    data = checks.check(find(folder, Layout()), skip_bad=False)
    split = with_validation(data, 0.25, seed=0)
    # All labels have 20 images, so an image counts for the first of its labels: 20, 10, 5, and 5 without any.
    groups = Counter(min(sample.target.classes, default=None) for sample in split.splits["val"])
    assert groups == {0: 5, 1: 2, 2: 1, None: 1}
    assert with_validation(data, 0.25, seed=0) == split


def test_other_data_is_numbered_as_the_network(tmp_path):
    data = find(fill(tmp_path / "data"), Layout())
    samples = align(data.splits["train"], data.class_names, ("red", "white", "blue", "green"))
    assert samples[5].target == Labels((0, 2), 4)  # picture 5 shows blue and red
    with pytest.raises(DataError) as error:
        align(data.splits["train"], data.class_names, ("red", "blue"))
    assert error.value.found == "'green'"


def test_validation_without_labels_is_refused(tmp_path):
    data = find(fill(tmp_path / "data"), Layout())
    check_validation(data.splits)
    without = [sample for sample in data.splits["train"] if not sample.target.classes]
    with pytest.raises(DataError) as error:
        check_validation({"val": without})
    assert error.value.where == "val"
