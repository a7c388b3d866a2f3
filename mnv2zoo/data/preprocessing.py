"""How a photo becomes what a network sees: as timm does it, or faster.

Both are known and used in three steps: `at_least` says how large a photo must be decoded, `prepare` makes of it
what can wait for its turn, and `batch` makes the network's input of some of these.
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

# How many times larger than wanted a JPEG is decoded at least, so that the filter that resizes has the last word. From
# 3 on, Pillow's documentation of `Image.resize` finds the result hard to tell from that of the whole photo.
REDUCING_GAP = 3
FIELDS = ("input_size", "crop_pct", "interpolation", "mean", "std")
MAX_CHANNELS = 8  # of images that are read from files


@dataclass(frozen=True)
class Exact:
    """timm's own preprocessing.

    Attributes:
        transform: It, from an image to a tensor (channels, height, width).
        channels: The number of channels that the network takes.
        at_least: None, since photos are decoded whole.
    """

    transform: Callable[[Any], torch.Tensor]
    channels: int = 3
    at_least = None

    def prepare(self, photo: Image.Image | Bands) -> torch.Tensor:
        """An image as the network sees it, (channels, height, width)."""
        return self.transform(photo)

    def batch(self, prepared: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
        """What `prepare` gave, N times, as images (N, channels, height, width)."""
        import torch

        return torch.stack(list(prepared)).to(device)


@dataclass(frozen=True)
class Fast:
    """The same pixels for less work.

    A large JPEG is decoded at a half, a quarter or an eighth of its size, pixels that would be cut off are never
    resized, photos wait for their turn in 8 bits, and a whole batch is normalised at once.

    Attributes:
        input_size: Channels, height and width of the network's input.
        crop_pct: Share of the resized image that is left.
        interpolation: Filter that resizes, by Pillow's name in lower case.
        mean: Mean of each channel, of values in 0 to 1.
        std: Standard deviation of each channel.
        crop_mode: How images are fitted, as timm names it: `center`, `squash` or `border`; see `pixels.fit`.
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
        """The number of channels that the network takes."""
        return self.input_size[0]

    @property
    def at_least(self) -> int | None:
        """Pixels that either side of a photo needs; None for all."""
        if self.exact:
            return None
        return REDUCING_GAP * math.floor(max(self.input_size[1:]) / self.crop_pct)

    def prepare(self, photo: Image.Image | Bands) -> bytes | Array:
        """An image in RGB, or its channels, as the network's input: (height, width, channels).

        Args:
            photo: The image.

        Returns:
            The pixels of a photo in 8 bits, as bytes; the values of an image with other channels.
        """
        image = pixels.fitted(pixels.as_channels(photo, self.channels), vars(self), quick=not self.exact)
        return image.values if isinstance(image, Bands) else image.tobytes()

    def array(self, prepared: Sequence[bytes | Array]) -> Array:
        """Normalizes a batch, without PyTorch.

        Args:
            prepared: What `prepare` gave, N times.

        Returns:
            Images (N, channels, height, width), as float32.
        """
        return _normalized(prepared, self.input_size[1:], self.mean, self.std)

    def batch(self, prepared: Sequence[bytes | Array], device: torch.device) -> torch.Tensor:
        """Normalizes a batch.

        Args:
            prepared: What `prepare` gave, N times.
            device: Where the result is wanted.

        Returns:
            Images (N, channels, height, width).
        """
        return _tensor(prepared, self.input_size[1:], self.mean, self.std, device)


class Prepared(NamedTuple):
    """An image that `Whole` resized.

    Attributes:
        pixels: Its pixels (height, width, 3) in 8 bits.
        input_size: Width and height in pixels.
        full_size: Width and height before, upright.
    """

    pixels: bytes
    input_size: tuple[int, int]
    full_size: tuple[int, int]


