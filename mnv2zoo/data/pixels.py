"""Turns an image file into a model's input, in the same way in this package and in everything that it exports.

`deploy.export` copies this file into a bundle's script, so that both compute the same pixels. It only uses the standard
library, Pillow and numpy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import ExifTags, Image, ImageOps, ImageSequence, UnidentifiedImageError

# Numbers of channels for which images are read as gray or RGB. Models with other numbers get the stored channels.
PHOTO_CHANNELS = (1, 3)
ARRAY_MAGIC = b"\x93NUMPY"  # first bytes of a file from `numpy.save`
TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SCALES = {"uint8": 255, "uint16": 65535}  # the value that becomes 1

# EXIF orientations that swap width and height.
SIDEWAYS = (5, 6, 7, 8)
# A model's input is made by resizing the shorter side, which would enlarge a thin line to gigabytes.
MAX_ASPECT = 500


@functools.cache
def formats() -> tuple[str, ...]:
    """The formats that are read: plain raster formats, as far as this build of Pillow has them.

    Pillow has others, some of which run another program on the file (EPS) or are mere stubs.
    """
    Image.init()  # slow, because it imports all of Pillow's plugins, so `import mnv2zoo` does not call it
    plain = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
    return tuple(name for name in plain if name in Image.OPEN)


class WrongChannels(ValueError):
    """Raised when an image has a different number of channels than the model."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"{found}, but the model takes {expected}")
        self.expected, self.found = expected, found


