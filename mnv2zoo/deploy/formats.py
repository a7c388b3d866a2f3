"""The formats of bundles: how a model is written in each, and what it needs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mnv2zoo.deploy import engines
from mnv2zoo.deploy.detectors import WithPostProcessing
from mnv2zoo.version import __version__


@dataclass(frozen=True)
class Target:
    """A bundle's format.

    Attributes:
        write: Writes the model into the bundle, from the folded model and an example (1, C, H, W), and returns the
            names of its files.
        needs: The packages that it needs, by their import names.
        extra: The project's extra that installs them.
        runtime: The packages that `predict.py` needs besides numpy and pillow, as pip knows them.
    """

    write: Callable[[nn.Module, torch.Tensor, Path], list[str]]
    needs: tuple[str, ...]
    extra: str
    runtime: str


def _onnx(model: nn.Module, example: torch.Tensor) -> bytes:
    return model.to_onnx() if isinstance(model, WithPostProcessing) else engines.to_onnx(model, example)


def _to_onnx(model: nn.Module, example: torch.Tensor, bundle: Path) -> list[str]:
    import onnx

    document = onnx.load_from_string(_onnx(model, example))
    opset = next(entry.version for entry in document.opset_import if not entry.domain)
    onnx.helper.set_model_props(document, {"opset": str(opset), "producer": f"mnv2zoo {__version__}"})
    onnx.save(document, bundle / "model.onnx")
    return ["model.onnx"]


def _to_openvino(model: nn.Module, example: torch.Tensor, bundle: Path) -> list[str]:
    import openvino

    document = openvino.Core().read_model(_onnx(model, example))
    openvino.save_model(document, bundle / "model.xml", compress_to_fp16=False)
    return ["model.xml", "model.bin"]


def _to_torch(model: nn.Module, example: torch.Tensor, bundle: Path) -> list[str]:
    program = torch.export.export(engines.Flat(model).eval(), **engines.any_batch(example))
    program.example_inputs = None  # they would be stored with it
    torch.export.save(program, bundle / "model.pt2")
    return ["model.pt2"]


def _to_executorch(model: nn.Module, example: torch.Tensor, bundle: Path) -> list[str]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(engines.Flat(model).eval(), (example,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (bundle / "model.pte").write_bytes(lowered.to_executorch().buffer)
    return ["model.pte"]


def _to_litert(model: nn.Module, example: torch.Tensor, bundle: Path) -> list[str]:
    import litert_torch

    with contextlib.redirect_stdout(sys.stderr):  # its progress goes to stdout
        litert_torch.convert(engines.Flat(model).eval(), (example,)).export(str(bundle / "model.tflite"))
    return ["model.tflite"]


TARGETS: Mapping[str, Target] = {
    "onnx": Target(_to_onnx, ("onnx", "onnxscript", "onnxruntime"), "deploy", "onnxruntime"),
    "openvino": Target(_to_openvino, ("onnx", "onnxscript", "openvino"), "deploy", "openvino"),
    "torch-export": Target(_to_torch, (), "", "torch"),
    "executorch": Target(_to_executorch, ("executorch",), "executorch", "executorch torch"),
    "litert": Target(_to_litert, ("litert_torch", "ai_edge_litert"), "litert", "ai-edge-litert"),
}
