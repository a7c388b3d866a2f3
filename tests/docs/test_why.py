"""The migration tables of docs/why.md: both calls of every row run, with the same outputs where the page says so."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from tests.conftest import ROOT
from tests.hub_server import HubServer

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs/why.md").read_text(encoding="utf-8")
GOOGLE = "google/mobilenet_v2_1.0_224"
# The file that torchvision's loader looks for in its cache before it downloads.
TORCHVISION_FILE = Path(torchvision.models.MobileNet_V2_Weights.DEFAULT.url).name
# Fills Keras' cache, runs the calls, and prints the channels and weights of each model.
KERAS = """
import json, sys
import keras
from pathlib import Path
folder, *calls = sys.argv[1:]
Path(folder, "models").mkdir(parents=True, exist_ok=True)
for name, top in (("1.0_224", True), ("1.0_224_no_top", False)):
    model = keras.applications.MobileNetV2(weights=None, include_top=top)
    model.save(f"{folder}/models/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{name}.h5")
models = [eval(call) for call in calls]
print(json.dumps([[model.output_shape[-1], model.count_params()] for model in models]))
"""


def rows(library: str) -> list[tuple[str, str]]:
    """The calls of a library's table, each with the call to replace it."""
    table = PAGE.partition(f"\n### From {library}\n")[2].partition("\n### ")[0]
    return re.findall(r"^\| `(.+)` \| `(.+)` \|$", table, re.M)


def run(call: str) -> Any:
    model = eval(call, {"timm": timm, "torchvision": torchvision, "transformers": sys.modules.get("transformers")})
    assert isinstance(model, nn.Module), call
    return model.eval()


def outputs(call: str, images: Tensor) -> Any:
    with torch.inference_mode():
        found = run(call)(images)
    return found if isinstance(found, Tensor | list) else found.logits


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_calls_of_timm(workplace: Path, hub: HubServer, stand_ins: Path, images: Tensor) -> None:
    file = stand_ins / "mnv2zoo_100.ra_in1k.safetensors"  # what `workplace` has in the place of these weights
    hub.add("timm/mobilenetv2_100.ra_in1k", "model.safetensors", file.read_bytes())
    table = rows("timm")
    assert len(table) == 3
    for theirs, ours in table:
        if "pretrained" in theirs:
            torch.testing.assert_close(outputs(ours, images), outputs(theirs, images))
        else:
            found, expected = outputs(ours, images), outputs(theirs, images)
            assert [x.shape for x in found] == [x.shape for x in expected]
            assert size(run(ours)) == size(run(theirs))


def test_calls_of_torchvision(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Tensor) -> None:
    file = tmp_path / "torch/hub/checkpoints" / TORCHVISION_FILE
    file.parent.mkdir(parents=True)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    table = rows("torchvision")
    assert len(table) == 2
    for theirs, ours in table:
        assert outputs(ours, images).shape == outputs(theirs, images).shape
        assert size(run(ours)) == size(run(theirs))


@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="needs Keras, of the extra dev")
def test_calls_of_keras(workplace: Path, tmp_path: Path, images: Tensor) -> None:
    table = rows("Keras")
    assert len(table) == 3
    env = os.environ | {"KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path / "keras")}
    command = [sys.executable, "-c", KERAS, str(tmp_path / "keras"), *(theirs for theirs, _ in table)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for (_, ours), (channels, count) in zip(table, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert outputs(ours, images).shape == (2, channels)
        statistics = sum(buffer.numel() for buffer in run(ours).buffers() if buffer.ndim == 1)  # Keras counts these too
        assert size(run(ours)) + statistics == count


def test_calls_of_transformers(
    workplace: Path, hub: HubServer, stand_ins: Path, images: Tensor, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    state = safetensors.torch.load_file(stand_ins / "mnv2zoo_100.google_in1k.safetensors")
    for key in ("classifier.weight", "classifier.bias"):  # with the background as class 0, as Google has it
        state[key] = torch.cat([torch.zeros_like(state[key][:1]), state[key]])
    model = transformers.MobileNetV2ForImageClassification(transformers.MobileNetV2Config(num_labels=1001))
    model.load_state_dict(state)
    model.save_pretrained(tmp_path / "google")
    for file in (tmp_path / "google").iterdir():
        hub.add(GOOGLE, file.name, file.read_bytes(), lfs=file.suffix == ".safetensors")
    table = rows("transformers")
    assert len(table) == 2
    for theirs, ours in table:
        found, expected = outputs(ours, images), outputs(theirs, images)
        if GOOGLE in theirs:
            torch.testing.assert_close(found, expected[:, 1:], rtol=1e-4, atol=1e-4)
        else:
            assert found.shape == expected.shape
            assert size(run(ours)) == size(run(theirs))
