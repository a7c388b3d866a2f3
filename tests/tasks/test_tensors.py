"""Functions of tensors reach every tensor of a batch, whatever its structure."""

from collections import OrderedDict, namedtuple

import torch
from torch.utils._pytree import tree_map

from mnv2zoo.tasks import tensors

Pair = namedtuple("Pair", "left right")
BATCH = {"a": [torch.ones(2), (torch.zeros(1), "name")], "b": Pair(torch.full((3,), 2.0), None)}


def test_the_structure_stays_and_each_tensor_is_mapped():
    found = tensors.map_tensors(lambda tensor: tensor + 1, BATCH)
    expected = tree_map(lambda leaf: leaf + 1 if isinstance(leaf, torch.Tensor) else leaf, BATCH)
    assert repr(found) == repr(expected)
    assert isinstance(found["b"], Pair)
    assert tensors.map_tensors(torch.sum, OrderedDict(x=torch.ones(3)))["x"] == 3


def test_only_floating_point_numbers_become_single_precision():
    half, numbers = tensors.in_single_precision([torch.ones(2, dtype=torch.bfloat16), torch.arange(2)])
    assert (half.dtype, numbers.dtype) == (torch.float32, torch.int64)


def test_what_goes_to_the_cpu_has_no_gradient():
    (found,) = tensors.to_cpu([torch.ones(2, requires_grad=True) * 2])
    assert (found.device.type, found.requires_grad) == ("cpu", False)


def test_only_batches_of_images_change_their_memory():
    images = torch.arange(24.0).reshape(1, 2, 3, 4)
    found = tensors.channels_last(images)
    assert found.stride() == (24, 1, 8, 2)
    assert torch.equal(found, images)
    vectors, named = torch.ones(2, 3), {"images": images}
    assert tensors.channels_last(vectors) is vectors
    assert tensors.channels_last(named) is named
