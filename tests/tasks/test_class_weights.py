"""Weights of classes, from counts and from files."""

import pytest

from mnv2zoo.errors import RecipeError
from mnv2zoo.tasks.class_weights import balanced, read, weights

NAMES = ("ant", "bee")


def test_balanced_weights_make_classes_count_alike():
    counts = [30, 10, 0]
    found = balanced(counts)
    assert found == pytest.approx([20 / 30, 20 / 10, 1])
    assert found[0] * counts[0] == pytest.approx(found[1] * counts[1])


@pytest.mark.parametrize(
    ("name", "text"),
    [("w.json", '{"bee": 2, "ant": 0.5}'), ("w.csv", "bee,2\nant,0.5\n"), ("w.csv", "ant, 0.5\n\nbee,2")],
)
def test_files_give_a_weight_per_class(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read(tmp_path / name, NAMES) == [0.5, 2]
    assert weights(str(tmp_path / name), [1, 1], NAMES) == [0.5, 2]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"ant": 1}', "no weight for bee"),
        ('{"ant": 1, "bee": 1, "cat": 1}', "a weight for 'cat', which is not a class"),
        ('{"ant": 1, "bee": -1}', "-1.0 for 'bee'"),
        ('{"ant": 1, "bee": NaN}', "nan for 'bee'"),
        ("[1, 2]", "a JSON list"),
        ('{"ant": 1, "bee": null}', "float() argument must be a string or a real number, not 'NoneType'"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, found):
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(RecipeError) as caught:
        read(tmp_path / "w.json", NAMES)
    assert caught.value.found == found
    assert caught.value.where == tmp_path / "w.json"


def test_a_missing_file_is_refused():
    with pytest.raises(RecipeError) as caught:
        weights("balance", [1, 1], NAMES)
    assert "No such file" in caught.value.found
