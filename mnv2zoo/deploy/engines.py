"""The engines that can run a model: each turns it into a function from images to a list of outputs.

Other runtimes take the model as ONNX, so there is one way out of PyTorch. An export takes seconds, and quantization
a minute. The result is bytes from which the runtime starts at once, so these can be cached.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mnv2zoo.deploy import graphs
from mnv2zoo.deploy.calibration import Calibration
from mnv2zoo.deploy.depthwise import replace_depthwise
from mnv2zoo.errors import DeployError
from mnv2zoo.models.timm_compat import compile_any_number, inductor_settings, pytree
from mnv2zoo.runtimes import runners
from mnv2zoo.runtimes.runners import INPUT, Parts
from mnv2zoo.system import posix

Runner = Callable[[Tensor], list[Tensor]]
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """The network that all engines are made from, and that none of them changes.

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

    def own(self, precision: str) -> nn.Module:
        """A copy for one engine alone, in its precision and in the memory layout that PyTorch is fastest with."""
        network = Flat(copy.deepcopy(self.model)).to(_dtype(precision))
        return network.to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Plan:
    """All that an engine starts from, in this process or in another that it is sent to.

    Attributes:
        network: The engine's own copy of the network, flat, where PyTorch runs it; None for other runtimes.
        parts: The bytes that another runtime starts from; none where PyTorch runs the network.
        shape: Shape (N, C, H, W) of the example.
        precision: What it computes in.
        threads: Threads that it computes with, on the CPU.
        device: Where it computes. The network stays on the CPU; each process moves a copy to the device.
    """

    network: nn.Module | None
    parts: Parts
    shape: tuple[int, ...]
    precision: str
    threads: int
    device: torch.device


@dataclass(frozen=True)
class Engine:
    """A way to run a model.

    Attributes:
        start: From a plan to a function.
        precisions: The precisions that it supports on the CPU.
        prepare: From the source and a precision to bytes that can be cached; None for an engine that starts from the
            PyTorch module itself.
        needs: Packages that it imports beyond the project's own dependencies.
        slow_to_compile: Whether it compiles for a minute before the first image.
        accelerated: The precisions that it supports on a device other than the CPU.
        device_types: The types of these devices; None for all that PyTorch has.
        reaches: Whether the installed packages compute on such a device.
    """

    start: Callable[[Plan], Runner]
    precisions: tuple[str, ...]
    prepare: Callable[[Source, str], Parts] | None = None
    needs: tuple[str, ...] = ()
    slow_to_compile: bool = False
    accelerated: tuple[str, ...] = ()
    device_types: tuple[str, ...] | None = None
    reaches: Callable[[], bool] = lambda: True

    def packages(self, precision: str) -> tuple[str, ...]:
        """The packages that it imports for a precision: NNCF quantizes for int8."""
        return (*self.needs, "nncf") if precision == "int8" else self.needs

    def knows(self, device: torch.device) -> bool:
        """Whether it computes on devices of this type, with the right packages."""
        return device.type == "cpu" or self.device_types is None or device.type in self.device_types

    def precisions_on(self, device: torch.device) -> tuple[str, ...]:
        """The precisions that it supports on a device."""
        if device.type == "cpu":
            return self.precisions
        return self.accelerated if self.knows(device) else ()

    def has(self, device: torch.device) -> bool:
        """Whether its packages, which are installed, compute on a device."""
        return self.knows(device) and (device.type == "cpu" or self.reaches())


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
def torch_threads(number: int) -> Iterator[None]:
    """Lets PyTorch compute with a number of threads for a while."""
    before = torch.get_num_threads()
    if number == before:  # setting it starts a pool of threads that PyTorch cannot end in a forked process
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_forked = False  # whether this process was forked from one that had imported this module


def _after_fork() -> None:
    global _forked
    _forked = True
    _other_thread.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@functools.cache
def _other_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


def fork_safe(compute: Callable[[], T]) -> T:
    """Computes something with PyTorch, also in a forked process.

    OpenMP keeps a team of threads for each thread that computes. In a forked process the first thread's team is a
    copy without threads, for which it would wait forever. Any other thread starts a team of its own.

    Args:
        compute: The computation.

    Returns:
        Its result.
    """
    if _forked and threading.current_thread() is threading.main_thread():
        return _other_thread().submit(compute).result()
    return compute()