class Bands:
    """An image with any number of channels.

    Attributes:
        values: Its values (height, width, channels) as float32. 8-bit and 16-bit values are scaled to 0 to 1. Floats
            are unchanged.
    """

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values = values

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as in Pillow."""
        height, width, _ = self.values.shape
        return width, height

    @staticmethod
    def of(array: np.ndarray[Any, Any], channels: int) -> Bands:
        """Converts an array to an image.

        Args:
            array: Values (height, width, channels), or (height, width) for one channel: uint8, uint16 or float.
            channels: Number of channels of the model.

        Returns:
            The image.

        Raises:
            ValueError: If the array has another type, shape or number of channels, or values that are not finite.
        """
        shape = f"an array of shape {array.shape}"
        if array.ndim == 2:
            array = array[..., None]
        if array.ndim != 3 or not array.size:
            raise WrongChannels(f"(height, width, {channels})", shape)
        if array.shape[2] != channels:
            raise WrongChannels(_count(channels), f"{_count(array.shape[2])} in {shape}")
        if array.dtype.name not in SCALES and array.dtype.kind != "f":
            raise ValueError(f"values of type {array.dtype}, which is not uint8, uint16 or float")
        _check_shape(array.shape[1], array.shape[0])
        values = array.astype(np.float32) / np.float32(SCALES.get(array.dtype.name, 1))
        if not np.isfinite(values).all():
            raise ValueError("values that are not finite")
        return Bands(values)

    def picture(self) -> Image.Image:
        """Converts it for display: the first three channels as RGB, or else the first, each from black to white."""
        shown = self.values[..., : 3 if self.values.shape[2] >= 3 else 1]
        low, high = shown.min((0, 1)), shown.max((0, 1))
        scaled = (255 * (shown - low) / np.where(high > low, high - low, 1)).round().astype(np.uint8)
        return Image.fromarray(scaled.squeeze(2) if scaled.shape[2] == 1 else scaled).convert("RGB")


def open_image(
    source: str | Path | BytesIO, channels: int = 3, at_least: int | None = None
) -> tuple[Image.Image | Bands, tuple[str, ...]]:
    """Reads an image file for a model.

    For models with 1 or 3 channels, images are read as in `open_rgb`. For other models, the channels come from the
    file: of an array from `numpy.save`, of an image such as RGBA, or of all pages of a TIFF. A TIFF needs
    `tifffile` if a page has several channels of 16 bits or more, or more channels than Pillow supports. Models with one
    channel also read arrays.

    Args:
        source: The file, or its bytes.
        channels: Number of channels of the model.
        at_least: As for `open_rgb`.

    Returns:
        The image, and its unusual properties, as in `open_rgb`.

    Raises:
        WrongChannels: If the image has a different number of channels.
        Exception: If the image cannot be read, as in `open_rgb`.
    """
    _check_source(source)
    if channels != 3 and _starts_with(source, ARRAY_MAGIC):
        return Bands.of(np.load(source, allow_pickle=False), channels), ()
    if channels in PHOTO_CHANNELS:
        return open_rgb(source, at_least)
    if any(_starts_with(source, magic) for magic in TIFF_MAGICS) and (array := _tiff(source, channels)) is not None:
        return Bands.of(array, channels), ()
    with Image.open(source, formats=formats()) as image:
        odd = tuple(kind for kind in _oddities(image) if kind == "rotated")
        _check_shape(*image.size)
        pages = [ImageOps.exif_transpose(page.copy()) for page in ImageSequence.Iterator(image)]
        layers = [np.atleast_3d(np.asarray(page)) for page in pages]
        if len({(layer.shape[:2], layer.dtype) for layer in layers}) > 1:
            raise ValueError("pages of several sizes or types")
        found = sum(layer.shape[2] for layer in layers)
        if found != channels:
            where = f" in {len(pages)} pages" if len(pages) > 1 else f" of mode {image.mode}"
            raise WrongChannels(_count(channels), _count(found) + where)
        return Bands.of(np.concatenate(layers, axis=2), channels), odd


def _tiff(source: str | Path | BytesIO, channels: int) -> np.ndarray[Any, Any] | None:
    """Returns the channels (height, width, channels) of a TIFF that Pillow cannot read completely; None for others."""
    try:
        with Image.open(source, formats=formats()) as image:
            bits, samples = image.tag_v2.get(258, (1,)), image.tag_v2.get(277, 1)  # type: ignore[attr-defined]
            if samples == 1 or max(bits) <= 8:
                return None
    except UnidentifiedImageError:
        pass
    try:
        import tifffile
    except ImportError as error:
        raise ValueError("a TIFF whose pages have several channels, which needs: pip install tifffile") from error
    if isinstance(source, BytesIO):
        source.seek(0)
    with tifffile.TiffFile(source) as file:
        if not file.pages or not file.series:
            raise ValueError("a TIFF without pages")
        series = file.series[0]
        order = [series.axes.index(axis) for axis in "YX"]
        order += [number for number in range(len(series.shape)) if number not in order]
        height, width, *others = (series.shape[number] for number in order)
        if (found := math.prod(others)) != channels:
            raise WrongChannels(_count(channels), f"{_count(found)} in a TIFF of shape {series.shape}")
        if Image.MAX_IMAGE_PIXELS and height * width > 2 * Image.MAX_IMAGE_PIXELS:  # Pillow's limit
            raise ValueError(f"{width} x {height} pixels, which could be a decompression bomb")
        return series.asarray().transpose(order).reshape(height, width, channels)


def open_rgb(source: str | Path | BytesIO, at_least: int | None = None) -> tuple[Image.Image, tuple[str, ...]]:
    """Reads an image file as upright 8-bit RGB.

    Args:
        source: The file, or its bytes.
        at_least: Minimum pixels on each side, if a JPEG may be decoded at a fraction of its size.

    Returns:
        The image, whose `info["full_size"]` is the full width and height of the upright image, and its unusual
        properties: any of `rotated`, `animated`, `CMYK` and `16-bit` that apply.

    Raises:
        Exception: If the image cannot be read. Decoders can raise anything. `reason` describes it in words.
    """
    _check_source(source)
    with Image.open(source, formats=formats()) as image:
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
        Width and height as stored, and the EXIF orientation from 1 to 8; 1 for an upright image.

    Raises:
        Exception: If the image cannot be read.
    """
    with Image.open(source, formats=formats()) as image:
        return image.size, image.getexif().get(ExifTags.Base.Orientation, 1)


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image opened with Pillow to upright 8-bit RGB.

    The EXIF orientation is applied. Transparency becomes white, as on a web page. The first frame of an animation is
    used. Integers of more than 8 bits are taken as 16 bits (white is 65535), and floats as values from 0 to 1. If an
    image has values outside that range, they are stretched so that the lowest is black and the highest is
    white.

    Args:
        image: The image, in any mode.

    Returns:
        The image in RGB.

    Raises:
        Exception: If the image cannot be decoded or is too thin.
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
    """Describes in a few words why an image cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        return "an unknown image format"
    if isinstance(error, OSError | ValueError | Image.DecompressionBombError):
        return (getattr(error, "strerror", None) or str(error)).rstrip(".")
    return f"{type(error).__name__}: {error}"


class Fit(NamedTuple):
    """How an image is fitted to a model's input.

    Attributes:
        size: Width and height of the whole image after resizing.
        left: Left edge of the input in the resized image, in pixels. Negative if the input is padded.
        top: Top edge of the input in the resized image, in pixels. Negative if the input is padded.
    """

    size: tuple[int, int]
    left: int
    top: int


def fit(size: tuple[int, int], config: Mapping[str, Any]) -> Fit:
    """Fits an image to a model's input as timm does at evaluation.

    Args:
        size: Width and height of the image.
        config: `input_size` (channels, height, width), `crop_pct`, and `crop_mode` in timm's terms. `center` resizes
            the image to cover the input size divided by `crop_pct`, and crops its center. `squash` resizes it to
            exactly that size, whatever its aspect ratio. `border` resizes it to fit into that size, and pads the input.

    Returns:
        The resized size, and the position of the input in it.
    """
    _, height, width = config["input_size"]
    down, across = (math.floor(side / config["crop_pct"]) for side in (height, width))
    mode = config.get("crop_mode") or "center"
    if mode == "squash":
        resized = across, down
    elif mode == "center" and across == down:  # torchvision's rounding
        short, long = sorted(size)
        other = int(down * long / short)
        resized = (down, other) if size[0] <= size[1] else (other, down)
    else:  # timm's rounding
        ratio = (max if mode == "border" else min)(size[1] / down, size[0] / across)
        resized = max(round(size[0] / ratio), 1), max(round(size[1] / ratio), 1)
    left, top = (
        round((have - side) / 2) if have >= side else -((side - have) // 2)
        for have, side in zip(resized, (width, height), strict=True)
    )
    return Fit(resized, left, top)


def fitted(image: Image.Image | Bands, config: Mapping[str, Any], quick: bool = False) -> Image.Image | Bands:
    """Resizes an image to a model's input size.

    Args:
        image: The image in RGB or gray, or its channels.
        config: As for `fit`, with `interpolation` and `mean`. With `border`, padding has the mean color, rounded to
            8 bits for a photo. Otherwise it is zero.
        quick: Resize only the pixels in the input. They differ slightly from those of the whole image. A JPEG that
            was decoded at a fraction of its size is fitted as the whole image would be.

    Returns:
        The image, with the input's height and width.
    """
    _, height, width = config["input_size"]
    photo = image if isinstance(image, Image.Image) else None
    full = photo.info.get("full_size", photo.size) if photo and quick else image.size
    (across, down), left, top = fit(full, config)
    size, corner, box = (across, down), (-left, -top), None
    if quick:
        first, last = (max(left, 0), max(top, 0)), (min(left + width, across), min(top + height, down))
        size, corner = (last[0] - first[0], last[1] - first[1]), (first[0] - left, first[1] - top)
        x, y = image.size[0] / across, image.size[1] / down
        box = (first[0] * x, first[1] * y, min(last[0] * x, image.size[0]), min(last[1] * y, image.size[1]))
    resample = Image.Resampling[config["interpolation"].upper()]
    fill = list(config["mean"]) if config.get("crop_mode") == "border" else [0.0] * len(config["mean"])
    if photo:
        levels = tuple(round(255 * value) for value in fill)
        return _on_canvas(photo.resize(size, resample, box), (width, height), corner, levels)
    layers = np.moveaxis(cast(Bands, image).values, 2, 0)
    resized = [Image.fromarray(np.ascontiguousarray(layer)).resize(size, resample, box) for layer in layers]
    placed = [_on_canvas(one, (width, height), corner, (value,)) for one, value in zip(resized, fill, strict=True)]
    return Bands(np.stack([np.asarray(layer) for layer in placed], axis=2))


def _on_canvas(
    image: Image.Image, size: tuple[int, int], corner: tuple[int, int], fill: tuple[float, ...]
) -> Image.Image:
    if image.size == size and corner == (0, 0):
        return image
    bands = len(image.getbands())
    canvas = Image.new(image.mode, size, fill[0] if bands == 1 else fill)
    canvas.paste(image, corner)
    return canvas


def network_input(image: Image.Image | Bands, config: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Preprocesses an image for a model as timm does at evaluation, bit for bit.

    Args:
        image: The image in RGB, or its channels. A model with one channel gets the luminance of RGB.
        config: As for `fitted`, with `std`. `mean` and `std` have one number per channel.

    Returns:
        The resized and normalized image: (channels, height, width).
    """
    return normalized(fitted(as_channels(image, config["input_size"][0]), config), config)


