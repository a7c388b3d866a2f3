"""`list` and `info` tell what the config table and the index tell."""

import json

import pytest

import mnv2zoo


@pytest.mark.parametrize("options", [[], ["--pretrained"]], ids=str)
def test_list_has_every_name_once(run, zoo, options):
    names = mnv2zoo.list_models(pretrained=bool(options))
    models = json.loads(run("list", *options, "--json").out)
    assert [model["name"] for model in models] == names
    for model in models:
        figures = mnv2zoo.model_info(model["name"])
        assert (model["params"], model["macs"]) == (figures.params, figures.macs)
        assert list(model["weights"]) == ([model["name"]] if options else list(figures.weights))
    table = run("list", *options).out.splitlines()
    assert [line.split()[0] for line in table[1:] if line[0] != " "] == names


def test_the_table_tells_what_one_chooses_by(run, zoo):
    rows = [line.split() for line in run("list").out.splitlines()]
    assert rows[0] == ["name", "params", "GMACs", "input", "weights", "trust", "top-1", "license"]
    first = next(index for index, row in enumerate(rows) if row[0] == "mnv2zoo_035")
    assert " ".join(rows[first]) == "mnv2zoo_035 1.68 M 0.0593 224 pinned pinned 70.00 Apache-2.0"
    assert " ".join(rows[first + 1]) == "unpinned first use 70.00 MIT"
    assert ["mnv2zoo_140_c20", "4.36", "M", "0.8254", "224", "-", "-", "-", "-"] in rows


def test_names_stay_whole_on_a_narrow_terminal(run, zoo, monkeypatch):
    wide = run("list").out
    monkeypatch.setenv("COLUMNS", "20")
    assert run("list").out == wide
