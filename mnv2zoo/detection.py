"""Detectors with this package's backbones and torchvision's heads, losses and post-processing.

They have the same call signature as torchvision's detectors
(https://pytorch.org/vision/stable/models.html#object-detection). The input is a list of images (C, H, W) with values
from 0 to 1. In training mode they return a dict of losses, otherwise a dict of `boxes`, `labels` and `scores` per
image. Class 0 is the background.
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

import torch
from msgspec import Meta
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops import boxes as box_ops
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
LARGEST_ANCHOR = 0.95  # of SSD, as a fraction of the image's side

D = TypeVar("D", bound=nn.Module)


@dataclass(frozen=True)
class Head:
    """A detection head, as stored in a run folder.

    Attributes:
        name: `ssdlite`, `retinanet` or `fasterrcnn`.
        stride: Stride of the finest map; None for the head's default.
        fpn_channels: Channels of the feature pyramid; None for the head's default.
        anchor_size: Side of the smallest anchors in pixels; None for the head's default.
        score_threshold: Minimum score of a box.
        nms_threshold: Overlap (IoU) above which the lower-scoring of two boxes of the same class is dropped.
        max_detections: Maximum number of boxes per image.
        frozen_norm: Whether the backbone's batch norms are frozen, as in torchvision's detectors with a pyramid.

    Raises:
        ArgumentError: If a value has the wrong type or is out of range.
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
            raise refused("fpn_channels", self.fpn_channels, "None, because ssdlite has no feature pyramid")

    @property
    def keeps_ratio(self) -> bool:
        """Whether images keep their aspect ratio. SSD resizes them to a fixed size."""
        return self.name != "ssdlite"

    def to_json(self) -> dict[str, Any]:
        """Returns the values by name for `config.json`, without those that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def build(self, network: MobileNetV2, num_classes: int, input_size: Sequence[int]) -> nn.Module:
        """Builds a detector on a backbone.

        Args:
            network: The backbone, with its weights.
            num_classes: Number of classes, without the background.
            input_size: Channels, height and width of the images. For heads that keep the aspect ratio, the smaller of
                height and width limits the short side of an image, and the greater one limits the long side.

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


# torchvision's argument for each field of `Head`.
_POSTPROCESSING = {
    "score_thresh": "score_threshold",
    "nms_thresh": "nms_threshold",
    "detections_per_img": "max_detections",
}


