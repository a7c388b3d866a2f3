"""Preprocesses images for a model, exactly as timm does or faster.

Both ways have the same three steps: `at_least` says how large an image must be decoded, `prepare` processes one image
as far as possible, and `batch` turns several of its results into the model's input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from mnv2zoo.data import pixels
from mnv2zoo.data.pixels import Bands

if TYPE_CHECKING:
    import torch

    from mnv2zoo.runtimes.runners import Array

# A JPEG is decoded at least this many times larger than the target, so that the resizing filter determines the result.
# From 3 on, the result can hardly be distinguished from that of the whole photo (documentation of `Image.resize`).
REDUCING_GAP = 3
FIELDS = ("input_size", "crop_pct", "interpolation", "mean", "std")
MAX_CHANNELS = 8  # of images that are read from files


@dataclass(frozen=True)
class Exact:
    """timm's own preprocessing.

    Attributes:
        transform: timm's transform, from an image to a tensor (channels, height, width).
        channels: Number of channels of the model.
        at_least: None, because photos are decoded at full size.
    """

    transform: Callable[[Any], torch.Tensor]
    channels: int = 3
    at_least = None

    def prepare(self, photo: Image.Image | Bands) -> torch.Tensor:
        """Preprocesses an image: (channels, height, width)."""
        return self.transform(photo)

    def batch(self, prepared: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
        """Combines N results of `prepare` to images (N, channels, height, width)."""
        import torch

        return torch.stack(list(prepared)).to(device)


@dataclass(frozen=True)
class Fast:
    """Preprocessing that is nearly the same as timm's and faster.

    A large JPEG is decoded at a half, a quarter or an eighth of its size, pixels outside the crop are never resized,
    images wait in 8 bits, and a whole batch is normalized at once.

    Attributes:
        input_size: Channels, height and width of the model's input.
        crop_pct: Center-crop ratio.
        interpolation: Filter for resizing, as Pillow's name in lower case.
        mean: Mean of each channel, for values from 0 to 1.
        std: Standard deviation of each channel.
        crop_mode: How images are fitted, in timm's terms: `center`, `squash` or `border`; see `pixels.fit`.
        exact: Decode and resize whole images, which gives timm's values bit for bit and takes longer.
    """

    input_size: tuple[int, int, int]
    crop_pct: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_mode: str = "center"
    exact: bool = False

    @property
    def channels(self) -> int:
        """Number of channels of the model."""
        return self.input_size[0]

    @property
    def at_least(self) -> int | None:
        """Minimum pixels on each side of an image; None for all pixels."""
        if self.exact:
            return None
        return REDUCING_GAP * math.floor(max(self.input_size[1:]) / self.crop_pct)

    def prepare(self, photo: Image.Image | Bands) -> bytes | Array:
        """Resizes and crops an image, in RGB or with its own channels, to the model's input (height, width, channels).

        Args:
            photo: The image.

        Returns:
            The 8-bit pixels of a photo, as bytes, or the values of an image with other channels.
        """
        image = pixels.fitted(pixels.as_channels(photo, self.channels), vars(self), quick=not self.exact)
        return image.values if isinstance(image, Bands) else image.tobytes()

    def array(self, prepared: Sequence[bytes | Array]) -> Array:
        """Normalizes a batch, without PyTorch.

        Args:
            prepared: N results of `prepare`.

        Returns:
            Images (N, channels, height, width), as float32.
        """
        return _normalized(prepared, self.input_size[1:], self.mean, self.std)

    def batch(self, prepared: Sequence[bytes | Array], device: torch.device) -> torch.Tensor:
        """Normalizes a batch.

        Args:
            prepared: N results of `prepare`.
            device: Device of the result.

        Returns:
            Images (N, channels, height, width).
        """
        return _tensor(prepared, self.input_size[1:], self.mean, self.std, device)


class Prepared(NamedTuple):
    """An image resized by `Whole`.

    Attributes:
        pixels: Its 8-bit pixels (height, width, 3).
        input_size: Width and height in pixels.
        full_size: Width and height of the original image, upright.
    """

    pixels: bytes
    input_size: tuple[int, int]
    full_size: tuple[int, int]


@dataclass(frozen=True)
class Whole:
    """Preprocessing for detectors and segmenters: the whole image is resized without cropping, and its size is kept.

    Attributes:
        height: Height of the model's input in pixels.
        width: Width of the model's input in pixels.
        mean: Mean of each channel, for values from 0 to 1.
        std: Standard deviation of each channel.
        interpolation: Filter for resizing, as Pillow's name in lower case.
        keep_ratio: Keep the aspect ratio: the short side becomes the smaller of `height` and `width`, and the long
            side at most the greater. Otherwise images are resized to exactly that height and width.
        exact: Decode photos at full size, which takes longer. Otherwise large JPEGs are decoded at a fraction of it.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    keep_ratio: bool = False
    exact: bool = False
    channels = 3

    @property
    def at_least(self) -> int | None:
        """Minimum pixels on each side of an image. None for all."""
        if self.exact:
            return None
        return REDUCING_GAP * (min if self.keep_ratio else max)(self.height, self.width)

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Returns the width and height to which an image is resized."""
        if not self.keep_ratio:
            return self.width, self.height
        short, long = sorted((self.width, self.height))
        scale = min(short / min(width, height), long / max(width, height))
        return max(round(width * scale), 1), max(round(height * scale), 1)

    def prepare(self, photo: Image.Image) -> Prepared:
        """Resizes an RGB image."""
        full = photo.info.get("full_size", photo.size)
        size = self.size_of(*full)
        resized = photo.resize(size, Image.Resampling[self.interpolation.upper()])
        return Prepared(resized.tobytes(), size, full)

    def array(self, prepared: Sequence[Prepared]) -> Array:
        """Normalizes a batch of images of the same size, without PyTorch.

        Args:
            prepared: N results of `prepare`.

        Returns:
            Images (N, 3, height, width), as float32.
        """
        width, height = prepared[0].input_size
        return _normalized([one.pixels for one in prepared], (height, width), self.mean, self.std)

    def batch(self, prepared: Sequence[Prepared], device: torch.device) -> torch.Tensor | list[torch.Tensor]:
        """Normalizes a batch.

        Args:
            prepared: N results of `prepare`.
            device: Device of the result.

        Returns:
            Images (N, 3, height, width), or with `keep_ratio` a list of images (3, height, width) of different sizes.
        """
        if self.keep_ratio:
            return [self._tensor([one], device)[0] for one in prepared]
        return self._tensor(prepared, device)

    def _tensor(self, prepared: Sequence[Prepared], device: torch.device) -> torch.Tensor:
        width, height = prepared[0].input_size
        return _tensor([one.pixels for one in prepared], (height, width), self.mean, self.std, device)

    def tensor(self, photo: Image.Image) -> torch.Tensor:
        """Preprocesses an RGB image to the model's input (3, height, width)."""
        import torch

        return torch.from_numpy(self.array([self.prepare(photo)]))[0]


