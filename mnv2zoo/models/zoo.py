"""Lists models, and returns their figures and preprocessing."""

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
    """Figures of a model, computed from its config.

    Attributes:
        name: The name that you asked for.
        architecture: Its architecture.
        params: Learned parameters, for the number of classes below.
        macs: MACs of convolution and linear layers for one image of `input_size`.
        input_size: Channels, height and width. Those of the weights, if there are any.
        num_classes: Number of classes. That of the weights, if there are any.
        feature_channels: Channels of the maps of `features_only=True`, from fine to coarse.
        feature_reductions: Stride of each map.
        weights: Names of its weights. The first is the default.
        source: Where the architecture is described.
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
    """Lists all models of this package.

    Args:
        pretrained: List the weights, as `architecture.tag`, instead of the architectures.

    Returns:
        The names, sorted as timm sorts them.

    Raises:
        WeightsIndexError: If an index file is invalid.

    Examples:
        >>> import mnv2zoo
        >>> mnv2zoo.list_models()[:2]
        ['mnv2zoo_035', 'mnv2zoo_050']
        >>> "mnv2zoo_100.ra_in1k" in mnv2zoo.list_models(pretrained=True)
        True
    """
    entries = index.entries()  # raises if an index is invalid, for either list
    names = entries if pretrained else architecture.CONFIGS
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def model_info(name: str) -> ModelInfo:
    """Returns the figures of a model.

    Args:
        name: An architecture, or `architecture.tag`.

    Returns:
        The figures.

    Raises:
        UnknownModelError: If no model has that name.
        WeightsIndexError: If an index file is invalid.

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
    """Builds the preprocessing for a model's weights.

    Args:
        name: `architecture.tag`, or an architecture, for its default weights. Without weights, you get
            ImageNet preprocessing at 224 pixels.
        training: Build the training augmentation instead.
        **options: Arguments for `timm.data.create_transform` that override the defaults.

    Returns:
        A function from a PIL image of any mode to a float tensor (channels, height, width), for weights with one or
        three channels. Like `mnv2zoo predict`, it applies the EXIF orientation, replaces transparency with white
        and reduces 16 bits to 8.

    Raises:
        UnknownModelError: If no model has that name.
        WeightsIndexError: If an index file is invalid.

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
