"""Stores smaller copies of photos, just large enough for training, so that later epochs decode no large files.

Decoding a 12-megapixel photo takes a tenth of a second, longer than its share of a training step. Random crops are
resized to a few hundred pixels, so a copy that is large enough for the smallest crop suffices. It depends only on the
photo and the recipe, so a run gives the same result bit for bit with or without stored copies.
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

HEADER = struct.Struct("<4sIIIII")  # magic, checksum of the pixels, width and height, full width and height
MARK = b"mnv1"
LEAST_FACTOR = 2  # photos that could shrink by less are read at full size
MOST_BYTES = 10 * 2**30
PART_OF_DISK = 0.2  # share of the free space that copies may take
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Smaller:
    """Reads photos no larger than random crops of them need.

    A crop covers at least the share `scale` of the image's area, and its width is between `ratio[0]` and `ratio[1]`
    times its height. It is resized to the input size. If even the smallest crop has at least twice the input's pixels
    in both directions, the photo is resized so that it has just as many. A JPEG is then decoded at a half, a quarter
    or an eighth of its size, which is faster.

    Attributes:
        height: Height of the input in pixels.
        width: Width of the input in pixels.
        scale: Smallest share of the image's area in a crop.
        ratio: Bounds of a crop's aspect ratio, width by height.
        interpolation: Filter for resizing, as Pillow's name in lower case.
    """

    height: int
    width: int
    scale: float
    ratio: tuple[float, float]
    interpolation: str = "bilinear"

    @property
    def name(self) -> str:
        """The name of copies made with these settings."""
        low, high = self.ratio
        return f"{self.width}x{self.height}-{self.scale:g}-{low:.6g}-{high:.6g}-{self.interpolation}"

    def factor(self, width: int, height: int) -> float:
        """Returns how many times smaller an upright image of that size may be; 1 if it keeps its size."""
        area, (low, high) = self.scale * width * height, self.ratio
        across, down = min(math.sqrt(area * low), width), min(math.sqrt(area / high), height)
        factor = min(across / self.width, down / self.height)
        return factor if factor >= LEAST_FACTOR else 1

    @property
    def most_bytes(self) -> int:
        """Size in bytes of the copy of a photo whose aspect ratio is within that of crops."""
        low, high = self.ratio
        return math.ceil(3 * max(self.width**2 / low, self.height**2 * high) / self.scale)

    def read(self, source: Any, where: object, channels: int = 3) -> tuple[Any, tuple[str, ...]]:
        """Reads an image.

        Args:
            source: The file, or its bytes.
            where: Name of the image in errors.
            channels: Number of channels of the model.

        Returns:
            The image as from `decode.read`, but smaller, and its unusual properties, as from
            `decode.examined`.

        Raises:
            ImageReadError: If the image cannot be read.
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
        """Returns how many pixels the short side needs. None for all, and for files that `examined` will reject."""
        try:
            size, turn = pixels.header(source)
        except Exception:  # decoders can raise anything
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
    """A folder of copies, with files named after the hash of the photo and the settings of the copy.

    A file holds the pixels and a checksum. A corrupt copy is replaced, and training continues if a copy cannot be
    written.

    Attributes:
        folder: The folder.
        most: Maximum size in bytes.
        share: Share of the photos whose copies are stored, so that the maximum size is not exceeded.
        own: Whether the folder belongs to this process and is removed when it ends.
    """

    folder: Path
    most: int
    share: float = 1
    own: bool = False

    @classmethod
    def open(cls, where: str | None, home: Path, reader: Reader | None, count: int) -> Copies | None:
        """Opens the folder for the given number of photos.

        Args:
            where: `ram`, `disk` or `off`. None chooses the disk if it is writable.
            home: The folder of the package's own state.
            reader: Makes the copies. None stores none.
            count: Number of photos.

        Returns:
            The copies, or None to store none.

        Raises:
            DataError: If copies should be in memory, but the system has no folder for that.
        """
        if where == "off" or reader is None:
            return None
        needed = count * reader.most_bytes
        if where == "ram":
            if not os.access(SHARED_MEMORY, os.W_OK):
                raise DataError(
                    "cannot keep copies of the images in memory on this system",
                    expected=f"a writable {SHARED_MEMORY}, as on Linux",
                    found="no such folder",
                    where="cache_images",
                    fix="Choose --cache-images disk.",
                )
            _remove_left_behind()
            folder = Path(tempfile.mkdtemp(prefix=f"mnv2zoo-{os.getpid()}-", dir=SHARED_MEMORY))
            most = shutil.disk_usage(folder).free // 2
            return cls(folder, most, min(most / needed, 1), own=True)
        folder = folder_on_disk(home)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = sum(file.stat().st_size for file in folder.iterdir())
            most = min(MOST_BYTES, held + int(PART_OF_DISK * shutil.disk_usage(folder).free))
        except OSError:
            return None
        return cls(folder, most, min(most / needed, 1))

    def load(self, key: str, reader: Reader) -> Image.Image | None:
        """Returns the copy of a photo, or None if there is none or it is corrupt.

        Args:
            key: The hash of the photo's bytes.
            reader: The settings of the copy.
        """
        file = self._file(key, reader)
        try:
            content = file.read_bytes()
            os.utime(file)  # `make_room` relies on it, because not every file system records when a file is read
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
        """Stores the copy of a photo, unless it is no smaller than the file.

        Args:
            key: The hash of the photo's bytes.
            reader: The settings of the copy.
            image: The copy.
        """
        full = image.info.get("full_size", image.size) if isinstance(image, Image.Image) else None
        if full is None or full == image.size or not self._takes(key):
            return
        body = image.tobytes()
        with contextlib.suppress(OSError), whole_file(self._file(key, reader)) as out:  # the disk may be full
            out.write(HEADER.pack(MARK, zlib.crc32(body), *image.size, *full) + body)

    def make_room(self) -> None:
        """Removes the least recently used copies until the others fit into the maximum size."""
        with contextlib.suppress(OSError):
            files = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in self.folder.iterdir())
            held = sum(size for _, size, _ in files)
            for _, size, file in files:
                if held <= self.most:
                    return
                file.unlink(missing_ok=True)
                held -= size

    def close(self) -> None:
        """Removes copies in memory, and enforces the maximum size on disk."""
        if self.own:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            self.make_room()

    def _takes(self, key: str) -> bool:
        return int(key.removeprefix("sha256:")[:8], 16) < self.share * 2**32

    def _file(self, key: str, reader: Reader) -> Path:
        return self.folder / f"{key.removeprefix('sha256:')}-{reader.name}"


def folder_on_disk(home: Path) -> Path:
    """Returns the folder of the copies that stay on disk, which need not exist.

    Args:
        home: The folder of the package's own state.
    """
    return home / "images"


def _remove_left_behind() -> None:
    """Removes copies in memory left by processes that were killed."""
    for folder in SHARED_MEMORY.glob("mnv2zoo-*-*"):
        with contextlib.suppress(OSError, ValueError):
            try:
                os.kill(int(folder.name.split("-")[1]), 0)
            except ProcessLookupError:
                shutil.rmtree(folder, ignore_errors=True)