def as_channels(image: Image.Image | Bands, channels: int) -> Image.Image | Bands:
    """Converts an image to the channels that a model takes.

    Args:
        image: The image in RGB, or its channels.
        channels: Number of channels of the model.

    Returns:
        The luminance of an RGB image for a model with one channel, otherwise the image itself.

    Raises:
        WrongChannels: If the image has a different number of channels.
    """
    if isinstance(image, Bands):
        if image.values.shape[2] != channels:
            raise WrongChannels(_count(channels), _count(image.values.shape[2]))
        return image
    if channels not in PHOTO_CHANNELS:
        raise WrongChannels(_count(channels), f"a photo in {image.mode}")
    return image.convert("L") if channels == 1 else image


def whole_size(size: tuple[int, int], config: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the size of a whole image in a model's input, without padding.

    Args:
        size: Width and height of the image.
        config: `input_size` (3, height, width) and `resize`: `squash` for exactly that size, or `pad` for the largest
            size within it that keeps the aspect ratio.

    Returns:
        Width and height.
    """
    _, height, width = config["input_size"]
    if config["resize"] == "squash":
        return width, height
    scale = min(width / size[0], height / size[1])
    return max(1, min(width, round(size[0] * scale))), max(1, min(height, round(size[1] * scale)))


def resized_whole(photo: Image.Image, config: Mapping[str, Any]) -> Image.Image:
    """Resizes a whole image for detectors and segmenters, without padding.

    Args:
        photo: The image in RGB.
        config: As for `whole_size`, with `interpolation`.

    Returns:
        The image, resized to its `whole_size`.
    """
    return photo.resize(whole_size(photo.size, config), Image.Resampling[config["interpolation"].upper()])


def normalized_whole(photo: Image.Image, config: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Preprocesses an image for a detector or segmenter: resizes it as a whole, normalizes it and pads it with zeros.

    Args:
        photo: The image in RGB.
        config: As for `resized_whole`, with `mean` and `std`.

    Returns:
        The image, padded on the right or at the bottom: (3, height, width).
    """
    normal = normalized(resized_whole(photo, config), config)
    padded = np.zeros(config["input_size"], np.float32)
    padded[:, : normal.shape[1], : normal.shape[2]] = normal
    return padded


def class_mask(
    logits: np.ndarray[Any, np.dtype[np.float32]], size: tuple[int, int], config: Mapping[str, Any]
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Computes the class of each pixel of an image from a segmenter's logits.

    Args:
        logits: The logits (classes, height, width) for the model's input. A single map stands for two classes.
        size: Width and height of the image.
        config: As for `whole_size`.

    Returns:
        Class numbers (height, width) for the image, from logits interpolated to its size.
    """
    width, height = whole_size(size, config)
    best = np.full(size[::-1], 0 if len(logits) == 1 else -np.inf, np.float32)
    mask = np.zeros(size[::-1], np.uint8)
    for number, logit in enumerate(logits[:, :height, :width], len(logits) == 1):  # one class at a time, to save memory
        resized = np.asarray(Image.fromarray(logit).resize(size, Image.Resampling.BILINEAR))
        mask[resized > best] = number
        np.maximum(best, resized, out=best)
    return mask


def normalized(image: Image.Image | Bands, config: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Normalizes an image of the input's size: (channels, height, width); `config` is as for `network_input`."""
    pixels = image.values if isinstance(image, Bands) else np.asarray(image, np.float32) / np.float32(255)
    normal = (np.atleast_3d(pixels) - np.asarray(config["mean"], np.float32)) / np.asarray(config["std"], np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def _count(channels: int) -> str:
    return f"{channels} channels" if channels != 1 else "1 channel"


def _starts_with(source: str | Path | BytesIO, magic: bytes) -> bool:
    if isinstance(source, BytesIO):
        return source.getbuffer()[: len(magic)] == magic
    with Path(source).open("rb") as file:
        return file.read(len(magic)) == magic


def _check_source(source: str | Path | BytesIO) -> None:
    if isinstance(source, BytesIO):
        size = source.getbuffer().nbytes
    else:
        path = Path(source)
        if not path.is_file():  # opening a FIFO would wait forever
            raise ValueError("a folder" if path.is_dir() else "a special file" if path.exists() else "no such file")
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
    # Converting to "L" truncates, so add a half.
    return values.point(lambda value: value * scale + (0.5 - low * scale)).convert("L")
