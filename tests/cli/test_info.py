"""`info` shows what the configuration and the index say about one model."""

import json

import pytest

import mnv2zoo
from mnv2zoo import architecture
from mnv2zoo.cli import info


def test_info_is_the_row_of_the_list(run, zoo):
    assert json.loads(run("info", "mnv2zoo_035", "--json").out) in json.loads(run("list", "--json").out)


def test_info_tells_where_weights_are_from(run, zoo):
    weights = json.loads(run("info", "mnv2zoo_035", "--json").out)["weights"]
    for name, fields in weights.items():
        assert fields == {"trust": fields["trust"], **mnv2zoo.weights.entry(name).to_json()}
    assert [fields["trust"] for fields in weights.values()] == ["pinned", "on first use"]
    out = run("info", "mnv2zoo_035").out
    for told in ("1,677,128", "zoo/pinned", zoo["pinned"], "https://example.org/weights", "MIT", "unknown"):
        assert told in out


def test_info_of_tagged_weights_tells_of_no_others(run, zoo):
    assert list(json.loads(run("info", "mnv2zoo_035.unpinned", "--json").out)["weights"]) == ["mnv2zoo_035.unpinned"]


@pytest.mark.parametrize("name", architecture.CONFIGS)
def test_info_tells_of_every_network(run, name):
    done = run("info", name)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"{name}\n")


def test_figures_have_the_digits_that_papers_give():
    assert info.giga(300_774_272) == "0.3008"
    assert [info.percent(value) for value in (71.8, 0.0, None)] == ["71.80", "0.00", "-"]
