"""Classifies photos with the model beside this file: `python predict.py photo.jpg ... [--topk 5] [--json]`.

It needs numpy, pillow and the model's runtime: onnxruntime for model.onnx, openvino for model.xml, ai-edge-litert for
model.tflite, executorch and torch for model.pte, torch for model.pt2.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

Array = np.ndarray[Any, np.dtype[np.float32]]
HERE = Path(__file__).resolve().parent


def load(folder: Path = HERE) -> Callable[[Array], Array]:
    """The model, as a function from images (N, 3, height, width) to logits (N, classes)."""
    if (folder / "model.onnx").exists():
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})[0]
    if (folder / "model.xml").exists():
        import openvino

        compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda images: compiled(images)[0]
    if (folder / "model.tflite").exists():
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(folder / "model.tflite"))
        infer = interpreter.get_signature_runner()
        (given,), (taken,) = infer.get_input_details(), infer.get_output_details()
        return one_by_one(lambda image: infer(**{given: image})[taken])
    import torch

    if (folder / "model.pte").exists():
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(folder / "model.pte").load_method("forward")
        return one_by_one(lambda image: method.execute((torch.from_numpy(image),))[0].numpy().copy())
    model = torch.export.load(folder / "model.pt2").module()
    return lambda images: model(torch.from_numpy(images))[0].detach().numpy()


def one_by_one(run: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A function of images made from one of a single image."""
    return lambda images: np.concatenate([run(image[None]) for image in images])


def preprocess(photo: Image.Image, config: dict[str, Any]) -> Array:
    """A photo as the model wants it: resized, cut to its middle and normalised; (3, height, width)."""
    photo = ImageOps.exif_transpose(photo).convert("RGB")
    height, width = config["input_size"][1:]
    scaled = math.floor(height / config["crop_pct"])
    short, long = sorted(photo.size)
    other = int(scaled * long / short)
    size = (scaled, other) if photo.width <= photo.height else (other, scaled)
    photo = photo.resize(size, Image.Resampling[config["interpolation"].upper()])
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    pixels = np.asarray(photo.crop((left, top, left + width, top + height)), np.float32) / np.float32(255)
    normal = (pixels - np.asarray(config["mean"], np.float32)) / np.asarray(config["std"], np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def main() -> None:
    """Prints the most probable classes of each photo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--topk", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON, a line each photo")
    args = parser.parse_args()
    config = json.loads((HERE / "preprocess.json").read_text(encoding="utf-8"))
    labels = (HERE / "labels.txt").read_text(encoding="utf-8").splitlines()
    model = load()
    for path in args.photos:
        with Image.open(path) as photo:
            logits = model(preprocess(photo, config)[None])[0]
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        best = [
            {"class": int(index), "label": labels[index], "score": round(float(scores[index]), 6)}
            for index in np.argsort(-scores, kind="stable")[: args.topk]
        ]
        if args.json:
            print(json.dumps({"image": str(path), "predictions": best}))
        else:
            print(path, *(f"  {row['score']:.4f}  {row['class']:>4}  {row['label']}" for row in best), sep="\n")


if __name__ == "__main__":
    main()
