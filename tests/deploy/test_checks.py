"""What engines require of a model and its images, and how outputs are compared."""

import math

import pytest
import timm
import torch
from torch import nn

from mnv2zoo import deploy
from mnv2zoo.deploy import checks
from mnv2zoo.errors import DeployError, MissingExtraError
from mnv2zoo.system.installation import install_command
from tests.deploy.conftest import SMALL


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"engine": "openvin"}, "openvino"),
        ({"precision": "fp8"}, "fp32"),
        ({"precision": "fp16"}, "torch, inductor on cuda"),
        ({"engine": "onnxruntime", "precision": "bf16"}, "Engines that support it: torch"),
        ({"threads": 0}, "1 or more"),
        ({"example": torch.randn(3, 64, 64)}, r"\(N, C, H, W\)"),
        ({"example": torch.zeros(1, 3, 64, 64, dtype=torch.uint8)}, "floating-point"),
        ({"example": torch.full((1, 3, 64, 64), float("nan"))}, "finite"),
        ({"example": torch.randn(0, 3, 64, 64)}, r"\(0, 3, 64, 64\)"),
        ({"example": torch.randn(1, 3, 64, 64).numpy()}, "ndarray"),
        ({"example": torch.empty(1, 3, 64, 64, device="meta")}, "on meta"),
        ({"example": torch.randn(1, 4, 64, 64)}, "raised an error for the example"),
        ({"model": "mnv2zoo_100"}, r"(?s)a torch\.nn\.Module.*str"),
        ({"model": nn.Conv2d(3, 8, 1, device="meta").eval()}, r"model\.cpu\(\)"),
    ],
)
def test_bad_input_is_told(small, x, change, words):
    with pytest.raises(DeployError, match=words):
        deploy.optimize(**{"model": small, "example": x, "engine": "torch", **change})


def test_images_may_be_on_the_cpu_or_the_device():
    meta = torch.device("meta")
    on_cpu, on_meta = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4, device="meta")
    assert checks.are_images(on_cpu)
    assert checks.are_images(on_cpu, meta)
    assert checks.are_images(on_meta, meta)
    assert not checks.are_images(on_meta)
    assert not checks.are_images(on_meta, torch.device("cuda", 0))
    assert checks.is_image(on_meta[0], meta)
    assert not checks.is_image(on_meta[0])
    assert checks.places(torch.device("cuda", 1)) == "on cuda:1 or the CPU"


def test_a_model_may_be_anywhere_if_a_device_is_given():
    model = nn.Conv2d(3, 8, 1, device="meta").eval()
    checks.require_network(model, on_cpu=False)
    with pytest.raises(DeployError) as error:
        checks.require_network(model)
    assert error.value.found == "meta"
    assert "device=" in error.value.fix


def test_a_model_in_training_mode_is_refused(x):
    with pytest.raises(DeployError, match=r"model\.eval\(\)"):
        deploy.optimize(timm.create_model(SMALL).train(), x, "torch")


def test_distances_are_relative_to_the_norm_and_absolute():
    found = [torch.tensor([3.0, 4.5]), torch.tensor([1.0])]
    wanted = [torch.tensor([3.0, 4.0]), torch.tensor([1.25])]
    assert checks.distances(found, wanted) == pytest.approx((0.2, 0.5))  # 0.25 / 1.25, and 4.5 - 4
    assert all(map(math.isnan, checks.distances([torch.tensor([float("nan")]), *found], [torch.ones(1), *wanted])))


def test_what_is_not_installed_is_named_with_its_extra():
    assert checks.missing(["torch", "no_such_package"]) == ["no_such_package"]
    with pytest.raises(MissingExtraError) as error:
        checks.require(["no_such_package"], "the engine x", "litert")
    assert error.value.fix == f"Run: {install_command('litert')}"


def test_a_value_is_described_by_its_type_or_shape():
    assert checks.describe(torch.zeros(1, 2, dtype=torch.uint8)) == "uint8 (1, 2)"
    assert checks.describe(torch.empty(3, device="meta")) == "float32 (3,) on meta"
    assert checks.describe("x") == "str"
