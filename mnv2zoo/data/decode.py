"""Reading images as 8-bit RGB, whatever their format, mode and rotation, or as the channels that a network takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar, overload

from PIL import Image

from mnv2zoo.data import pixels
from mnv2zoo.data.pixels import FORMATS as FORMATS
from mnv2zoo.data.pixels import Bands, WrongChannels
from mnv2zoo.errors import ImageReadError

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
        where: What errors call it; the file by default.
        at_least: Pixels that either side needs at least: a JPEG that has more may be decoded at a half, a
            quarter or an eighth of its size, which is far quicker. All of them by default.
        channels: Channels that the network takes. For others than 1 and 3 the channels are those of the file; see
            `pixels.open_image`.

    Returns:
        The image; `pixels.Bands` for an array, and for other channels.

    Raises:
        ImageReadError: If it is not a file, cannot be decoded, or is too large or too thin to work with.
    """
    return examined(source, where, at_least, channels)[0]


def to_rgb(image: Image.Image, where: object = None) -> Image.Image:
    """Makes of an image that Pillow has opened what `read` makes of a file.

    Args:
        image: The image, in any mode.
        where: What errors call it.

    Returns:
        Upright 8-bit RGB.

    Raises:
        ImageReadError: If it cannot be decoded, or is too thin to work with.
    """
    try:
        return pixels.to_rgb(image)
    except Exception as error:  # decoders raise nearly anything at bytes that they did not expect
        raise ImageReadError("cannot read the image", found=pixels.reason(error), where=where) from error


def picture(image: Image.Image | Bands) -> Image.Image:
    """Shows people what `read` gave, as RGB."""
    return image.picture() if isinstance(image, Bands) else image


def examined(
    source: Source, where: object = None, at_least: int | None = None, channels: int = 3
) -> tuple[Image.Image | Bands, tuple[str, ...]]:
    """Reads an image as `read` does, and finds what is out of the ordinary about it.

    Args:
        source: As for `read`.
        where: As for `read`.
        at_least: As for `read`.
        channels: As for `read`.

    Returns:
        The image, and some of `rotated`, `animated`, `CMYK` and `16-bit`.

    Raises:
        ImageReadError: As `read`.
    """
    where = source if where is None else where
    try:
        return pixels.open_image(source, channels, at_least)
    except WrongChannels as error:
        raise wrong_channels(error, where) from error
    except Exception as error:  # decoders raise nearly anything at bytes that they did not expect
        arrays = "" if channels == 3 else "a .npy array (height, width, channels), or "
        raise ImageReadError(
            "cannot read the image",
            expected=f"{arrays}a valid image: {', '.join(FORMATS[:-1])} or {FORMATS[-1]}",
            found=pixels.reason(error),
            where=where,
        ) from error


def wrong_channels(error: WrongChannels, where: object = None) -> ImageReadError:
    """The error for an image with other channels than the network takes.

    Args:
        error: What was expected and found.
        where: The file.
    """
    return ImageReadError(
        "the image has another number of channels than the network takes",
        expected=error.expected,
        found=error.found,
        where=where,
        fix="Save the channels that the network takes as a .npy array (height, width, channels), or train a network "
        "with another --in-chans.",
    )


def read_all(
    sources: Iterable[S],
    prepare: Callable[[R], T],
    ahead: int = 64,
    read: Callable[[S], R] = read,  # type: ignore[assignment]
) -> Generator[tuple[S, T | ImageReadError], None, None]:
    """Reads images in a pool of threads, a limited number of them ahead of who takes them.

    Args:
        sources: The files, or whatever `read` reads.
        prepare: What to make of each image; it runs in the threads too.
        ahead: Images that may be ready or in work and not yet taken.
        read: Reads one.

    Yields:
        Each source, in order, with what was made of it, or with the reason why it cannot be read.
    """

    def work(source: S) -> T | ImageReadError:
        try:
            return prepare(read(source))
        except ImageReadError as error:
            return error

    waiting: deque[tuple[S, Future[T | ImageReadError]]] = deque()
    pool = ThreadPoolExecutor()
    try:
        for source in sources:
            waiting.append((source, pool.submit(work, source)))
            if len(waiting) == ahead:
                first, result = waiting.popleft()
                yield first, result.result()
        for source, result in waiting:
            yield source, result.result()
    finally:
        pool.shutdown(cancel_futures=True)
