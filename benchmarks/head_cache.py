"""Measures training of the classifier alone with and without cached features.

Both are complete `finetune` calls on the same photos, from finding the images to writing the report. Goal: over 20
epochs, the cache makes training at least 10 times faster.

    python benchmarks/head_cache.py --photos 600
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import report
from PIL import Image

import mnv2zoo

GOAL = 10.0


def write_photos(folder: Path, count: int, classes: int = 5) -> None:
    """JPEG files of 256 pixels, each of its class's color with blotches."""
    for number in range(count):
        label = number % classes
        random = np.random.default_rng(number)
        blotches = random.normal(128 + 20 * (label - classes // 2), 40, (16, 16, 3)).clip(0, 255).astype(np.uint8)
        path = folder / f"class{label}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(blotches).resize((256, 256), Image.Resampling.BICUBIC).save(path, quality=85)


def seconds(photos: Path, run: Path, epochs: int, cache: bool) -> float:
    values = {"init": "random", "train": "head", "epochs": epochs, "input_size": 224, "cache_features": cache}
    start = time.perf_counter()
    mnv2zoo.finetune(photos, "mnv2zoo_100", run, **values)
    return time.perf_counter() - start


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--photos", type=int, default=600, help="how many photos (600 by default)")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of each training (20 by default)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(scratch) / "photos"
        write_photos(photos, args.photos)
        cached = seconds(photos, Path(scratch) / "cached", args.epochs, cache=True)
        uncached = seconds(photos, Path(scratch) / "uncached", args.epochs, cache=False)
    ratio = uncached / cached
    facts = {
        "photos": args.photos,
        "epochs": args.epochs,
        "cached_s": round(cached, 1),
        "uncached_s": round(uncached, 1),
    }
    report.write("head_cache", {**facts, "ratio": round(ratio, 1), "goal": GOAL})
    print(f"with the cache {cached:.1f} s, without {uncached:.1f} s: {ratio:.1f} times faster; the goal is {GOAL:.0f}")


if __name__ == "__main__":
    main()
