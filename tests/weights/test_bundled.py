"""The weights that come with the package: no network, the figures of the index, and the demonstration."""

import json
import os
import subprocess
import sys
import tarfile

import pytest

import mnv2zoo
from mnv2zoo.weights import index
from tests.conftest import ROOT, SHARED

BUNDLED = {entry.name: entry for entry in index.read(index.shipped_path()).values() if entry.bundled}
TEST_IMAGES = SHARED / "data/cifar100/test.tar"


def test_there_are_some():
    assert "mnv2zoo_100_c20.cifar100_coarse" in BUNDLED


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLED)
def test_they_load_with_no_network_and_empty_caches(tmp_path, name):
    program = f"""
import sys
def refuse(event, args):
    assert event not in ("socket.connect", "socket.getaddrinfo"), args
sys.addaudithook(refuse)
import timm, mnv2zoo
model = timm.create_model({name!r}, pretrained=True)
print(model.pretrained_cfg["tag"], model.num_classes)
"""
    env = {**os.environ, "HF_HOME": str(tmp_path), "MNV2ZOO_HOME": str(tmp_path), "MNV2ZOO_REQUIRE_PINNED": "1"}
    env |= {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [BUNDLED[name].tag, str(BUNDLED[name].num_classes)], done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_demonstrations_photo_is_recognised(tmp_path):
    env = {**os.environ, "HF_HOME": str(tmp_path), "MNV2ZOO_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    env |= {"PYTHONPATH": str(ROOT)}
    photo = str(ROOT / "examples/coffee.jpg")
    command = [sys.executable, "-m", "mnv2zoo", "predict", photo, "--model", "mnv2zoo_100_c20", "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["predictions"][0]["label"] == "food_containers"


@pytest.mark.slow
@pytest.mark.skipif(not TEST_IMAGES.is_file(), reason=f"CIFAR-100's test images are not at {TEST_IMAGES}")
@pytest.mark.parametrize("name", BUNDLED)
def test_a_thousand_test_images_give_the_indexs_figure(tmp_path, name):
    pytest.importorskip("torchmetrics")
    with tarfile.open(TEST_IMAGES) as old, tarfile.open(tmp_path / "test.tar", "w") as new:
        members = sorted((m for m in old if m.isfile()), key=lambda m: m.name)[::10]
        assert len(members) == 1000
        for member in members:
            new.addfile(member, old.extractfile(member))
    scores = mnv2zoo.evaluate(tmp_path, name)
    # 1.5 points is the standard deviation of a share of 70 % among 1,000.
    assert scores.top1 == pytest.approx(BUNDLED[name].metrics["top1"], abs=4.5)
    assert scores.top5 == pytest.approx(BUNDLED[name].metrics["top5"], abs=2.5)
