"""From an image file to the numbers that a network sees: the one way, for this package and for what it exports.

`deploy.export` writes this file's text into a bundle's script, so that both prepare the same pixels. It uses the
standard library, Pillow and numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# Plain raster formats. Pillow has others, some of which run another program on the file (EPS) or are mere
# stubs; which of these it has depends on how it was built.
Image.init()
FORMATS = tuple(
    name for name in ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP") if name in Image.OPEN
)

# EXIF orientations that swap width and height.
SIDEWAYS = (5, 6, 7, 8)
# Networks' inputs are made by resizing the shorter side, which would blow a thin line up to gigabytes.
MAX_ASPECT = 500


def open_rgb(source: str | Path | BytesIO, at_least: int | None = None) -> tuple[Image.Image, tuple[str, ...]]:
    """Reads an image file as upright 8-bit RGB.

    Args:
        source: The file, or its bytes.
        at_least: Pixels that either side needs at least, where a JPEG may be decoded at a fraction of its size.

    Returns:
        The image, whose `info["full_size"]` is the width and height of the upright image in full; and what is out of
        the ordinary about the file: some of `rotated`, `animated`, `CMYK` and `16-bit`.

    Raises:
        Exception: If it cannot be read. Decoders raise nearly anything; `reason` says it in words.
    """
    _check_source(source)
    with Image.open(source, formats=FORMATS) as image:
        odd = tuple(_oddities(image))
        _check_shape(*image.size)
        full, turned = image.size, image.getexif().get(ExifTags.Base.Orientation, 1) in SIDEWAYS
        if at_least:
            image.draft(None, (at_least, at_least))
        upright = to_rgb(image)
        upright.info["full_size"] = full[::-1] if turned else full
        return upright, odd


def header(source: str | Path | BytesIO) -> tuple[tuple[int, int], int]:
    """Reads an image's size without decoding it.

    Args:
        source: The file, or its bytes.

    Returns:
        Width and height as they are stored, and the EXIF orientation, from 1 to 8; 1 for an upright image.

    Raises:
        Exception: If it cannot be read.
    """
    with Image.open(source, formats=FORMATS) as image:
        return image.size, image.getexif().get(ExifTags.Base.Orientation, 1)


def to_rgb(image: Image.Image) -> Image.Image:
    """Makes an image that Pillow has opened upright 8-bit RGB.

    The EXIF rotation is applied. Transparent images are laid on white, as a page would show them. Of an
    animation it is the first frame. Integers of more than 8 bits are taken to have 16 (white is 65535)
    and floats to reach from 0 to 1; where the values of an image exceed that, they are stretched so that
    its lowest is black and its highest white.

    Args:
        image: The image, in any mode.

    Returns:
        The image in RGB.

    Raises:
        Exception: If it cannot be decoded, or is too thin to work with.
    """
    _check_shape(*image.size)
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _to_8_bits(image).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def reason(error: Exception) -> str:
    """Why an image cannot be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"
    if isinstance(error, OSError | ValueError | Image.DecompressionBombError):
        return (getattr(error, "strerror", None) or str(error)).rstrip(".")
    return f"{type(error).__name__}: {error}"


