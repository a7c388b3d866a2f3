"""The index that is shipped, and those that are laid over it."""

import json

import pytest

from mnv2zoo.errors import UnknownModelError, WeightsIndexError
from mnv2zoo.weights import index, schema
from tests.conftest import raw_entry
from tests.weights.test_schema import text


def test_the_shipped_index_is_valid():
    entries = index.read(index.shipped_path())
    assert entries["mnv2zoo_100.ra_in1k"].pinned
    assert not entries["mnv2zoo_050.lamb_in1k"].pinned
    assert entries["mnv2zoo_100.ra_in1k"].metrics == {"top1": 72.910, "top5": 91.000}
    assert len(entries["mnv2zoo_100.ra_in1k"].label_names) == 1000


def test_what_is_read_can_be_written_and_read_again():
    entries = index.read(index.shipped_path())
    again = schema.parse(text({name: entry.to_json() for name, entry in entries.items()}), index.shipped_path())
    assert again == entries


@pytest.fixture
def further(tmp_path, monkeypatch):
    """A further index, named by the environment, that nobody has asked for yet."""
    path = tmp_path / "further.json"
    own = {"mnv2zoo_100.own": raw_entry(filename="own.safetensors"), "mnv2zoo_050.lamb_in1k": raw_entry(size=7)}
    path.write_text(text(own))
    monkeypatch.setenv("MNV2ZOO_WEIGHTS_INDEX", str(path))
    monkeypatch.setattr(index, "INDEX", None)
    return path


def test_the_environment_is_read_at_the_first_use_and_no_later(further, monkeypatch):
    assert index.entry("mnv2zoo_100").name == "mnv2zoo_100.own"
    monkeypatch.delenv("MNV2ZOO_WEIGHTS_INDEX")
    further.unlink()
    assert index.entry("mnv2zoo_100").name == "mnv2zoo_100.own"


def test_entries_of_a_further_index_win_and_come_first(further):
    assert [entry.name for entry in index.entries_of("mnv2zoo_100")][:2] == ["mnv2zoo_100.own", "mnv2zoo_100.ra_in1k"]
    assert index.entry("mnv2zoo_050.lamb_in1k").size == 7
    assert index.entry("mnv2zoo_050.lamb_in1k").folder == further.parent


def test_a_bad_further_index_leaves_the_shipped_names_readable(further):
    further.write_text(json.dumps({"schema_version": 1}))
    assert "mnv2zoo_100.ra_in1k" in index.in_use().readable()
    with pytest.raises(WeightsIndexError) as error:
        index.entries()
    assert error.value.where == further


@pytest.mark.parametrize("name", ["mnv2zoo_100.nobody", "mnv2zoo_140_c20", "mobilenetv2_100.nobody"])
def test_weights_that_nobody_lists_are_an_error(name):
    with pytest.raises(UnknownModelError) as error:
        index.entry(name)
    found = repr(name.replace("mobilenetv2", "mnv2zoo"))
    assert (error.value.problem, error.value.found) == (f"unknown weights {found}", found)
