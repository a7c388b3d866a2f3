"""The architectures: one frozen config class and the table of named configs.

This module holds data and arithmetic only and does not need torch. `models/mobilenetv2.py` builds a model from a
config. Channels, strides, parameter counts and MACs are all computed here.

The paper is Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
https://arxiv.org/abs/1801.04381. Its letters are used here: t is the expansion factor, c the output channels at
width 1.0, n the number of bottlenecks in the stage, and s the stride of the first one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mnv2zoo.errors import UnknownModelError, unknown

Classifier = Literal["linear", "conv", "conv_bn", "conv_bn_act"]
CLASSIFIERS: tuple[Classifier, ...] = ("linear", "conv", "conv_bn", "conv_bn_act")
OUTPUT_STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Stage:
    """A stage of n bottlenecks with the same number of output channels: one row of the paper's Table 2.

    Attributes:
        t: Expansion factor: hidden channels divided by input channels.
        c: Output channels at width 1.0.
        n: Number of bottlenecks.
        s: Stride of the first bottleneck. The others have stride 1.
    """

    t: int
    c: int
    n: int
    s: int


@dataclass(frozen=True)
class Config:
    """The config of one architecture.

    Attributes:
        name: The architecture's name in the registry.
        stages: The rows of its table.
        width: Multiplier of all channel counts (paper, section 4.1, "width multiplier").
        fix_stem_head: Whether the width leaves the channels of stem and head unchanged.
        stem: Channels of the stem at width 1.0.
        head: Channels of the head at width 1.0. Widths below 1.0 never narrow it (section 4.1).
        activation: `relu6` as in the paper, or `relu`.
        expand_first: Whether the first bottleneck has an expansion layer although t = 1.
        conv_bias: Whether the convolutions of stem and head have a bias before their batch norm.
        classifier: `linear` for a linear layer. `conv` for a 1x1 convolution, `conv_bn` with a batch norm after it,
            `conv_bn_act` with a batch norm and an activation.
        init: `tensorflow` (the normal initialization by fan-out that timm uses for MobileNetV2) or
            `torch` (PyTorch's defaults).
        num_classes: Number of classes of the published model.
        source: Where the architecture is described.
    """

    name: str
    stages: tuple[Stage, ...]
    width: float = 1.0
    fix_stem_head: bool = False
    stem: int = 32
    head: int = 1280
    activation: Literal["relu", "relu6"] = "relu6"
    expand_first: bool = False
    conv_bias: bool = False
    classifier: Classifier = "linear"
    init: Literal["tensorflow", "torch"] = "tensorflow"
    num_classes: int = 1000
    source: str = "https://arxiv.org/abs/1801.04381"

    @property
    def stem_channels(self) -> int:
        """Output channels of the stem."""
        return self.stem if self.fix_stem_head else round_channels(self.stem * self.width)

    @property
    def head_channels(self) -> int:
        """Output channels of the head, the size of the pooled feature vector."""
        if self.fix_stem_head:
            return self.head
        return max(self.head, round_channels(self.head * self.width))

    @property
    def classifier_norm(self) -> bool:
        """Whether a batch norm follows the classifier."""
        return self.classifier in ("conv_bn", "conv_bn_act")


@dataclass(frozen=True)
class Bottleneck:
    """One inverted residual, with its position and everything needed to build it.

    Attributes:
        number: Number from 1, as in `Bottleneck_1`.
        stage: Index of its stage, from 0.
        index: Index within its stage, from 0.
        in_channels: Input channels.
        hidden: Channels of its depthwise convolution.
        out_channels: Output channels.
        stride: Stride of its depthwise convolution.
        dilation: Dilation of its depthwise convolution. Above 1 only if `output_stride` requires it.
        reduction: Stride of its output relative to the image.
        expand: Whether a 1x1 convolution first widens the input to `hidden` channels.
    """

    number: int
    stage: int
    index: int
    in_channels: int
    hidden: int
    out_channels: int
    stride: int
    dilation: int
    reduction: int
    expand: bool

    @property
    def name(self) -> str:
        """Its public name, `Bottleneck_k`."""
        return f"Bottleneck_{self.number}"

    @property
    def shortcut(self) -> bool:
        """Whether the input is added to the output (paper, Figure 4(d))."""
        return self.stride == 1 and self.in_channels == self.out_channels


@dataclass(frozen=True)
class Feature:
    """A map that timm's feature extraction returns: the last one at each stride.

    Attributes:
        stage: Number of stages to run to compute it, from 1.
        channels: Number of channels.
        reduction: Stride of the map relative to the image.
    """

    stage: int
    channels: int
    reduction: int


def round_channels(channels: float, divisor: int = 8) -> int:
    """Rounds to the nearest multiple of `divisor`, never losing more than a tenth.

    This is `make_divisible` of the reference implementation,
    https://github.com/tensorflow/models/blob/master/research/slim/nets/mobilenet/mobilenet.py

    Args:
        channels: Channels before rounding, a positive number.
        divisor: The result is a multiple of this.

    Returns:
        The rounded channel count, at least `divisor`.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def bottlenecks(config: Config, output_stride: int = 32) -> tuple[Bottleneck, ...]:
    """Lists an architecture's bottlenecks.

    Args:
        config: The architecture.
        output_stride: Maximum stride of the output: 8, 16 or 32. Strides beyond it become dilations of the
            bottlenecks that follow. As in timm, the bottleneck that loses its stride keeps its previous
            dilation.

    Returns:
        The bottlenecks in execution order.

    Raises:
        ValueError: If `output_stride` is not 8, 16 or 32.
    """
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(f"output_stride must be 8, 16 or 32, not {output_stride!r}")
    laid: list[Bottleneck] = []
    in_channels, reduction, dilation = config.stem_channels, 2, 1
    for stage_index, stage in enumerate(config.stages):
        out_channels = round_channels(stage.c * config.width)
        for index in range(stage.n):
            stride = stage.s if index == 0 else 1
            next_dilation = dilation
            if reduction * stride > output_stride:
                next_dilation, stride = dilation * stride, 1
            reduction *= stride
            laid.append(
                Bottleneck(
                    number=len(laid) + 1,
                    stage=stage_index,
                    index=index,
                    in_channels=in_channels,
                    hidden=in_channels * stage.t,
                    out_channels=out_channels,
                    stride=stride,
                    dilation=dilation,
                    reduction=reduction,
                    expand=stage.t > 1 or config.expand_first,
                )
            )
            in_channels, dilation = out_channels, next_dilation
    return tuple(laid)


def features(config: Config, output_stride: int = 32) -> tuple[Feature, ...]:
    """Lists the maps for feature extraction: the output of the last bottleneck at each stride.

    Args:
        config: The architecture.
        output_stride: As in `bottlenecks`. A stride that becomes a dilation still ends a level, as in timm,
            so there are always five maps.

    Returns:
        The maps from fine to coarse.

    Raises:
        ValueError: If `output_stride` is not 8, 16 or 32.

    Examples:
        >>> from mnv2zoo import architecture
        >>> [(level.channels, level.reduction) for level in architecture.features(architecture.get("mnv2zoo_100"))]
        [(16, 2), (24, 4), (32, 8), (96, 16), (320, 32)]
    """
    last = {block.stage: block for block in bottlenecks(config, output_stride)}
    ends = [i for i in last if i + 1 == len(config.stages) or config.stages[i + 1].s > 1]
    return tuple(Feature(i + 1, last[i].out_channels, last[i].reduction) for i in ends)


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer, with the facts that its parameters and MACs are counted from.

    Attributes:
        in_channels: Input channels divided by groups.
        out_channels: Output channels.
        kernel: Side of the kernel.
        reduction: Stride of its output relative to the image; 0 after the global pool.
        bias: Whether it has a bias.
        norm: Whether a batch norm follows.
    """

    in_channels: int
    out_channels: int
    kernel: int
    reduction: int
    bias: bool
    norm: bool

    @property
    def parameters(self) -> int:
        """Number of learned parameters, including those of the batch norm."""
        weights = self.in_channels * self.out_channels * self.kernel**2
        return weights + self.out_channels * (self.bias + 2 * self.norm)

    def macs(self, size: tuple[int, int]) -> int:
        """Counts the MACs for one image. Biases and batch norms are not counted.

        Args:
            size: Height and width of the image in pixels.

        Returns:
            The number of MACs.
        """
        # Every stride-2 convolution here pads so that an odd side rounds up.
        height, width = (-(-side // self.reduction) if self.reduction else 1 for side in size)
        return self.in_channels * self.out_channels * self.kernel**2 * height * width


def layers(config: Config, num_classes: int | None = None, in_chans: int = 3) -> Iterator[Layer]:
    """Yields the convolution and linear layers of an architecture in execution order.

    Args:
        config: The architecture.
        num_classes: Number of classes. None uses the config's, and 0 leaves out the classifier.
        in_chans: Channels of the input image.

    Yields:
        A `Layer` for each.
    """
    classes = config.num_classes if num_classes is None else num_classes
    yield Layer(in_chans, config.stem_channels, 3, 2, config.conv_bias, True)
    reduction = 2
    for b in bottlenecks(config):
        if b.expand:
            yield Layer(b.in_channels, b.hidden, 1, reduction, False, True)
        reduction = b.reduction
        yield Layer(1, b.hidden, 3, reduction, False, True)
        yield Layer(b.hidden, b.out_channels, 1, reduction, False, True)
    yield Layer(b.out_channels, config.head_channels, 1, reduction, config.conv_bias, True)
    if classes:
        yield Layer(config.head_channels, classes, 1, 0, True, config.classifier_norm)


def parameters(config: Config, num_classes: int | None = None, in_chans: int = 3) -> int:
    """Counts the learned parameters of an architecture.

    Args:
        config: The architecture.
        num_classes: Number of classes. None uses the config's.
        in_chans: Channels of the input image.

    Returns:
        The number of parameters. The running statistics of batch norms are buffers and are not counted.

    Examples:
        >>> from mnv2zoo import architecture
        >>> architecture.parameters(architecture.get("mnv2zoo_100"))
        3504872
    """
    return sum(layer.parameters for layer in layers(config, num_classes, in_chans))


def macs(config: Config, size: tuple[int, int] = (224, 224), num_classes: int | None = None, in_chans: int = 3) -> int:
    """Counts the MACs of an architecture's convolution and linear layers for one image.

    Args:
        config: The architecture.
        size: Height and width of the image in pixels.
        num_classes: Number of classes. None uses the config's.
        in_chans: Channels of the input image.

    Returns:
        The number of MACs, such as 0.3008 G for width 1.0 at 224 pixels. Biases, batch norms,
        activations and shortcuts are not counted.

    Examples:
        >>> from mnv2zoo import architecture
        >>> architecture.macs(architecture.get("mnv2zoo_100"))
        300774272
    """
    return sum(layer.macs(size) for layer in layers(config, num_classes, in_chans))


# Paper, Table 2.
PAPER_STAGES = (
    Stage(t=1, c=16, n=1, s=1),
    Stage(t=6, c=24, n=2, s=2),
    Stage(t=6, c=32, n=3, s=2),
    Stage(t=6, c=64, n=4, s=2),
    Stage(t=6, c=96, n=3, s=1),
    Stage(t=6, c=160, n=3, s=2),
    Stage(t=6, c=320, n=1, s=1),
)

# The tutorial halves the resolution before the 96-channel stage instead of the 64-channel one.
C20_STAGES = (
    Stage(t=1, c=16, n=1, s=1),
    Stage(t=6, c=24, n=2, s=2),
    Stage(t=6, c=32, n=3, s=2),
    Stage(t=6, c=64, n=4, s=1),
    Stage(t=6, c=96, n=3, s=2),
    Stage(t=6, c=160, n=3, s=2),
    Stage(t=6, c=320, n=1, s=1),
)


def _paper(name: str, width: float) -> Config:
    return Config(name, PAPER_STAGES, width)


def _deeper(name: str, width: float, repeats: tuple[int, ...]) -> Config:
    # timm's 110d and 120d: wider and deeper by compound scaling, with the stem and head unchanged.
    pairs = zip(PAPER_STAGES, repeats, strict=True)
    stages = tuple(Stage(row.t, row.c, n, row.s) for row, n in pairs)
    return Config(name, stages, width, fix_stem_head=True, source="https://github.com/huggingface/pytorch-image-models")


def _c20(name: str, width: float) -> Config:
    return Config(
        name,
        C20_STAGES,
        width,
        activation="relu",
        expand_first=True,
        conv_bias=True,
        classifier="conv_bn_act",
        init="torch",
        num_classes=20,
        source="a tutorial implementation of MobileNetV2 in PyTorch",
    )


CONFIGS: dict[str, Config] = {
    config.name: config
    for config in (
        _paper("mnv2zoo_035", 0.35),
        _paper("mnv2zoo_050", 0.50),
        _paper("mnv2zoo_075", 0.75),
        _paper("mnv2zoo_100", 1.00),
        _deeper("mnv2zoo_110d", 1.10, (1, 3, 4, 5, 4, 4, 1)),
        _deeper("mnv2zoo_120d", 1.20, (1, 3, 5, 6, 5, 5, 1)),
        _paper("mnv2zoo_140", 1.40),
        _c20("mnv2zoo_050_c20", 0.50),
        _c20("mnv2zoo_100_c20", 1.00),
        _c20("mnv2zoo_140_c20", 1.40),
    )
}

# Models that timm also has, with the same parameter names and shapes: timm's name to ours.
TIMM_NAMES = {
    f"mobilenetv2_{variant}": f"mnv2zoo_{variant}" for variant in ("035", "050", "075", "100", "110d", "120d", "140")
}
OURS = "mnv2zoo_"  # prefix of all names here


def native_name(name: str) -> str:
    """Translates timm's name of a model or of its weights to this package's name.

    Args:
        name: Any name.

    Returns:
        This package's name for one of timm's MobileNetV2 models, or the name unchanged.

    Examples:
        >>> from mnv2zoo import architecture
        >>> architecture.native_name("mobilenetv2_140.ra_in1k"), architecture.native_name("resnet50")
        ('mnv2zoo_140.ra_in1k', 'resnet50')
    """
    architecture, dot, tag = name.partition(".")
    return TIMM_NAMES.get(architecture, architecture) + dot + tag


def get(name: str) -> Config:
    """Looks up a config.

    Args:
        name: An architecture, or `architecture.tag`, whose tag is ignored. timm's name works too.

    Returns:
        The config.

    Raises:
        UnknownModelError: If no architecture has that name. The message suggests the closest names.

    Examples:
        >>> from mnv2zoo import architecture
        >>> architecture.get("mnv2zoo_100_c20").num_classes
        20
        >>> architecture.get("mnv2zoo_10")
        Traceback (most recent call last):
        mnv2zoo.errors.UnknownModelError: unknown architecture 'mnv2zoo_10'...
    """
    architecture = native_name(name).partition(".")[0]
    if architecture in CONFIGS:
        return CONFIGS[architecture]
    near = difflib.get_close_matches(architecture, CONFIGS, n=3)
    # Most functions that take a name also take a folder, so a misspelled path ends up here.
    path = " If you meant a folder, it must contain config.json." if "/" in name else ""
    raise UnknownModelError(
        unknown("architecture", name, tuple(CONFIGS))[:200],
        expected=", ".join(near or CONFIGS),
        found=repr(name),
        fix=f"Run `mnv2zoo list` to see all names.{path}",
    )
