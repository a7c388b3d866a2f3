"""Generates image files of many kinds, to compare how two programs read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mnv2zoo.data.pixels import PHOTO_CHANNELS

ORIENTATION = 0x0112  # the EXIF tag
TURNED = 6  # a camera held upright


def write(folder: Path, side: int, channels: int = 3) -> list[Path]:
    """Writes an image file of each kind that a model can read.

    Args:
        folder: The output folder.
        side: Approximate side of the images in pixels.
        channels: Number of input channels of the model. For one channel, arrays are written too. For more than one and
            other than three, only arrays and a multi-page TIFF are written.

    Returns:
        The files, sorted by name.
    """
    picture = _picture(side)
    photos, arrays = KINDS if channels in PHOTO_CHANNELS else {}, {} if channels == 3 else ARRAYS
    for name, save in photos.items():
        save(picture, folder / name)
    values = _channels(picture, channels)
    for name, write_array in arrays.items():
        write_array(values, folder / name)
    pages = [] if photos else ["pages.tif"]
    for page in pages:
        first, *others = (Image.fromarray(np.uint8(255 * layer)) for layer in np.moveaxis(values, 2, 0))
        first.save(folder / page, save_all=True, append_images=others)
    return [folder / name for name in sorted([*photos, *arrays, *pages])]


def _channels(picture: Image.Image, channels: int) -> np.ndarray[Any, Any]:
    """Values from 0 to 1 (height, width, channels). Each channel is a different mixture of the image's colors."""
    weights = np.random.default_rng(1).dirichlet(np.ones(3), channels).T
    return np.asarray(picture.convert("RGB")) / 255 @ weights


def _picture(side: int) -> Image.Image:
    """A rectangular image of colored waves and noise, with a transparent corner."""
    height, width = round(1.1 * side) + 1, round(1.4 * side)
    down, across = np.mgrid[:height, :width] / side
    waves = [np.sin(9 * down + 4 * across), np.cos(7 * across), np.sin(5 * down * across)]
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (height, width, 3))
    color = np.clip(127 + 90 * np.stack(waves, -1) + 90 * noise, 0, 255).astype(np.uint8)
    alpha = np.where((down < 0.4) & (across < 0.6), 0, np.clip(255 * across, 90, 255)).astype(np.uint8)
    return Image.merge("RGBA", [*Image.fromarray(color).split(), Image.fromarray(alpha)])


def _turned(picture: Image.Image, file: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED
    picture.convert("RGB").save(file, exif=exif)


def _gray_levels(picture: Image.Image, dtype: type, white: float) -> Image.Image:
    return Image.fromarray((np.asarray(picture.convert("L")) / 255 * white).astype(dtype))


KINDS: Mapping[str, Callable[[Image.Image, Path], None]] = {
    "rgb.jpg": lambda picture, file: picture.convert("RGB").save(file),
    "rotated.jpg": _turned,
    "cmyk.jpg": lambda picture, file: picture.convert("CMYK").save(file),
    "gray.jpg": lambda picture, file: picture.convert("L").save(file),
    "16-bit.png": lambda picture, file: _gray_levels(picture, np.uint16, 65535).save(file),
    "float.tif": lambda picture, file: _gray_levels(picture, np.float32, 1).save(file),
    "black-and-white.png": lambda picture, file: picture.convert("1").save(file),
    "palette.png": lambda picture, file: picture.convert("RGB").quantize(64).save(file),
    "palette-transparent.png": lambda picture, file: picture.quantize(64).save(file),
    "transparent.png": lambda picture, file: picture.save(file),
    "gray-transparent.png": lambda picture, file: picture.convert("LA").save(file),
    "animated.gif": lambda picture, file: picture.convert("RGB").save(
        file, save_all=True, append_images=[picture.convert("RGB").rotate(180)]
    ),
}
COUNT = len(KINDS)
ARRAYS: Mapping[str, Callable[[np.ndarray[Any, Any], Path], None]] = {
    "8-bit.npy": lambda values, file: np.save(file, np.uint8(255 * values)),
    "16-bit.npy": lambda values, file: np.save(file, np.uint16(65535 * values)),
    "float.npy": lambda values, file: np.save(file, values),
}