def load(name: str | Path, device: str | None = None) -> nn.Module:
    """Loads a detector that `mnv2zoo finetune --task detect` trained.

    Args:
        name: A run folder, a package or an `hf-hub:` name.
        device: The device. Default: the accelerator if there is one, otherwise the CPU.

    Returns:
        The detector in evaluation mode. It takes a list of images (3, height, width) of any size with values from 0
        to 1, and returns a dict of `boxes` (in image pixels), `labels` (from 1) and `scores` per image. Label 1 is
        `label_names[0]`, and `built_with` is its `Head`.

    Raises:
        UnknownModelError: If no model has that name.
        WeightsError: If the weights cannot be found, downloaded or verified.
        ConversionError: If the model is not a detector, or its files do not match each other.
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
        raise ConversionError(  # before allocating memory for a head that the file cannot fill
            f"the weights have fewer classes than the {len(label_names)} in config.json",
            expected=f"a head for {len(label_names)} classes",
            found="a head for fewer classes",
            where=description.name,
            fix="Restore model.safetensors or config.json: they come from different runs.",
        )
    detector = untrained(description)
    checkpoint.fill_whole(detector, tensors, description)
    return detector.eval().to(where)


def untrained(description: Description) -> nn.Module:
    """Builds the detector that a model folder describes, with random weights.

    Args:
        description: The model, from `names.describe`.

    Returns:
        The detector as in `load`, but in training mode and on the CPU.

    Raises:
        ConversionError: If the model is not a detector, or this version cannot build it.
    """
    head, label_names = head_of(description), tuple(description.label_names)
    network = description.build(pretrained=False, num_classes=0)
    detector = head.build(network, len(label_names), input_size(description))
    vars(detector).update(built_with=head, label_names=label_names)
    return detector


def head_of(description: Description) -> Head:
    """Reads the detection head from a model's description.

    Args:
        description: The model, from `names.describe`.

    Returns:
        The head.

    Raises:
        ConversionError: If the model is not a detector, or this version cannot build it.
    """
    try:
        if description.task != "detect" or not description.head:
            raise ValueError(f"a model for the task {description.task or 'classify'}")
        return Head(**description.head)
    except (TypeError, ValueError) as error:
        raise ConversionError(
            f"{description.name} is not a detector that this version can build",
            expected="a run of `mnv2zoo finetune --task detect`",
            found=str(error)[:200],
            where=description.name,
            fix="Name the run folder of a detector.",
        ) from error


def input_size(description: Description) -> tuple[int, int, int]:
    """Returns the size of a detector's images at evaluation; see `Head.build`.

    Args:
        description: The detector.

    Returns:
        Channels, height and width.

    Raises:
        ConversionError: If `config.json` has no valid size.
    """
    channels, height, width = description.cfg.get("test_input_size") or description.cfg.get("input_size") or (3, 0, 0)
    if min(height, width) < 1:
        raise ConversionError(
            "config.json does not record the detector's image size",
            expected="an input_size",
            found="none",
            where=description.name,
            fix="Restore config.json from the run.",
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
    """Builds SSDLite (paper, section 6.2), a fast detector for 320-pixel images.

    The first map is the expansion of the last stride-2 bottleneck (`Bottleneck_14` at width 1.0), the second is the
    output of the head. Four extra layers follow, with 512, 256, 256 and 128 channels at width 1.0. A finer
    `stride` adds the expansions of earlier stride-2 bottlenecks.

    Args:
        name: An architecture or `architecture.tag`, or an existing model with its weights. For an existing model,
            `pretrained_backbone` only says whether its weights are pretrained.
        num_classes: Number of classes, including the background.
        pretrained_backbone: True for the weights of that name, or other weights of the same architecture:
            `architecture.tag`, a run folder or an `hf-hub:` name.
        trainable_backbone_layers: Number of units to train, out of six, counted from the head. None trains
            all.
        size: Height and width that images are resized to.
        in_chans: Channels of the images. If the weights have a different number, timm's rule adapts the stem.
        stride: Stride of the finest map: 4, 8 or 16. Small objects need a finer one. By default the smallest anchors
            shrink with it; at stride 16 they are a fifth of the image's side.
        anchor_size: Side of the smallest anchors in pixels of the resized image. It doubles with each coarser map, up
            to the image's size. By default sides grow evenly from map to map, as in torchvision.
        **kwargs: Further arguments of torchvision's `SSD`.

    Returns:
        The detector, in training mode.

    Raises:
        UnknownModelError: If no model has that name.
        WeightsError: If the weights cannot be found, downloaded or verified.
        ConversionError: If the weights are for another architecture.
        ArgumentError: If an argument has an invalid value; a ValueError.
        UnknownArgumentError: If torchvision's `SSD` has no such argument.

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
    return _of(network, _SSD(maps, anchors, size, num_classes, head=head, **(defaults | kwargs)))


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
    """Builds RetinaNet with a feature pyramid.

    With pretrained weights the backbone's batch norms are frozen, as in torchvision, because detectors train on
    small batches.

    Args:
        name: As for `ssdlite`.
        num_classes: As for `ssdlite`.
        pretrained_backbone: As for `ssdlite`.
        trainable_backbone_layers: As for `ssdlite`.
        levels: Names of the bottlenecks that feed the pyramid, from fine to coarse. Default: the last one at each of
            the strides 8, 16 and 32. Two coarser levels are added.
        in_chans: As for `ssdlite`.
        stride: Stride of the finest level, 4, 8 or 16, instead of `levels`: one level per stride from there on.
        fpn_channels: Channels of the pyramid's maps.
        anchor_size: Side of the smallest anchors in pixels of the resized image. It doubles with each coarser level.
            Default: four times the stride of each level.
        **kwargs: Further arguments of torchvision's `RetinaNet`.

    Returns:
        The detector, in training mode.

    Raises:
        TapError: If a level is unknown, or the levels are not in order from fine to coarse.
        UnknownModelError: If no model has that name.
        WeightsError: If the weights cannot be found, downloaded or verified.
        ConversionError: If the weights are for another architecture.
        ArgumentError: If an argument has an invalid value; a ValueError.
        UnknownArgumentError: If torchvision's `RetinaNet` has no such argument.
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
    """Builds Faster R-CNN with a feature pyramid.

    With pretrained weights the backbone's batch norms are frozen, as in torchvision.

    Args:
        name: As for `ssdlite`.
        num_classes: As for `ssdlite`.
        pretrained_backbone: As for `ssdlite`.
        trainable_backbone_layers: As for `ssdlite`.
        levels: Names of the bottlenecks that feed the pyramid, from fine to coarse. Default: the last one at each of
            the strides 4, 8, 16 and 32. One coarser level is added.
        in_chans: As for `ssdlite`.
        stride: Stride of the finest level, 4, 8 or 16, instead of `levels`: one level per stride from there on.
        fpn_channels: Channels of the pyramid's maps.
        anchor_size: Side of the smallest anchors in pixels of the resized image. It doubles with each coarser level.
            Default: eight times the stride of each level.
        **kwargs: Further arguments of torchvision's `FasterRCNN`.

    Returns:
        The detector, in training mode.

    Raises:
        TapError: If a level is unknown, or the levels are not in order from fine to coarse.
        UnknownModelError: If no model has that name.
        WeightsError: If the weights cannot be found, downloaded or verified.
        ConversionError: If the weights are for another architecture.
        ArgumentError: If an argument has an invalid value; a ValueError.
        UnknownArgumentError: If torchvision's `FasterRCNN` has no such argument.
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


