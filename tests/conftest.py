"""A loopback Hub for the session, and indexes of weights laid over the shipped one.

Nothing is mocked: the client fetches over HTTP from `tests/hub_server.py`.
"""

from __future__ import annotations

from tests import environment  # first, because the Hub's client reads its environment when it is imported

# isort: split
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

import mnv2zoo
from mnv2zoo.models import registry
from mnv2zoo.weights import index
from tests.hub_server import HubServer
from tests.photos import fill

torch.set_num_threads(1)
# An error on stderr: a line for the problem, and at most four facts below it.
BLOCK = r"(?m)^error: \S.*\n(?:  expected: \S.*\n)?(?:  found: \S.*\n)?(?:  where: \S.*\n)?(?:  fix: \S.*\n)?"
ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
GOOGLE = SHARED / "weights/google_mobilenet_v2_1.0_224/model.safetensors"
needs_torchscript = pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="PyTorch does not support torch.jit.script and trace from Python 3.14 on"
)
GOOGLE_SHA256 = "27309e54825ae54d2d85d469cb68e0c61f213f3373f374f4c9875e33438593e0"
SAMPLES = SHARED / "data/imagenet_samples"

needs_google = pytest.mark.skipif(not GOOGLE.is_file(), reason=f"real weights are not at {GOOGLE}")
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"sample photos are not at {SAMPLES}")


def needs_cuda(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that needs a GPU of CUDA; `scripts/gpu.py` runs these."""
    there = torch.cuda.is_available()
    marked: Callable[..., None] = pytest.mark.gpu(pytest.mark.skipif(not there, reason="needs CUDA")(test))
    return marked


def raw_entry(**fields: Any) -> dict[str, Any]:
    """The fields of a valid index entry, with some of them replaced."""
    return {
        "repo_id": "zoo/weights",
        "revision": None,
        "filename": "model.safetensors",
        "sha256": None,
        "size": None,
        "layout": "timm",
        "num_classes": 1000,
        "input_size": [3, 224, 224],
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "labels": "imagenet-1k",
        "metrics": {"top1": 70.0},
        "license": "Apache-2.0",
        "origin": "https://example.org/weights",
        "description": "weights for tests",
    } | fields


def random_state_dict(name: str, seed: int = 0, **kwargs: Any) -> dict[str, torch.Tensor]:
    """A state dict of random weights and random statistics, so that two networks differ in all of them."""
    generator = torch.Generator().manual_seed(seed)
    model = timm.create_model(name, **kwargs)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.uniform_(-0.5, 0.5, generator=generator).add_(1.0 if key.endswith("weight") else 0.0)
    return model.state_dict()


def as_bytes(state_dict: dict[str, torch.Tensor]) -> bytes:
    return safetensors.torch.save({key: tensor.contiguous() for key, tensor in state_dict.items()})


@pytest.fixture(scope="session", autouse=True)
def hub_server() -> Iterator[HubServer]:
    """The Hub at the address in HF_ENDPOINT. It serves every test, because any test may come to ask it."""
    with environment.HUB as hub:
        yield hub


@pytest.fixture
def hub(hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The Hub, whole and asked nothing yet, with an empty cache and an empty record of first use."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MNV2ZOO_HOME", str(tmp_path / "home"))
    hub_server.heal()
    hub_server.clear()
    yield hub_server
    hub_server.heal()


@pytest.fixture
def overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, Any]], Path]]:
    """Lays index entries over the shipped ones, as MNV2ZOO_WEIGHTS_INDEX does at import."""

    def register() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # timm tells that names are registered anew
            registry.register()

    def lay(entries: dict[str, Any]) -> Path:
        path = tmp_path / "weights_index.json"
        path.write_text(json.dumps({"schema_version": 1, "weights": entries}))
        monkeypatch.setattr(index, "INDEX", index.Index(index.shipped_path(), path))
        register()
        return path

    yield lay
    monkeypatch.undo()
    register()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Gives a folder that one of pytest's processes fills for all of them. Tests only read it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        place, made = base / name, base / f"{name}.made"
        with filelock.FileLock(base / f"{name}.lock"):
            if not made.exists():
                shutil.rmtree(place, ignore_errors=True)  # what a failure left there
                place.mkdir()
                make(place)
                made.touch()
        return place

    return folder


@pytest.fixture(scope="session")
def plain_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has every library of this one, and not this package."""
    folder = tmp_path_factory.mktemp("plain")
    venv.create(folder, symlinks=os.name != "nt")
    places = {key: sysconfig.get_path(key, "venv", {"base": str(folder)}) for key in ("purelib", "scripts")}
    libraries = [place for place in sys.path if place.endswith("site-packages")]
    # Python reads the .pth files of its own folder alone, and one of those leads to an editable installation.
    Path(places["purelib"], "libraries.pth").write_text("\n".join(libraries))
    python = str(Path(places["scripts"], "python"))
    found = subprocess.run([python, "-c", "import timm, mnv2zoo.version"], cwd=folder, capture_output=True, text=True)
    if "No module named 'mnv2zoo" not in found.stderr:
        pytest.skip("mnv2zoo is installed with the libraries, and not as an editable installation")
    return python


@pytest.fixture(params=sorted(mnv2zoo.architecture.CONFIGS))
def name(request: pytest.FixtureRequest) -> str:
    """Every architecture."""
    return request.param


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run folder of a network that sees 32 pixels, and so is quick."""
    torch.manual_seed(0)  # one network, whichever tests run
    model = timm.create_model("mnv2zoo_035", num_classes=3)
    model.load_state_dict(random_state_dict("mnv2zoo_035", num_classes=3))
    colors = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    model.pretrained_cfg |= {"input_size": (3, 32, 32), "crop_pct": 0.875, **colors}
    folder = tmp_path_factory.mktemp("run")
    timm.models.save_for_hf(model, folder, model_config={"label_names": ["a", "b", "c"]}, safe_serialization=True)
    return str(folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A plain folder of three classes with eight photos each."""
    return fill(tmp_path / "photos")


def save_photos(folder: Path, number: int, links: int = 1) -> Path:
    """Writes so many JPEGs, and hard links to them."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for place in range(number):
        file = folder / f"{place:05}.jpg"
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(file)
        for copy in range(1, links):
            (folder / f"{place + copy * number:05}.jpg").hardlink_to(file)
    return folder
