"""Classifies images with the model in this folder: `python predict.py photo.jpg ... [--topk 5] [--json]`.

`--reject-below P` marks images whose top score is below P.

Requires numpy, pillow and the runtime of the model: onnxruntime for model.onnx, openvino for model.xml, ai-edge-litert
for model.tflite, executorch and torch for model.pte, torch for model.pt2.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mnv2zoo.data.pixels import Bands, network_input, reason, to_rgb
from mnv2zoo.deploy.bundle.runtime import HERE, Array, lines, load, read


def preprocess(photo: Image.Image | Bands, config: dict[str, Any]) -> Array:
    """Preprocesses an image for the model: resized and normalized, (channels, height, width)."""
    return network_input(to_rgb(photo) if isinstance(photo, Image.Image) else photo, config)


def predictions(logits: Array, labels: list[str], topk: int, temperature: float = 1.0) -> list[dict[str, Any]]:
    """The most probable classes of an image, from its logits (classes,)."""
    scores = np.exp((logits - logits.max()) / temperature)
    scores /= scores.sum()
    return [
        {"class": int(index), "label": labels[index], "score": round(float(scores[index]), 6)}
        for index in np.argsort(-logits, kind="stable")[:topk]
    ]


def positive(text: str) -> int:
    """Parses an integer of at least 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def share(text: str) -> float:
    """Parses a number from 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise ValueError
    return float(text)


def main() -> int:
    """Prints the most probable classes of each image; returns 1 if an image cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path, help="image files")
    parser.add_argument("--topk", type=positive, default=5, help="number of classes per image (default: 5)")
    parser.add_argument(
        "--reject-below", type=share, default=0.0, metavar="P", help="mark images with a top score below P as rejected"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, one line per image")
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names that a terminal cannot show
    config = json.loads((HERE / "preprocess.json").read_text(encoding="utf-8"))
    labels, model = lines(HERE / "labels.txt"), load()
    status = 0
    for path in args.photos:
        try:
            image = preprocess(read(path, config["input_size"][0]), config)
        except Exception as error:  # decoders raise many kinds of errors
            print(f"error: cannot read {path}: {reason(error)}", file=sys.stderr)
            status = 1
            continue
        best = predictions(model(image[None])[0], labels, args.topk, config.get("temperature", 1.0))
        rejected = best[0]["score"] < args.reject_below
        if args.json:
            print(json.dumps({"image": str(path), "predictions": best} | ({"rejected": True} if rejected else {})))
        else:
            mark = "  (rejected)" if rejected else ""
            print(
                f"{path}{mark}", *(f"  {row['score']:.4f}  {row['class']:>4}  {row['label']}" for row in best), sep="\n"
            )
    return status


if __name__ == "__main__" and main():
    sys.exit(1)
