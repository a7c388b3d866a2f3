"""A run is measured on images that it has not seen, wherever they lie now."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mnv2zoo
from mnv2zoo.data.datasets import Data
from mnv2zoo.data.splits import with_validation
from mnv2zoo.data.timm_datasets import TimmSample
from mnv2zoo.errors import DataError
from mnv2zoo.training import progress
from tests.conftest import ROOT
from tests.photos import QUICK, fill, photo

MODEL = "mnv2zoo_035"


def packed(folder, path):
    """A tar file of a folder with links as links, as `tar cf` makes it."""
    with tarfile.open(path, "w") as archive:
        archive.add(folder, folder.name)
    return path


def command(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "mnv2zoo", *map(str, words)]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def memorized(tmp_path_factory):
    """Photos with labels by chance, and a run that knows its training images by heart."""
    folder = tmp_path_factory.mktemp("memorized")
    chance = np.random.default_rng(0)
    labels = np.repeat(["a", "b", "c", "d"], 20)
    chance.shuffle(labels)
    for label in "abcd":
        (folder / "photos" / label).mkdir(parents=True)
    for number, label in enumerate(labels):
        noise = chance.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(noise).resize((32, 32), Image.Resampling.NEAREST).save(
            folder / "photos" / label / f"{number:02}.png"
        )
    still = {"scale": 1.0, "hflip": 0.0, "color_jitter": 0.0, "crop_pct": 1.0, "smoothing": 0.0, "weight_decay": 0.0}
    values = {**QUICK, **still, "epochs": 40, "batch_size": 16, "opt": "adamw", "lr": 2e-3, "val_fraction": 0.25}
    result = mnv2zoo.finetune(folder / "photos", MODEL, folder / "run", **values, keep="last")
    return folder / "photos", folder / "run", result.scores["val"]


@pytest.fixture
def copied(memorized, tmp_path):
    """The same, to be changed."""
    photos, run, val = memorized
    shutil.copytree(photos, tmp_path / "moved")
    return tmp_path / "moved", str(run), val


def held_out(run):
    return json.loads((Path(run) / "split.json").read_text())["val"]


@pytest.mark.slow
def test_the_readme_sequence_measures_what_was_learned_and_not_what_was_memorized(memorized):
    photos, run, val = memorized
    done = command("evaluate", photos, "--model", run, "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["images"], figures["top1"]) == (20, pytest.approx(val.top1))
    assert figures["top1"] <= 55  # chance is 25 %
    assert figures["measured"] == "20 val images that the run held out"
    assert done.stderr.splitlines() == ["evaluated on 20 val images that the run held out"]
    everything = mnv2zoo.evaluate(photos, run, split="all")
    assert everything.images == 80
    assert everything.top1 > 75
    assert everything.measured == "all 80 images, 60 of which the run trained on"


def change(kind, photos, tmp_path):
    """The run's images in another form, and how many are new."""
    if kind == "tar":
        return packed(photos, tmp_path / "packed.tar"), 0
    if kind == "renamed":
        for number, file in enumerate(sorted(photos.rglob("*.png"))):
            file.rename(file.with_name(f"new-{number}.png"))
    if kind == "split":
        for number, file in enumerate(sorted(photos.rglob("*.png"))):
            target = photos.parent / "split" / ("test" if number % 3 else "train") / file.parent.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        return photos.parent / "split", 0
    if kind == "linked":
        photos.rename(tmp_path / "store")
        photos.mkdir()
        for folder in (tmp_path / "store").iterdir():
            (photos / folder.name).symlink_to(folder)
    if kind == "added":
        for label in "abcd":
            photo("red", 500 + ord(label)).save(photos / label / "added.png")
        return photos, 4
    if kind == "added class":
        (photos / "e").mkdir()
        photo("red", 501).save(photos / "e" / "added.png")
        return photos, 1
    return photos, 0


@pytest.mark.parametrize("kind", ["moved", "tar", "renamed", "split", "linked", "added", "added class"])
def test_the_images_of_a_run_are_recognized_wherever_they_lie(copied, tmp_path, kind):
    photos, run, val = copied
    place, new = change(kind, photos, tmp_path)
    scores = mnv2zoo.evaluate(place, model=run)
    assert (scores.images, scores.top1) == (20, pytest.approx(val.top1))
    tail = f"; {new} new image{'s' if new > 1 else ''} left out" if new else ""
    assert scores.measured == f"20 val images that the run held out{tail}"


