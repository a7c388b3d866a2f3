"""timm's transform for the images of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from mnv2zoo.data import decode, preprocessing
from mnv2zoo.errors import DataError


def for_weights(cfg: Mapping[str, Any], training: bool = False, **options: Any) -> Callable[..., Any]:
    """Makes the preprocessing that weights want, for images of any mode.

    Args:
        cfg: timm's description of the weights.
        training: Make the augmentation for training instead.
        **options: Arguments of `timm.data.create_transform` that replace its own.

    Returns:
        A function from a PIL image to a float tensor (channels, height, width).

    Raises:
        DataError: If the weights are for images that are neither gray nor RGB.
    """
    data = image_config(cfg, test=not training)
    made: Any = image_transform(data, **{"is_training": training, **options})
    if hasattr(made, "transforms"):  # not so if options ask for its parts
        made.transforms.insert(0, _upright_rgb)
    return made


def _upright_rgb(image: Any) -> Any:
    return decode.to_rgb(image) if isinstance(image, Image.Image) else image


def check_channels(channels: int, name: str | None = None) -> None:
    """Refuses a model that takes other images than gray and RGB ones.

    Args:
        channels: Its input channels.
        name: Its name, for the error.

    Raises:
        DataError: If it has neither one channel nor three.
    """
    if channels not in (1, 3):
        raise DataError(
            f"the network takes images with {channels} channels, which photos do not have",
            expected="a network for 1 channel (gray) or 3 (RGB)",
            found=f"in_chans={channels}",
            where=name,
            fix="Build it with timm.create_model(..., pretrained=True), and call it with your own tensors.",
        )


def image_config(cfg: Mapping[str, Any], in_chans: int | None = None, test: bool = True) -> dict[str, Any]:
    """Finds the preprocessing of images for a network.

    Args:
        cfg: timm's description of its weights.
        in_chans: Channels of the images that the network takes; those of its weights if None.
        test: At the size for evaluation instead of that for training.

    Returns:
        `input_size`, `mean`, `std`, `interpolation`, `crop_pct` and `crop_mode`, as timm names them. Mean and
        standard deviation have one number per channel; see `preprocessing.per_channel`.
    """
    data: dict[str, Any] = resolve_data_config(pretrained_cfg=cfg, use_test_size=test)
    channels = in_chans or data["input_size"][0]
    fitted = {key: preprocessing.per_channel(data[key], channels) for key in ("mean", "std")}
    return {**data, **fitted, "input_size": (channels, *data["input_size"][1:])}


def image_transform(data: Mapping[str, Any], **options: Any) -> Callable[[Image.Image], torch.Tensor]:
    """Makes timm's transform for a network, also for one that takes gray images.

    Args:
        data: The preprocessing, as `image_config` gives it.
        **options: Further arguments of `timm.data.create_transform`, which come before the preprocessing.

    Returns:
        A function from an RGB image to a tensor (channels, height, width).

    Raises:
        DataError: If the network takes images that are neither gray nor RGB.
    """
    channels, *size = data["input_size"]
    check_channels(channels)
    colors = {key: preprocessing.per_channel(data[key], 3) for key in ("mean", "std")} if channels == 1 else {}
    own = {**data, **colors, "input_size": (3, *size)} if channels == 1 else data
    made = create_transform(**{**own, **options})
    return Gray(made) if channels == 1 else made


@dataclass(frozen=True)
class Gray:
    """A transform for networks that take one channel: the luminance.

    Attributes:
        transform: The same transform for RGB images, with equal values for the three channels.
    """

    transform: Callable[[Image.Image], torch.Tensor]

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Transforms an image of any mode to a tensor (1, height, width)."""
        return self.transform(decode.to_rgb(image).convert("L").convert("RGB"))[:1]
