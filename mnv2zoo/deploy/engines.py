"""What can run a network: each engine makes a function of it, from images to a list of outputs.

Those of other runtimes take the network as ONNX, so there is one way out of PyTorch. It takes seconds, and
int8 takes a minute; what comes of it is bytes, from which a runtime starts at once, so those can be kept.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from mnv2zoo import runtimes
from mnv2zoo.deploy.calibration import Calibration
from mnv2zoo.runtimes import INPUT, Parts

Runner = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Source:
    """What an engine starts from.

    Attributes:
        model: The folded network.
        example: Images (N, C, H, W).
        calibration: Images that int8 ranges are measured on; None for other precisions.
    """

    model: nn.Module
    example: Tensor
    calibration: Calibration | None = None

    @functools.cached_property
    def onnx(self) -> bytes:
        """The network as ONNX, exported once for all engines that take it."""
        return to_onnx(self.model, self.example)


@dataclass(frozen=True)
class Engine:
    """A way to run a network.

    Attributes:
        needs: Packages that it imports beyond the project's own dependencies.
        precisions: What it can compute in.
        patient: Whether it compiles for a minute before the first image.
        prepare: From the source and a precision to bytes that can be kept; None where the engine starts from
            the network itself.
        start: From the source, those bytes, a precision and a number of threads to a function.
    """

    needs: tuple[str, ...]
    precisions: tuple[str, ...]
    patient: bool
    prepare: Callable[[Source, str], Parts] | None
    start: Callable[[Source, Parts, str, int], Runner]

    def packages(self, precision: str) -> tuple[str, ...]:
        """What it imports for a precision: int8 is quantised for by NNCF."""
        return (*self.needs, "nncf") if precision == "int8" else self.needs


class Flat(nn.Module):
    """A network whose outputs are a tuple, whatever they were grouped in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps images (N, C, H, W) to the outputs."""
        return tuple(pytree.tree_leaves(self.model(x)))


def any_batch(example: Tensor) -> dict[str, Any]:
    """The arguments by which PyTorch's exports of a `Flat` network take batches of any size."""
    two = example[:1].repeat(2, 1, 1, 1)  # an export with a batch of one would be for one alone
    return {"args": (two,), "dynamic_shapes": {"x": {0: torch.export.Dim("batch")}}}


