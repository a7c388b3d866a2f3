"""Detects objects with the model in this folder: `python predict.py photo.jpg ... [--save-images DIR]`.

Requires numpy, pillow and the runtime of the model: onnxruntime for model.onnx, openvino for model.xml.
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

from mnv2zoo.data.drawing import draw_boxes
from mnv2zoo.data.pixels import normalized_whole, whole_size
from mnv2zoo.deploy.bundle.runtime import HERE, lines, load, new_file, read_or_report

Detected = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]


def detect(model: Callable[..., Any], photo: Image.Image, config: dict[str, Any]) -> Detected:
    """Boxes (n, 4) in pixels of an upright RGB image, labels (n,) from 1, and scores (n,) in descending order."""
    width, height = whole_size(photo.size, config)
    inside = [np.array([height, width], np.int64)] if config["resize"] == "pad" else []
    boxes, labels, scores = model(normalized_whole(photo, config)[None], *inside)
    scale = np.array([photo.width / width, photo.height / height] * 2, np.float32)
    return boxes * scale, labels, scores


def detections(found: Detected, label_names: list[str], threshold: float) -> list[dict[str, Any]]:
    """The boxes with a score of at least the threshold, as rows. Classes are numbered from 0."""
    return [
        {
            "class": int(label) - 1,
            "label": label_names[int(label) - 1],
            "score": round(float(score), 6),
            "box": [round(float(value), 2) for value in box],
        }
        for box, label, score in zip(*found, strict=True)
        if round(float(score), 6) >= threshold and label > 0  # the printed score; 0 is the background
    ]


def main() -> int:
    """Prints the boxes in each image; returns 1 if an image cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path, help="image files")
    parser.add_argument("--threshold", type=float, default=0.5, help="minimum score of a box (default: 0.5)")
    parser.add_argument("--json", action="store_true", help="print JSON, one line per image")
    parser.add_argument("--save-images", type=Path, metavar="DIR", help="save images with their boxes to this folder")
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names that a terminal cannot show
    config = json.loads((HERE / "preprocess.json").read_text(encoding="utf-8"))
    label_names, model = lines(HERE / "labels.txt"), load()
    if args.save_images:
        args.save_images.mkdir(parents=True, exist_ok=True)
    status, taken = 0, set[Path]()
    for path in args.photos:
        photo = read_or_report(path)
        if photo is None:
            status = 1
            continue
        rows = detections(detect(model, photo, config), label_names, args.threshold)
        if args.json:
            print(json.dumps({"image": str(path), "detections": rows}))
        else:
            print(path, *(f"  {row['score']:.4f}  {row['label']}  {row['box']}" for row in rows), sep="\n")
        if args.save_images:
            draw_boxes(photo, rows).save(new_file(args.save_images, path, ".jpg", taken), quality=95, subsampling=0)
    return status


if __name__ == "__main__" and main():
    sys.exit(1)
