"""timm's transform for the images of a model."""

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
    """Makes the preprocessing that weights want, for images of any mode.

    Args:
        cfg: timm's description of the weights.
        training: Make the augmentation for training instead.
        **options: Arguments of `timm.data.create_transform` that replace its own.

    Returns:
        A function from a PIL image to a float tensor (channels, height, width). For weights that take neither gray nor
        RGB, it takes arrays (height, width, channels) of uint8, uint16 or float.

    Raises:
        DataError: If the weights are for images with more than 8 channels.
    """
    data = image_config(cfg, test=not training)
    made: Any = image_transform(data, **{"is_training": training, **options})
    if hasattr(made, "transforms"):  # not so if options ask for its parts
        made.transforms.insert(0, _upright_rgb)
    return made


def _upright_rgb(image: Any) -> Any:
    return decode.to_rgb(image) if isinstance(image, Image.Image) else image


def check_channels(channels: int, name: str | None = None) -> None:
    """Refuses a model that takes images with more channels than are read from files.

    Args:
        channels: Its input channels.
        name: Its name, for the error.

    Raises:
        DataError: If it has more than 8.
    """
    if not 1 <= channels <= MAX_CHANNELS:
        raise DataError(
            f"the network takes images with {channels} channels, which are not read from files",
            expected=f"a network for 1 to {MAX_CHANNELS} channels",
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


def image_transform(data: Mapping[str, Any], **options: Any) -> Callable[[Any], torch.Tensor]:
    """Makes timm's transform for a network, also for one that takes gray images or images with other channels.

    Args:
        data: The preprocessing, as `image_config` gives it.
        **options: Further arguments of `timm.data.create_transform`, which come before the preprocessing.

    Returns:
        A function from an RGB image, or from `pixels.Bands`, to a tensor (channels, height, width).

    Raises:
        DataError: If the network takes images with more than 8 channels.
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
    """A transform for networks that do not take RGB.

    A network with one channel gets the luminance of photos. Images with other channels are resized as `pixels.fitted`
    does it, and augmented by timm's transform as tensors.

    Attributes:
        transform: timm's transform: for RGB images of equal channels if there is one, and otherwise for tensors.
        config: The preprocessing. For training it has `is_training`.
    """

    transform: Callable[[Any], torch.Tensor]
    config: Mapping[str, Any]

    def __call__(self, image: Any) -> torch.Tensor:
        """Transforms an image of any mode, `pixels.Bands` or an array (H, W, C) to a tensor (channels, height, width).

        Raises:
            ImageReadError: If it has another number of channels.
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
