"""The engines that can run a model. Each one turns it into a function from images to a list of outputs.

All other runtimes load the model as ONNX, so there is a single export from PyTorch. The export takes seconds, and
quantization a minute. The results are bytes from which the runtime starts quickly, so they can be cached.
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

from mnv2zoo.deploy import graphs, integer_kernels
from mnv2zoo.deploy.calibration import Calibration
from mnv2zoo.deploy.depthwise import replace_depthwise
from mnv2zoo.errors import DeployError
from mnv2zoo.models.timm_compat import compile_any_number, inductor_settings, pytree
from mnv2zoo.runtimes import runners
from mnv2zoo.runtimes.runners import INPUT, Parts
from mnv2zoo.system import openmp, posix

Runner = Callable[[Tensor], list[Tensor]]
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """The model that all engines start from. No engine changes it.

    Attributes:
        model: The model with folded batch norms.
        example: Images (N, C, H, W).
        calibration: Calibration images for int8; None for other precisions.
    """

    model: nn.Module
    example: Tensor
    calibration: Calibration | None = None

    @functools.cached_property
    def onnx(self) -> bytes:
        """The model as ONNX, exported once for all engines."""
        return to_onnx(self.model, self.example)

    def own(self, precision: str) -> nn.Module:
        """A copy for one engine, in its precision and in channels-last format, which is fastest in PyTorch."""
        network = Flat(copy.deepcopy(self.model)).to(_dtype(precision))
        return network.to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Plan:
    """Everything that an engine needs to start, in this or another process.

    Attributes:
        network: The engine's own copy of the model, with flat outputs, if PyTorch runs it; None for other runtimes.
        parts: The bytes from which another runtime starts; empty if PyTorch runs the model.
        shape: Shape (N, C, H, W) of the example.
        precision: The precision.
        threads: Number of threads on the CPU.
        device: The device. `network` stays on the CPU, and each process moves a copy to the device.
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
        start: Turns a plan into a function.
        precisions: The precisions that it supports on the CPU.
        prepare: Turns the source and a precision into bytes that can be cached; None for an engine that starts from
            the PyTorch module itself.
        needs: Packages that it imports in addition to the project's dependencies.
        slow_to_compile: Whether it compiles for a minute before the first image.
        accelerated: The precisions that it supports on devices other than the CPU.
        device_types: The types of these devices; None for all types that PyTorch supports.
        reaches: Whether the installed packages support such a device.
        spins: Whether its threads wait in a busy loop after a call, which delays the threads of others.
    """

    start: Callable[[Plan], Runner]
    precisions: tuple[str, ...]
    prepare: Callable[[Source, str], Parts] | None = None
    needs: tuple[str, ...] = ()
    slow_to_compile: bool = False
    accelerated: tuple[str, ...] = ()
    device_types: tuple[str, ...] | None = None
    reaches: Callable[[], bool] = lambda: True
    spins: bool = True

    def packages(self, precision: str) -> tuple[str, ...]:
        """The packages that it imports for a precision, with NNCF for int8."""
        return (*self.needs, "nncf") if precision == "int8" else self.needs

    def knows(self, device: torch.device) -> bool:
        """Whether it supports devices of this type, given the right packages."""
        return device.type == "cpu" or self.device_types is None or device.type in self.device_types

    def precisions_on(self, device: torch.device) -> tuple[str, ...]:
        """The precisions that it supports on a device."""
        if device.type == "cpu":
            return self.precisions
        return self.accelerated if self.knows(device) else ()

    def has(self, device: torch.device) -> bool:
        """Whether its installed packages support a device."""
        return self.knows(device) and (device.type == "cpu" or self.reaches())


class Flat(nn.Module):
    """A model with its outputs flattened into a tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps images (N, C, H, W) to the outputs."""
        return tuple(pytree.tree_leaves(self.model(x)))


def any_batch(example: Tensor) -> dict[str, Any]:
    """The arguments for an export of a `Flat` model that supports batches of any size."""
    two = example[:1].repeat(2, 1, 1, 1)  # an export with a batch of one would only support one image
    return {"args": (two,), "dynamic_shapes": {"x": {0: torch.export.Dim("batch")}}}


def to_onnx(model: nn.Module, example: Tensor) -> bytes:
    """Exports a model as ONNX for batches of any size.

    Args:
        model: The model in evaluation mode.
        example: Images (N, C, H, W).

    Returns:
        The bytes of the file. Its input is `images`, and its outputs are `output_0` and so on.
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
    assert program is not None  # only None when writing to a file
    return program.model_proto.SerializeToString()


