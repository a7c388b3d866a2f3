"""The photos of the benchmarks: ImageNet-sized ones, and enlarged ones of 12 megapixels as a phone takes them."""

from __future__ import annotations

import statistics
import tarfile
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from report import SAMPLES, SHARED

from mnv2zoo.data import decode

GROCERY = SHARED / "data/grocery/train.tar"
LONG, SHORT, QUALITY, NOISE = 4000, 3000, 92, 6  # of large photos; the noise is a standard deviation of 8-bit values


def small() -> Iterator[Image.Image]:
    """The ImageNet samples, resized as most photos of ImageNet are."""
    for file in sorted(SAMPLES.glob("*.jpg")):
        photo = decode.read(file)
        size = (500, 375) if photo.width >= photo.height else (375, 500)
        yield photo.resize(size, Image.Resampling.BICUBIC)


def large(archive: Path, number: int) -> Iterator[Image.Image]:
    """So many photos of a tar file, enlarged to 12 megapixels and with camera-like noise."""
    drawn = np.random.default_rng(0)
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.name.endswith(".jpg")]
        for member in members[:: max(len(members) // number, 1)][:number]:
            file = tar.extractfile(member)
            assert file is not None
            photo = Image.open(BytesIO(file.read())).convert("RGB")
            size = (LONG, SHORT) if photo.width > photo.height else (SHORT, LONG)
            pixels = np.asarray(photo.resize(size, Image.Resampling.BICUBIC), np.float32)
            grain = drawn.normal(0, NOISE, (*pixels.shape[:2], 1)).astype(np.float32)
            yield Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))


def fill(folder: Path, photos: Iterable[Image.Image], count: int, quality: int) -> float:
    """Fills a new folder with so many JPEGs, and returns their mean size in MB.

    If there are fewer photos, files are linked as often as needed.
    """
    folder.mkdir(parents=True)
    files = [folder / f"{number:05}.jpg" for number in range(count)]
    distinct = 0
    for file, photo in zip(files, photos, strict=False):  # files first: it then takes no photo more than it saves
        photo.save(file, quality=quality)
        distinct += 1
    for number in range(distinct, count):
        files[number].hardlink_to(files[number % distinct])
    return statistics.mean(file.stat().st_size for file in files) / 1e6


def fill_small(folder: Path, count: int) -> float:
    """Fills a new folder with so many ImageNet-sized photos."""
    return fill(folder, small(), count, quality=90)


def fill_large(folder: Path, count: int, distinct: int = 100, archive: Path = GROCERY) -> float:
    """Fills a new folder with so many photos of 12 megapixels, of which some are distinct."""
    return fill(folder, large(archive, min(count, distinct)), count, QUALITY)
