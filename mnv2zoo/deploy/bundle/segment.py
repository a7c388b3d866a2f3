"""Segments images with the model in this folder: `python predict.py photo.jpg ... [--masks DIR]`.

Requires numpy, pillow and the runtime of the model: onnxruntime for model.onnx, openvino for model.xml, torch for
model.pt2.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mnv2zoo.data.drawing import draw_mask, palette_image
from mnv2zoo.data.pixels import class_mask, normalized_whole
from mnv2zoo.deploy.bundle.runtime import HERE, lines, load, new_file, read_or_report


def segment(model: Callable[..., Any], photo: Image.Image, config: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The class of each pixel (height, width) of an upright RGB image."""
    return class_mask(model(normalized_whole(photo, config)[None])[0], photo.size, config)


def pixels(mask: np.ndarray[Any, Any], label_names: list[str]) -> dict[str, int]:
    """The number of pixels of each class in a mask."""
    return {label_names[number]: int(count) for number, count in enumerate(np.bincount(mask.ravel())) if count}


def main() -> int:
    """Writes a mask for each image and prints its classes; returns 1 if an image cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path, help="image files")
    parser.add_argument(
        "--masks", type=Path, default=Path("masks"), metavar="DIR", help="folder for the masks (default: masks)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, one line per image")
    parser.add_argument("--save-images", type=Path, metavar="DIR", help="save images with their masks to this folder")
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names that a terminal cannot show
    config = json.loads((HERE / "preprocess.json").read_text(encoding="utf-8"))
    label_names, model = lines(HERE / "labels.txt"), load()
    for folder in filter(None, (args.masks, args.save_images)):
        folder.mkdir(parents=True, exist_ok=True)
    status, taken = 0, set[Path]()
    for path in args.photos:
        photo = read_or_report(path)
        if photo is None:
            status = 1
            continue
        mask = segment(model, photo, config)
        file, counts = new_file(args.masks, path, ".png", taken), pixels(mask, label_names)
        palette_image(mask).save(file)
        if args.json:
            print(json.dumps({"image": str(path), "mask": str(file), "pixels": counts}))
        else:
            print(path, *(f"  {100 * n / mask.size:6.2f} %  {name}" for name, n in counts.items()), sep="\n")
        if args.save_images:
            drawn = draw_mask(photo, mask, label_names)
            drawn.save(new_file(args.save_images, path, ".jpg", taken), quality=95, subsampling=0)
    return status


if __name__ == "__main__" and main():
    sys.exit(1)
