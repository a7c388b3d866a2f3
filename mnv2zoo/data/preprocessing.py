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

if TYPE_CHECKING:
    import torch

    from mnv2zoo.runtimes.runners import Array

# How many times larger than wanted a JPEG is decoded at least, so that the filter that resizes has the last word. From
# 3 on, Pillow's documentation of `Image.resize` finds the result hard to tell from that of the whole photo.
REDUCING_GAP = 3
FIELDS = ("input_size", "crop_pct", "interpolation", "mean", "std")


@dataclass(frozen=True)
class Exact:
    """timm's own preprocessing.

    Attributes:
        transform: It, from an RGB image to a tensor (3, height, width).
        at_least: None, since photos are decoded whole.
    """

    transform: Callable[[Image.Image], torch.Tensor]
    at_least = None

    def prepare(self, photo: Image.Image) -> torch.Tensor:
        """The normalised middle of a photo, (3, height, width)."""
        return self.transform(photo)

    def batch(self, prepared: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
        """What `prepare` gave, N times, as images (N, 3, height, width)."""
        import torch

        return torch.stack(list(prepared)).to(device)


@dataclass(frozen=True)
class Fast:
    """The same middle of the photo for less work.

    A large JPEG is decoded at a half, a quarter or an eighth of its size, pixels that would be cut off are never
    resized, photos wait for their turn in 8 bits, and a whole batch is normalised at once.

    Attributes:
        side: Pixels of each side of the square that the network sees.
        crop_pct: Share of the resized photo's shorter side that is left.
        interpolation: Filter that resizes, by Pillow's name in lower case.
        mean: Mean of each channel, of values in 0 to 1.
        std: Standard deviation of each channel.
    """

    side: int
    crop_pct: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def resized(self) -> int:
        """Pixels of the photo's shorter side before it is cut."""
        return math.floor(self.side / self.crop_pct)

    @property
    def at_least(self) -> int:
        """Pixels that either side of a photo needs."""
        return REDUCING_GAP * self.resized

    def prepare(self, photo: Image.Image) -> bytes:
        """The middle of a photo in RGB, resized: pixels (side, side, 3) in 8 bits."""
        width, height = photo.size
        short = min(width, height)
        # As timm does it: whole pixels of the resized photo.
        across, down = (int(self.resized * length / short) for length in photo.size)
        left, top = (round((length - self.side) / 2) for length in (across, down))
        x, y = width / across, height / down
        box = (left * x, top * y, (left + self.side) * x, (top + self.side) * y)
        resample = Image.Resampling[self.interpolation.upper()]
        return photo.resize((self.side, self.side), resample, box).tobytes()

    def array(self, prepared: Sequence[bytes]) -> Array:
        """Normalises a batch, without PyTorch.

        Args:
            prepared: What `prepare` gave, N times.

        Returns:
            Images (N, 3, side, side), as float32.
        """
        return _normalized(prepared, (self.side, self.side), self.mean, self.std)

    def batch(self, prepared: Sequence[bytes], device: torch.device) -> torch.Tensor:
        """Normalises a batch.

        Args:
            prepared: What `prepare` gave, N times.
            device: Where the result is wanted.

        Returns:
            Images (N, 3, side, side).
        """
        return _tensor(prepared, (self.side, self.side), self.mean, self.std, device)


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


def _normalized(pixels: Sequence[bytes], size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> Array:
    """Images (N, 3, height, width) of pixels (height, width, 3) in 8 bits."""
    import numpy as np

    means, stds = (np.asarray(values, np.float32).reshape(3, 1, 1) for values in (mean, std))
    images = np.empty((len(pixels), 3, *size), np.float32)
    for image, own in zip(images, pixels, strict=True):  # one that is in the processor's cache at a time
        image[:] = np.frombuffer(own, np.uint8).reshape(*size, 3).transpose(2, 0, 1)
        image /= 255
        image -= means
        image /= stds
    return images


def _tensor(
    pixels: Sequence[bytes], size: tuple[int, int], mean: Sequence[float], std: Sequence[float], device: torch.device
) -> torch.Tensor:
    """The same as a tensor on a device, which gets the 8-bit pixels and computes in the same order."""
    import torch

    if device.type == "cpu":
        return torch.from_numpy(_normalized(pixels, size, mean, std))
    means, stds = (torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1) for values in (mean, std))
    images = torch.frombuffer(bytearray(b"".join(pixels)), dtype=torch.uint8).to(device)
    return images.view(-1, *size, 3).permute(0, 3, 1, 2).float().div_(255).sub_(means).div_(stds).contiguous()


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
        The preprocessing; None where the description leaves something open, or wants what only timm's own
        knows: rectangles, other channels than RGB, borders.
    """
    if any(not cfg.get(field) for field in FIELDS) or any(cfg.get(f"test_{field}") for field in FIELDS):
        return None
    channels, height, width = cfg["input_size"]
    known = cfg["interpolation"].upper() in Image.Resampling.__members__
    if channels != 3 or height != width or cfg.get("crop_mode", "center") != "center" or not known:
        return None
    if not 0 < cfg["crop_pct"] <= 1:
        return None
    mean, std = (per_channel(cfg[key], channels) for key in ("mean", "std"))
    return Fast(height, cfg["crop_pct"], cfg["interpolation"], mean, std)
