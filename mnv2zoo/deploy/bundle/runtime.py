"""Runs the model of a bundle and reads images. The scripts of all tasks share this module.

`deploy.export` copies its text to the bundle's script. It only uses the standard library, Pillow, numpy and the
runtime.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mnv2zoo.data.pixels import open_image, reason

Array = np.ndarray[Any, np.dtype[np.float32]]
HERE = Path(__file__).resolve().parent


def load(folder: Path = HERE) -> Model:
    """Loads the model as a function from its inputs to its output, or to a list of outputs."""
    return Model(folder)


class Model:
    """The model that `load` returns. Load it in each process, because a fork copies a runtime without its threads."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.process = folder, os.getpid()
        self.run = open_model(folder)

    def __call__(self, *inputs: Any) -> Any:
        """The output for images (N, 3, height, width), or a list of outputs."""
        if os.getpid() != self.process:
            raise RuntimeError("The model was loaded in another process. Call load() in this process, after the fork.")
        outputs = self.run(*inputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def __reduce__(self) -> tuple[Any, ...]:
        return load, (self.folder,)


def open_model(folder: Path) -> Callable[..., list[Array]]:
    """Starts the runtime of the model file."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if (folder / "model.onnx").exists():
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its thread prevents a forked process from ending
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]
        return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))
    if (folder / "model.xml").exists():
        import openvino

        hint = "bf16" if manifest["precision"] == "bf16" else "f32"  # for floating-point operations
        compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": hint})
        return lambda *inputs: list(compiled(list(inputs)).values())
    if (folder / "model.tflite").exists():
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(folder / "model.tflite"))
        infer = interpreter.get_signature_runner()
        (given,), (taken,) = infer.get_input_details(), infer.get_output_details()
        if manifest["layout"] == "nhwc":
            return one_by_one(lambda image: infer(**{given: image.transpose(0, 2, 3, 1)})[taken])
        return one_by_one(lambda image: infer(**{given: image})[taken])
    import torch

    if (folder / "model.pte").exists():
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(folder / "model.pte").load_method("forward")
        return one_by_one(lambda image: method.execute((torch.from_numpy(image),))[0].numpy().copy())
    model = torch.export.load(folder / "model.pt2").module()
    return lambda images: [model(torch.from_numpy(images))[0].detach().numpy()]


def one_by_one(run: Callable[[Array], Array]) -> Callable[[Array], list[Array]]:
    """Turns a function of a single image into a function of a batch."""
    return lambda images: [np.concatenate([run(image[None]) for image in images])]


def read(path: str | Path, channels: int = 3) -> Any:
    """Reads an image as upright RGB, or with the given number of channels."""
    return open_image(path, channels)[0]


def read_or_report(path: Path, channels: int = 3) -> Any:
    """Reads an image like `read`. If it cannot be read, prints an error and returns None."""
    try:
        return read(path, channels)
    except Exception as error:  # decoders raise many kinds of errors
        print(f"error: cannot read {path}: {reason(error)}", file=sys.stderr)
        return None


def new_file(folder: Path, photo: Path, suffix: str, taken: set[Path]) -> Path:
    """The output file for an image, with a number in its name if another image of this call has the same name."""
    file, number = folder / f"{photo.stem}{suffix}", 1
    while file in taken:
        number += 1
        file = folder / f"{photo.stem}-{number}{suffix}"
    taken.add(file)
    return file


def lines(file: Path) -> list[str]:
    """The lines of `labels.txt`, which can contain any character except a line break."""
    return file.read_bytes().decode().removesuffix("\n").split("\n")
