"""Detectors on the zoo's networks: torchvision's own heads, losses and post-processing.

They are used as torchvision's detectors are (https://pytorch.org/vision/stable/models.html#object-detection): a list of
images (C, H, W) from 0 to 1 goes in; in training mode a dict of losses comes out, else a dict of `boxes`, `labels`
and `scores` for each image. Class 0 is the background.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from mnv2zoo import _backbone, architecture
from mnv2zoo.errors import TapError
from mnv2zoo.features import HEAD, BottleneckTaps, bottleneck_names
from mnv2zoo.models import arguments

FPN_CHANNELS = 256


def ssdlite(
    name: str,
    num_classes: int,
    pretrained_backbone: bool | str | Path = False,
    trainable_backbone_layers: int | None = None,
    size: tuple[int, int] = (320, 320),
    in_chans: int = 3,
    **kwargs: Any,
) -> SSD:
    """Builds SSDLite (paper, section 6.2): cheap, for images of 320 pixels.

    The first map is the expansion of the bottleneck that halves the resolution last (`Bottleneck_14` at
    width 1.0), the second that of the head; four extra layers follow, of 512, 256, 256 and 128
    channels at width 1.0.

    Args:
        name: An architecture, or `architecture.tag`.
        num_classes: Classes, the background among them.
        pretrained_backbone: True for the weights of that name; or other weights of the architecture:
            `architecture.tag`, a run folder or `hf-hub:` name.
        trainable_backbone_layers: How many of six units of the backbone are trained, from the head on; all
            if None.
        size: Height and width that images are resized to.
        in_chans: Channels of the images; timm's rule fits the pretrained stem to another number.
        **kwargs: Further arguments of torchvision's `SSD`.

    Returns:
        The detector, in training mode.

    Raises:
        UnknownModelError: If there is no network of that name.
        WeightsError: If weights cannot be found, fetched or verified.
        ConversionError: If the weights are another architecture's.
        ArgumentError: If an argument has a value that it cannot have; a ValueError.
        UnknownArgumentError: If `SSD` takes no such argument.

    Examples:
        >>> import torch, mnv2zoo
        >>> detector = mnv2zoo.detection.ssdlite("mnv2zoo_035", num_classes=3).eval()
        >>> sorted(detector([torch.rand(3, 240, 320)])[0])
        ['boxes', 'labels', 'scores']
    """
    num_classes = arguments.integer("num_classes", num_classes, 1)
    _backbone.check_arguments(kwargs, _arguments(SSD))
    network = _backbone.build(name, pretrained_backbone, trainable_backbone_layers, in_chans=in_chans)
    # As in torchvision's SSDLite, https://github.com/pytorch/vision/blob/main/torchvision/models/detection/ssdlite.py
    norm_layer = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    maps = _WithExtraLayers(network, norm_layer)
    anchors = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95)
    head = SSDLiteHead(maps.channels, anchors.num_anchors_per_location(), num_classes, norm_layer)
    defaults = {
        "score_thresh": 0.001,
        "nms_thresh": 0.55,
        "detections_per_img": 300,
        "topk_candidates": 300,
        **_backbone.normalisation(network, in_chans),
    }
    return SSD(maps, anchors, size, num_classes, head=head, **(defaults | kwargs))


def retinanet(
    name: str,
    num_classes: int,
    pretrained_backbone: bool | str | Path = False,
    trainable_backbone_layers: int | None = None,
    levels: Sequence[str] | None = None,
    in_chans: int = 3,
    **kwargs: Any,
) -> RetinaNet:
    """Builds RetinaNet on a feature pyramid.

    With pretrained weights the backbone's batch norms are frozen, as torchvision does, since detectors train
    on batches of few images.

    Args:
        name: As for `ssdlite`.
        num_classes: As for `ssdlite`.
        pretrained_backbone: As for `ssdlite`.
        trainable_backbone_layers: As for `ssdlite`.
        levels: Names of bottlenecks that the pyramid stands on, from fine to coarse; by default the last at
            reductions 8, 16 and 32. Two coarser levels are added.
        in_chans: As for `ssdlite`.
        **kwargs: Further arguments of torchvision's `RetinaNet`.

    Returns:
        The detector, in training mode.

    Raises:
        TapError: If a level is none of the network's, or they are not in order from fine to coarse.
        UnknownModelError: If there is no network of that name.
        WeightsError: If weights cannot be found, fetched or verified.
        ConversionError: If the weights are another architecture's.
        ArgumentError: If an argument has a value that it cannot have; a ValueError.
        UnknownArgumentError: If `RetinaNet` takes no such argument.
    """
    num_classes = arguments.integer("num_classes", num_classes, 1)
    _backbone.check_arguments(kwargs, _arguments(RetinaNet))
    frozen_norm = bool(pretrained_backbone)
    network = _backbone.build(name, pretrained_backbone, trainable_backbone_layers, frozen_norm, in_chans=in_chans)
    maps = _WithPyramid(network, _given(levels, network, 8, 16, 32), LastLevelP6P7(FPN_CHANNELS, FPN_CHANNELS))
    sizes = [4 * side for side in maps.strides(2)]
    anchors = AnchorGenerator(
        tuple((side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))) for side in sizes),
        ((0.5, 1.0, 2.0),) * len(sizes),
    )
    defaults = {"anchor_generator": anchors, **_backbone.normalisation(network, in_chans)}
    return RetinaNet(maps, num_classes, **(defaults | kwargs))


def fasterrcnn(
    name: str,
    num_classes: int,
    pretrained_backbone: bool | str | Path = False,
    trainable_backbone_layers: int | None = None,
    levels: Sequence[str] | None = None,
    in_chans: int = 3,
    **kwargs: Any,
) -> FasterRCNN:
    """Builds Faster R-CNN on a feature pyramid.

    With pretrained weights the backbone's batch norms are frozen, as torchvision does.

    Args:
        name: As for `ssdlite`.
        num_classes: As for `ssdlite`.
        pretrained_backbone: As for `ssdlite`.
        trainable_backbone_layers: As for `ssdlite`.
        levels: Names of bottlenecks that the pyramid stands on, from fine to coarse; by default the last at
            reductions 4, 8, 16 and 32. One coarser level is added.
        in_chans: As for `ssdlite`.
        **kwargs: Further arguments of torchvision's `FasterRCNN`.

    Returns:
        The detector, in training mode.

    Raises:
        TapError: If a level is none of the network's, or they are not in order from fine to coarse.
        UnknownModelError: If there is no network of that name.
        WeightsError: If weights cannot be found, fetched or verified.
        ConversionError: If the weights are another architecture's.
        ArgumentError: If an argument has a value that it cannot have; a ValueError.
        UnknownArgumentError: If `FasterRCNN` takes no such argument.
    """
    num_classes = arguments.integer("num_classes", num_classes, 1)
    _backbone.check_arguments(kwargs, _arguments(FasterRCNN))
    frozen_norm = bool(pretrained_backbone)
    network = _backbone.build(name, pretrained_backbone, trainable_backbone_layers, frozen_norm, in_chans=in_chans)
    maps = _WithPyramid(network, _given(levels, network, 4, 8, 16, 32), LastLevelMaxPool())
    sizes = [8 * side for side in maps.strides(1)]
    anchors = AnchorGenerator(tuple((side,) for side in sizes), ((0.5, 1.0, 2.0),) * len(sizes))
    defaults = {
        "rpn_anchor_generator": anchors,
        "box_roi_pool": MultiScaleRoIAlign(maps.taps.names, output_size=7, sampling_ratio=2),
        **_backbone.normalisation(network, in_chans),
    }
    return FasterRCNN(maps, num_classes, **(defaults | kwargs))


def _given(levels: Sequence[str] | None, network: Any, *reductions: int) -> Sequence[str]:
    return _backbone.last_at(network, *reductions) if levels is None else levels


class _WithExtraLayers(nn.Module):
    """SSDLite's six maps, from fine to coarse."""

    def __init__(self, network: Any, norm_layer: Any) -> None:
        super().__init__()
        last = [block for block in architecture.bottlenecks(network.arch_config) if block.stride > 1][-1]
        self.taps = BottleneckTaps(network, [last.name, HEAD], location="expansion")
        depths = [max(16, int(depth * network.arch_config.width)) for depth in (512, 256, 256, 128)]
        self.channels = [*self.taps.channels.values(), *depths]
        self.extra = nn.ModuleList(
            _extra_layer(before, after, norm_layer)
            for before, after in zip(self.channels[1:-1], self.channels[2:], strict=True)
        )
        for module in self.extra.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.03)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = list(self.taps(x).values())
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        return OrderedDict((str(number), m) for number, m in enumerate(maps))


