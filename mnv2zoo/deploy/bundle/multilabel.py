"""Predicts labels with the model in this folder: `python predict.py photo.jpg ... [--threshold T] [--json]`.

An image can have any number of labels: those whose scores reach their thresholds in thresholds.json. Requires numpy,
pillow and the runtime of the model: onnxruntime for model.onnx, openvino for model.xml, ai-edge-litert for
model.tflite, executorch and torch for model.pte, torch for model.pt2.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from mnv2zoo.data.pixels import Bands, network_input, to_rgb
from mnv2zoo.data.thresholds import over_thresholds
from mnv2zoo.deploy.bundle.runtime import HERE, Array, lines, load, read_or_report


def preprocess(photo: Image.Image | Bands, config: dict[str, Any]) -> Array:
    """Preprocesses an image for the model: resized and normalized, (channels, height, width)."""
    return network_input(to_rgb(photo) if isinstance(photo, Image.Image) else photo, config)


def main() -> int:
    """Prints the labels of each image; returns 1 if an image cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path, help="image files")
    parser.add_argument("--threshold", type=float, metavar="T", help="minimum score, instead of thresholds.json")
    parser.add_argument("--json", action="store_true", help="print JSON, one line per image")
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names that a terminal cannot show
    config = json.loads((HERE / "preprocess.json").read_text(encoding="utf-8"))
    labels, model = lines(HERE / "labels.txt"), load()
    own = json.loads((HERE / "thresholds.json").read_text(encoding="utf-8"))
    limits = [own[label] if args.threshold is None else args.threshold for label in labels]
    status = 0
    for path in args.photos:
        photo = read_or_report(path, config["input_size"][0])
        if photo is None:
            status = 1
            continue
        found = over_thresholds(model(preprocess(photo, config)[None])[0], labels, limits)
        if args.json:
            print(json.dumps({"image": str(path), "predictions": found}))
        else:
            print(path, *(f"  {row['score']:.4f}  {row['class']:>4}  {row['label']}" for row in found), sep="\n")
    return status


if __name__ == "__main__" and main():
    sys.exit(1)