def test_other_images_are_all_measured(memorized, tmp_path):
    _, run, _ = memorized
    for label in "abcd":
        (tmp_path / "new" / label).mkdir(parents=True)
        for number in range(3):
            photo("red", 900 + 10 * ord(label) + number).save(tmp_path / "new" / label / f"{number}.png")
    scores = mnv2zoo.evaluate(tmp_path / "new", run)
    assert (scores.images, scores.measured) == (12, "all 12 images, none of which the run trained on")


@pytest.mark.parametrize("kept", ["half", "train", "a photo less"])
def test_part_of_the_images_of_a_run_is_an_error_that_names_the_ways_out(copied, kept):
    photos, run, _ = copied
    held = {name.removeprefix("train/") for name in held_out(run)}
    files = sorted(photos.rglob("*.png"))
    gone = {
        "half": files[::2],
        "train": [file for file in files if str(file.relative_to(photos)) in held],
        "a photo less": [next(file for file in files if str(file.relative_to(photos)) not in held)],
    }[kept]
    for file in gone:
        file.unlink()
    with pytest.raises(DataError, match="only some of the images") as error:
        mnv2zoo.evaluate(photos, run)
    assert "--split" in error.value.fix
    assert "--all" in error.value.fix
    assert mnv2zoo.evaluate(photos, run, split="all").images == 80 - len(gone)
    left = held - {str(file.relative_to(photos)) for file in gone}
    if not left:
        with pytest.raises(DataError, match="none of the run's val images"):
            mnv2zoo.evaluate(photos, run, split="val")
        return
    scores = mnv2zoo.evaluate(photos, run, split="val")
    assert scores.images == len(left)
    missing = len(held) - len(left)
    assert scores.measured.endswith(f"; {missing} more are missing" if missing else "held out")


def test_held_out_images_alone_are_measured_whole(copied):
    photos, run, val = copied
    held = {name.removeprefix("train/") for name in held_out(run)}
    for file in photos.rglob("*.png"):
        if str(file.relative_to(photos)) not in held:
            file.unlink()
    scores = mnv2zoo.evaluate(photos, run)
    assert (scores.images, scores.top1) == (20, pytest.approx(val.top1))
    assert scores.measured == "all 20 images, none of which the run trained on"


def test_a_split_means_that_of_the_run(memorized):
    photos, run, val = memorized
    assert mnv2zoo.evaluate(photos, run, split="val").top1 == pytest.approx(val.top1)
    train = mnv2zoo.evaluate(photos, run, split="train")
    assert (train.images, train.measured) == (60, "60 train images that the run trained on")
    assert train.top1 > 85
    with pytest.raises(DataError, match="no split 'test'") as error:
        mnv2zoo.evaluate(photos, run, split="test")
    assert error.value.expected == "train or val"
    assert "--all" in error.value.fix
    with pytest.raises(DataError, match="'vaal'"):
        mnv2zoo.evaluate(photos, run, split="vaal")


def test_new_test_images_beside_the_images_of_a_run_can_be_asked_for(copied, tmp_path):
    photos, run, _ = copied
    (tmp_path / "data").mkdir()
    photos.rename(tmp_path / "data/train")
    for label in "abcd":
        (tmp_path / "data/test" / label).mkdir(parents=True)
        photo("red", 700 + ord(label)).save(tmp_path / "data/test" / label / "1.png")
    assert mnv2zoo.evaluate(tmp_path / "data", run).measured.startswith("20 val images that the run held out; 4 new")
    scores = mnv2zoo.evaluate(tmp_path / "data", run, split="test")
    assert scores.measured == "4 test images of the data, which the run has not seen"


def test_timm_s_name_for_a_run_is_that_run(memorized):
    photos, run, val = memorized
    assert mnv2zoo.evaluate(photos, f"local-dir:{run}").images == val.images


