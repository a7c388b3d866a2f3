"""Segmenters on the zoo's networks: torchvision's own heads, and the decoders of segmentation_models_pytorch.

`lraspp` and `deeplabv3` are used as torchvision's are
(https://pytorch.org/vision/stable/models.html#semantic-segmentation): normalized images (N, C, H, W) go in, a dict with
logits (N, classes, H, W) at `out` comes out. `load` gives a trained segmenter of any head, which maps images to logits.
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
from mnv2zoo.errors import ArgumentError, ConversionError, MissingExtraError, WeightsUnavailableError, nearest
from mnv2zoo.features import BottleneckTaps
from mnv2zoo.models import arguments, checkpoint, names, pretrained
from mnv2zoo.models.mobilenetv2 import MobileNetV2
from mnv2zoo.models.names import Description
from mnv2zoo.system.installation import install_command

# Chen et al. 2017, "Rethinking Atrous Convolution", section 4.2: doubled where the stride is halved.
ATROUS_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
ASPP_CHANNELS = 256

# Decoders of segmentation_models_pytorch that stand on convolutional encoders with maps at strides 2 to 32.
DECODERS = (
    *("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet"),
    *("DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet", "Segformer"),
)
SMP = "smp:"
MAX_CLASSES = 255  # numbers in a PNG, without one to ignore
HEADS = ("lraspp", "deeplabv3", *(f"{SMP}{decoder}" for decoder in DECODERS))
# Heads that take an output stride.
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
    return _lraspp(network, num_classes, inter_channels)


def _lraspp(network: MobileNetV2, num_classes: int, inter_channels: int = 128) -> LRASPP:
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


class Segmenter(nn.Module):
    """A segmenter of any head, which maps normalized images (N, 3, H, W) to logits (N, classes, H, W).

    Args:
        net: The network with its head: torchvision's, or one of segmentation_models_pytorch.
        architecture: Name of the backbone's architecture.
        arguments: Arguments that the backbone was built with, such as `pad_type`.
        head: The head's `name`, and its `output_stride` where it takes one.
        label_names: Names of the classes in class order.
        cfg: The images' preprocessing as timm names it.

    Attributes:
        net: The network with its head.
        architecture: Name of the backbone's architecture.
        arguments: Arguments that the backbone was built with.
        head: The head.
        label_names: Names of the classes in class order.
        pretrained_cfg: The images' preprocessing as timm names it: `input_size`, `mean`, `std` and so on.
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
        # What segmentation_models_pytorch requires of the sides of images; PAN halves its maps three times more.
        is_smp, is_pan = self.head["name"].startswith(SMP), self.head["name"] == "smp:PAN"
        self.multiple = 128 if is_pan else 32 if is_smp else 1

    @property
    def backbone(self) -> nn.Module:
        """The part whose weights a classifier has too."""
        own = self.net.encoder.model if self.multiple > 1 else self.net.backbone.taps  # type: ignore[union-attr]
        assert isinstance(own, nn.Module)
        return own

    def forward(self, x: Tensor) -> Tensor:
        """Maps normalized images (N, 3, H, W) to logits (N, classes, H, W)."""
        height, width = x.shape[-2:]
        if self.multiple > 1:
            # Zeros are the mean color of normalized images.
            x = functional.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        out = self.net(x)
        if isinstance(out, dict):
            out = out["out"]
        return out[..., :height, :width]


def check_head(head: Mapping[str, Any]) -> None:
    """Checks the description of a head, which may come from a file of somebody else.

    Args:
        head: Its `name`, and its `output_stride` where it takes one.

    Raises:
        ArgumentError: If there is no such head, or it does not take such a value; a ValueError.
        MissingExtraError: If it is one of segmentation_models_pytorch, which is not installed.
    """
    name, stride = head.get("name"), head.get("output_stride")
    if not isinstance(name, str) or name not in HEADS:
        raise ArgumentError(
            f"there is no head {name!r} to segment"[:200],
            expected=nearest(str(name), HEADS, 3) if isinstance(name, str) else "the name of a head",
            found=repr(name)[:200],
            where="head",
            fix=f"Choose from {', '.join(HEADS)}.",
        )
    if unknown := sorted(set(head) - {"name", "output_stride"}):
        raise ArgumentError(
            f"the head {name} takes no {unknown[0]}"[:200],
            expected="name and output_stride",
            found=repr(unknown[0])[:200],
            where="head",
        )
    fits = not isinstance(stride, bool | float) and stride in tuple(ATROUS_RATES)
    if stride is not None and not (name in STRIDED and fits):
        raise ArgumentError(
            f"the head {name} cannot have the output stride {stride!r}"[:200],
            expected="16 or 8" if name in STRIDED else f"no output stride, which only {', '.join(STRIDED)} take",
            found=repr(stride)[:200],
            where="output_stride",
            fix="Choose 16 or 8." if name in STRIDED else "Leave out the output stride, or choose another head.",
        )
    if name.startswith(SMP):
        require_smp(f"the head {name}")