def _extra_layer(before: int, after: int, norm_layer: Any) -> nn.Sequential:
    """A bottleneck turned inside out, as torchvision's SSDLite has it: 1x1 to half, 3x3 depthwise by two, 1x1."""
    half = after // 2
    layer = partial(Conv2dNormActivation, norm_layer=norm_layer, activation_layer=nn.ReLU6)
    return nn.Sequential(
        layer(before, half, kernel_size=1),
        layer(half, half, kernel_size=3, stride=2, groups=half),
        layer(half, after, kernel_size=1),
    )


class _WithPyramid(nn.Module):
    """A feature pyramid on some levels; `out_channels` is what torchvision's detectors look for."""

    def __init__(self, network: Any, names: Sequence[str], extra_blocks: ExtraFPNBlock) -> None:
        super().__init__()
        self.taps = BottleneckTaps(network, names)
        known = bottleneck_names(network)
        in_order = sorted(self.taps.names, key=known.index)
        if self.taps.names != in_order:
            raise TapError(
                "the levels of a pyramid are not in order from fine to coarse",
                expected=", ".join(in_order),
                found=", ".join(self.taps.names),
                where="levels",
                fix="Sort the levels.",
            )
        self.fpn = FeaturePyramidNetwork(list(self.taps.channels.values()), FPN_CHANNELS, extra_blocks)
        self.out_channels = FPN_CHANNELS

    def strides(self, added: int) -> list[int]:
        """The reduction of each level, and its doublings for the levels that the pyramid adds."""
        levels = list(self.taps.reductions.values())
        return levels + [levels[-1] * 2**step for step in range(1, 1 + added)]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = self.fpn(self.taps(x))
        return maps


def _arguments(detector: type[nn.Module]) -> tuple[str, ...]:
    """The arguments that a detector of torchvision takes by name and that are not given here already."""
    parameters = inspect.signature(detector.__init__).parameters.values()
    own = ("self", "backbone", "num_classes", "size", "head", "anchor_generator" if detector is SSD else "")
    return tuple(p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in own)
