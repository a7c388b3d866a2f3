"""Reading images as 8-bit RGB, whatever their format, mode and rotation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from PIL import Image

from mnv2zoo.data import pixels
from mnv2zoo.data.pixels import FORMATS as FORMATS
from mnv2zoo.errors import ImageReadError

S = TypeVar("S")
R = TypeVar("R")
T = TypeVar("T")


def read(source: str | Path | BytesIO, where: object = None, at_least: int | None = None) -> Image.Image:
    """Reads an image as upright 8-bit RGB, as `pixels.to_rgb` describes.

    Args:
        source: The file, or its bytes.
        where: What errors call it; the file by default.
        at_least: Pixels that either side needs at least: a JPEG that has more may be decoded at a half, a
            quarter or an eighth of its size, which is far quicker. All of them by default.

    Returns:
        The image.

    Raises:
        ImageReadError: If it is not a file, cannot be decoded, or is too large or too thin to work with.
    """
    return _decode(source, where, at_least)[0]


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


def oddities(source: str | Path | BytesIO, where: object = None) -> tuple[str, ...]:
    """Reads an image as `read` does, and tells what is out of the ordinary about it.

    Args:
        source: The file, or its bytes.
        where: What errors call it; the file by default.

    Returns:
        Some of `rotated`, `animated`, `CMYK` and `16-bit`.

    Raises:
        ImageReadError: As `read`.
    """
    return _decode(source, where)[1]


def _decode(
    source: str | Path | BytesIO, where: object, at_least: int | None = None
) -> tuple[Image.Image, tuple[str, ...]]:
    try:
        return pixels.open_rgb(source, at_least)
    except Exception as error:  # decoders raise nearly anything at bytes that they did not expect
        raise ImageReadError(
            "cannot read the image",
            expected=f"a valid image: {', '.join(FORMATS[:-1])} or {FORMATS[-1]}",
            found=pixels.reason(error),
            where=source if where is None else where,
        ) from error


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
