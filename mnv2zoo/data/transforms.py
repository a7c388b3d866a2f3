"""Builds timm's transform for the images of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from mnv2zoo.data import decode, pixels, preprocessing
from mnv2zoo.data.copies import Fitted
from mnv2zoo.data.pixels import Bands, WrongChannels
from mnv2zoo.data.preprocessing import MAX_CHANNELS
from mnv2zoo.errors import DataError


def for_weights(cfg: Mapping[str, Any], training: bool = False, **options: Any) -> Callable[..., Any]:
    """Builds the preprocessing for weights, for images of any mode.

    Args:
        cfg: The weights' pretrained cfg.
        training: Build the training augmentation instead.
        **options: Arguments for `timm.data.create_transform` that override the defaults.

    Returns:
        A function from a PIL image to a float tensor (channels, height, width). If the weights take neither gray nor
        RGB images, the function takes arrays (height, width, channels) of uint8, uint16 or float.

    Raises:
        DataError: If the weights take images with more than 8 channels.
    """
    data = image_config(cfg, test=not training)
    made: Any = image_transform(data, **{"is_training": training, **options})
    if hasattr(made, "transforms"):  # not if the options ask for its parts
        made.transforms.insert(0, _upright_rgb)
    return made


def _upright_rgb(image: Any) -> Any:
    return decode.to_rgb(image) if isinstance(image, Image.Image) else image


def check_channels(channels: int, name: str | None = None) -> None:
    """Rejects a model that takes images with more channels than can be read from files.

    Args:
        channels: Number of channels of the model.
        name: Name of the model, for the error.

    Raises:
        DataError: If it takes more than 8 channels.
    """
    if not 1 <= channels <= MAX_CHANNELS:
        raise DataError(
            f"images with {channels} channels cannot be read from files",
            expected=f"a model for 1 to {MAX_CHANNELS} channels",
            found=f"in_chans={channels}",
            where=name,
            fix="Build it with timm.create_model(..., pretrained=True), and call it with your own tensors.",
        )


def image_config(cfg: Mapping[str, Any], in_chans: int | None = None, test: bool = True) -> dict[str, Any]:
    """Returns the preprocessing of a model's images.

    Args:
        cfg: The weights' pretrained cfg.
        in_chans: Number of channels of the model. None uses that of the weights.
        test: Use the size for evaluation instead of that for training.

    Returns:
        `input_size`, `mean`, `std`, `interpolation`, `crop_pct` and `crop_mode`, in timm's terms. Mean and standard
        deviation have one number per channel; see `preprocessing.per_channel`.
    """
    data: dict[str, Any] = resolve_data_config(pretrained_cfg=cfg, use_test_size=test)
    channels = in_chans or data["input_size"][0]
    fitted = {key: preprocessing.per_channel(data[key], channels) for key in ("mean", "std")}
    return {**data, **fitted, "input_size": (channels, *data["input_size"][1:])}


def image_transform(data: Mapping[str, Any], **options: Any) -> Callable[[Any], torch.Tensor]:
    """Builds timm's transform for a model, including models for gray images or other channels.

    Args:
        data: The preprocessing, from `image_config`.
        **options: Further arguments for `timm.data.create_transform`, which come before the preprocessing.

    Returns:
        A function from an RGB image or `pixels.Bands` to a tensor (channels, height, width).

    Raises:
        DataError: If the model takes images with more than 8 channels.
    """
    channels, *size = data["input_size"]
    check_channels(channels)
    colors = {key: preprocessing.per_channel(data[key], 3) for key in ("mean", "std")} if channels == 1 else {}
    own = {**data, **colors, "input_size": (3, *size)} if channels == 1 else data
    made = create_transform(**{**own, **options})
    return made if channels == 3 else Channels(made, {**data, **options})


@dataclass(frozen=True)
class Evaluation:
    """The transform of evaluation, which takes images that `reader` has fitted before, too.

    Attributes:
        transform: timm's transform.
        reader: Reads and fits photos.
    """

    transform: Callable[[Any], torch.Tensor]
    reader: Fitted

    def __call__(self, image: Any) -> torch.Tensor:
        """Transforms an RGB image to a tensor (3, H, W)."""
        if isinstance(image, Image.Image) and image.info.get("made_by") == self.reader.name:
            return torch.from_numpy(pixels.normalized(image, self.reader.config))
        return self.transform(image)


@dataclass(frozen=True)
class Channels:
    """A transform for models that do not take RGB.

    A model with one channel gets the luminance of photos. Images with other channels are resized as in `pixels.fitted`,
    and augmented as tensors by timm's transform.

    Attributes:
        transform: timm's transform: for RGB images with equal channels if the model has one channel, otherwise for
            tensors.
        config: The preprocessing. For training it has `is_training`.
    """

    transform: Callable[[Any], torch.Tensor]
    config: Mapping[str, Any]

    def __call__(self, image: Any) -> torch.Tensor:
        """Transforms an image of any mode, `pixels.Bands` or an array (H, W, C) to a tensor (channels, height, width).

        Raises:
            ImageReadError: If the image has a different number of channels.
        """
        channels = self.config["input_size"][0]
        try:
            if isinstance(image, np.ndarray):
                image = Bands.of(image, channels)
            image = pixels.as_channels(decode.to_rgb(image) if isinstance(image, Image.Image) else image, channels)
        except WrongChannels as error:
            raise decode.wrong_channels(error) from error
        if isinstance(image, Image.Image):
            return self.transform(image.convert("RGB"))[:1]
        if not self.config.get("is_training"):
            return torch.from_numpy(pixels.network_input(image, self.config))
        values = torch.from_numpy(image.values).permute(2, 0, 1)
        return self.transform(values.expand(3, -1, -1) if channels == 1 else values)[:channels]
