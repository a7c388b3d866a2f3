"""The formats of bundles: how to write each one, and what it requires."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mnv2zoo.deploy import engines, litert, opsets
from mnv2zoo.deploy.detectors import WithPostProcessing
from mnv2zoo.deploy.engines import Source
from mnv2zoo.errors import DeployError
from mnv2zoo.models.timm_compat import pytree
from mnv2zoo.version import __version__

LAYOUTS = ("nchw", "nhwc")


@dataclass(frozen=True)
class Variant:
    """The variant of a format.

    Attributes:
        precision: The precision of the model file: `fp32`, `fp16`, `bf16` or `int8`.
        opset: The opset of an ONNX file; None for the exporter's own.
        layout: The memory layout of the input: `nchw` for (N, 3, H, W), or `nhwc` for (N, H, W, 3).
    """

    precision: str = "fp32"
    opset: int | None = None
    layout: str = "nchw"


@dataclass(frozen=True)
class Target:
    """A bundle's format.

    Attributes:
        write: Writes the model to the bundle, from the folded model and an example (1, C, H, W), and returns the names
            of its files.
        needs: The required packages, by import name.
        extra: The project's extra that installs them.
        runtime: The packages that `predict.py` needs in addition to numpy and pillow, by pip name; empty for a page.
        precisions: The supported precisions.
        quantizer: The package that int8 requires in addition.
        layouts: The supported memory layouts of the input.
        has_opset: Whether the file is ONNX, so that the opset can be chosen.
    """

    write: Callable[[Source, Variant, Path], list[str]]
    needs: tuple[str, ...]
    extra: str
    runtime: str
    precisions: tuple[str, ...] = ("fp32",)
    quantizer: str = "nncf"
    layouts: tuple[str, ...] = ("nchw",)
    has_opset: bool = field(default=False, kw_only=True)

    def packages(self, precision: str) -> tuple[str, ...]:
        """The required packages for a precision."""
        return (*self.needs, self.quantizer) if precision == "int8" else self.needs

    @property
    def use(self) -> str:
        """The commands that run a bundle, for its card."""
        if self.runtime:
            return f"pip install numpy pillow {self.runtime}\npython predict.py photo.jpg"
        return "python -m http.server --directory THIS_FOLDER 8000  # or any static host; then open localhost:8000"


class InHalf(nn.Module):
    """A model that computes in half precision, with inputs and outputs in single precision.

    Args:
        model: The model, which is copied.
        dtype: The data type of the computation.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = copy.deepcopy(model).to(dtype), dtype
        self.train(model.training)

    def forward(self, x: Tensor) -> Any:
        """Maps images (N, C, H, W) to the outputs."""
        return pytree.tree_map(Tensor.float, self.model(x.to(self.dtype)))


def check(format: str, variant: Variant) -> None:
    """Checks that a format supports a variant.

    Args:
        format: The format, one of `TARGETS`.
        variant: The variant.

    Raises:
        DeployError: If the format does not support the variant.
    """
    for what, value in (("precision", variant.precision), ("layout", variant.layout)):
        if value not in getattr(TARGETS[format], f"{what}s"):
            able = [name for name, one in TARGETS.items() if value in getattr(one, f"{what}s")]
            raise DeployError(
                f"the format {format} does not support the {what} {value}",
                expected=", ".join(getattr(TARGETS[format], f"{what}s")),
                found=repr(value),
                where=what,
                fix=f"Formats that support {value}: {', '.join(able)}." if able else f"Choose another {what}.",
            )
    if variant.opset is not None and not TARGETS[format].has_opset:
        raise DeployError(
            f"the format {format} does not use the option opset",
            expected=f"an opset only for {' or '.join(name for name, one in TARGETS.items() if one.has_opset)}",
            found=variant.opset,
            where="opset",
            fix="Leave out opset.",
        )