def to_onnx(model: nn.Module, example: Tensor) -> bytes:
    """Exports a network as ONNX with a batch of any size.

    Args:
        model: The network in evaluation mode.
        example: Images (N, C, H, W).

    Returns:
        The file's bytes. Its input is `images`, its outputs are `output_0` and so on.
    """
    with torch.inference_mode():
        outputs = Flat(model)(example[:1])
    program = torch.onnx.export(
        Flat(model).eval(),
        input_names=[INPUT],
        output_names=[f"output_{number}" for number in range(len(outputs))],
        **any_batch(example),
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # it is None where a file was asked for
    return program.model_proto.SerializeToString()


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _part(source: Source, threads: int) -> int:
    """Images that PyTorch computes at once; more are computed in parts.

    The widest maps of four images of 224 pixels take 19 MB. From 32 MB on, glibc fetches memory from the system and
    gives it back at every step (M_MMAP_THRESHOLD in mallopt(3)), which takes as long as the computing.
    """
    pixels = source.example.shape[2] * source.example.shape[3]
    return max(threads, 4 * 224 * 224 // pixels)


def _torch(source: Source, parts: Parts, precision: str, threads: int) -> Runner:
    network = Flat(source.model).to(_dtype(precision)).to(memory_format=torch.channels_last)
    part = _part(source, threads)

    def run(x: Tensor) -> list[Tensor]:
        with torch.inference_mode(), _threads(threads):
            images = x.to(memory_format=torch.channels_last, dtype=_dtype(precision)).split(part)
            return [torch.cat(outputs).float() for outputs in zip(*map(network, images), strict=True)]

    return run


def _inductor(source: Source, parts: Parts, precision: str, threads: int) -> Runner:
    from torch._inductor import config

    network = Flat(source.model).to(_dtype(precision)).to(memory_format=torch.channels_last)
    compiled = torch.compile(network, dynamic=False)
    part = min(len(source.example), _part(source, threads))

    def run(x: Tensor) -> list[Tensor]:
        with torch.no_grad(), _threads(threads), config.patch(freezing=True):
            # Every part is of the one size that is compiled for: each other would take a minute of its own.
            whole = functional.pad(x, (0, 0, 0, 0, 0, 0, 0, -len(x) % part))
            images = whole.to(memory_format=torch.channels_last, dtype=_dtype(precision)).split(part)
            return [torch.cat(outputs)[: len(x)].float() for outputs in zip(*map(compiled, images), strict=True)]

    return run


def _for_onnxruntime(source: Source, precision: str) -> Parts:
    if precision != "int8":
        return {"model": source.onnx}
    import onnx
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters

    # NNCF would give each channel before a depthwise convolution a range of its own, for which ONNX Runtime has no
    # integer kernel: in floating point, and to and fro, the network would take twice as long as it does in fp32.
    whole = AdvancedQuantizationParameters(activations_quantization_params=QuantizationParameters(per_channel=False))
    document = _quantize(onnx.load_from_string(source.onnx), source, lambda image: {INPUT: image}, whole)
    return {"model": document.SerializeToString()}


def _quantize(network: Any, source: Source, feed: Callable[[Any], Any], advanced: Any = None) -> Any:
    """NNCF's post-training quantisation of an ONNX or OpenVINO network."""
    import nncf

    assert source.calibration is not None
    nncf.set_log_level(logging.ERROR)
    rows = [row[None].contiguous().numpy() for row in source.calibration.images]
    with contextlib.redirect_stdout(sys.stderr):  # where its progress is in nobody's way
        return nncf.quantize(network, nncf.Dataset(rows, feed), subset_size=len(rows), advanced_parameters=advanced)


def _for_openvino(source: Source, precision: str) -> Parts:
    if precision != "int8":
        return {"model": source.onnx}
    import openvino
    from openvino import passes

    network = openvino.Core().read_model(source.onnx)
    network.reshape([1, *source.example.shape[1:]])
    # From ONNX, weights of depthwise convolutions come with a reshape, behind which NNCF does not see them. They would
    # be computed in floating point, and each step there and back be a step more.
    folding = passes.Manager()
    folding.register_pass(passes.ConstantFolding())
    folding.run_passes(network)
    network = _quantize(network, source, lambda image: image)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.xml"
        openvino.save_model(network, file, compress_to_fp16=False)
        return {"model": file.read_bytes(), "weights": file.with_suffix(".bin").read_bytes()}


def _runtime(name: str) -> Callable[[Source, Parts, str, int], Runner]:
    """How an engine starts that is a runtime of its own."""

    def start(source: Source, parts: Parts, precision: str, threads: int) -> Runner:
        run_arrays = runtimes.RUNTIMES[name](parts, source.example.shape[1:], precision, threads)
        return lambda x: [torch.from_numpy(output) for output in run_arrays(x.contiguous().numpy())]

    return start


def _dtype(precision: str) -> torch.dtype:
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


ENGINES = {
    "torch": Engine((), ("fp32", "bf16"), False, None, _torch),
    "inductor": Engine((), ("fp32", "bf16"), True, None, _inductor),
    "onnxruntime": Engine(
        *(("onnx", "onnxscript", "onnxruntime"), ("fp32", "int8"), False, _for_onnxruntime, _runtime("onnxruntime"))
    ),
    "openvino": Engine(
        *(("onnx", "onnxscript", "openvino"), ("fp32", "bf16", "int8"), False, _for_openvino, _runtime("openvino"))
    ),
}
