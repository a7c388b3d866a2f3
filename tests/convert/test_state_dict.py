"""The tensors are found in whatever holds them."""

import pytest
import torch

from mnv2zoo.convert import from_native, to_native
from tests.convert.conftest import NAME, refusal
from tests.convert.networks import ours, theirs


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_wrappers_of_training_are_taken_off(torchvision_tensors, prefix):
    wrapped = {prefix + key: value for key, value in torchvision_tensors.items()}
    assert to_native(wrapped, NAME).keys() == to_native(torchvision_tensors, NAME).keys()


@pytest.mark.parametrize("convert", [to_native, from_native])
def test_a_checkpoint_is_opened_and_its_averaged_weights_preferred(tensors, convert):
    def holding(mark):
        return {**tensors, "bn1.bias": torch.full_like(tensors["bn1.bias"], mark)}

    checkpoint = {"model": holding(1), "epoch": 3}
    for mark, key in enumerate(("model", "state_dict", "model_ema", "state_dict_ema"), 1):
        checkpoint[key] = holding(mark)
        assert convert(checkpoint, NAME, "timm")["bn1.bias"][0] == mark
    checkpoint["state_dict_ema"] = None
    assert convert(checkpoint, NAME, "timm")["bn1.bias"][0] == 3


def test_parameters_come_out_as_plain_tensors():
    net = theirs("transformers", NAME)
    converted = to_native(dict(net.named_parameters()) | dict(net.named_buffers()), NAME)
    assert not any(value.requires_grad for value in converted.values())


@pytest.mark.parametrize("value", [1.0, None, [1, 2], {"nested": torch.ones(1)}])
def test_what_is_no_tensor_is_refused(tensors, value):
    error = refusal(to_native, {**tensors, "bn1.bias": value}, NAME)
    assert (error.found, error.where) == (type(value).__name__, "'bn1.bias'")
    assert "state_dict_ema" in error.fix


def test_a_checkpoint_with_a_whole_module_is_refused():
    error = refusal(to_native, {"model": ours(NAME)}, NAME)
    assert (error.found, error.where) == ("EfficientNet", "'model'")
