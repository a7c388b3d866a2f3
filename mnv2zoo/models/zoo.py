"""What one asks about the zoo before using it: names, figures, preprocessing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mnv2zoo import architecture
from mnv2zoo.models import names
from mnv2zoo.models.cfg import pretrained_cfg
from mnv2zoo.weights import index


@dataclass(frozen=True)
class ModelInfo:
    """Figures of a network, computed from its config.

    Attributes:
        name: As it was asked for.
        architecture: Its architecture.
        params: Learnt parameters with the published number of classes.
        macs: Multiply-adds of convolution and linear layers for one image of `input_size`.
        input_size: Channels, height and width, those of its weights where there are any.
        num_classes: Classes, likewise.
        feature_channels: Channels of the maps of `features_only=True`, from fine to coarse.
        feature_reductions: Image pixels a side for one pixel of each map.
        weights: Names of its weights; the first is the default.
        source: Where the network was described.
    """

    name: str
    architecture: str
    params: int
    macs: int
    input_size: tuple[int, int, int]
    num_classes: int
    feature_channels: tuple[int, ...]
    feature_reductions: tuple[int, ...]
    weights: tuple[str, ...]
    source: str


def list_models(pretrained: bool = False) -> list[str]:
    """Lists the zoo.

    Args:
        pretrained: List the weights, as `architecture.tag`, instead of the architectures.

    Returns:
        The names, sorted as timm sorts them.

    Raises:
        WeightsIndexError: If an index file is bad.

    Examples:
        >>> import mnv2zoo
        >>> mnv2zoo.list_models()[:2]
        ['mnv2zoo_035', 'mnv2zoo_050']
        >>> "mnv2zoo_100.ra_in1k" in mnv2zoo.list_models(pretrained=True)
        True
    """
    entries = index.entries()  # a bad index is an error for either list
    names = entries if pretrained else architecture.CONFIGS
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def model_info(name: str) -> ModelInfo:
    """Tells the figures of a network.

    Args:
        name: An architecture, or `architecture.tag`.

    Returns:
        Its figures.

    Raises:
        UnknownModelError: If there is none of that name.
        WeightsIndexError: If an index file is bad.

    Examples:
        >>> import mnv2zoo
        >>> info = mnv2zoo.model_info("mnv2zoo_100")
        >>> info.params, info.macs, info.feature_channels
        (3504872, 300774272, (16, 24, 32, 96, 320))
    """
    entry = names.weights_of(name)
    config = architecture.get(name)
    input_size = entry.input_size if entry else (3, 224, 224)
    num_classes = entry.num_classes if entry else config.num_classes
    maps = architecture.features(config)
    return ModelInfo(
        name=name,
        architecture=config.name,
        params=architecture.parameters(config, num_classes, input_size[0]),
        macs=architecture.macs(config, input_size[1:], num_classes, input_size[0]),
        input_size=input_size,
        num_classes=num_classes,
        feature_channels=tuple(m.channels for m in maps),
        feature_reductions=tuple(m.reduction for m in maps),
        weights=tuple(own.name for own in index.entries_of(config.name)),
        source=config.source,
    )


def transforms(name: str, training: bool = False, **options: Any) -> Callable[..., Any]:
    """Makes the preprocessing that a network's weights want.

    Args:
        name: `architecture.tag`, or an architecture, whose default weights are meant. Without weights
            it is ImageNet's preprocessing at 224 pixels.
        training: Make the augmentation for training instead.
        **options: Arguments of `timm.data.create_transform` that replace its own.

    Returns:
        A function from a PIL image of any mode to a float tensor (channels, height, width), for weights of one or
        three channels. It turns the image upright and converts it as `mnv2zoo predict` does: transparent becomes
        white, 16 bits become 8.

    Raises:
        UnknownModelError: If there is none of that name.
        WeightsIndexError: If an index file is bad.

    Examples:
        >>> import mnv2zoo
        >>> from PIL import Image
        >>> preprocess = mnv2zoo.transforms("mnv2zoo_100")
        >>> preprocess(Image.open("examples/coffee.jpg")).shape
        torch.Size([3, 224, 224])
    """
    from mnv2zoo.data import transforms as made  # imports timm

    entry = names.weights_of(name)
    return made.for_weights(pretrained_cfg(architecture.get(name), entry), training, **options)
