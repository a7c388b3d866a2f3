"""The native layout: what every tensor of a network is called and how it is shaped.

The names are timm's own for MobileNetV2. A 20-class network has the same names where it has the same
layer, and `classifier_bn` for the batch norm after its classifier.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mnv2zoo.architecture import Config, bottlenecks, layers

if TYPE_CHECKING:
    from torch import Tensor

Tensors = dict[str, "Tensor"]

COUNTER = "num_batches_tracked"


def modules(config: Config) -> Iterator[str]:
    """Names the layers that hold tensors, in the order they run.

    Each convolution is followed by its batch norm. The other layouts list their own names in this
    order, so that two lists side by side are a conversion.

    Args:
        config: The network.

    Yields:
        A module's name.
    """
    yield from ("conv_stem", "bn1")
    for b in bottlenecks(config):
        expanded = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
        names = expanded if b.expand else ("conv_dw", "bn1", "conv_pw", "bn2")
        yield from (f"blocks.{b.stage}.{b.index}.{name}" for name in names)
    yield from ("conv_head", "bn2", "classifier")
    if config.classifier_norm:
        yield "classifier_bn"


def shapes(config: Config, num_classes: int | None = None, in_chans: int = 3) -> dict[str, tuple[int, ...]]:
    """Gives the shape of every tensor of a network.

    Args:
        config: The network.
        num_classes: Classes of the classifier; the config's own by default, 0 for no classifier.
        in_chans: Channels of the input image.

    Returns:
        Shapes by key, in the order the layers run.
    """
    names = modules(config)
    laid: dict[str, tuple[int, ...]] = {}
    for layer in layers(config, num_classes, in_chans):
        name, channels = next(names), (layer.out_channels,)
        linear = name == "classifier" and config.classifier == "linear"
        kernel = () if linear else (layer.kernel, layer.kernel)
        laid[f"{name}.weight"] = (*channels, layer.in_channels, *kernel)
        if layer.bias:
            laid[f"{name}.bias"] = channels
        if layer.norm:
            norm = next(names)
            for statistic in ("weight", "bias", "running_mean", "running_var"):
                laid[f"{norm}.{statistic}"] = channels
            laid[f"{norm}.{COUNTER}"] = ()
    return laid
