"""Reading images as 8-bit RGB, whatever their format, mode and rotation."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TypeVar, cast

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mnv2zoo.errors import ImageReadError

S = TypeVar("S")
T = TypeVar("T")

# Plain raster formats. Pillow has others, some of which run another program on the file (EPS) or are mere
# stubs; which of these it has depends on how it was built.
Image.init()
FORMATS = tuple(
    name for name in ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP") if name in Image.OPEN
)

# Networks' inputs are made by resizing the shorter side, which would blow a thin line up to gigabytes.
MAX_ASPECT = 500


def read(source: str | Path | BytesIO, where: object = None, at_least: int | None = None) -> Image.Image:
    """Reads an image as 8-bit RGB, upright.

    The EXIF rotation is applied. Transparent images are laid on white, as a page would show them. Of an
    animation it is the first frame. Integers of more than 8 bits are taken to have 16 (white is 65535)
    and floats to reach from 0 to 1; where the values of an image exceed that, they are stretched so that
    its lowest is black and its highest white.

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


def to_rgb(image: Image.Image, where: object) -> Image.Image:
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
        _check_shape(*image.size)
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders raise nearly anything at bytes that they did not expect
        raise ImageReadError("cannot read the image", found=_reason(error), where=where) from error


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
        _check_source(source)
        with Image.open(source, formats=FORMATS) as image:
            _check_shape(*image.size)
            odd = tuple(_oddities(image))
            if at_least:
                image.draft(None, (at_least, at_least))
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image)), odd
    except Exception as error:  # decoders raise nearly anything at bytes that they did not expect
        raise ImageReadError(
            "cannot read the image",
            expected=f"a sound file of {', '.join(FORMATS[:-1])} or {FORMATS[-1]}",
            found=_reason(error),
            where=source if where is None else where,
        ) from error


def _oddities(image: Image.Image) -> Iterator[str]:
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        yield "rotated"
    if getattr(image, "is_animated", False):
        yield "animated"
    if image.mode == "CMYK":
        yield "CMYK"
    if image.mode.startswith("I"):
        yield "16-bit"


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


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "something else"
    if isinstance(error, OSError | ValueError | Image.DecompressionBombError):
        return (getattr(error, "strerror", None) or str(error)).rstrip(".")
    return f"{type(error).__name__}: {error}"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _to_8_bits(image).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


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


def read_all(
    sources: Iterable[S],
    prepare: Callable[[Image.Image], T],
    ahead: int = 64,
    read: Callable[[S], Image.Image] = read,  # type: ignore[assignment]
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