@dataclass(frozen=True)
class Whole:
    """The whole image, for networks that say where something is: nothing is cut off, and its size is kept.

    Attributes:
        height: Height of the network's input in pixels.
        width: Its width.
        mean: Mean of each channel, of values in 0 to 1.
        std: Standard deviation of each channel.
        interpolation: Filter that resizes, by Pillow's name in lower case.
        keep_ratio: Scale both sides alike, so that the short side becomes the lesser of `height` and `width` and the
            long side is at most the greater. Otherwise images become exactly that high and wide.
        exact: Decode photos whole, which takes longer. Otherwise large JPEGs are decoded at a fraction of their size.
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
        """Pixels that either side of an image needs; None for all."""
        if self.exact:
            return None
        return REDUCING_GAP * (min if self.keep_ratio else max)(self.height, self.width)

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """The width and height to which an image is resized."""
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
        """Normalizes a batch of images of one size, without PyTorch.

        Args:
            prepared: What `prepare` gave, N times.

        Returns:
            Images (N, 3, height, width), as float32.
        """
        width, height = prepared[0].input_size
        return _normalized([one.pixels for one in prepared], (height, width), self.mean, self.std)

    def batch(self, prepared: Sequence[Prepared], device: torch.device) -> torch.Tensor | list[torch.Tensor]:
        """Normalizes a batch.

        Args:
            prepared: What `prepare` gave, N times.
            device: Where the result is wanted.

        Returns:
            Images (N, 3, height, width); with `keep_ratio` a list of images (3, height, width), whose sizes differ.
        """
        if self.keep_ratio:
            return [self._tensor([one], device)[0] for one in prepared]
        return self._tensor(prepared, device)

    def _tensor(self, prepared: Sequence[Prepared], device: torch.device) -> torch.Tensor:
        width, height = prepared[0].input_size
        return _tensor([one.pixels for one in prepared], (height, width), self.mean, self.std, device)

    def tensor(self, photo: Image.Image) -> torch.Tensor:
        """The network's input (3, height, width) for an RGB image."""
        import torch

        return torch.from_numpy(self.array([self.prepare(photo)]))[0]


def _normalized(
    prepared: Sequence[bytes | Array], size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> Array:
    """Images (N, channels, height, width) of pixels (height, width, channels): bytes of 8 bits, or values."""
    import numpy as np

    means, stds = (np.asarray(values, np.float32).reshape(-1, 1, 1) for values in (mean, std))
    images = np.empty((len(prepared), len(mean), *size), np.float32)
    for image, own in zip(images, prepared, strict=True):  # one that is in the processor's cache at a time
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
    """The same as a tensor on a device, which gets the 8-bit pixels and computes in the same order."""
    import torch

    in_8_bits = [own for own in prepared if isinstance(own, bytes)]
    if device.type == "cpu" or len(in_8_bits) < len(prepared):
        return torch.from_numpy(_normalized(prepared, size, mean, std)).to(device)
    means, stds = (torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1) for values in (mean, std))
    images = torch.frombuffer(bytearray(b"".join(in_8_bits)), dtype=torch.uint8).to(device)
    return images.view(-1, *size, len(mean)).permute(0, 3, 1, 2).float().div_(255).sub_(means).div_(stds).contiguous()


Preprocessing = Exact | Fast | Whole


def per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Fits a mean or standard deviation to images with another number of channels.

    Follows what timm does to the weights of the stem, which it sums for one channel and repeats in turn for more.

    Args:
        values: The mean or standard deviation that the weights were trained with. One number counts for all channels.
        channels: Channels of the images.

    Returns:
        One number per channel: the values themselves if there are as many, their average for one channel, and
        otherwise the values in turn.

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
    """The fast preprocessing that timm's description of weights asks for.

    Args:
        cfg: The description, as a dict.

    Returns:
        The preprocessing; None where the description leaves something open, or wants what only timm's own knows:
        another size for evaluation than for training, or enlarged crops.
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
