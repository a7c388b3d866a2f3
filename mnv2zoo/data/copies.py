"""Smaller copies of photos, as large as training needs, which are kept so that later epochs decode no large file.

A photo of 12 megapixels takes a tenth of a second to decode, and a step of training less. Random crops of it are
resized to a few hundred pixels, so a copy is enough that is as large as the smallest crop needs. It depends on the
photo and the recipe alone: a run has the same bits whether copies are kept or made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from PIL import Image

from mnv2zoo.data import decode, pixels
from mnv2zoo.data.pixels import PHOTO_CHANNELS
from mnv2zoo.errors import DataError
from mnv2zoo.system.files import whole_file

HEADER = struct.Struct("<4sIIIII")  # a mark, the checksum of the pixels, width and height, full width and height
MARK = b"mnv1"
LEAST_FACTOR = 2  # photos that could be smaller by less are read as they are
MOST_BYTES = 10 * 2**30
PART_OF_DISK = 0.2  # of what is free, which copies may take
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Smaller:
    """Reads photos no larger than random crops of them need.

    A crop is a part of the image's area, of at least `scale`, and its width is between `ratio[0]` and `ratio[1]` times
    its height. It is resized to the input. Where the smallest crop has twice the input's pixels or more in both
    directions, the photo is resized so that it has just as many; a JPEG is decoded at a half, a quarter or an eighth of
    its size then, which is quicker.

    Attributes:
        height: Height of the input in pixels.
        width: Its width.
        scale: Smallest part of the image's area that is cut out.
        ratio: Bounds of a crop's width by its height.
        interpolation: Filter that resizes, by Pillow's name in lower case.
    """

    height: int
    width: int
    scale: float
    ratio: tuple[float, float]
    interpolation: str = "bilinear"

    @property
    def name(self) -> str:
        """What copies are called that are made like this."""
        low, high = self.ratio
        return f"{self.width}x{self.height}-{self.scale:g}-{low:.6g}-{high:.6g}-{self.interpolation}"

    def factor(self, width: int, height: int) -> float:
        """How many times smaller an upright image of that size may be; 1 for one that stays as it is."""
        area, (low, high) = self.scale * width * height, self.ratio
        across, down = min(math.sqrt(area * low), width), min(math.sqrt(area / high), height)
        factor = min(across / self.width, down / self.height)
        return factor if factor >= LEAST_FACTOR else 1

    @property
    def most_bytes(self) -> int:
        """Bytes of the copy of a photo that is no longer than crops are."""
        low, high = self.ratio
        return math.ceil(3 * max(self.width**2 / low, self.height**2 * high) / self.scale)

    def read(self, source: Any, where: object, channels: int = 3) -> tuple[Any, tuple[str, ...]]:
        """Reads an image.

        Args:
            source: The file, or its bytes.
            where: What errors call it.
            channels: Channels that the network takes.

        Returns:
            The image as `decode.read` gives it, but smaller, and what is out of the ordinary about it, as
            `decode.examined`.

        Raises:
            ImageReadError: If it cannot be read.
        """
        if channels not in PHOTO_CHANNELS:
            return decode.examined(source, where, channels=channels)
        image, odd = decode.examined(source, where, self._short_side(source), channels)
        if not isinstance(image, Image.Image):
            return image, odd
        full = image.info.get("full_size", image.size)
        factor = self.factor(*full)
        if factor == 1:
            return image, odd
        size = (math.ceil(full[0] / factor), math.ceil(full[1] / factor))
        smaller = image.resize(size, Image.Resampling[self.interpolation.upper()])
        smaller.info["full_size"] = full
        return smaller, odd

    def _short_side(self, source: Any) -> int | None:
        """Pixels that the shorter side needs; None for all of them, and for a file that `examined` will refuse."""
        try:
            size, turn = pixels.header(source)
        except Exception:  # decoders raise nearly anything
            return None
        width, height = reversed(size) if turn in pixels.SIDEWAYS else size
        factor = self.factor(width, height)
        return None if factor == 1 else math.ceil(min(size) / factor)


@dataclass(frozen=True)
class Fitted:
    """Reads photos resized and cropped as evaluation does it, bit for bit, so that validation decodes them once.

    Photos with less than four times as many pixels as the input are read as they are.

    Attributes:
        config: The preprocessing, as for `pixels.fitted`.
    """

    config: Mapping[str, Any]

    @cached_property
    def name(self) -> str:
        """The name of copies that this reader makes."""
        values = {key: self.config.get(key) for key in ("input_size", "interpolation", "crop_pct", "crop_mode", "mean")}
        return f"fitted-{hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]}"

    @property
    def most_bytes(self) -> int:
        """Bytes of a copy."""
        channels, height, width = self.config["input_size"]
        return int(channels * height * width)

    def read(self, source: Any, where: object, channels: int = 3) -> tuple[Any, tuple[str, ...]]:
        """Reads an image, as `Smaller.read`; `transforms.Evaluation` recognizes one that is fitted."""
        image, odd = decode.examined(source, where, channels=channels)
        if not isinstance(image, Image.Image) or image.width * image.height < LEAST_FACTOR**2 * self.most_bytes / 3:
            return image, odd
        fitted = cast(Image.Image, pixels.fitted(image, self.config))
        fitted.info.update(full_size=image.size, made_by=self.name)
        return fitted, odd


Reader = Smaller | Fitted


@dataclass(frozen=True)
class Copies:
    """A folder of copies, each in a file that is named by the hash of its photo's bytes and the way it was made.

    A file holds the pixels with a checksum. One that is damaged is made anew, and one that cannot be written is done
    without.

    Attributes:
        folder: The folder.
        most: Bytes that it may hold.
        share: Part of the photos whose copies are kept, so that no more is written than it may hold.
        own: Whether the folder is this process's own, and is removed with it.
    """

    folder: Path
    most: int
    share: float = 1
    own: bool = False

    @classmethod
    def open(cls, where: str | None, home: Path, reader: Reader | None, count: int) -> Copies | None:
        """Opens the folder for a number of photos.

        Args:
            where: `ram`, `disk` or `off`; None for the disk if it can be written.
            home: The folder for what the package keeps on disk.
            reader: What makes the copies; None for none.
            count: The number of photos.

        Returns:
            The copies; None to keep none.

        Raises:
            DataError: If they are to be in memory, and the system has no folder for that.
        """
        if where == "off" or reader is None:
            return None
        needed = count * reader.most_bytes
        if where == "ram":
            if not os.access(SHARED_MEMORY, os.W_OK):
                raise DataError(
                    "there is no folder in memory for copies of the images",
                    expected=f"{SHARED_MEMORY}, as Linux has it",
                    found="no such folder that can be written",
                    where="cache_images",
                    fix="Choose --cache-images disk.",
                )
            _remove_left_behind()
            folder = Path(tempfile.mkdtemp(prefix=f"mnv2zoo-{os.getpid()}-", dir=SHARED_MEMORY))
            most = shutil.disk_usage(folder).free // 2
            return cls(folder, most, min(most / needed, 1), own=True)
        folder = home / "images"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = sum(file.stat().st_size for file in folder.iterdir())
            most = min(MOST_BYTES, held + int(PART_OF_DISK * shutil.disk_usage(folder).free))
        except OSError:
            return None
        return cls(folder, most, min(most / needed, 1))

    def load(self, key: str, reader: Reader) -> Image.Image | None:
        """The copy of a photo; None if there is none, or if it is damaged.

        Args:
            key: The hash of the photo's bytes.
            reader: What made it.
        """
        file = self._file(key, reader)
        try:
            content = file.read_bytes()
            os.utime(file)  # which `make_room` goes by: not every file system records when a file is read
            mark, checksum, width, height, *full = HEADER.unpack_from(content)
        except (OSError, struct.error):
            return None
        body = memoryview(content)[HEADER.size :]
        if mark != MARK or len(body) != 3 * width * height or zlib.crc32(body) != checksum:
            return None
        image = Image.frombytes("RGB", (width, height), body)
        image.info.update(full_size=tuple(full), made_by=reader.name)
        return image

    def keep(self, key: str, reader: Reader, image: Any) -> None:
        """Keeps the copy of a photo; an image that is no smaller than its file is not kept.

        Args:
            key: The hash of the photo's bytes.
            reader: What made it.
            image: The copy.
        """
        full = image.info.get("full_size", image.size) if isinstance(image, Image.Image) else None
        if full is None or full == image.size or not self._takes(key):
            return
        body = image.tobytes()
        with contextlib.suppress(OSError), whole_file(self._file(key, reader)) as out:  # the disk may be full
            out.write(HEADER.pack(MARK, zlib.crc32(body), *image.size, *full) + body)

    def make_room(self) -> None:
        """Removes the copies that were not used for the longest time, until the others take no more than they may."""
        with contextlib.suppress(OSError):
            files = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in self.folder.iterdir())
            held = sum(size for _, size, _ in files)
            for _, size, file in files:
                if held <= self.most:
                    return
                file.unlink(missing_ok=True)
                held -= size

    def close(self) -> None:
        """Removes copies in memory, and makes room on the disk."""
        if self.own:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            self.make_room()

    def _takes(self, key: str) -> bool:
        return int(key.removeprefix("sha256:")[:8], 16) < self.share * 2**32

    def _file(self, key: str, reader: Reader) -> Path:
        return self.folder / f"{key.removeprefix('sha256:')}-{reader.name}"


def _remove_left_behind() -> None:
    """Removes copies in memory of processes that were killed."""
    for folder in SHARED_MEMORY.glob("mnv2zoo-*-*"):
        with contextlib.suppress(OSError, ValueError):
            try:
                os.kill(int(folder.name.split("-")[1]), 0)
            except ProcessLookupError:
                shutil.rmtree(folder, ignore_errors=True)
