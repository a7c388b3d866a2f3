"""Detectors on the zoo's networks: torchvision's own heads, losses and post-processing.

They are used as torchvision's detectors are (https://pytorch.org/vision/stable/models.html#object-detection): a list of
images (C, H, W) from 0 to 1 goes in; in training mode a dict of losses comes out, else a dict of `boxes`, `labels`
and `scores` for each image. Class 0 is the background.
"""

from __future__ import annotations

import inspect
import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from msgspec import Meta
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from mnv2zoo import _backbone, architecture
from mnv2zoo.errors import ConversionError, TapError
from mnv2zoo.features import HEAD, BottleneckTaps, bottleneck_names
from mnv2zoo.models import arguments, checkpoint, names, pretrained
from mnv2zoo.models.arguments import refused
from mnv2zoo.models.mobilenetv2 import MobileNetV2
from mnv2zoo.models.names import Description
from mnv2zoo.system.validation import choices_of, fits

FPN_CHANNELS = 256
STRIDES = (4, 8, 16)  # of the finest map
LARGEST_ANCHOR = 0.95  # of SSD, as a part of the image's side

D = TypeVar("D", bound=nn.Module)


@dataclass(frozen=True)
class Head:
    """A detection head, as a run folder records it.

    Attributes:
        name: `ssdlite`, `retinanet` or `fasterrcnn`.
        stride: Stride of the finest map; None for the head's own.
        fpn_channels: Channels of the feature pyramid; None for the head's own.
        anchor_size: Side of the smallest anchors in pixels; None for the head's own.
        score_threshold: Lowest score of a box.
        nms_threshold: Overlap (IoU) from which the lower of two boxes of a class is dropped.
        max_detections: Most boxes per image.
        frozen_norm: Whether the backbone's batch norms are frozen, as torchvision freezes those under a pyramid.

    Raises:
        ArgumentError: If a value is of the wrong kind or out of bounds.
    """

    name: Literal["ssdlite", "retinanet", "fasterrcnn"] = "ssdlite"
    stride: Literal[4, 8, 16] | None = None
    fpn_channels: Annotated[int, Meta(ge=16, le=512)] | None = None
    anchor_size: Annotated[float, Meta(ge=2, le=2048)] | None = None
    score_threshold: Annotated[float, Meta(ge=0, le=1)] = 0.01
    nms_threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5
    max_detections: Annotated[int, Meta(ge=1, le=10_000)] = 100
    frozen_norm: bool = False

    def __post_init__(self) -> None:
        kinds = get_type_hints(Head, include_extras=True)
        for name, value in vars(self).items():
            if not fits(value, kinds[name]):
                expected = " or ".join(map(str, choices_of(kinds[name])))
                raise refused(name, value, expected or "a value within its bounds")
        if self.name == "ssdlite" and self.fpn_channels is not None:
            raise refused("fpn_channels", self.fpn_channels, "None: ssdlite has no feature pyramid")

    @property
    def keeps_ratio(self) -> bool:
        """Whether images keep the ratio of their sides; SSD's are squashed to one size."""
        return self.name != "ssdlite"

    def to_json(self) -> dict[str, Any]:
        """The values by name, for `config.json`; those of None are left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def build(self, network: MobileNetV2, num_classes: int, input_size: Sequence[int]) -> nn.Module:
        """Builds a detector on a network.

        Args:
            network: The network, with its weights.
            num_classes: Classes, the background not among them.
            input_size: Channels, height and width of the images. For heads that keep the ratio, the lesser side is the
                most that a short side has, and the greater side the most that a long side has.

        Returns:
            The detector, in training mode.
        """
        shared: dict[str, Any] = {"anchor_size": self.anchor_size, "pretrained_backbone": self.frozen_norm}
        shared |= {} if self.stride is None else {"stride": self.stride}
        shared |= {} if self.fpn_channels is None else {"fpn_channels": self.fpn_channels}
        prefix = "box_" if self.name == "fasterrcnn" else ""
        shared |= {f"{prefix}{name}": getattr(self, own) for name, own in _POSTPROCESSING.items()}
        _, *sides = input_size
        if self.name == "ssdlite":
            return ssdlite(network, num_classes + 1, size=(sides[0], sides[1]), **shared)
        builder = retinanet if self.name == "retinanet" else fasterrcnn
        return builder(network, num_classes + 1, min_size=min(sides), max_size=max(sides), **shared)


# torchvision's arguments, and the fields of `Head` that they are.
_POSTPROCESSING = {
    "score_thresh": "score_threshold",
    "nms_thresh": "nms_threshold",
    "detections_per_img": "max_detections",
}


def load(name: str | Path, device: str | None = None) -> nn.Module:
    """Loads a detector that `mnv2zoo finetune --task detect` trained.

    Args:
        name: A run folder, a package, or an `hf-hub:` name.
        device: The device; by default the accelerator if there is one.

    Returns:
        The detector in evaluation mode. It takes a list of images (3, height, width) with values from 0 to 1 and of any
        size, and returns a dict of `boxes` (in pixels of the image), `labels` (from 1) and `scores` for each. Its
        `label_names` are the names of its classes, so that label 1 is `label_names[0]`; `built_with` is its `Head`.

    Raises:
        UnknownModelError: If there is no model of that name.
        WeightsError: If its weights cannot be found, fetched or verified.
        ConversionError: If it is no detector, or its files do not belong together.
        DeviceError: If the device cannot be used.

    Examples:
        >>> import mnv2zoo, torch
        >>> detector = mnv2zoo.detection.load("cells-run")  # doctest: +SKIP
        >>> found = detector([torch.rand(3, 480, 640)])[0]  # doctest: +SKIP
        >>> [detector.label_names[label - 1] for label in found["labels"]]  # doctest: +SKIP
    """
    where = pretrained.find_device(device)
    description = names.describe(str(name))
    head_of(description)
    label_names = description.label_names
    tensors = checkpoint.whole_tensors(description)
    if len(label_names) >= max((len(tensor) for tensor in tensors.values() if tensor.ndim), default=0):
        raise ConversionError(  # before memory is allocated for a head that nothing could fill
            "the weights are for fewer classes",
            expected=f"a head for {len(label_names)} classes",
            found="tensors for fewer",
            where=description.name,
            fix="Restore model.safetensors or config.json: one of them is of another run.",
        )
    detector = untrained(description)
    checkpoint.fill_whole(detector, tensors, description)
    return detector.eval().to(where)


def untrained(description: Description) -> nn.Module:
    """Builds the detector that a model directory describes, with random weights.

    Args:
        description: The model.

    Returns:
        The detector, as `load` describes it, in training mode and on the CPU.

    Raises:
        ConversionError: If it is no detector, or one that this version cannot build.
    """
    head, label_names = head_of(description), tuple(description.label_names)
    network = description.build(pretrained=False, num_classes=0)
    detector = head.build(network, len(label_names), input_size(description))
    vars(detector).update(built_with=head, label_names=label_names)
    return detector


def head_of(description: Description) -> Head:
    """The head that a model directory records.

    Args:
        description: The model.

    Returns:
        The head.

    Raises:
        ConversionError: If it is no detector, or one that this version cannot build.
    """
    try:
        if description.task != "detect" or not description.head:
            raise ValueError(f"a model for the task {description.task or 'classify'}")
        return Head(**description.head)
    except (TypeError, ValueError) as error:
        raise ConversionError(
            f"{description.name} is not a detector of this version",
            expected="a run of `mnv2zoo finetune --task detect`",
            found=str(error)[:200],
            where=description.name,
            fix="Name the run folder of a detector.",
        ) from error


def input_size(description: Description) -> tuple[int, int, int]:
    """The size of a detector's images, except in training; see `Head.build`.

    Args:
        description: The detector.

    Returns:
        Channels, height and width.

    Raises:
        ConversionError: If its `config.json` does not record a size.
    """
    channels, height, width = description.cfg.get("test_input_size") or description.cfg.get("input_size") or (3, 0, 0)
    if min(height, width) < 1:
        raise ConversionError(
            "the detector's config.json does not say how large its images are",
            expected="input_size",
            found="none",
            where=description.name,
            fix="Restore config.json.",
        )
    return channels, height, width


def ssdlite(
    name: str | MobileNetV2,
    num_classes: int,
    pretrained_backbone: bool | str | Path = False,
    trainable_backbone_layers: int | None = None,
    size: tuple[int, int] = (320, 320),
    in_chans: int = 3,
    stride: int = 16,
    anchor_size: float | None = None,
    **kwargs: Any,
) -> SSD:
    """Builds SSDLite (paper, section 6.2): cheap, for images of 320 pixels.

    The first map is the expansion of the bottleneck that halves the resolution last (`Bottleneck_14` at
    width 1.0), the second that of the head; four extra layers follow, of 512, 256, 256 and 128
    channels at width 1.0. A finer `stride` adds the expansions of the bottlenecks that halve it before.

    Args:
        name: An architecture, or `architecture.tag`; or a network of the zoo with its weights. `pretrained_backbone`
            then says no more than whether its weights are pretrained.
        num_classes: Classes, the background among them.
        pretrained_backbone: True for the weights of that name; or other weights of the architecture:
            `architecture.tag`, a run folder or `hf-hub:` name.
        trainable_backbone_layers: How many of six units of the backbone are trained, from the head on; all
            if None.
        size: Height and width that images are resized to.
        in_chans: Channels of the images; timm's rule fits the pretrained stem to another number.
        stride: Stride of the finest map: 4, 8 or 16. Small objects need a finer one. By default the smallest anchors
            shrink with it, from a fifth of the side at stride 16.
        anchor_size: Side of the smallest anchors in pixels of the resized image; those of each coarser map are twice as
            large, up to the image. By default sides grow evenly from map to map, as in torchvision.
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
    _check_stride(stride)
    network = _backbone.build(name, pretrained_backbone, trainable_backbone_layers, in_chans=in_chans)
    # As in torchvision's SSDLite, https://github.com/pytorch/vision/blob/main/torchvision/models/detection/ssdlite.py
    norm_layer = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    maps = _WithExtraLayers(network, norm_layer, stride)
    count = len(maps.channels)
    scales = None
    if anchor_size is not None:
        smallest = anchor_size / min(size)
        scales = [min(smallest * 2**level, LARGEST_ANCHOR) for level in range(count)] + [1.0]
    anchors = DefaultBoxGenerator(
        [[2, 3] for _ in range(count)], min_ratio=0.2 * stride / 16, max_ratio=LARGEST_ANCHOR, scales=scales
    )
    head = SSDLiteHead(maps.channels, anchors.num_anchors_per_location(), num_classes, norm_layer)
    defaults = {
        "score_thresh": 0.001,
        "nms_thresh": 0.55,
        "detections_per_img": 300,
        "topk_candidates": 300,
        **_backbone.normalization(network, in_chans),
    }
    return _of(network, SSD(maps, anchors, size, num_classes, head=head, **(defaults | kwargs)))


