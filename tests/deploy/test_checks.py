"""What engines require of a model and its images, and how outputs are compared."""

import pytest
import timm
import torch
from torch import nn

from mnv2zoo import deploy
from mnv2zoo.errors import DeployError
from tests.deploy.conftest import SMALL


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"engine": "openvin"}, "openvino"),
        ({"precision": "fp16"}, "bf16"),
        ({"engine": "onnxruntime", "precision": "bf16"}, "These do: torch"),
        ({"threads": 0}, "1 or more"),
        ({"example": torch.randn(3, 64, 64)}, r"\(N, C, H, W\)"),
        ({"example": torch.zeros(1, 3, 64, 64, dtype=torch.uint8)}, "floating-point"),
        ({"example": torch.full((1, 3, 64, 64), float("nan"))}, "finite"),
        ({"example": torch.randn(0, 3, 64, 64)}, r"\(0, 3, 64, 64\)"),
        ({"example": torch.randn(1, 3, 64, 64).numpy()}, "ndarray"),
        ({"example": torch.empty(1, 3, 64, 64, device="meta")}, "on meta"),
        ({"example": torch.randn(1, 4, 64, 64)}, "cannot run the example"),
        ({"model": "mnv2zoo_100"}, r"(?s)a torch\.nn\.Module.*str"),
        ({"model": nn.Conv2d(3, 8, 1, device="meta").eval()}, r"model\.cpu\(\)"),
    ],
)
def test_bad_input_is_told(small, x, change, words):
    with pytest.raises(DeployError, match=words):
        deploy.optimize(**{"model": small, "example": x, "engine": "torch", **change})


def test_a_model_in_training_mode_is_refused(x):
    with pytest.raises(DeployError, match=r"model\.eval\(\)"):
        deploy.optimize(timm.create_model(SMALL).train(), x, "torch")