def _onnx(source: Source, variant: Variant) -> Any:
    """The model as an `onnx.ModelProto`, in the variant's opset and, except for bf16, in its precision."""
    import onnx

    model = source.model
    if variant.precision == "fp16":
        model = InHalf(model, torch.float16)
    exported = model.to_onnx() if isinstance(model, WithPostProcessing) else engines.to_onnx(model, source.example)
    document = opsets.convert(onnx.load_from_string(exported), variant.opset)
    return engines.quantize_onnx(document, source) if variant.precision == "int8" else document


def _to_onnx(source: Source, variant: Variant, bundle: Path) -> list[str]:
    import onnx

    document = _onnx(source, variant)
    properties = {"opset": str(opsets.version(document)), "producer": f"mnv2zoo {__version__}"}
    onnx.helper.set_model_props(document, properties)
    onnx.save(document, bundle / "model.onnx")
    return ["model.onnx"]


def _to_openvino(source: Source, variant: Variant, bundle: Path) -> list[str]:
    import openvino

    document = openvino.Core().read_model(_onnx(source, Variant()).SerializeToString())
    if variant.precision == "int8":
        document = engines.quantize_openvino(document, source)
    if variant.precision == "bf16":
        _store_in_bf16(document)
    openvino.save_model(document, bundle / "model.xml", compress_to_fp16=variant.precision == "fp16")
    return ["model.xml", "model.bin"]


def _store_in_bf16(document: Any) -> None:
    """Stores an OpenVINO model's weights in bf16, as `compress_to_fp16` does in fp16."""
    import openvino
    from openvino import opset13 as operators

    for node in document.get_ordered_ops():
        if node.get_type_name() == "Constant" and node.get_element_type() == openvino.Type.f32 and node.data.size > 1:
            rounded = (
                torch.from_numpy(node.data.copy()).bfloat16().float().numpy()
            )  # OpenVINO would truncate, not round
            stored = operators.convert(operators.constant(rounded, dtype=openvino.Type.bf16), "f32")
            for place in list(node.output(0).get_target_inputs()):
                place.replace_source_output(stored.output(0))


def _to_torch(source: Source, variant: Variant, bundle: Path) -> list[str]:
    program = torch.export.export(engines.Flat(source.model).eval(), **engines.any_batch(source.example))
    program.example_inputs = None  # they would be stored with it
    torch.export.save(program, bundle / "model.pt2")
    return ["model.pt2"]


def _to_executorch(source: Source, variant: Variant, bundle: Path) -> list[str]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(engines.Flat(source.model).eval(), (source.example,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (bundle / "model.pte").write_bytes(lowered.to_executorch().buffer)
    return ["model.pte"]


def _to_litert(source: Source, variant: Variant, bundle: Path) -> list[str]:
    with contextlib.redirect_stdout(sys.stderr):  # it prints its progress to stdout
        litert.write(source, variant.precision, variant.layout, bundle / "model.tflite")
    return ["model.tflite"]


ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TARGETS: Mapping[str, Target] = {
    "onnx": Target(_to_onnx, ONNX_PACKAGES, "deploy", "onnxruntime", ("fp32", "fp16", "int8"), has_opset=True),
    "openvino": Target(
        _to_openvino, ("onnx", "onnxscript", "openvino"), "deploy", "openvino", ("fp32", "fp16", "bf16", "int8")
    ),
    "torch-export": Target(_to_torch, (), "", "torch"),
    "executorch": Target(_to_executorch, ("executorch",), "executorch", "executorch torch"),
    "litert": Target(
        _to_litert,
        ("litert_torch", "ai_edge_litert"),
        "litert",
        "ai-edge-litert",
        ("fp32", "fp16", "int8"),
        "ai_edge_quantizer",
        ("nchw", "nhwc"),
    ),
    "web": Target(_to_onnx, ONNX_PACKAGES, "deploy", "", ("fp32", "fp16", "int8"), has_opset=True),
}
