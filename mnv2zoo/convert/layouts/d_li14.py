"""The layout of `d-li14/mobilenetv2.pytorch`, which publishes ImageNet weights for several widths and image sizes.

The bottlenecks have the same names as in `tonylins`, and the head is a separate module, `conv`. Padding and epsilon are
PyTorch's defaults, as in torchvision.

Source: https://github.com/d-li14/mobilenetv2.pytorch/blob/master/models/imagenet/mobilenetv2.py
"""

from __future__ import annotations

from collections.abc import Iterator

from mnv2zoo.architecture import Config
from mnv2zoo.convert.layouts import tonylins
from mnv2zoo.convert.layouts.base import Layout, beyond_a_width, by_module


def modules(config: Config) -> Iterator[str]:
    """Yields the module names in execution order.

    Args:
        config: The architecture.

    Yields:
        A module's name.
    """
    yield from tonylins.body(config)
    yield from ("conv.0", "conv.1", "classifier")


LAYOUT = Layout(
    name="d-li14", names=by_module(modules), lacks=beyond_a_width, preprocessing={"interpolation": "bilinear"}
)
