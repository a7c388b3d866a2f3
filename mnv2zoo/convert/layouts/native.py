"""The native layout: the name and shape of every tensor of a model.

timm's MobileNetV2 has the same names. The 20-class models use the same names where they have the same layers,
and `classifier_bn` for the batch norm after the classifier.
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
    """Yields the names of the layers with tensors in execution order.

    Each convolution is followed by its batch norm. The other layouts list their names in the same order, so pairing
    two lists gives a conversion.

    Args:
        config: The architecture.

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
    """Returns the shape of every tensor of a model.

    Args:
        config: The architecture.
        num_classes: Number of classes. None uses the config's, and 0 leaves out the classifier.
        in_chans: Channels of the input image.

    Returns:
        Shapes by key, in execution order.
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