def _part(plan: Plan) -> int:
    """Images that PyTorch computes at once; more are computed in parts.

    The widest maps of four images of 224 pixels take 19 MB. From 32 MB on, glibc fetches memory from the system and
    gives it back at every step (M_MMAP_THRESHOLD in mallopt(3)), which takes as long as the computing.
    """
    height, width = plan.shape[2:]
    return max(plan.threads, 4 * 224 * 224 // (height * width))


def _torch(plan: Plan) -> Runner:
    if plan.device.type != "cpu":
        network = _moved(plan)  # first, because it explains a device that a forked process cannot use
        recorder = graphs.recorder_for(plan.device)
        return graphs.runner(network, plan.shape[1:], _dtype(plan.precision), plan.device, recorder)
    return _torch_on_cpu(plan)


def _torch_on_cpu(plan: Plan) -> Runner:
    network, part, dtype = plan.network, _part(plan), _dtype(plan.precision)
    assert network is not None

    def run(x: Tensor) -> list[Tensor]:
        with torch.inference_mode(), torch_threads(plan.threads):
            images = x.to(memory_format=torch.channels_last, dtype=dtype).split(part)
            return [torch.cat(outputs).float() for outputs in zip(*map(network, images), strict=True)]

    return run


def _inductor(plan: Plan) -> Runner:
    if plan.device.type != "cpu":
        return _inductor_on_device(plan)
    assert plan.network is not None
    compiled = torch.compile(plan.network, dynamic=False)
    part, dtype = min(plan.shape[0], _part(plan)), _dtype(plan.precision)

    def run_part(images: Tensor) -> list[Tensor]:
        return [output.float() for output in compiled(images)]

    def run(x: Tensor) -> list[Tensor]:
        with torch.no_grad(), torch_threads(plan.threads), compile_any_number(), inductor_settings(freezing=True):
            # Every part is of the one size that is compiled for: each other would take a minute of its own.
            images = x.to(memory_format=torch.channels_last, dtype=dtype)
            return graphs.in_parts(run_part, part, images)

    return run


# Settings of `torch._inductor.config`. 1x1 convolutions become matrix products, into which Inductor fuses what follows.
# `max_autotune` times several kernels for each. A map that several places of a depthwise convolution read is written
# first: otherwise each of them computes the activation before it again, which takes longer than the memory.
# Graphs are recorded by `graphs.py`, because those of `torch.compile` belong to one thread.
TUNED = {
    "max_autotune": True,
    "conv_1x1_as_mm": True,
    "force_layout_optimization": True,
    "realize_reads_threshold": 0,
}


def _inductor_on_device(plan: Plan) -> Runner:
    network = replace_depthwise(_moved(plan))
    compiled = torch.compile(network, dynamic=False, options=dict(TUNED))
    size, shape, dtype = plan.shape[0], plan.shape[1:], _dtype(plan.precision)

    def compute(images: Tensor) -> Sequence[Tensor]:
        with compile_any_number():
            return compiled(images)

    whole_batch = graphs.runner(compute, shape, dtype, plan.device, graphs.recorder_for(plan.device), most=1)
    return lambda x: graphs.in_parts(whole_batch, size, x)


def _moved(plan: Plan) -> nn.Module:
    """A copy of the plan's network on its device."""
    assert plan.network is not None
    with usable(plan.device):
        return copy.deepcopy(plan.network).to(plan.device)


@contextlib.contextmanager
def usable(device: torch.device) -> Iterator[None]:
    """Explains a device that cannot be used because its process was forked from one that had used it.

    Raises:
        DeployError: If that is the reason for an error of PyTorch's.
    """
    try:
        yield
    except RuntimeError as error:
        if not _forked or isinstance(error, DeployError):
            raise
        raise DeployError(
            f"a forked process cannot use {device}, which its parent has used",
            expected="a process that multiprocessing starts with spawn or forkserver",
            found=str(error).partition("\n")[0],
            where="device",
            fix="Start processes with spawn, or optimize the model in each of them after the fork.",
        ) from error


def _for_onnxruntime(source: Source, precision: str) -> Parts:
    if precision != "int8":
        return {"model": source.onnx}
    import onnx

    return {"model": quantize_onnx(onnx.load_from_string(source.onnx), source).SerializeToString()}


def quantize_onnx(document: Any, source: Source) -> Any:
    """Quantizes a network for ONNX Runtime.

    Args:
        document: The network, as an `onnx.ModelProto` whose input is `images`.
        source: What it was exported from, with calibration images.

    Returns:
        The network in int8, as an `onnx.ModelProto`.
    """
    runners.import_onnxruntime()  # NNCF does too
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters

    # NNCF would give each channel before a depthwise convolution a range of its own, for which ONNX Runtime has no
    # integer kernel: in floating point, and to and fro, the network would take twice as long as it does in fp32.
    whole = AdvancedQuantizationParameters(activations_quantization_params=QuantizationParameters(per_channel=False))
    return _quantize(document, source, lambda image: {INPUT: image}, whole)


def _quantize(network: Any, source: Source, feed: Callable[[Any], Any], advanced: Any = None) -> Any:
    """Quantizes an ONNX or OpenVINO model with NNCF, after training."""
    import nncf

    assert source.calibration is not None
    nncf.set_log_level(logging.ERROR)
    rows = [row[None].contiguous().numpy() for row in source.calibration.images]
    with contextlib.redirect_stdout(sys.stderr), posix.preserved_signal_stack():  # NNCF compiles with OpenVINO
        return nncf.quantize(network, nncf.Dataset(rows, feed), subset_size=len(rows), advanced_parameters=advanced)


def _for_openvino(source: Source, precision: str) -> Parts:
    if precision != "int8":
        return {"model": source.onnx}
    import openvino

    network = openvino.Core().read_model(source.onnx)
    network.reshape([1, *source.example.shape[1:]])
    network = quantize_openvino(network, source)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.xml"
        openvino.save_model(network, file, compress_to_fp16=False)
        return {"model": file.read_bytes(), "weights": file.with_suffix(".bin").read_bytes()}


def quantize_openvino(network: Any, source: Source) -> Any:
    """Quantizes a network for OpenVINO.

    Args:
        network: The network, as an `openvino.Model`, which changes.
        source: What it was exported from, with calibration images.

    Returns:
        The network in int8.
    """
    from openvino import passes

    # From ONNX, weights of depthwise convolutions come with a reshape that hides them from NNCF. They would be computed
    # in floating point, with a conversion before and after each.
    folding = passes.Manager()
    folding.register_pass(passes.ConstantFolding())
    folding.run_passes(network)
    return _quantize(network, source, lambda image: image)


def _runtime(name: str, plan: Plan) -> Runner:
    """Starts an engine that is a runtime of its own."""
    place = (plan.device.type, plan.device.index or 0)
    run_arrays = runners.RUNTIMES[name](plan.parts, plan.shape[1:], plan.precision, plan.threads, place)

    def run(x: Tensor) -> list[Tensor]:
        outputs = run_arrays(x.float().cpu().contiguous().numpy())
        return [torch.from_numpy(output).to(plan.device) for output in outputs]

    return run


def _dtype(precision: str) -> torch.dtype:
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


ENGINES = {
    "torch": Engine(start=_torch, precisions=("fp32", "bf16"), accelerated=("fp32", "fp16", "bf16")),
    "inductor": Engine(
        start=_inductor, precisions=("fp32", "bf16"), slow_to_compile=True, accelerated=("fp32", "fp16", "bf16")
    ),
    "onnxruntime": Engine(
        start=functools.partial(_runtime, "onnxruntime"),
        precisions=("fp32", "int8"),
        prepare=_for_onnxruntime,
        needs=("onnx", "onnxscript", "onnxruntime"),
        accelerated=("fp32",),
        device_types=("cuda",),
        reaches=runners.onnxruntime_has_cuda,
    ),
    "openvino": Engine(
        start=functools.partial(_runtime, "openvino"),
        precisions=("fp32", "bf16", "int8"),
        prepare=_for_openvino,
        needs=("onnx", "onnxscript", "openvino"),
        accelerated=("fp32", "fp16", "int8"),
        device_types=("xpu",),
        reaches=runners.openvino_has_gpu,
    ),
}
