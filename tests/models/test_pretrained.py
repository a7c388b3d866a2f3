"""A model with all that belongs to its weights."""

import pytest
import torch

from mnv2zoo.errors import DeviceError
from mnv2zoo.models import pretrained


def test_a_sound_one_is_taken(run_folder):
    found = pretrained.load(run_folder({"label_names": ["cat", "dog"]}), "cpu")
    assert found.label_names == ["cat", "dog"]


@pytest.mark.parametrize("name", ["toaster", "cuda:99", "meta", "cpu:x"])
def test_a_device_that_cannot_be_used_is_an_error_that_names_those_that_can(name):
    with pytest.raises(DeviceError) as error:
        pretrained.find_device(name)
    assert repr(name) in error.value.problem
    assert "cpu" in error.value.expected.split(" or ")
    assert error.value.where == "device"


def test_the_default_device_is_the_accelerator():
    found = pretrained.find_device(None)
    assert found.type == (pretrained.device_names()[-1].partition(":")[0])
    assert pretrained.find_device("cpu") == torch.device("cpu")
