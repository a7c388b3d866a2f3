"""Measures how fast training reads phone photos: 12 megapixels, as JPEGs of 3 to 5 MB.

Photos of the Grocery Store dataset, which must be available next to the repository, are enlarged and given camera-like
noise. timm's loader and mnv2zoo's read, crop and augment them with the same recipe and as many workers, without a
model. mnv2zoo checks every photo before the first epoch and caches smaller copies, which timm does not. They take
turns.

    python benchmarks/large_photos.py --photos 64 --rounds 3
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import report
from photos import GROCERY, QUALITY, fill, large
from timm.data import create_dataset, create_loader
from torch.utils.data import DataLoader

from mnv2zoo.data import checks, datasets
from mnv2zoo.data.copies import Copies
from mnv2zoo.tasks import augmentation, recipe
from mnv2zoo.tasks.base import ImageTransform

BATCH, WORKERS, SIDE = 32, 2, 224
PREPROCESSING = {
    "input_size": (3, SIDE, SIDE),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
}


def fill_classes(folder: Path, archive: Path, number: int) -> float:
    """Fills two class folders with so many photos in all, and returns their mean size in MB."""
    photos, half = large(archive, number), number // 2
    return statistics.mean(
        fill(folder / name, photos, count, QUALITY) for name, count in (("a", number - half), ("b", half))
    )


def seconds(batches: Iterable[object]) -> float:
    """How long an epoch takes to read."""
    began = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - began


def timms(folder: Path) -> Iterable[object]:
    """timm's loader for training, with the crops and colors of our recipe."""
    own = recipe.make()
    return create_loader(
        create_dataset("", str(folder)),
        input_size=PREPROCESSING["input_size"],
        batch_size=BATCH,
        is_training=True,
        use_prefetcher=False,
        interpolation="bicubic",
        mean=PREPROCESSING["mean"],
        std=PREPROCESSING["std"],
        scale=(own.scale, 1.0),
        color_jitter=own.color_jitter,
        num_workers=WORKERS,
        persistent_workers=False,
    )


def ours(folder: Path, home: Path) -> tuple[float, float, float]:
    """Seconds of the check, the first epoch and a later one."""
    own = recipe.make()
    reader = augmentation.reader(own, PREPROCESSING)
    transforms = ImageTransform(augmentation.augmentation(own, **PREPROCESSING), reader)
    data = datasets.find(folder)
    copies = Copies.open("disk", home, reader, len(data.splits["train"]))
    began = time.perf_counter()
    data = checks.check(data, False, reader=reader, copies=copies)
    checked = time.perf_counter() - began
    photos = datasets.Photos(data.splits["train"], transforms=transforms, copies=copies)
    loader = DataLoader(photos, BATCH, shuffle=True, num_workers=WORKERS)
    return checked, seconds(loader), seconds(loader)


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--archive", type=Path, default=GROCERY, help="tar file of photos")
    parser.add_argument("--photos", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rounds: dict[str, list[float]] = {"timm": [], "check": [], "first epoch": [], "later epochs": []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos"
        size = fill_classes(folder, args.archive, args.photos)
        for number in range(args.rounds):
            rounds["timm"].append(seconds(timms(folder)))
            parts = ours(folder, Path(place) / f"home-{number}")
            for name, value in zip(("check", "first epoch", "later epochs"), parts, strict=True):
                rounds[name].append(value)
            print({name: round(values[-1], 2) for name, values in rounds.items()}, flush=True)
    first = [check + epoch for check, epoch in zip(rounds["check"], rounds["first epoch"], strict=True)]
    results = {
        "photos": args.photos,
        "megabytes": round(size, 1),
        "workers": WORKERS,
        "rounds": args.rounds,
        "ms_a_photo": {
            name: round(1000 * statistics.median(values) / args.photos, 1)
            for name, values in {**rounds, "first epoch with the check": first}.items()
        },
        "times_timm": {
            "first epoch with the check": round(report.ratio(rounds["timm"], first), 2),
            "later epochs": round(report.ratio(rounds["timm"], rounds["later epochs"]), 2),
        },
    }
    report.write("large_photos", results)


if __name__ == "__main__":
    main()
