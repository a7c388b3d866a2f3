"""Segmenters on the zoo's networks: torchvision's own heads.

They are used as torchvision's are (https://pytorch.org/vision/stable/models.html#semantic-segmentation): normalised
images (N, C, H, W) go in, a dict with logits (N, classes, H, W) at `out` comes out. Class 0 is the background.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision.models.segmentation import LRASPP, DeepLabV3
from torchvision.models.segmentation.deeplabv3 import ASPP, DeepLabHead

from mnv2zoo import _backbone
from mnv2zoo.features import BottleneckTaps
from mnv2zoo.models import arguments

# Chen et al. 2017, "Rethinking Atrous Convolution", section 4.2: doubled where the stride is halved.
ATROUS_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
ASPP_CHANNELS = 256


def deeplabv3(
    name: str,
    num_classes: int,
    pretrained_backbone: bool | str | Path = False,
    trainable_backbone_layers: int | None = None,
    output_stride: int = 16,
    aspp: bool = True,
    in_chans: int = 3,
) -> DeepLabV3:
    """Builds DeepLabv3 on the last bottleneck (paper, section 6.3: 320 channels in place of the head's 1280).

    Args:
        name: An architecture, or `architecture.tag`.
        num_classes: Classes, the background among them.
        pretrained_backbone: True for the weights of that name; or other weights of the architecture:
            `architecture.tag`, a run folder or `hf-hub:` name.
        trainable_backbone_layers: How many of six units of the backbone are trained, from the head on; all
            if None.
        output_stride: 16, or 8 for finer maps at about four times the cost.
        aspp: With the atrous pyramid. Without it, the mobile variant of the paper's Table 7: the image's
            pooled features and a 1x1 convolution, at a fraction of the cost.
        in_chans: Channels of the images; timm's rule fits the pretrained stem to another number.

    Returns:
        The segmenter, in training mode.

    Raises:
        UnknownModelError: If there is no network of that name.
        WeightsError: If weights cannot be found, fetched or verified.
        ConversionError: If the weights are another architecture's.
        ArgumentError: If an argument has a value that it cannot have; a ValueError.
    """
    num_classes = arguments.integer("num_classes", num_classes, 1)
    if isinstance(output_stride, bool | float) or output_stride not in ATROUS_RATES:
        raise arguments.refused("output_stride", output_stride, "16 or 8")
    network = _backbone.build(
        name, pretrained_backbone, trainable_backbone_layers, output_stride=output_stride, in_chans=in_chans
    )
    maps = _Maps(network, {"out": _backbone.last_at(network, output_stride)[0]})
    channels = maps.channels["out"]
    if aspp:
        head: nn.Module = DeepLabHead(channels, num_classes, ATROUS_RATES[output_stride])
    else:
        head = nn.Sequential(ASPP(channels, [], ASPP_CHANNELS), nn.Conv2d(ASPP_CHANNELS, num_classes, 1))
    return DeepLabV3(maps, head)


def lraspp(
    name: str,
    num_classes: int,
    pretrained_backbone: bool | str | Path = False,
    trainable_backbone_layers: int | None = None,
    inter_channels: int = 128,
    in_chans: int = 3,
) -> LRASPP:
    """Builds Lite R-ASPP (Howard et al. 2019, https://arxiv.org/abs/1905.02244, section 6.4): light and fast.

    It stands on the last bottlenecks at reductions 8 and 16, the latter dilated to its end.

    Args:
        name: As for `deeplabv3`.
        num_classes: As for `deeplabv3`.
        pretrained_backbone: As for `deeplabv3`.
        trainable_backbone_layers: As for `deeplabv3`.
        inter_channels: Channels of the head.
        in_chans: As for `deeplabv3`.

    Returns:
        The segmenter, in training mode.

    Raises:
        UnknownModelError: If there is no network of that name.
        WeightsError: If weights cannot be found, fetched or verified.
        ConversionError: If the weights are another architecture's.
        ArgumentError: If an argument has a value that it cannot have; a ValueError.

    Examples:
        >>> import torch, mnv2zoo
        >>> segmenter = mnv2zoo.segmentation.lraspp("mnv2zoo_035", num_classes=3).eval()
        >>> segmenter(torch.rand(1, 3, 64, 96))["out"].shape
        torch.Size([1, 3, 64, 96])
    """
    num_classes = arguments.integer("num_classes", num_classes, 1)
    inter_channels = arguments.integer("inter_channels", inter_channels, 1)
    network = _backbone.build(name, pretrained_backbone, trainable_backbone_layers, output_stride=16, in_chans=in_chans)
    low, high = _backbone.last_at(network, 8, 16)
    maps = _Maps(network, {"low": low, "high": high})
    return LRASPP(maps, maps.channels["low"], maps.channels["high"], num_classes, inter_channels)


class _Maps(nn.Module):
    """Taps under the names that torchvision's segmenters look for."""

    def __init__(self, network: Any, names: Mapping[str, str]) -> None:
        super().__init__()
        self.taps = BottleneckTaps(network, list(names.values()))
        self.levels = list(names.items())
        self.channels = {key: self.taps.channels[name] for key, name in self.levels}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.taps(x)
        maps = OrderedDict()  # a comprehension or zip here would be beyond TorchScript
        for key, name in self.levels:
            maps[key] = found[name]
        return maps
