"""A model with all that belongs to its weights."""

from mnv2zoo.models import pretrained


def test_a_sound_one_is_taken(run_folder):
    found = pretrained.load(run_folder({"label_names": ["cat", "dog"]}), "cpu")
    assert found.label_names == ["cat", "dog"]
