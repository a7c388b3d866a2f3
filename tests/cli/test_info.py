"""`info` shows what the configuration and the index say about one model."""

import hashlib
import json
import shutil

import pytest

import mnv2zoo
from mnv2zoo import architecture
from mnv2zoo.cli import info
from tests.tasks.detect.scenes import MODEL, QUICK, fill_voc


def test_info_is_the_row_of_the_list(run, zoo):
    assert json.loads(run("info", "mnv2zoo_035", "--json").out) in json.loads(run("list", "--json").out)


def test_info_tells_where_weights_are_from(run, zoo):
    weights = json.loads(run("info", "mnv2zoo_035", "--json").out)["weights"]
    for name, fields in weights.items():
        assert fields == {"trust": fields["trust"], **mnv2zoo.weights.entry(name).to_json()}
    assert [fields["trust"] for fields in weights.values()] == ["pinned", "first use", "first use"]
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("info")
    result = mnv2zoo.finetune(fill_voc(folder / "data"), MODEL, folder / "run", **{**QUICK, "epochs": 1})
    return folder / "run", result


def test_info_of_a_run_tells_what_it_is_and_how_well_it_does(run, trained):
    folder, result = trained
    told = json.loads(run("info", str(folder), "--json").out)
    weights = (folder / "model.safetensors").read_bytes()
    assert told == {
        "name": str(folder),
        "task": "detect",
        "head": "ssdlite",
        "architecture": MODEL,
        "input_size": [3, 64, 64],
        "label_names": ["disk", "square"],
        "model": MODEL,
        "init": "random",
        "epochs": 1,
        "results": {"val": json.loads((folder / "results.json").read_text())["val"]},
        "params": sum(parameter.numel() for parameter in result.model.parameters()),
        "file": str(folder / "model.safetensors"),
        "bytes": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    assert json.loads(run("info", f"local-dir:{folder}", "--json").out) == told | {"name": f"local-dir:{folder}"}
    out = run("info", str(folder)).out
    scores = result.scores["val"]
    for words in ("ssdlite", "2: disk, square", f"4: map {scores.map:.2f} %, map50 {scores.map50:.2f} %"):
        assert words in out


def test_info_of_a_run_without_weights_says_so(run, trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    (tmp_path / "run/model.safetensors").write_bytes(b"not weights")
    done = run("info", str(tmp_path / "run"))
    assert done.status == 1
    assert "the weights in the folder cannot be read" in done.err


def test_a_loss_is_no_percentage():
    scores = {"top1": 50.0, "loss": 1.5, "images": 4, "per_class": []}
    assert [name for name, value in scores.items() if info.is_percentage(name, value)] == ["top1"]


def test_figures_have_the_digits_that_papers_give():
    assert info.giga(300_774_272) == "0.3008"
    assert [info.percent(value) for value in (71.8, 0.0, None)] == ["71.80", "0.00", "-"]