def normalized_square(photo: Image.Image, config: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Prepares an image for a network as timm does at evaluation, bit for bit.

    Args:
        photo: The image in RGB.
        config: The weights' `input_size` (3, side, side), `crop_pct`, `interpolation`, `mean` and `std`.

    Returns:
        The image's middle, resized and normalized: (3, side, side).
    """
    side = config["input_size"][1]
    scaled = math.floor(side / config["crop_pct"])
    short, long = sorted(photo.size)
    other = int(scaled * long / short)
    size = (scaled, other) if photo.width <= photo.height else (other, scaled)
    photo = photo.resize(size, Image.Resampling[config["interpolation"].upper()])
    # A resized photo that is smaller than the square gets a black border.
    left, top = (round((have - side) / 2) if have >= side else -((side - have) // 2) for have in size)
    return _normalized(photo.crop((left, top, left + side, top + side)), config)


def whole_size(size: tuple[int, int], config: Mapping[str, Any]) -> tuple[int, int]:
    """The size that a whole image gets within a network's input, without padding.

    Args:
        size: Width and height of the image.
        config: `input_size` (3, height, width) and `resize`: `squash` for exactly that size, or `pad` for the largest
            size within it of the image's own aspect.

    Returns:
        Width and height.
    """
    _, height, width = config["input_size"]
    if config["resize"] == "squash":
        return width, height
    scale = min(width / size[0], height / size[1])
    return max(1, min(width, round(size[0] * scale))), max(1, min(height, round(size[1] * scale)))


def resized_whole(photo: Image.Image, config: Mapping[str, Any]) -> Image.Image:
    """Resizes a whole image as detectors and segmenters see it, without its padding.

    Args:
        photo: The image in RGB.
        config: As for `whole_size`, and `interpolation`.

    Returns:
        The image in its `whole_size`.
    """
    return photo.resize(whole_size(photo.size, config), Image.Resampling[config["interpolation"].upper()])


def normalized_whole(photo: Image.Image, config: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Prepares an image for a detector or segmenter: resized as a whole, normalized, and padded with zeros.

    Args:
        photo: The image in RGB.
        config: As for `resized_whole`, and `mean` and `std`.

    Returns:
        The image, with the padding at the right or the bottom: (3, height, width).
    """
    normal = _normalized(resized_whole(photo, config), config)
    padded = np.zeros(config["input_size"], np.float32)
    padded[:, : normal.shape[1], : normal.shape[2]] = normal
    return padded


def class_mask(
    logits: np.ndarray[Any, np.dtype[np.float32]], size: tuple[int, int], config: Mapping[str, Any]
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The class of each pixel of an image, from a segmenter's logits for it.

    Args:
        logits: The logits (classes, height, width) for the network's input. A single map is of two classes.
        size: Width and height of the image.
        config: As for `whole_size`.

    Returns:
        Class numbers (height, width) of the image, from logits that are interpolated to its size.
    """
    width, height = whole_size(size, config)
    best = np.full(size[::-1], 0 if len(logits) == 1 else -np.inf, np.float32)
    mask = np.zeros(size[::-1], np.uint8)
    for number, logit in enumerate(logits[:, :height, :width], len(logits) == 1):  # one class at a time, to save memory
        resized = np.asarray(Image.fromarray(logit).resize(size, Image.Resampling.BILINEAR))
        mask[resized > best] = number
        np.maximum(best, resized, out=best)
    return mask


def _normalized(photo: Image.Image, config: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    pixels = np.asarray(photo, np.float32) / np.float32(255)
    normal = (pixels - np.asarray(config["mean"], np.float32)) / np.asarray(config["std"], np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def _check_source(source: str | Path | BytesIO) -> None:
    if isinstance(source, BytesIO):
        size = source.getbuffer().nbytes
    else:
        path = Path(source)
        if not path.is_file():  # opening a FIFO would wait for ever
            raise ValueError("a folder" if path.is_dir() else "a special file" if path.exists() else "no file")
        size = path.stat().st_size
    if size == 0:
        raise ValueError("an empty file")


def _check_shape(width: int, height: int) -> None:
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"{width} x {height} pixels, one side more than {MAX_ASPECT} times the other")


def _oddities(image: Image.Image) -> Iterator[str]:
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        yield "rotated"
    if getattr(image, "is_animated", False):
        yield "animated"
    if image.mode == "CMYK":
        yield "CMYK"
    if image.mode.startswith("I"):
        yield "16-bit"


def _to_8_bits(image: Image.Image) -> Image.Image:
    values = image if image.mode == "F" else image.convert("I").convert("F")
    low, high = cast(tuple[float, float], values.getextrema())
    if not math.isfinite(low + high):
        raise ValueError("values that are not finite")
    white = 1.0 if image.mode == "F" else 65535.0
    if low >= 0 and high <= white:
        low, high = 0.0, white
    scale = 255 / ((high - low) or 1.0)
    # Converting to "L" truncates, so half is added.
    return values.point(lambda value: value * scale + (0.5 - low * scale)).convert("L")
