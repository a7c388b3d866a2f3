"""Builds a zoo model as the backbone of a detector or a segmenter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.layers import freeze_batch_norm_2d
from torch import nn

from mnv2zoo import architecture, features
from mnv2zoo.data.preprocessing import per_channel
from mnv2zoo.errors import ConversionError, UnknownArgumentError, nearest, unknown
from mnv2zoo.models.arguments import integer, refused
from mnv2zoo.models.mobilenetv2 import MobileNetV2
from mnv2zoo.models.names import describe

UNITS = 6  # of trainable layers, counted as torchvision does: the stem, one per stride-2 bottleneck, the head


def build(
    name: str | MobileNetV2,
    pretrained: bool | str | Path,
    trainable_layers: int | None = None,
    freeze_norm: bool = False,
    **arguments: Any,
) -> MobileNetV2:
    """Builds a model without a classifier and freezes the layers that are not to be trained.

    Args:
        name: An architecture or `architecture.tag`, or an existing model, which is used as it is.
        pretrained: True for the weights of that name, False for random weights, or other weights of the same
            architecture: `architecture.tag`, a run folder or an `hf-hub:` name.
        trainable_layers: Number of units to train, counted from the head, out of six: the head, the parts
            that begin at each stride-2 bottleneck, and the stem. None trains all.
        freeze_norm: Freeze the batch norms' statistics and parameters.
        **arguments: Further model arguments, such as `output_stride`.

    Returns:
        The model. Its `pretrained_cfg` holds the mean and standard deviation for its inputs.

    Raises:
        UnknownModelError: If no model has that name.
        WeightsError: If the weights cannot be found, downloaded or verified.
        ConversionError: If the weights are for another architecture.
        ArgumentError: If `trainable_layers` is not between 0 and 6; a ValueError.
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
                f"the backbone weights {str(pretrained)!r} are for another architecture"[:200],
                expected=f"weights for {description.config.name}",
                found=f"weights for {source.config.name}",
                where="pretrained_backbone",
                fix=f"Name weights for {description.config.name}, or pass True for its default weights.",
            )
        description = source
    model: MobileNetV2 = description.build(pretrained=bool(pretrained), **{**arguments, "num_classes": 0})
    return model


def last_at(model: MobileNetV2, *reductions: int) -> list[str]:
    """Returns the names of the last bottleneck at each of the given strides, in the same order."""
    by_reduction = {block.reduction: block.name for block in features.bottlenecks(model)}
    return [by_reduction[reduction] for reduction in reductions if reduction in by_reduction]


def normalization(model: nn.Module, in_chans: int) -> dict[str, list[float]]:
    """Returns `image_mean` and `image_std` for torchvision's detectors, from the weights' preprocessing config.

    `preprocessing.per_channel` adapts them when images have a different number of channels than the weights.
    """
    cfg: Any = model.pretrained_cfg
    return {f"image_{key}": list(per_channel(cfg[key], in_chans)) for key in ("mean", "std")}


def check_arguments(given: dict[str, Any], known: tuple[str, ...]) -> None:
    """Rejects keyword arguments that torchvision would silently ignore.

    Raises:
        UnknownArgumentError: If an argument is unknown. The message suggests the closest names.
    """
    for name in given:
        if name not in known:
            raise UnknownArgumentError(
                unknown("keyword argument", name, known),
                expected=nearest(name, known, 3),
                found=repr(name),
                fix="Correct the spelling, or leave the argument out.",
            )