class _SSD(SSD):
    """torchvision's SSD, with post-processing that handles all classes of an image at once.

    torchvision loops over the classes. With the 90 classes of COCO, that takes longer than the network on a GPU.
    """

    def postprocess_detections(
        self, head_outputs: dict[str, Tensor], image_anchors: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Computes the same boxes as torchvision; arguments and results are torchvision's."""
        if torch.compiler.is_compiling():  # the number of candidates is not known then
            return super().postprocess_detections(head_outputs, image_anchors, image_shapes)
        probabilities = head_outputs["cls_logits"].softmax(-1)
        found = []
        images = zip(head_outputs["bbox_regression"], probabilities, image_anchors, image_shapes, strict=True)
        for regression, scores, anchors, shape in images:
            boxes = box_ops.clip_boxes_to_image(self.box_coder.decode_single(regression, anchors), shape)
            labels, places, best = self._candidates(scores[:, 1:].T)
            boxes = boxes[places]
            keep = box_ops.batched_nms(boxes, best, labels, self.nms_thresh)[: self.detections_per_img]
            found.append({"boxes": boxes[keep], "scores": best[keep], "labels": labels[keep]})
        return found

    def _candidates(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns labels, anchors and scores of the highest scores (classes, anchors) of each class."""
        candidates = scores > self.score_thresh
        if int(candidates.sum(1).max()) > self.topk_candidates:
            best, places = scores.topk(self.topk_candidates, 1)
            labels, ranks = (best > self.score_thresh).nonzero(as_tuple=True)
            return labels + 1, places[labels, ranks], best[labels, ranks]
        labels, places = candidates.nonzero(as_tuple=True)
        return labels + 1, places, scores[labels, places]


def _of(network: MobileNetV2, detector: D) -> D:
    """Gives a detector a reference to its backbone, without a second copy of its tensors in the state dict."""
    vars(detector)["network"] = network  # bypasses `nn.Module.__setattr__`, which would register it
    return detector


def _check_stride(stride: object) -> None:
    if stride not in STRIDES:
        raise refused("stride", stride, " or ".join(map(str, STRIDES)))


def _levels(network: MobileNetV2, levels: Sequence[str] | None, stride: int | None, default: int) -> Sequence[str]:
    """Returns the names of the bottlenecks that feed a pyramid."""
    if levels is not None:
        if stride is not None:
            raise refused("stride", stride, "None if you pass levels")
        return levels
    finest = default if stride is None else stride
    _check_stride(finest)
    return _backbone.last_at(network, *(reduction for reduction in (4, 8, 16, 32) if reduction >= finest))


def _anchor_sides(strides: Sequence[int], factor: int, smallest: float | None) -> list[float]:
    """Returns the side of the anchors at each level."""
    if smallest is None:
        return [factor * stride for stride in strides]
    return [smallest * 2**level for level in range(len(strides))]


class _WithExtraLayers(nn.Module):
    """The six maps of SSDLite, from fine to coarse."""

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
    """Builds an extra layer as in torchvision's SSDLite: 1x1 to half the channels, stride-2 3x3 depthwise, 1x1."""
    half = after // 2
    layer = partial(Conv2dNormActivation, norm_layer=norm_layer, activation_layer=nn.ReLU6)
    return nn.Sequential(
        layer(before, half, kernel_size=1),
        layer(half, half, kernel_size=3, stride=2, groups=half),
        layer(half, after, kernel_size=1),
    )


class _WithPyramid(nn.Module):
    """A feature pyramid on some bottlenecks. torchvision's detectors read `out_channels`."""

    def __init__(self, network: MobileNetV2, names: Sequence[str], extra_blocks: ExtraFPNBlock, channels: int) -> None:
        super().__init__()
        self.taps = BottleneckTaps(network, names)
        known = bottleneck_names(network)
        in_order = sorted(self.taps.names, key=known.index)
        if self.taps.names != in_order:
            raise TapError(
                "the pyramid's levels are not in order from fine to coarse",
                expected=", ".join(in_order),
                found=", ".join(self.taps.names),
                where="levels",
                fix="Sort the levels from fine to coarse.",
            )
        self.fpn = FeaturePyramidNetwork(list(self.taps.channels.values()), channels, extra_blocks)
        self.out_channels = channels

    def strides(self, added: int) -> list[int]:
        """Returns the stride of each level, doubling it for each level that the pyramid adds."""
        levels = list(self.taps.reductions.values())
        return levels + [levels[-1] * 2**step for step in range(1, 1 + added)]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return _as_precise(self.fpn(self.taps(x)), x)


def _as_precise(maps: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """Casts maps to the images' dtype: torchvision gives anchors the maps' dtype, and bfloat16 rounds off pixels."""
    return OrderedDict((name, m.to(images.dtype)) for name, m in maps.items())


def _arguments(detector: type[nn.Module]) -> tuple[str, ...]:
    """Lists the keyword arguments of a torchvision detector that are not already set here."""
    parameters = inspect.signature(detector.__init__).parameters.values()
    own = ("self", "backbone", "num_classes", "size", "head", "anchor_generator" if detector is SSD else "")
    return tuple(p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in own)
