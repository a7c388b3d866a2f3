"""A sum of shifted maps is a depthwise convolution."""

import copy

import pytest
import torch
from timm.layers import Conv2dSame as TimmConv2dSame
from torch import nn

from mnv2zoo import deploy
from mnv2zoo.deploy.depthwise import DepthwiseSum, is_depthwise, replace_depthwise
from mnv2zoo.models.mobilenetv2 import Conv2dSame
from tests.deploy.conftest import expected, network


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(3, 1, 1, 1), (3, 2, 1, 1), (5, 1, 2, 1), (3, 1, 2, 2), (3, 2, 0, 1), ((3, 5), (1, 2), (1, 0), (2, 1))],
)
def test_a_sum_is_what_the_convolution_gives(kernel, stride, padding, dilation, bias):
    conv = nn.Conv2d(6, 6, kernel, stride, padding, dilation, groups=6, bias=bias)
    x = torch.randn(2, 6, 13, 16)
    torch.testing.assert_close(DepthwiseSum(conv)(x), conv(x))


@pytest.mark.parametrize("size", [(12, 12), (13, 13), (12, 13)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (3, 1)])
def test_the_padding_of_tensorflow_is_kept(size, kernel, stride):
    theirs = TimmConv2dSame(6, 6, kernel, stride, groups=6)
    ours = copy.deepcopy(theirs)
    ours.__class__ = Conv2dSame  # as the networks make it
    x = torch.randn(2, 6, *size)
    torch.testing.assert_close(DepthwiseSum(ours)(x), theirs(x))


def test_of_a_network_only_depthwise_convolutions_are_replaced(x):
    model = network(pad_type="same")
    folded = replace_depthwise(deploy.fold(model))
    kinds = [type(module) for module in folded.modules()]
    assert kinds.count(DepthwiseSum) == 17  # one per bottleneck
    torch.testing.assert_close(expected(folded, x), expected(model, x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(6, 12, 3, groups=6),
        nn.Conv2d(6, 6, 3, groups=3),
        nn.Conv2d(6, 6, 3, groups=6, padding=1, padding_mode="reflect"),
        nn.Conv2d(6, 6, 3, groups=6, padding="same"),
        TimmConv2dSame(6, 6, 3, groups=6),
        nn.Conv2d(1, 1, 3),
    ],
)
def test_other_convolutions_are_left_alone(conv):
    assert not is_depthwise(conv)