def require_smp(what: str) -> Any:
    """Imports segmentation_models_pytorch.

    Args:
        what: What needs it, for the error.

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
    """The arguments that the network below a head is built with.

    Args:
        head: The head, checked.

    Returns:
        Arguments of `Description.build`.
    """
    stride = 32 if head["name"].startswith(SMP) else head.get("output_stride") or 16
    return {"num_classes": 0, "in_chans": 3, "output_stride": stride}


def on_backbone(
    network: MobileNetV2, arguments: Mapping[str, Any], head: Mapping[str, Any], label_names: Sequence[str]
) -> Segmenter:
    """Puts a new head on a network.

    Args:
        network: The network, built with `backbone_arguments`.
        arguments: Further arguments that it was built with, such as `pad_type`.
        head: The head, checked.
        label_names: Names of the classes in class order.

    Returns:
        The segmenter, in training mode. It takes over the network's modules.
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
    """A decoder of segmentation_models_pytorch on an encoder that gets the weights of a network."""
    smp = require_smp(f"the head {head['name']}")
    stride = {"encoder_output_stride": head.get("output_stride") or 16} if head["name"] in STRIDED else {}
    build = getattr(smp, head["name"].removeprefix(SMP))
    # Without weights, so that nothing is downloaded, and further arguments go to timm.
    net: Any = build(f"tu-{network.arch_config.name}", encoder_weights=None, classes=classes, **stride, **arguments)
    known = network.state_dict()
    net.encoder.model.load_state_dict({name: known[name] for name in net.encoder.model.state_dict()})
    return net


def load(name: str | Path, device: str | None = None) -> Segmenter:
    """Loads a trained segmenter.

    Args:
        name: A run folder, a package, or a repository on the Hub such as `hf-hub:owner/name`.
        device: The device; by default the accelerator if there is one.

    Returns:
        The segmenter in evaluation mode. `label_names` has the names of its classes, `pretrained_cfg` the
        preprocessing of its images.

    Raises:
        UnknownModelError: If there is no model of that name.
        WeightsError: If its files cannot be found, fetched, verified or read.
        ConversionError: If it is not a segmenter, or its weights do not fit.
        MissingExtraError: If its head is one of segmentation_models_pytorch, which is not installed.
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
    """Builds a segmenter without its weights.

    Args:
        description: What `names.describe` gives for a segmenter.

    Returns:
        The segmenter, in training mode, with random weights.

    Raises:
        ConversionError: If it is not a segmenter.
        WeightsUnavailableError: If its `config.json` describes a head that there cannot be.
        MissingExtraError: If its head is one of segmentation_models_pytorch, which is not installed.
    """
    if description.task != "segment" or not description.head:
        raise ConversionError(
            f"{description.name} is not a segmenter",
            expected="a model that was trained with --task segment",
            found=f"the task {description.task or 'classify'!r}",
            where=description.name,
            fix="Name a run of `mnv2zoo finetune --task segment`.",
        )
    classes = len(description.label_names)
    if classes > MAX_CLASSES:
        raise WeightsUnavailableError(
            "too many classes", expected=f"at most {MAX_CLASSES}", found=classes, where=description.name
        )
    try:
        check_head(description.head)
    except ArgumentError as error:
        raise WeightsUnavailableError(
            "cannot tell what the segmenter is",
            expected=error.expected,
            found=error.found,
            where=f"{description.name}, config.json, {error.where}",
            fix="Restore the config.json, or name another model.",
        ) from error
    given = {key: description.arguments[key] for key in BUILT_WITH if key in description.arguments}
    network = description.build(pretrained=False, **given, **backbone_arguments(description.head))
    with torch.no_grad():
        return on_backbone(network, given, description.head, description.label_names)


# Arguments of the network that a segmenter's encoder may have.
BUILT_WITH = ("pad_type", "act_layer", "norm_layer", "bn_eps", "drop_path_rate")
