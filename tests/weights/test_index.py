"""The index that is shipped, and those that are laid over it."""

from mnv2zoo.weights import index, schema
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