def _normalized(
    prepared: Sequence[bytes | Array], size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> Array:
    """Normalizes pixels (height, width, channels), as 8-bit bytes or values, to images (N, channels, height, width)."""
    import numpy as np

    means, stds = (np.asarray(values, np.float32).reshape(-1, 1, 1) for values in (mean, std))
    images = np.empty((len(prepared), len(mean), *size), np.float32)
    for image, own in zip(images, prepared, strict=True):  # one at a time, which fits in the processor's cache
        if isinstance(own, bytes):
            image[:] = np.frombuffer(own, np.uint8).reshape(*size, len(mean)).transpose(2, 0, 1)
            image /= 255
        else:
            image[:] = own.transpose(2, 0, 1)
        image -= means
        image /= stds
    return images


def _tensor(
    prepared: Sequence[bytes | Array],
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
) -> torch.Tensor:
    """Does the same on a device, which gets the 8-bit pixels and computes in the same order."""
    import torch

    in_8_bits = [own for own in prepared if isinstance(own, bytes)]
    if device.type == "cpu" or len(in_8_bits) < len(prepared):
        return torch.from_numpy(_normalized(prepared, size, mean, std)).to(device)
    means, stds = (torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1) for values in (mean, std))
    images = torch.frombuffer(bytearray(b"".join(in_8_bits)), dtype=torch.uint8).to(device)
    return images.view(-1, *size, len(mean)).permute(0, 3, 1, 2).float().div_(255).sub_(means).div_(stds).contiguous()


Preprocessing = Exact | Fast | Whole


def per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Adapts a mean or standard deviation to images with a different number of channels.

    Follows timm's rule for the stem's weights, which are summed for one channel and repeated for more.

    Args:
        values: The mean or standard deviation that the weights were trained with. One number applies to all channels.
        channels: Number of channels of the images.

    Returns:
        One number per channel: the values if their number matches, their average for one channel, and otherwise the
        values repeated in order.

    Examples:
        >>> from mnv2zoo.data.preprocessing import per_channel
        >>> per_channel((0.1, 0.2, 0.3, 0.9), 4)
        (0.1, 0.2, 0.3, 0.9)
        >>> per_channel((0.1, 0.2, 0.3), 4)
        (0.1, 0.2, 0.3, 0.1)
        >>> per_channel((0.5,), 3)
        (0.5, 0.5, 0.5)
    """
    if len(values) == channels:
        return tuple(values)
    if channels == 1:
        return (fmean(values),)
    return tuple(values[channel % len(values)] for channel in range(channels))


def from_cfg(cfg: Mapping[str, Any]) -> Fast | None:
    """Returns the fast preprocessing for a pretrained cfg.

    Args:
        cfg: The cfg, as a dict.

    Returns:
        The preprocessing. None if the cfg is incomplete, or asks for something that only timm's transform can do: a
        different size for evaluation, or enlarged crops.
    """
    if any(not cfg.get(field) for field in FIELDS) or any(cfg.get(f"test_{field}") for field in FIELDS):
        return None
    channels, height, width = cfg["input_size"]
    known = cfg["interpolation"].upper() in Image.Resampling.__members__
    if not 1 <= channels <= MAX_CHANNELS or not known or not 0 < cfg["crop_pct"] <= 1:
        return None
    mean, std = (per_channel(cfg[key], channels) for key in ("mean", "std"))
    mode = cfg.get("crop_mode") or "center"
    return Fast((channels, height, width), cfg["crop_pct"], cfg["interpolation"], mean, std, mode)
