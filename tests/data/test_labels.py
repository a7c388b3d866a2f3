"""Folder names and class names."""

import unicodedata

import pytest

from mnv2zoo.data.labels import composed, match_classes, names_in
from mnv2zoo.errors import DataError

IMAGENET = ["tench", "goldfish", *(f"class {number}" for number in range(2, 1000))]


def test_folders_are_matched_to_classes_by_name():
    assert match_classes(["dog", "ant", "dog"], ["ant", "bee", "dog"]) == [2, 0, 2]


def test_unicode_forms_of_a_name_are_one_name():
    assert match_classes([unicodedata.normalize("NFD", "Käfer")], [unicodedata.normalize("NFC", "Käfer")]) == [0]


def test_imagenet_classes_have_synsets_too():
    assert match_classes(["n01440764", "goldfish"], IMAGENET) == [0, 1]


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(DataError) as failure:
        match_classes(["bees"], ["ant", "bee", "dog"])
    assert failure.value.expected == "bee"


def test_a_name_of_two_classes_is_refused():
    with pytest.raises(DataError) as failure:
        match_classes(["crane"], ["crane", "bee", "crane"])
    assert failure.value.problem == "the model has 2 classes named 'crane'"


@pytest.mark.parametrize(
    ("cfg", "names"),
    [
        ({}, ()),
        ({"label_names": None}, ()),
        ({"label_names": ["a", "b"]}, ("a", "b")),
        ({"label_names": ["n1", "n2"], "label_descriptions": {"n1": "tench"}}, ("tench", "n2")),
    ],
)
def test_label_names_are_descriptions_where_there_are_some(cfg, names):
    assert names_in(cfg) == names


def test_a_class_name_has_one_unicode_form():
    assert composed("a\u0308") == "\u00e4"
