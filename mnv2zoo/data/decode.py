"""Reads images of any format, mode and rotation as 8-bit RGB, or as the channels that a model takes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar, overload

from PIL import Image

from mnv2zoo.data import pixels
from mnv2zoo.data.pixels import Bands, WrongChannels
from mnv2zoo.errors import ImageReadError
from mnv2zoo.system.threads import in_order

Source = str | Path | BytesIO
S = TypeVar("S")
R = TypeVar("R")
T = TypeVar("T")


@overload
def read(source: Source, where: object = None, at_least: int | None = None) -> Image.Image: ...
@overload
def read(source: Source, where: object = None, at_least: int | None = None, *, channels: int) -> Any: ...
def read(source: Source, where: object = None, at_least: int | None = None, *, channels: int = 3) -> Any:
    """Reads an image as upright 8-bit RGB, as `pixels.to_rgb` describes.

    Args:
        source: The file, or its bytes.
        where: Name of the image in errors. Default: the file.
        at_least: Minimum pixels on each side. A larger JPEG may be decoded at a half, a quarter or an eighth of its
            size, which is far faster. None decodes all pixels.
        channels: Number of channels of the model. For numbers other than 1 and 3, the file's own channels are used; see
            `pixels.open_image`.

    Returns:
        The image. A `pixels.Bands` for an array, and for numbers of channels other than 1 and 3.

    Raises:
        ImageReadError: If the path is not a file, or the image cannot be decoded or is too large or too thin.
    """
    return examined(source, where, at_least, channels)[0]


def to_rgb(image: Image.Image, where: object = None) -> Image.Image:
    """Converts an image opened with Pillow as `read` converts a file.

    Args:
        image: The image, in any mode.
        where: Name of the image in errors.

    Returns:
        Upright 8-bit RGB.

    Raises:
        ImageReadError: If the image cannot be decoded or is too thin.
    """
    try:
        return pixels.to_rgb(image)
    except Exception as error:  # decoders can raise anything on malformed files
        raise ImageReadError(
            "cannot read the image",
            expected="a valid image",
            found=pixels.reason(error),
            where=where,
            fix="Replace the image.",
        ) from error


def picture(image: Image.Image | Bands) -> Image.Image:
    """Converts the result of `read` to RGB for display."""
    return image.picture() if isinstance(image, Bands) else image


def examined(
    source: Source, where: object = None, at_least: int | None = None, channels: int = 3
) -> tuple[Image.Image | Bands, tuple[str, ...]]:
    """Reads an image as `read` does, and finds its unusual properties.

    Args:
        source: As for `read`.
        where: As for `read`.
        at_least: As for `read`.
        channels: As for `read`.

    Returns:
        The image, and any of `rotated`, `animated`, `CMYK` and `16-bit` that apply.

    Raises:
        ImageReadError: As for `read`.
    """
    where = source if where is None else where
    try:
        return pixels.open_image(source, channels, at_least)
    except WrongChannels as error:
        raise wrong_channels(error, where) from error
    except Exception as error:  # decoders can raise anything on malformed files
        arrays = "" if channels == 3 else "a .npy array (height, width, channels), or "
        raise ImageReadError(
            "cannot read the image",
            expected=f"{arrays}a valid image: {', '.join(pixels.formats()[:-1])} or {pixels.formats()[-1]}",
            found=pixels.reason(error),
            where=where,
        ) from error


def wrong_channels(error: WrongChannels, where: object = None) -> ImageReadError:
    """Builds the error for an image with a different number of channels than the model.

    Args:
        error: The expected and the actual channels.
        where: The file.
    """
    return ImageReadError(
        "the image has a different number of channels than the model",
        expected=error.expected,
        found=error.found,
        where=where,
        fix="Save the model's channels as a .npy array (height, width, channels), or train a model with another "
        "--in-chans.",
    )


def read_all(
    sources: Iterable[S],
    prepare: Callable[[R], T],
    ahead: int = 64,
    read: Callable[[S], R] = read,  # type: ignore[assignment]
) -> Generator[tuple[S, T | ImageReadError], None, None]:
    """Reads images in a thread pool, a limited number ahead of the consumer.

    Args:
        sources: The files, or anything else that `read` accepts.
        prepare: Processes each image, also in the threads.
        ahead: Maximum number of images that are in progress or waiting.
        read: Reads one image.

    Yields:
        Each source, in order, with the processed image or the error.
    """

    def work(source: S) -> T | ImageReadError:
        try:
            return prepare(read(source))
        except ImageReadError as error:
            return error

    yield from in_order(sources, work, ahead)
