"""Classifies photos with the model beside this file: `python predict.py photo.jpg ... [--topk 5] [--json]`.

It needs numpy, pillow and the model's runtime: onnxruntime for model.onnx, openvino for model.xml, ai-edge-litert for
model.tflite, executorch and torch for model.pte, torch for model.pt2.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mnv2zoo.data.pixels import normalized_square, open_rgb, reason, to_rgb  # replaced by the text of that file

Array = np.ndarray[Any, np.dtype[np.float32]]
HERE = Path(__file__).resolve().parent


def load(folder: Path = HERE) -> Model:
    """The model, as a function from images (N, 3, height, width) to logits (N, classes)."""
    return Model(folder)


class Model:
    """What `load` gives. Load it in each process: a fork copies a runtime without its threads."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.process = folder, os.getpid()
        self.run = open_model(folder)

    def __call__(self, images: Array) -> Array:
        """Logits (N, classes) of images (N, 3, height, width)."""
        if os.getpid() != self.process:
            raise RuntimeError("The model was loaded in another process. Call load() in this one, after the fork.")
        return self.run(images)

    def __reduce__(self) -> tuple[Any, ...]:
        return load, (self.folder,)


def open_model(folder: Path) -> Callable[[Array], Array]:
    """Starts the runtime that the model's file is for."""
    if (folder / "model.onnx").exists():
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its thread keeps a forked process from ending
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


def read(path: str | Path) -> Image.Image:
    """Reads a photo in any mode, and turns it upright."""
    return open_rgb(path)[0]


def preprocess(photo: Image.Image, config: dict[str, Any]) -> Array:
    """A photo as the model wants it, resized, cut to its middle and normalized: (3, height, width)."""
    return normalized_square(to_rgb(photo), config)


def predictions(logits: Array, labels: list[str], topk: int) -> list[dict[str, Any]]:
    """The most probable classes of a photo, from its logits (classes,)."""
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    return [
        {"class": int(index), "label": labels[index], "score": round(float(scores[index]), 6)}
        for index in np.argsort(-logits, kind="stable")[:topk]
    ]


def positive(text: str) -> int:
    """A number of classes, at least 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def main() -> int:
    """Prints the most probable classes of each photo; returns 1 if one cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--topk", type=positive, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON, a line per photo")
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names that a terminal cannot show
    config = json.loads((HERE / "preprocess.json").read_text(encoding="utf-8"))
    labels = (HERE / "labels.txt").read_bytes().decode().split("\n")
    model = load()
    status = 0
    for path in args.photos:
        try:
            image = preprocess(read(path), config)
        except Exception as error:  # decoders raise nearly anything
            print(f"error: cannot read {path}: {reason(error)}", file=sys.stderr)
            status = 1
            continue
        best = predictions(model(image[None])[0], labels, args.topk)
        if args.json:
            print(json.dumps({"image": str(path), "predictions": best}))
        else:
            print(path, *(f"  {row['score']:.4f}  {row['class']:>4}  {row['label']}" for row in best), sep="\n")
    return status


if __name__ == "__main__" and main():
    sys.exit(1)
