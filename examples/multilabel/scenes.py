"""Composes scenes of one to four groceries from the photos of the Grocery Store dataset, with labels in CSV files.

    python examples/multilabel/scenes.py ../shared/data/grocery scenes

A scene is a square of four cells, some of which show a photo. Its labels are the coarse classes of these photos. Each
photo is used in only one split. A sixth of the training photos is used for validation scenes, because the dataset's own
validation photos lack many classes.
"""

from __future__ import annotations

import csv
import random
import sys
import tarfile
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

SIDE = 224  # pixels
COUNTS = {"train": 1200, "val": 400, "test": 500}
GRAY = (128, 128, 128)

Photos = list[tuple[str, bytes]]  # a label, and a JPEG


def photos(grocery: Path) -> dict[str, Photos]:
    """The photos of each split with their coarse classes."""
    with (grocery / "classes.csv").open(encoding="utf-8", newline="") as file:
        coarse = {f"{int(row['fine_id']):02}_{row['fine_name']}": row["coarse_name"] for row in csv.DictReader(file)}
    found: dict[str, Photos] = {}
    for split in COUNTS:
        with tarfile.open(grocery / f"{split}.tar") as tar:
            members = sorted((m for m in tar if m.name.endswith(".jpg")), key=lambda m: m.name)
            found[split] = [(coarse[m.name.split("/")[-2]], tar.extractfile(m).read()) for m in members]  # type: ignore[union-attr]
    moved = found["train"][::6]
    found["train"] = [photo for number, photo in enumerate(found["train"]) if number % 6]
    found["val"] += moved
    return found


def scene(own: Photos, chance: random.Random) -> tuple[Image.Image, set[str]]:
    """A scene of one to four photos and its labels."""
    canvas, half = Image.new("RGB", (SIDE, SIDE), GRAY), SIDE // 2
    chosen = chance.sample(own, chance.randint(1, 4))
    for cell, (_, data) in zip(chance.sample(range(4), len(chosen)), chosen, strict=True):
        photo = ImageOps.fit(Image.open(BytesIO(data)).convert("RGB"), (half, half))
        canvas.paste(photo, (cell % 2 * half, cell // 2 * half))
    return canvas, {label for label, _ in chosen}


def compose(grocery: Path, out: Path, counts: dict[str, int] = COUNTS) -> None:
    """Writes scenes into `out/train`, `val` and `test`, and a CSV file for each."""
    for split, own in photos(grocery).items():
        chance, rows = random.Random(f"scenes of {split}"), []
        (out / split).mkdir(parents=True)
        for number in range(counts[split]):
            image, labels = scene(own, chance)
            image.save(out / split / f"{number:04}.jpg", quality=90)
            rows.append((f"{split}/{number:04}.jpg", "|".join(sorted(labels))))
        with (out / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("image", "labels"), *rows])


if __name__ == "__main__":
    compose(Path(sys.argv[1]), Path(sys.argv[2]))
