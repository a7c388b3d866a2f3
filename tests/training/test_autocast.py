"""Strided depthwise convolutions stay in single precision while a model is trained in bfloat16 on a CPU."""

import types

import pytest
import timm
import torch
from torch import nn

import mnv2zoo
from mnv2zoo.training.autocast import single_where_faster
from tests.photos import QUICK

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def accelerator(device="cpu", precision="bf16"):
    return types.SimpleNamespace(device=torch.device(device), mixed_precision=precision)


def is_depthwise(module, stride):
    return isinstance(module, nn.Conv2d) and module.groups > 1 and module.stride == (stride, stride)


class Precisions:
    """The precisions of depthwise convolutions within autocast, by their stride: with gradients, and without."""

    def __init__(self):
        self.by_stride, self.evaluated = {1: set(), 2: set()}, {1: set(), 2: set()}

    def __enter__(self):
        self.hook = nn.modules.module.register_module_forward_hook(self.note)
        return self

    def __exit__(self, *_):
        self.hook.remove()

    def note(self, module, _, output):
        for stride in self.by_stride:
            if is_depthwise(module, stride) and torch.is_autocast_enabled("cpu"):
                (self.by_stride if output.requires_grad else self.evaluated)[stride].add(output.dtype)


@pytest.mark.parametrize("padding", ["", "same"])
def test_it_computes_them_in_single_precision_and_the_others_in_bfloat16(padding):
    model = timm.create_model("mnv2zoo_035", pad_type=padding).train()
    strided = [module for module in model.modules() if is_depthwise(module, 2)]
    assert len(strided) == 4
    kinds = [type(module) for module in model.modules()]
    with Precisions() as seen, single_where_faster(model, accelerator()), torch.autocast("cpu", torch.bfloat16):
        model(IMAGES).sum().backward()
    assert seen.by_stride == {1: {torch.bfloat16}, 2: {torch.float32}}
    assert all(module.weight.grad.dtype == torch.float32 for module in strided)
    assert [type(module) for module in model.modules()] == kinds

    maps = torch.rand(2, strided[0].in_channels, 32, 32)
    with torch.no_grad():
        wanted = strided[0](maps)
        with single_where_faster(model, accelerator()), torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(strided[0](maps), wanted)


def test_it_ends_with_an_error():
    model = timm.create_model("mnv2zoo_035")
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(KeyboardInterrupt), single_where_faster(model, accelerator()):
        raise KeyboardInterrupt
    assert [type(module) for module in model.modules()] == kinds


@pytest.mark.parametrize("where", [("cpu", "no"), ("cuda", "bf16")], ids=["fp32", "GPU"])
def test_elsewhere_nothing_changes(where):
    model = timm.create_model("mnv2zoo_035")
    kinds = [type(module) for module in model.modules()]
    with single_where_faster(model, accelerator(*where)):
        assert [type(module) for module in model.modules()] == kinds


def test_finetune_uses_it(photos, tmp_path):
    with Precisions() as seen:
        mnv2zoo.finetune(photos, "mnv2zoo_035", tmp_path / "run", **{**QUICK, "precision": "bf16"})
    assert seen.by_stride == {1: {torch.bfloat16}, 2: {torch.float32}}
    assert seen.evaluated == {1: {torch.bfloat16}, 2: {torch.bfloat16}}  # during training as after it
