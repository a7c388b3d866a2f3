"""Measures the cost of wrong padding or normalization: the same weights on the same photos, with different settings.

    python examples/elsewhere.py PHOTOS --weights model.safetensors --out docs/results/elsewhere.json

PHOTOS is a folder of ImageNet photos whose names start with their class number, such as `281_cat.jpg`. The weights must
come from TensorFlow, in any layout that `mnv2zoo weights convert` accepts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from mnv2zoo.data import decode
from mnv2zoo.errors import ImageReadError
from mnv2zoo.model_dir import from_checkpoint
from mnv2zoo.models import pretrained
from mnv2zoo.system.files import whole_file

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
NONE = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
WAYS = {
    "as they were trained": ("same", HALF),
    "symmetric padding": ("symmetric", HALF),
    "ImageNet's mean and deviation": ("same", IMAGENET),
    "no normalization": ("same", NONE),
    "symmetric padding, ImageNet's mean and deviation": ("symmetric", IMAGENET),
}


def classify(weights: Path, photos: list[Path], pad_type: str, preprocessing: dict[str, Any]) -> list[int]:
    """The predicted class of each photo."""
    with tempfile.TemporaryDirectory() as scratch:
        from_checkpoint.convert_checkpoint(
            weights, Path(scratch) / "net", pad_type=pad_type, preprocessing=preprocessing
        )
        net = pretrained.load(f"{scratch}/net", "cpu")
    found = []
    with torch.inference_mode():
        for _, image in decode.read_all(photos, net.transform, ahead=8):
            if isinstance(image, ImageReadError):
                raise image
            found.append(int(net.model(image[None]).argmax()))
    return found


def main() -> None:
    """Measures each setting and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    args = parser.parse_args()
    photos = sorted(args.photos.glob("*.jpg"))
    if not photos:
        parser.error(f"no photos in {args.photos}")
    truth = [int(photo.name.partition("_")[0]) for photo in photos]

    rows, right = [], []
    for way, (pad_type, preprocessing) in WAYS.items():
        found = classify(args.weights, photos, pad_type, preprocessing)
        right = right or found
        top1 = 100 * sum(map(int.__eq__, found, truth)) / len(photos)
        same = 100 * sum(map(int.__eq__, found, right)) / len(photos)
        rows.append({"way": way, "pad_type": pad_type, **preprocessing, "top1": round(top1, 2), "same": round(same, 2)})
        print(f"{way}: top-1 {top1:.2f} %, the same class as with the first {same:.2f} %", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(args.out) as file:
        file.write((json.dumps({"photos": len(photos), "rows": rows}, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