def test_an_older_run_is_recognized_by_the_names_it_recorded(copied, tmp_path):
    photos, run, val = copied
    shutil.copytree(run, tmp_path / "old")
    split = json.loads((tmp_path / "old/split.json").read_text())
    del split["images"]
    (tmp_path / "old/split.json").write_text(json.dumps(split))
    scores = mnv2zoo.evaluate(photos, tmp_path / "old")
    assert (scores.images, scores.top1) == (20, pytest.approx(val.top1))
    assert "recognized by name" in scores.measured
    again = mnv2zoo.finetune(photos, None or MODEL, tmp_path / "old", resume=True)
    assert again.scores["val"].top1 == pytest.approx(val.top1)


def test_a_network_without_a_record_of_its_images_says_so(copied, tmp_path):
    photos, run, _ = copied
    shutil.copytree(run, tmp_path / "packed")
    (tmp_path / "packed/split.json").unlink()
    scores = mnv2zoo.evaluate(photos, tmp_path / "packed")
    assert scores.measured == "all 80 images, which may include training images: there is no split.json"


def test_the_hashes_of_a_run_are_those_of_the_files(memorized):
    import hashlib

    photos, run, _ = memorized
    split = json.loads((run / "split.json").read_text())
    assert set(split) == {"train", "val", "images"}
    assert split["images"] == {
        f"train/{file.relative_to(photos)}": f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
        for file in photos.rglob("*.png")
    }


@pytest.mark.slow
def test_validation_images_that_were_trained_on_too_are_not_measured(tmp_path):
    data = tmp_path / "data"
    fill(data / "train", 6)
    fill(data / "val", 3, first=4)  # two of three are training images too
    lines = []

    class Log(progress.Log):
        def say(self, line):
            lines.append(line)

    mnv2zoo.finetune(data, MODEL, tmp_path / "run", log=Log(), **QUICK)
    assert any("6 of 9 val images are also in train" in line for line in lines)
    scores = mnv2zoo.evaluate(data, tmp_path / "run")
    assert scores.images == 3
    assert "6 left out because it trained on copies of them" in scores.measured
    shutil.rmtree(data / "val")
    (data / "val").symlink_to("train")
    mnv2zoo.finetune(data, MODEL, tmp_path / "self", log=Log(), **QUICK)
    with pytest.raises(DataError, match="held out none") as error:
        mnv2zoo.evaluate(data, tmp_path / "self")
    assert "--all" in error.value.fix


def test_a_dataset_of_timm_is_recognized_by_its_name(memorized, tmp_path):
    from mnv2zoo.model_dir import split as splits

    dataset = [(photo("red", number), number % 2) for number in range(8)]
    samples = tuple(TimmSample(f"train/{i}", i % 2, dataset, i, "torch/x") for i in range(8))
    data = Data(("a", "b"), {"train": samples})
    run = with_validation(data, 0.25, seed=0)
    (tmp_path / "split.json").write_text(json.dumps(splits.record(run)))
    chosen = splits.choose(data, str(tmp_path), None, "torch/x")
    assert sorted(s.index for s in chosen.samples) == sorted(s.index for s in run.splits["val"])
    other = Data(
        ("a", "b"), {"train": tuple(TimmSample(s.name, s.target, dataset, s.index, "torch/y") for s in samples)}
    )
    assert len(splits.choose(other, str(tmp_path), None, "torch/y").samples) == 8


@pytest.mark.slow
def test_a_run_that_starts_from_another_does_not_validate_on_what_that_one_learned(copied, tmp_path):
    photos, run, _ = copied
    for label in "abcd":
        for number in range(3):
            photo("red", 800 + 10 * ord(label) + number).save(photos / label / f"more-{number}.png")
    values = {**QUICK, "init": "pretrained", "epochs": 1, "val_fraction": 0.25}
    mnv2zoo.finetune(photos, run, tmp_path / "further", **values)
    learned = set(json.loads((Path(run) / "split.json").read_text())["train"])
    assert len(held_out(tmp_path / "further")) == 24
    assert not learned.intersection(held_out(tmp_path / "further"))
    mnv2zoo.finetune(photos, MODEL, tmp_path / "fresh", **QUICK, val_fraction=0.25)
    assert learned.intersection(held_out(tmp_path / "fresh"))  # another choice, where nothing was learned before
