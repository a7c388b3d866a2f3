"""Folders of every kind that the package saves, for other libraries to open."""

import os
import subprocess

import pytest
import timm
import torch

import mnv2zoo
from mnv2zoo.model_dir import from_checkpoint, packaging
from tests.conftest import random_state_dict
from tests.photos import COLORS, QUICK, fill

NAME = "mnv2zoo_035"
LABELS = sorted(COLORS)
IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def pytest_ignore_collect(config):
    # The libraries have an environment of their own.
    return None if "ecosystem" in (config.getoption("markexpr") or "") else True


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A plain folder of three classes."""
    return fill(tmp_path_factory.mktemp("photos"), 16)


@pytest.fixture(scope="session")
def folders(photos, tmp_path_factory):
    """A run, its package, and a folder converted from a checkpoint that TensorFlow's padding suits."""
    place = tmp_path_factory.mktemp("folders")
    mnv2zoo.finetune(photos, NAME, place / "run", **{**QUICK, "input_size": 64})
    packaging.pack(place / "run", f"{NAME}.colors", "MIT", place / "package")
    torch.save(random_state_dict(NAME, num_classes=3), place / "file.pt")
    from_checkpoint.convert_checkpoint(
        place / "file.pt", place / "converted", pad_type="same", label_names=["ant", "bee", "ant lion"]
    )
    return {kind: place / kind for kind in ("run", "package", "converted")}


def network(folder):
    """The package's own network of a folder."""
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


@pytest.fixture
def network_035():
    """A network with random weights and statistics, in evaluation mode."""
    model = timm.create_model(NAME, num_classes=3)
    model.load_state_dict(random_state_dict(NAME, num_classes=3))
    return model.eval()


def run(python, code, *words, **given):
    """Runs code in another Python, and gives what it printed."""
    command = [python, "-c", code, *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {name: str(value) for name, value in given.items()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