def retinanet(
    name: str | MobileNetV2,
    num_classes: int,
    pretrained_backbone: bool | str | Path = False,
    trainable_backbone_layers: int | None = None,
    levels: Sequence[str] | None = None,
    in_chans: int = 3,
    stride: int | None = None,
    fpn_channels: int = FPN_CHANNELS,
    anchor_size: float | None = None,
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
        stride: Stride of the finest level, 4, 8 or 16, in place of `levels`: one at each reduction from there on.
        fpn_channels: Channels of the pyramid's maps.
        anchor_size: Side of the smallest anchors in pixels of the resized image; those of each coarser level are twice
            as large. By default four times the stride of each level.
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
    names = _levels(network, levels, stride, 8)
    maps = _WithPyramid(network, names, LastLevelP6P7(fpn_channels, fpn_channels), fpn_channels)
    sizes = _anchor_sides(maps.strides(2), 4, anchor_size)
    anchors = AnchorGenerator(
        tuple((int(side), int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))) for side in sizes),
        ((0.5, 1.0, 2.0),) * len(sizes),
    )
    defaults = {"anchor_generator": anchors, **_backbone.normalization(network, in_chans)}
    return _of(network, RetinaNet(maps, num_classes, **(defaults | kwargs)))


def fasterrcnn(
    name: str | MobileNetV2,
    num_classes: int,
    pretrained_backbone: bool | str | Path = False,
    trainable_backbone_layers: int | None = None,
    levels: Sequence[str] | None = None,
    in_chans: int = 3,
    stride: int | None = None,
    fpn_channels: int = FPN_CHANNELS,
    anchor_size: float | None = None,
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
        stride: Stride of the finest level, 4, 8 or 16, in place of `levels`: one at each reduction from there on.
        fpn_channels: Channels of the pyramid's maps.
        anchor_size: Side of the smallest anchors in pixels of the resized image; those of each coarser level are twice
            as large. By default eight times the stride of each level.
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
    maps = _WithPyramid(network, _levels(network, levels, stride, 4), LastLevelMaxPool(), fpn_channels)
    sizes = _anchor_sides(maps.strides(1), 8, anchor_size)
    anchors = AnchorGenerator(tuple((side,) for side in sizes), ((0.5, 1.0, 2.0),) * len(sizes))
    defaults = {
        "rpn_anchor_generator": anchors,
        "box_roi_pool": MultiScaleRoIAlign(maps.taps.names, output_size=7, sampling_ratio=2),
        **_backbone.normalization(network, in_chans),
    }
    return _of(network, FasterRCNN(maps, num_classes, **(defaults | kwargs)))


def _of(network: MobileNetV2, detector: D) -> D:
    """The detector, which knows the network that it stands on; its state dict has the tensors of that once only."""
    vars(detector)["network"] = network  # past `nn.Module.__setattr__`, which would register it
    return detector


def _check_stride(stride: object) -> None:
    if stride not in STRIDES:
        raise refused("stride", stride, " or ".join(map(str, STRIDES)))


def _levels(network: MobileNetV2, levels: Sequence[str] | None, stride: int | None, default: int) -> Sequence[str]:
    """The names of the levels that a pyramid stands on."""
    if levels is not None:
        if stride is not None:
            raise refused("stride", stride, "None where the levels are given")
        return levels
    finest = default if stride is None else stride
    _check_stride(finest)
    return _backbone.last_at(network, *(reduction for reduction in (4, 8, 16, 32) if reduction >= finest))


def _anchor_sides(strides: Sequence[int], factor: int, smallest: float | None) -> list[float]:
    """The side of the anchors of each level."""
    if smallest is None:
        return [factor * stride for stride in strides]
    return [smallest * 2**level for level in range(len(strides))]


class _WithExtraLayers(nn.Module):
    """SSDLite's six maps, from fine to coarse."""

    def __init__(self, network: MobileNetV2, norm_layer: Any, stride: int) -> None:
        super().__init__()
        halving = [block for block in architecture.bottlenecks(network.arch_config) if block.stride > 1]
        finer = [block.name for block in halving if block.reduction // block.stride >= stride]
        names = finer or [halving[-1].name]
        self.taps = BottleneckTaps(network, [*names, HEAD], location="expansion")
        depths = [max(16, int(depth * network.arch_config.width)) for depth in (512, 256, 256, 128)]
        self.channels = [*self.taps.channels.values(), *depths]
        self.extra = nn.ModuleList(
            _extra_layer(before, after, norm_layer) for before, after in itertools.pairwise(self.channels[len(names) :])
        )
        for module in self.extra.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.03)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = list(self.taps(x).values())
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        return _as_precise(OrderedDict((str(number), m) for number, m in enumerate(maps)), x)


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

    def __init__(self, network: MobileNetV2, names: Sequence[str], extra_blocks: ExtraFPNBlock, channels: int) -> None:
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
        self.fpn = FeaturePyramidNetwork(list(self.taps.channels.values()), channels, extra_blocks)
        self.out_channels = channels

    def strides(self, added: int) -> list[int]:
        """The reduction of each level, and its doublings for the levels that the pyramid adds."""
        levels = list(self.taps.reductions.values())
        return levels + [levels[-1] * 2**step for step in range(1, 1 + added)]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return _as_precise(self.fpn(self.taps(x)), x)


def _as_precise(maps: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """Maps in the images' type: torchvision makes anchors of the maps' type, and bfloat16 rounds them by pixels."""
    return OrderedDict((name, m.to(images.dtype)) for name, m in maps.items())


def _arguments(detector: type[nn.Module]) -> tuple[str, ...]:
    """The arguments that a detector of torchvision takes by name and that are not given here already."""
    parameters = inspect.signature(detector.__init__).parameters.values()
    own = ("self", "backbone", "num_classes", "size", "head", "anchor_generator" if detector is SSD else "")
    return tuple(p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in own)
