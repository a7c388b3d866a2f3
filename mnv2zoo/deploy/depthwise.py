"""Depthwise convolutions in a form that a compiler can fuse with the layers around them.

A depthwise convolution does little arithmetic per number that it reads, so it is memory-bound. A call to cuDNN cannot
be fused with the activations before and after it, each of which then reads and writes the whole map again. As a sum of
shifted maps, it is an element-wise computation, which Inductor turns into one kernel.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional

from mnv2zoo.models.mobilenetv2 import Conv2dSame


class DepthwiseSum(nn.Module):
    """A depthwise convolution as a sum over the places of its kernel, in single precision.

    Args:
        conv: The convolution.
    """

    places: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        # (places, C): channels are contiguous, as in a channels-last map.
        self.register_buffer("places", conv.weight.detach().float().flatten(1).T.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """Computes the convolution of a map (N, C, H, W)."""
        conv = self.conv
        if isinstance(conv, Conv2dSame):
            left, right, top, bottom = conv.sides(x)
        else:
            top, left = bottom, right = tuple(int(side) for side in conv.padding)
        (high, wide), (down, across), (row_step, column_step) = conv.kernel_size, conv.stride, conv.dilation
        height = (x.shape[2] + top + bottom - row_step * (high - 1) - 1) // down * down + 1
        width = (x.shape[3] + left + right - column_step * (wide - 1) - 1) // across * across + 1
        total = None if conv.bias is None else conv.bias.float()[:, None, None]
        for place, (row, column) in enumerate(itertools.product(range(high), range(wide))):
            # Shift the map to this kernel position: pad with zeros on one side and crop on the other.
            over, before = top - row * row_step, left - column * column_step
            moved = functional.pad(x, (before, width - x.shape[3] - before, over, height - x.shape[2] - over))
            part = moved[:, :, ::down, ::across].float() * self.places[place, :, None, None]
            total = part if total is None else total + part
        assert total is not None  # a kernel has at least one position
        return total.to(x.dtype)


def replace_depthwise(network: nn.Module) -> nn.Module:
    """Replaces the depthwise convolutions of a model in place.

    Args:
        network: The model.

    Returns:
        The model.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and is_depthwise(child):
                setattr(parent, name, DepthwiseSum(child))
    return network


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether a convolution is depthwise, with a supported type of padding."""
    known = type(conv) is nn.Conv2d and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return conv.groups == conv.in_channels == conv.out_channels > 1 and (known or isinstance(conv, Conv2dSame))
