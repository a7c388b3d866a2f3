"""Scenes with known boxes and masks, composed from the photos of the Grocery Store dataset.

Each has one to four pieces of fruit or vegetables, cut from photos along random round outlines and laid on a photo of
packaged goods. A scene depends on its seed and its number alone; those of a split use photos of that split alone.

    python examples/scenes.py ../shared/data/grocery train scenes.jpg   # to look at sixteen of them
"""

from __future__ import annotations

import io
import sys
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.utils import make_grid, save_image

from mnv2zoo.data import decode

CLASSES = (
    *("Banana", "Kiwi", "Lemon", "Orange", "Pineapple"),
    *("Carrots", "Cucumber", "Brown-Cap-Mushroom", "Vine-Tomato", "Cabbage"),
)
BACKGROUNDS = ("Juice", "Milk", "Yoghurt", "Sour-Cream", "Oatghurt", "Soyghurt")  # how their classes' names end
MOST_PIECES = 4
SMALLEST, LARGEST = 0.25, 0.55  # a piece's side as a part of the scene's
LEAST_VISIBLE = 0.3  # of a piece; what is hidden further counts as background


@dataclass(frozen=True)
class Scene:
    """An image and what is in it.

    Attributes:
        image: Bytes (3, side, side).
        boxes: Corners x1, y1, x2, y2 of each piece in pixels, (N, 4).
        labels: Class of each piece, 1 to 10, (N,).
        mask: Class of each pixel, 0 for the background, (side, side).
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    mask: Tensor


class Scenes(Dataset[Scene]):
    """Scenes of one split.

    Args:
        grocery: Folder with train.tar, val.tar and test.tar.
        split: The one whose photos are used.
        count: Number of scenes.
        side: Pixels a side.
        seed: Of the choice of photos, outlines and places.
    """

    def __init__(self, grocery: Path, split: str, count: int, side: int, seed: int = 0) -> None:
        self.count, self.side, self.seed = count, side, seed
        self.pieces: list[list[bytes]] = [[] for _ in CLASSES]
        self.backgrounds: list[bytes] = []
        with tarfile.open(grocery / f"{split}.tar") as tar:
            for member in sorted((m for m in tar if m.isfile()), key=lambda m: m.name):
                name = member.name.split("/")[1].split("_", 1)[1]  # train/06_Banana/....jpg
                if name in CLASSES:
                    self.pieces[CLASSES.index(name)].append(tar.extractfile(member).read())
                elif name.endswith(BACKGROUNDS):
                    self.backgrounds.append(tar.extractfile(member).read())
        missing = [name for name, photos in zip(CLASSES, self.pieces, strict=True) if not photos]
        if missing or not self.backgrounds:
            raise ValueError(f"{grocery / split}.tar has no photos of {', '.join(missing) or 'packaged goods'}")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Scene:
        if not 0 <= number < self.count:
            raise IndexError(number)
        random = np.random.default_rng([self.seed, number])
        image = self._background(random)
        owner = np.zeros((self.side, self.side), np.uint8)  # which piece each pixel belongs to, from 1
        classes, areas = [], []
        for piece in range(1, 1 + random.integers(1, MOST_PIECES + 1)):
            classes.append(int(random.integers(len(CLASSES))))
            outline = self._lay(image, classes[-1], random)
            owner[outline] = piece
            areas.append(outline.sum())

        boxes, labels, mask = [], [], np.zeros_like(owner)
        for piece, (label, area) in enumerate(zip(classes, areas, strict=True), 1):
            rows, columns = np.nonzero(owner == piece)
            if len(rows) >= max(1, LEAST_VISIBLE * area):
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                labels.append(label + 1)
                mask[rows, columns] = label + 1
        return Scene(
            torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1),
            torch.tensor(np.array(boxes), dtype=torch.float32).reshape(-1, 4),
            torch.tensor(labels, dtype=torch.int64),
            torch.from_numpy(mask).long(),
        )

    def _background(self, random: Generator) -> Image.Image:
        photo = _decoded(self.backgrounds[random.integers(len(self.backgrounds))])
        photo = _square_cut(photo, random.uniform(0.5, 1) * min(photo.size), self.side, random)
        return photo.filter(ImageFilter.GaussianBlur(random.uniform(0, 2)))

    def _lay(self, image: Image.Image, label: int, random: Generator) -> np.ndarray:
        """Lays a piece on the image; gives the pixels (side, side) that it covers."""
        side = round(random.uniform(SMALLEST, LARGEST) * self.side)
        photo = _decoded(self.pieces[label][random.integers(len(self.pieces[label]))])
        # From the middle, since the edges of a photo often show the shelf.
        middle = photo.crop(tuple(round(part * edge) for part in (0.15, 0.85) for edge in photo.size))
        piece = _square_cut(middle, random.uniform(0.5, 1) * min(middle.size), side, random)
        outline = _outline(side, random)
        left, top = (int(random.integers(-side // 5, self.side - side + side // 5)) for _ in range(2))
        image.paste(piece, (left, top), outline)
        whole = Image.new("L", image.size)
        whole.paste(outline, (left, top))
        return np.asarray(whole) > 127


@lru_cache(maxsize=4096)
def _decoded(photo: bytes) -> Image.Image:
    return decode.read(io.BytesIO(photo))


def _square_cut(photo: Image.Image, cut: float, side: int, random: Generator) -> Image.Image:
    """A random square of `cut` pixels, at times mirrored, resized to `side`."""
    left, top = (random.uniform(0, edge - cut) for edge in photo.size)
    square = photo.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + cut, top + cut))
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.integers(2) else square


def _outline(side: int, random: Generator) -> Image.Image:
    """A round, wavy shape, drawn at four times its size so that its edge is smooth."""
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = 1 + sum(
        random.uniform(0, 0.18) * np.cos(waves * angles + random.uniform(0, 2 * np.pi)) for waves in (2, 3, 5)
    )
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (radius / radius.max())[:, None]
    drawn = Image.new("L", (4 * side, 4 * side))
    ImageDraw.Draw(drawn).polygon([(2 * side * (1 + x), 2 * side * (1 + y)) for x, y in points], fill=255)
    return drawn.resize((side, side), Image.Resampling.BOX)


if __name__ == "__main__":
    shown = Scenes(Path(sys.argv[1]), sys.argv[2], 16, 192)
    save_image(make_grid([scene.image / 255 for scene in shown], 4), sys.argv[3])
