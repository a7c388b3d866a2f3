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


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        MemoryError(),
    ],
)
def test_a_batch_that_does_not_fit_in_memory_is_an_error_that_names_a_smaller_one(error):
    with pytest.raises(DeviceError) as caught, pretrained.enough_memory(torch.device("cpu"), 64):
        raise error
    assert caught.value.problem == "out of memory"
    assert "--batch-size 32" in caught.value.fix
    assert "\n" not in caught.value.found


def test_other_errors_of_a_batch_stay_as_they_are():
    with pytest.raises(RuntimeError, match=r"^sizes differ$"), pretrained.enough_memory(torch.device("cpu"), 64):
        raise RuntimeError("sizes differ")
    quoted = DeviceError("x", found="DefaultCPUAllocator: not enough memory")
    assert not pretrained.is_out_of_memory(quoted)
