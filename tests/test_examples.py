"""The examples: the data that they make, and that those for detectors and segmenters run, go on and refuse."""

import json
import runpy
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.conftest import GOOGLE, SHARED, needs_google

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
GROCERY = SHARED / "data/grocery"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not GROCERY.is_dir(), reason="needs the Grocery Store photos in ../shared/data/grocery"),
]


@pytest.fixture(scope="module")
def scenes():
    sys.path.insert(0, str(EXAMPLES))
    import scenes

    yield scenes
    sys.path.remove(str(EXAMPLES))


def test_a_scene_depends_on_its_seed_and_number_alone(scenes):
    first, again = (scenes.Scenes(GROCERY, "val", 4, 96, seed=5) for _ in range(2))
    other = scenes.Scenes(GROCERY, "val", 4, 96, seed=6)
    assert torch.equal(again[3].image, first[3].image)
    assert torch.equal(again[3].boxes, first[3].boxes)
    assert not torch.equal(other[3].image, first[3].image)


def test_boxes_labels_and_mask_agree(scenes):
    found = scenes.Scenes(GROCERY, "val", 40, 96)
    for scene in found:
        assert scene.image.shape == (3, 96, 96)
        assert scene.image.dtype == torch.uint8
        assert set(scene.labels.tolist()) == set(scene.mask.unique().tolist()) - {0}
        for (left, top, right, bottom), label in zip(scene.boxes.int().tolist(), scene.labels.tolist(), strict=True):
            inside = scene.mask[top:bottom, left:right] == label
            # The piece touches all four sides of its box, unless another of its class does so for it.
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
    assert {label for scene in found for label in scene.labels.tolist()} == set(range(1, 11))


def test_the_splits_share_no_photo(scenes):
    photos = {}
    for split in ("train", "test"):
        made = scenes.Scenes(GROCERY, split, 1, 96)
        photos[split] = {photo for row in (*made.pieces, made.backgrounds) for photo in row}
    assert photos["train"].isdisjoint(photos["test"])


def command(example, out, *more):
    small = ["--scenes", "8", "--test-scenes", "4", "--batch-size", "4", "--side", "64", "--test-on", "val"]
    source = ["--weights", str(GOOGLE), "--mean", "0.5", "--std", "0.5"]
    return [sys.executable, str(EXAMPLES / f"{example}.py"), str(GROCERY), "--out", str(out), *source, *small, *more]


def figures(out):
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))["results"]
    return {backbone: {k: v for k, v in row.items() if k != "minutes"} for backbone, row in results.items()}


@needs_google
@pytest.mark.parametrize("example", ["detection", "segmentation"])
def test_it_goes_on_where_it_was_killed(example, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run(command(example, whole, "--epochs", "2"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    running = subprocess.Popen(command(example, killed, "--epochs", "2"), stdout=subprocess.DEVNULL)
    while not (killed / "mnv2zoo.pt").exists():
        assert running.poll() is None
        time.sleep(0.05)
    running.kill()
    running.wait()
    subprocess.run(command(example, killed, "--epochs", "2"), check=True, stdout=subprocess.DEVNULL)

    first, second = figures(whole), figures(killed)
    assert list(first) == ["mnv2zoo", "timm", "random"]
    assert first == second
    assert (killed / "predictions.jpg").stat().st_size > 10_000

    other = subprocess.run(command(example, killed, "--epochs", "3"), capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert "trained with other settings" in other.stderr


def test_what_it_refuses(tmp_path):
    for arguments, words in (
        (["--weights", "mnv2zoo_100.nothing"], "neither a file nor one of mnv2zoo_100.ra_in1k"),
        (["--weights", str(GROCERY / "classes.csv")], "--mean and --std are wanted with a file"),
        (["--mean", "0.5", "--std", "0.5"], "only with one"),
    ):
        asked = [sys.executable, str(EXAMPLES / "detection.py"), str(GROCERY), "--out", str(tmp_path), *arguments]
        refused = subprocess.run(asked, capture_output=True, text=True, check=False)
        assert refused.returncode == 2
        assert words in refused.stderr


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
