"""The formats of bundles: how a model is written in each, and what it needs."""

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
    """Which variant of a format a bundle holds.

    Attributes:
        precision: What the model's file holds: `fp32`, `fp16`, `bf16` or `int8`.
        opset: The opset of an ONNX file; None for the exporter's own.
        layout: How the model takes images: `nchw` as (N, 3, H, W), or `nhwc` as (N, H, W, 3).
    """

    precision: str = "fp32"
    opset: int | None = None
    layout: str = "nchw"


@dataclass(frozen=True)
class Target:
    """A bundle's format.

    Attributes:
        write: Writes the model into the bundle, from the folded model and an example (1, C, H, W), and returns the
            names of its files.
        needs: The packages that it needs, by their import names.
        extra: The project's extra that installs them.
        runtime: The packages that `predict.py` needs besides numpy and pillow, as pip knows them; none for a page.
        precisions: The precisions that its runtime can run.
        quantizer: The package that it needs for int8 too.
        layouts: The layouts that it can take images in.
        has_opset: Whether its file is ONNX, so that you can choose an opset.
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
        """The packages that it needs for a precision."""
        return (*self.needs, self.quantizer) if precision == "int8" else self.needs

    @property
    def use(self) -> str:
        """The commands that use a bundle, for its card."""
        if self.runtime:
            return f"pip install numpy pillow {self.runtime}\npython predict.py photo.jpg"
        return "python -m http.server --directory THIS_FOLDER 8000  # or any static host; then open localhost:8000"


class InHalf(nn.Module):
    """A network that computes in half precision, from and to single precision.

    Args:
        model: The network, which is copied.
        dtype: The type that it computes in.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = copy.deepcopy(model).to(dtype), dtype
        self.train(model.training)

    def forward(self, x: Tensor) -> Any:
        """Maps images (N, C, H, W) to what the network gives."""
        return pytree.tree_map(Tensor.float, self.model(x.to(self.dtype)))


def check(format: str, variant: Variant) -> None:
    """Requires a variant that the format's runtime can run.

    Args:
        format: The format, which is one of `TARGETS`.
        variant: The variant.

    Raises:
        DeployError: If the runtime cannot run it.
    """
    for what, value in (("precision", variant.precision), ("layout", variant.layout)):
        if value not in getattr(TARGETS[format], f"{what}s"):
            able = [name for name, one in TARGETS.items() if value in getattr(one, f"{what}s")]
            raise DeployError(
                f"format {format} has no {what} {value}",
                expected=", ".join(getattr(TARGETS[format], f"{what}s")),
                found=repr(value),
                where=what,
                fix=f"These formats have {value}: {', '.join(able)}." if able else f"Take another {what}.",
            )
    if variant.opset is not None and not TARGETS[format].has_opset:
        raise DeployError(
            f"format {format} has no opset",
            expected=f"an opset for {' or '.join(name for name, one in TARGETS.items() if one.has_opset)} alone",
            found=variant.opset,
            where="opset",
            fix="Leave the opset out.",
        )


def _onnx(source: Source, variant: Variant) -> Any:
    """The model as an `onnx.ModelProto`, in the variant's opset and, unless that is bf16, its precision."""
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
            rounded = torch.from_numpy(node.data.copy()).bfloat16().float().numpy()  # OpenVINO would cut, not round
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
    with contextlib.redirect_stdout(sys.stderr):  # its progress goes to stdout
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
