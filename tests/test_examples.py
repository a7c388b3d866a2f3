"""The examples: the data that they make, and the rows and pictures of the heads that they train."""

import json
import runpy
import subprocess
import sys
import tarfile
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

import mnv2zoo
from mnv2zoo.tasks import find_task, recipe
from tests.conftest import GOOGLE, SHARED, needs_google
from tests.tasks.detect.scenes import fill_voc

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
GROCERY = SHARED / "data/grocery"
needs_grocery = pytest.mark.skipif(not GROCERY.is_dir(), reason=f"Grocery Store photos are not at {GROCERY}")
pytestmark = pytest.mark.slow


def run(script, *words):
    done = subprocess.run([sys.executable, str(EXAMPLES / script), *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_google
def test_a_head_is_trained_measured_and_drawn_with_a_row_of_its_scores(tmp_path):
    data, results, runs = fill_voc(tmp_path / "data", train=6), tmp_path / "heads.json", tmp_path / "runs"
    (data / "ImageSets/Main/test.txt").write_text("000\n001\n002\n")
    (data / "ImageSets/Main/train.txt").write_text("003\n004\n005\n")
    words = ["bccd-ssdlite", "--data", data, "--weights", GOOGLE, "--runs", runs, "--results", results]
    run("heads/train.py", *words, "--epochs", 1)
    name = "bccd-ssdlite-0"
    row = json.loads(results.read_text())[name]
    measured = json.loads((runs / name / "results.json").read_text())
    assert row["test"] == mnv2zoo.evaluate(data, runs / name, split="test").to_json()
    assert row["val"] == measured["val"]
    assert (row["images"], row["epoch"], row["seed"], row["head"]) == (3, 1, 0, "ssdlite")

    run("heads/speed.py", name, "--runs", runs, "--results", results, "--data", data)
    after = json.loads(results.read_text())[name]
    assert {key: after[key] for key in row} == row
    eager, fastest = after["ms"]
    assert eager == "eager"
    assert fastest in ("torch", "onnxruntime", "openvino")
    assert after["int8"]["metric"] == "map"
    assert after["int8"]["before"] == round(measured["val"]["map"], 2)  # as training measured it, in batches

    strip = tmp_path / "strip.jpg"
    run("heads/pictures.py", runs / name, "--data", data, "--out", strip, "--images", 2, "--width", 206)
    with Image.open(strip) as image:
        assert image.size == (206, 2 * 75 + 6)  # two columns of 100 x 75, as the images are 96 x 72


@pytest.mark.parametrize("file", sorted((EXAMPLES / "heads").glob("*.toml")), ids=lambda file: file.stem)
def test_the_recipe_of_a_head_is_valid(file):
    described = tomllib.loads(file.read_text())
    task = find_task(described["task"])
    task.check(recipe.make(**{**task.defaults, **described["recipe"]}))


def test_rows_of_processes_that_finish_together_are_all_there(tmp_path):
    code = "import sys, pathlib, results; results.add(pathlib.Path(sys.argv[1]), sys.argv[2], {'a': 1})"
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "heads.json"), str(n)], cwd=EXAMPLES / "heads")
        for n in range(4)
    ]
    assert [process.wait() for process in started] == [0] * 4
    assert json.loads((tmp_path / "heads.json").read_text()) == {str(n): {"a": 1} for n in range(4)}


@needs_grocery
def test_a_thousand_photos_are_spread_evenly_over_the_classes(tmp_path):
    lay_out = runpy.run_path(str(EXAMPLES / "grocery/transfer.py"))["thousand"]
    found = []
    for number in range(2):
        lay_out(GROCERY, tmp_path / str(number))
        with tarfile.open(tmp_path / str(number) / "train.tar") as tar:
            found.append(tar.getnames())
    assert found[0] == found[1]
    assert len(set(found[0])) == 1000
    with tarfile.open(GROCERY / "train.tar") as tar:
        there = Counter(Path(member.name).parent for member in tar if member.isfile())
    taken = Counter(Path(name).parent for name in found[0])
    assert taken.keys() == there.keys()
    # A class gives fewer than the others only where it has no more.
    assert all(taken[name] in (there[name], max(taken.values()), max(taken.values()) - 1) for name in there)


@needs_grocery
def test_scenes_have_the_labels_of_their_photos_and_share_no_photo_between_splits(tmp_path):
    example = runpy.run_path(str(EXAMPLES / "multilabel/scenes.py"))
    photos = example["photos"](GROCERY)
    assert {split: len(own) for split, own in photos.items()} == {"train": 2200, "val": 736, "test": 2485}
    content = {split: {data for _, data in own} for split, own in photos.items()}
    assert content["test"].isdisjoint(content["train"] | content["val"])
    assert len(content["val"] & content["train"]) <= 1  # a photo that the dataset has twice
    assert len({label for label, _ in photos["train"]}) == 43

    example["compose"](GROCERY, tmp_path, {"train": 6, "val": 2, "test": 2})
    rows = (tmp_path / "train.csv").read_text().splitlines()
    assert len(rows) == 7
    for row in rows[1:]:
        name, labels = row.split(",")
        assert 1 <= len(labels.split("|")) <= 4
        with Image.open(tmp_path / name) as image:
            assert image.size == (224, 224)


def test_results_of_several_labels_are_those_that_runs_recorded(tmp_path):
    run, results = tmp_path / "run", tmp_path / "multilabel.json"
    run.mkdir()
    metrics = {"images": 2, "map": 61.23456, "f1_micro": 50.0, "f1_macro": 40.0, "loss": 1.0}
    (run / "results.json").write_text(json.dumps({"epoch": 1, "val": metrics, "test": metrics}))
    (run / "recipe.json").write_text(json.dumps({"recipe": {"train": "head", "loss": "bce"}, "classes": ["a", "b"]}))
    (run / "metrics.jsonl").write_text('{"seconds": 1.5}\n{"seconds": 2.0}\n')
    (run / "split.json").write_text(json.dumps({"train": ["x", "y", "z"]}))
    main = runpy.run_path(str(EXAMPLES / "multilabel/results.py"))["main"]
    main(f"bce={run}", results=results)
    measured = {"images": 2, "map": 61.23, "f1_micro": 50.0, "f1_macro": 40.0}
    facts = {"train": "head", "loss": "bce", "epochs": 2, "labels": 2, "images": 3, "seconds": 3.5}
    assert json.loads(results.read_text()) == {"bce": {**facts, "val": measured, "test": measured}}