@contextlib.contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Sets PyTorch's number of threads within the `with` statement."""
    before = torch.get_num_threads()
    if number == before:  # setting it would start a thread pool that PyTorch cannot end in a forked process
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
    """Runs a computation with PyTorch so that it also works in a forked process.

    OpenMP has a team of threads for each computing thread. In a forked process, the main thread's team is a copy
    without threads, and waiting for it would never end. Any other thread starts its own team.

    Args:
        compute: The computation.

    Returns:
        Its result.
    """
    return _other_thread().submit(compute).result() if _has_dead_team() else compute()


def _has_dead_team() -> bool:
    """Whether the calling thread's OpenMP team is a copy without threads."""
    return _forked and threading.current_thread() is threading.main_thread()


def _part(plan: Plan) -> int:
    """The number of images per forward pass in PyTorch. Larger batches are split.

    The largest feature maps of four images of 224 pixels take 19 MB. From 32 MB on, glibc gets memory from the system
    and returns it at every step (M_MMAP_THRESHOLD in mallopt(3)), which takes as long as the computation.
    """
    height, width = plan.shape[2:]
    return max(plan.threads, 4 * 224 * 224 // (height * width))


def _torch(plan: Plan) -> Runner:
    if plan.device.type != "cpu":
        network = _moved(plan)  # first, because it explains why a forked process cannot use a device
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
            # All parts have the compiled size, because compiling for another size would take another minute.
            images = x.to(memory_format=torch.channels_last, dtype=dtype)
            return graphs.in_parts(run_part, part, images)

    return run


# Settings of `torch._inductor.config`. 1x1 convolutions become matrix multiplications, into which Inductor fuses the
# operations after them. `max_autotune` times several kernels for each. `realize_reads_threshold` materializes maps that
# several taps of a depthwise convolution read. Otherwise each tap would recompute the activation before it, which takes
# longer than the memory access. `graphs.py` records the graphs, because those of `torch.compile` belong to one thread.
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
    """A copy of the plan's model on its device."""
    assert plan.network is not None
    with usable(plan.device):
        return copy.deepcopy(plan.network).to(plan.device)


@contextlib.contextmanager
def usable(device: torch.device) -> Iterator[None]:
    """Explains errors of a device in a process that was forked after its parent had used the device.

    Raises:
        DeployError: If that is the reason for an error in PyTorch.
    """
    try:
        yield
    except RuntimeError as error:
        if not _forked or isinstance(error, DeployError):
            raise
        raise DeployError(
            f"a forked process cannot use {device}, because its parent has used it",
            expected="a process that was started with spawn or forkserver",
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
    """Quantizes a model for ONNX Runtime.

    Args:
        document: The model as an `onnx.ModelProto` whose input is `images`.
        source: The source of the export, with calibration images.

    Returns:
        The model in int8 as an `onnx.ModelProto`.
    """
    runners.import_onnxruntime()  # NNCF imports it too
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters

    # By default, NNCF uses a separate range for each channel before a depthwise convolution, for which ONNX Runtime has
    # no integer kernel. With the conversions to and from floating point, inference would be twice as slow as in fp32.
    whole = AdvancedQuantizationParameters(activations_quantization_params=QuantizationParameters(per_channel=False))
    quantized = _quantize(document, source, lambda image: {INPUT: image}, whole)
    integer_kernels.make_maps_unsigned(quantized)
    return quantized


def _quantize(network: Any, source: Source, feed: Callable[[Any], Any], advanced: Any = None) -> Any:
    """Quantizes an ONNX or OpenVINO model with NNCF (post-training quantization)."""
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
    """Quantizes a model for OpenVINO.

    Args:
        network: The model as an `openvino.Model`, which is changed in place.
        source: The source of the export, with calibration images.

    Returns:
        The model in int8.
    """
    from openvino import passes

    # In a model from ONNX, a reshape hides the weights of depthwise convolutions from NNCF. Without folding it, they
    # would run in floating point, with conversions before and after.
    folding = passes.Manager()
    folding.register_pass(passes.ConstantFolding())
    folding.run_passes(network)
    return _quantize(network, source, lambda image: image)


def _runtime(name: str, plan: Plan) -> Runner:
    """Starts an engine with its own runtime."""
    place = (plan.device.type, plan.device.index or 0)
    run_arrays = runners.RUNTIMES[name](plan.parts, plan.shape[1:], plan.precision, plan.threads, place)

    # Where the runtime's own threads spin too, they would delay the start of new OpenMP threads for longer.
    releases = not ENGINES[name].spins and plan.device.type == "cpu" and plan.threads > 1

    def run(x: Tensor) -> list[Tensor]:
        images = x.float().cpu().contiguous().numpy()
        if releases and not _has_dead_team():
            openmp.release_threads()
        outputs = run_arrays(images)
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
        spins=False,
    ),
}
