"""Depthwise convolutions in a form that a compiler fuses with the layers around them.

A depthwise convolution does little arithmetic for each number that it reads, so memory sets its speed. As a call into
cuDNN it cannot be joined with the activation before or after it, each of which then reads and writes the whole map
once more. As a sum of shifted maps it is an ordinary element-wise computation, of which Inductor makes one kernel.
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
        # (places, C): the weights of neighboring channels lie side by side, as those channels of a map do.
        self.register_buffer("places", conv.weight.detach().float().flatten(1).T.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to what the convolution gives."""
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
            # The map moved to this place, with zeros where it comes in and less of it where it goes out.
            over, before = top - row * row_step, left - column * column_step
            moved = functional.pad(x, (before, width - x.shape[3] - before, over, height - x.shape[2] - over))
            part = moved[:, :, ::down, ::across].float() * self.places[place, :, None, None]
            total = part if total is None else total + part
        assert total is not None  # a kernel has a place
        return total.to(x.dtype)


def replace_depthwise(network: nn.Module) -> nn.Module:
    """Replaces the depthwise convolutions of a network, in place.

    Args:
        network: The network.

    Returns:
        The network.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and is_depthwise(child):
                setattr(parent, name, DepthwiseSum(child))
    return network


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether a convolution is depthwise, and of a kind whose padding is known."""
    known = type(conv) is nn.Conv2d and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return conv.groups == conv.in_channels == conv.out_channels > 1 and (known or isinstance(conv, Conv2dSame))
