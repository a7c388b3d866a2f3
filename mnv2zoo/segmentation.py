"""Segmenters with this package's backbones and heads from torchvision or segmentation_models_pytorch.

`lraspp` and `deeplabv3` have the same call signature as torchvision's
(https://pytorch.org/vision/stable/models.html#semantic-segmentation). The input is normalized images (N, C, H, W), the
output a dict with logits (N, classes, H, W) under `out`. `load` loads a trained segmenter with any head, which maps
images to logits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.segmentation import LRASPP, DeepLabV3
from torchvision.models.segmentation.deeplabv3 import ASPP, DeepLabHead

from mnv2zoo import _backbone
from mnv2zoo.errors import ArgumentError, ConversionError, MissingExtraError, WeightsUnavailableError, nearest, unknown
from mnv2zoo.features import BottleneckTaps
from mnv2zoo.models import arguments, checkpoint, names, pretrained
from mnv2zoo.models.mobilenetv2 import MobileNetV2
from mnv2zoo.models.names import Description
from mnv2zoo.system.installation import install_command

# Chen et al. 2017, "Rethinking Atrous Convolution", section 4.2: doubled when the stride is halved.
ATROUS_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
ASPP_CHANNELS = 256

# Decoders of segmentation_models_pytorch for convolutional encoders with maps at strides 2 to 32.
DECODERS = (
    *("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet"),
    *("DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet", "Segformer"),
)
SMP = "smp:"
MAX_CLASSES = 255  # an 8-bit PNG without the value for ignored pixels
HEADS = ("lraspp", "deeplabv3", *(f"{SMP}{decoder}" for decoder in DECODERS))
# Heads that accept an output stride.
STRIDED = ("deeplabv3", "smp:DeepLabV3", "smp:DeepLabV3Plus", "smp:PAN")


def deeplabv3(
    name: str,
    num_classes: int,
    pretrained_backbone: bool | str | Path = False,
    trainable_backbone_layers: int | None = None,
    output_stride: int = 16,
    aspp: bool = True,
    in_chans: int = 3,
) -> DeepLabV3:
    """Builds DeepLabv3 on the last bottleneck (paper, section 6.3: 320 channels instead of the head's 1280).

    Args:
        name: An architecture, or `architecture.tag`.
        num_classes: Number of classes, including the background.
        pretrained_backbone: True for the weights of that name, or other weights of the same architecture:
            `architecture.tag`, a run folder or an `hf-hub:` name.
        trainable_backbone_layers: Number of units to train, out of six, counted from the head. None trains
            all.
        output_stride: 16, or 8 for finer maps at about four times the cost.
        aspp: Use atrous spatial pyramid pooling. Without it, the model is the mobile variant in the paper's Table 7:
            the image's pooled features and a 1x1 convolution, at a fraction of the cost.
        in_chans: Channels of the images. If the weights have a different number, timm's rule adapts the stem.

    Returns:
        The segmenter, in training mode.

    Raises:
        UnknownModelError: If no model has that name.
        WeightsError: If the weights cannot be found, downloaded or verified.
        ConversionError: If the weights are for another architecture.
        ArgumentError: If an argument has an invalid value; a ValueError.
    """
    num_classes = arguments.integer("num_classes", num_classes, 1)
    if isinstance(output_stride, bool | float) or output_stride not in ATROUS_RATES:
        raise arguments.refused("output_stride", output_stride, "16 or 8")
    network = _backbone.build(
        name, pretrained_backbone, trainable_backbone_layers, output_stride=output_stride, in_chans=in_chans
    )
    return _deeplabv3(network, num_classes, output_stride, aspp)


def _deeplabv3(network: MobileNetV2, num_classes: int, output_stride: int, aspp: bool = True) -> DeepLabV3:
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
    """Builds Lite R-ASPP, a small and fast segmenter (Howard et al. 2019, https://arxiv.org/abs/1905.02244, 6.4).

    It uses the last bottlenecks at strides 8 and 16. Bottlenecks after stride 16 are dilated.

    Args:
        name: As for `deeplabv3`.
        num_classes: As for `deeplabv3`.
        pretrained_backbone: As for `deeplabv3`.
        trainable_backbone_layers: As for `deeplabv3`.
        inter_channels: Number of channels in the head.
        in_chans: As for `deeplabv3`.

    Returns:
        The segmenter, in training mode.

    Raises:
        UnknownModelError: If no model has that name.
        WeightsError: If the weights cannot be found, downloaded or verified.
        ConversionError: If the weights are for another architecture.
        ArgumentError: If an argument has an invalid value; a ValueError.

    Examples:
        >>> import torch, mnv2zoo
        >>> segmenter = mnv2zoo.segmentation.lraspp("mnv2zoo_035", num_classes=3).eval()
        >>> segmenter(torch.rand(1, 3, 64, 96))["out"].shape
        torch.Size([1, 3, 64, 96])
    """
    num_classes = arguments.integer("num_classes", num_classes, 1)
    inter_channels = arguments.integer("inter_channels", inter_channels, 1)
    network = _backbone.build(name, pretrained_backbone, trainable_backbone_layers, output_stride=16, in_chans=in_chans)
    return _lraspp(network, num_classes, inter_channels)


def _lraspp(network: MobileNetV2, num_classes: int, inter_channels: int = 128) -> LRASPP:
    low, high = _backbone.last_at(network, 8, 16)
    maps = _Maps(network, {"low": low, "high": high})
    return LRASPP(maps, maps.channels["low"], maps.channels["high"], num_classes, inter_channels)


class _Maps(nn.Module):
    """Feature maps under the names that torchvision's segmenters expect."""

    def __init__(self, network: Any, names: Mapping[str, str]) -> None:
        super().__init__()
        self.taps = BottleneckTaps(network, list(names.values()))
        self.levels = list(names.items())
        self.channels = {key: self.taps.channels[name] for key, name in self.levels}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.taps(x)
        maps = OrderedDict()  # TorchScript supports neither a comprehension nor zip here
        for key, name in self.levels:
            maps[key] = found[name]
        return maps


class Segmenter(nn.Module):
    """A segmenter with any head. It maps normalized images (N, 3, H, W) to logits (N, classes, H, W).

    Args:
        net: The backbone and its head, from torchvision or segmentation_models_pytorch.
        architecture: Name of the backbone's architecture.
        arguments: Arguments that the backbone was built with, such as `pad_type`.
        head: The head's `name`, and its `output_stride` if it has one.
        label_names: Class names in class order.
        cfg: The images' preprocessing, in timm's terms.

    Attributes:
        net: The backbone and its head.
        architecture: Name of the backbone's architecture.
        arguments: Arguments that the backbone was built with.
        head: The head's `name`, and its `output_stride` if it has one.
        label_names: Class names in class order.
        pretrained_cfg: The images' preprocessing, in timm's terms: `input_size`, `mean`, `std` and so on.
        num_classes: Number of classes.
    """

    def __init__(
        self,
        net: nn.Module,
        architecture: str,
        arguments: Mapping[str, Any],
        head: Mapping[str, Any],
        label_names: Sequence[str],
        cfg: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.net, self.architecture, self.arguments, self.head = net, architecture, dict(arguments), dict(head)
        self.label_names, self.num_classes = tuple(label_names), len(label_names)
        self.pretrained_cfg = dict(cfg)
        # segmentation_models_pytorch requires sides that are multiples of this. PAN halves a stride-16 map three times.
        is_smp, is_pan = self.head["name"].startswith(SMP), self.head["name"] == "smp:PAN"
        self.multiple = 128 if is_pan else 32 if is_smp else 1

    @property
    def backbone(self) -> nn.Module:
        """The part whose weights a classifier of the same architecture also has."""
        own = self.net.encoder.model if self.multiple > 1 else self.net.backbone.taps  # type: ignore[union-attr]
        assert isinstance(own, nn.Module)
        return own

    def forward(self, x: Tensor) -> Tensor:
        """Maps normalized images (N, 3, H, W) to logits (N, classes, H, W)."""
        height, width = x.shape[-2:]
        if self.multiple > 1:
            # Zero is the mean color of normalized images.
            x = functional.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        out = self.net(x)
        if isinstance(out, dict):
            out = out["out"]
        return out[..., :height, :width]


def check_head(head: Mapping[str, Any]) -> None:
    """Checks the description of a head, which may come from an untrusted file.

    Args:
        head: Its `name`, and its `output_stride` if it has one.

    Raises:
        ArgumentError: If the head is unknown or has an invalid value; a ValueError.
        MissingExtraError: If the head needs segmentation_models_pytorch, which is not installed.
    """
    name, stride = head.get("name"), head.get("output_stride")
    if not isinstance(name, str) or name not in HEADS:
        raise ArgumentError(
            unknown("segmentation head", str(name), HEADS)[:200],
            expected=nearest(str(name), HEADS, 3) if isinstance(name, str) else "the name of a head",
            found=repr(name)[:200],
            where="head",
            fix=f"Choose from {', '.join(HEADS)}.",
        )
    if extra := sorted(set(head) - {"name", "output_stride"}):
        raise ArgumentError(
            f"the head {name} has no argument {extra[0]!r}"[:200],
            expected="name and output_stride only",
            found=repr(extra[0])[:200],
            where="head",
            fix="Leave the argument out.",
        )
    fits = not isinstance(stride, bool | float) and stride in tuple(ATROUS_RATES)
    if stride is not None and not (name in STRIDED and fits):
        raise ArgumentError(
            f"the head {name} does not support output stride {stride!r}"[:200],
            expected="16 or 8" if name in STRIDED else f"no output stride (only {', '.join(STRIDED)} accept one)",
            found=repr(stride)[:200],
            where="output_stride",
            fix="Choose 16 or 8." if name in STRIDED else "Leave the output stride out, or choose another head.",
        )
    if name.startswith(SMP):
        require_smp(f"the head {name}")


def require_smp(what: str) -> Any:
    """Imports segmentation_models_pytorch.

    Args:
        what: The feature that needs it, for the error.

    Returns:
        The module.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise MissingExtraError(
            f"{what} needs segmentation_models_pytorch",
            found=f"no {error.name}",
            fix=f"Run: {install_command('segment')}",
        ) from error
    return smp


def backbone_arguments(head: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments for building the backbone of a head.

    Args:
        head: The head, checked by `check_head`.

    Returns:
        Arguments for `Description.build`.
    """
    stride = 32 if head["name"].startswith(SMP) else head.get("output_stride") or 16
    return {"num_classes": 0, "in_chans": 3, "output_stride": stride}


def on_backbone(
    network: MobileNetV2, arguments: Mapping[str, Any], head: Mapping[str, Any], label_names: Sequence[str]
) -> Segmenter:
    """Puts a new head on a backbone.

    Args:
        network: The backbone, built with `backbone_arguments`.
        arguments: Further arguments that the backbone was built with, such as `pad_type`.
        head: The head, checked by `check_head`.
        label_names: Class names in class order.

    Returns:
        The segmenter, in training mode. It shares the backbone's modules.
    """
    name, classes = head["name"], len(label_names)
    architecture: str = network.arch_config.name
    if name == "lraspp":
        net: nn.Module = _lraspp(network, classes)
    elif name == "deeplabv3":
        net = _deeplabv3(network, classes, head.get("output_stride") or 16)
    else:
        net = _smp(network, arguments, head, classes)
    cfg: Any = network.pretrained_cfg
    return Segmenter(net, architecture, arguments, head, label_names, cfg).train()


def _smp(network: MobileNetV2, arguments: Mapping[str, Any], head: Mapping[str, Any], classes: int) -> nn.Module:
    """Builds a decoder of segmentation_models_pytorch, with the backbone's weights in its encoder."""
    smp = require_smp(f"the head {head['name']}")
    stride = {"encoder_output_stride": head.get("output_stride") or 16} if head["name"] in STRIDED else {}
    build = getattr(smp, head["name"].removeprefix(SMP))
    # encoder_weights=None prevents a download. Further arguments are passed on to timm.
    net: Any = build(f"tu-{network.arch_config.name}", encoder_weights=None, classes=classes, **stride, **arguments)
    known = network.state_dict()
    net.encoder.model.load_state_dict({name: known[name] for name in net.encoder.model.state_dict()})
    if isinstance(net, smp.FPN):
        net.decoder.merge = _Sum()
    return net


class _Sum(nn.Module):
    """Adds maps of one shape. The FPN of segmentation_models_pytorch stacks them first, which is slow on CPUs."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        total = maps[0]
        for own in maps[1:]:
            total = total + own
        return total


def load(name: str | Path, device: str | None = None) -> Segmenter:
    """Loads a trained segmenter.

    Args:
        name: A run folder, a package, or a repository on the Hub such as `hf-hub:owner/name`.
        device: The device. Default: the accelerator if there is one, otherwise the CPU.

    Returns:
        The segmenter in evaluation mode. `label_names` holds its class names, `pretrained_cfg` the preprocessing
        of its images.

    Raises:
        UnknownModelError: If no model has that name.
        WeightsError: If the files cannot be found, downloaded, verified or read.
        ConversionError: If the model is not a segmenter, or the weights do not fit.
        MissingExtraError: If the head needs segmentation_models_pytorch, which is not installed.
        DeviceError: If the device cannot be used.

    Examples:
        >>> import mnv2zoo
        >>> segmenter = mnv2zoo.segmentation.load("run")  # doctest: +SKIP
        >>> logits = segmenter(images)  # doctest: +SKIP
    """
    where = pretrained.find_device(device)
    description = names.describe(str(name))
    model = untrained(description)
    checkpoint.fill_whole(model, checkpoint.whole_tensors(description), description)
    return model.eval().to(where)


def untrained(description: Description) -> Segmenter:
    """Builds a segmenter with random weights.

    Args:
        description: The segmenter, from `names.describe`.

    Returns:
        The segmenter, in training mode.

    Raises:
        ConversionError: If the model is not a segmenter.
        WeightsUnavailableError: If `config.json` describes an invalid head.
        MissingExtraError: If the head needs segmentation_models_pytorch, which is not installed.
    """
    if description.task != "segment" or not description.head:
        raise ConversionError(
            f"{description.name} is not a segmenter",
            expected="a model trained with --task segment",
            found=f"the task {description.task or 'classify'!r}",
            where=description.name,
            fix="Name a run of `mnv2zoo finetune --task segment`.",
        )
    classes = len(description.label_names)
    if classes > MAX_CLASSES:
        raise WeightsUnavailableError(
            f"a segmenter cannot have {classes} classes",
            expected=f"at most {MAX_CLASSES} classes",
            found=classes,
            where=description.name,
            fix="Restore config.json, or name another model.",
        )
    try:
        check_head(description.head)
    except ArgumentError as error:
        raise WeightsUnavailableError(
            f"invalid segmenter in config.json: {error.problem}"[:200],
            expected=error.expected,
            found=error.found,
            where=f"{description.name}, config.json, {error.where}",
            fix="Restore config.json, or name another model.",
        ) from error
    given = {key: description.arguments[key] for key in BUILT_WITH if key in description.arguments}
    network = description.build(pretrained=False, **given, **backbone_arguments(description.head))
    with torch.no_grad():
        return on_backbone(network, given, description.head, description.label_names)


# Model arguments that a segmenter's encoder accepts.
BUILT_WITH = ("pad_type", "act_layer", "norm_layer", "bn_eps", "drop_path_rate")
