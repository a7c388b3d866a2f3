"""A network of the zoo made ready to carry a detector or a segmenter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.layers import freeze_batch_norm_2d
from torch import nn

from mnv2zoo import architecture, features
from mnv2zoo.data.preprocessing import per_channel
from mnv2zoo.errors import ConversionError, UnknownArgumentError, nearest
from mnv2zoo.models.arguments import integer, refused
from mnv2zoo.models.mobilenetv2 import MobileNetV2
from mnv2zoo.models.names import describe

UNITS = 6  # of trainable layers, as torchvision counts them: the stem, what begins at each stride, the head


def build(
    name: str | MobileNetV2,
    pretrained: bool | str | Path,
    trainable_layers: int | None = None,
    freeze_norm: bool = False,
    **arguments: Any,
) -> MobileNetV2:
    """Builds a network without a classifier, and freezes what shall not be trained.

    Args:
        name: An architecture, or `architecture.tag`; or a network that is built already, which is used as it is.
        pretrained: True for the weights of that name, False for none; or other weights of the same
            architecture: `architecture.tag`, a run folder or `hf-hub:` name.
        trainable_layers: How many of six units are trained, counted from the head: the head, the parts
            that begin at each halving of the resolution, and the stem. All if None.
        freeze_norm: Use the batch norms' statistics and parameters as they are, and train none of them.
        **arguments: Further arguments of the network, such as `output_stride`.

    Returns:
        The network. `pretrained_cfg` tells the mean and standard deviation that it wants.

    Raises:
        UnknownModelError: If there is none of that name.
        WeightsError: If weights cannot be found, fetched or verified.
        ConversionError: If the weights are another architecture's.
        ValueError: If there are fewer units than that.
    """
    model = name if isinstance(name, MobileNetV2) else _built(name, pretrained, arguments)
    if trainable_layers is not None:
        if integer("trainable_layers", trainable_layers, 0) > UNITS:
            raise refused("trainable_layers", trainable_layers, f"a whole number from 0 to {UNITS}")
        strided = [b.name for b in architecture.bottlenecks(model.arch_config) if b.stride > 1]
        starts = [features.STEM, *strided, features.HEAD]
        features.freeze_before(model, starts[-trainable_layers] if trainable_layers else None)
    if freeze_norm:
        model = freeze_batch_norm_2d(model)
    return model


def _built(name: str, pretrained: bool | str | Path, arguments: dict[str, Any]) -> MobileNetV2:
    description = describe(name)
    if not isinstance(pretrained, bool):
        source = describe(str(pretrained))
        if source.config.name != description.config.name:
            raise ConversionError(
                "weights of another architecture",
                expected=description.config.name,
                found=source.config.name,
                where="pretrained_backbone",
            )
        description = source
    model: MobileNetV2 = description.build(pretrained=bool(pretrained), **{**arguments, "num_classes": 0})
    return model


def last_at(model: MobileNetV2, *reductions: int) -> list[str]:
    """The names of the last bottleneck at each of some reductions, in their order."""
    by_reduction = {block.reduction: block.name for block in features.bottlenecks(model)}
    return [by_reduction[reduction] for reduction in reductions if reduction in by_reduction]


def normalization(model: nn.Module, in_chans: int) -> dict[str, list[float]]:
    """The `image_mean` and `image_std` of torchvision's detectors, as the weights want them.

    See `preprocessing.per_channel` for images with other channels than those of the weights.
    """
    cfg: Any = model.pretrained_cfg
    return {f"image_{key}": list(per_channel(cfg[key], in_chans)) for key in ("mean", "std")}


def check_arguments(given: dict[str, Any], known: tuple[str, ...]) -> None:
    """Refuses arguments that torchvision would swallow.

    Raises:
        UnknownArgumentError: If an argument is none of the known ones; the message names the nearest.
    """
    for name in given:
        if name not in known:
            raise UnknownArgumentError(
                "unexpected keyword argument", expected=nearest(name, known, 3), found=repr(name)
            )
