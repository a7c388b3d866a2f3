"""Starts runtimes that need no PyTorch. Each one turns the bytes of a model into a function of NumPy arrays."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mnv2zoo.errors import DeployError
from mnv2zoo.system import posix

Array = NDArray[np.float32]
Runner = Callable[[Array], list[Array]]
Parts = Mapping[str, bytes]
Place = tuple[str, int]  # the type of a device, with PyTorch's name, and its number
T = TypeVar("T")

INPUT = "images"  # name of a model's input
CALIBRATED = 300  # maximum number of calibration images for int8, which is NNCF's default
CPU: Place = ("cpu", 0)
# Maximum error of an engine's outputs, relative to the norm of the model's outputs.
TOLERANCE = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.1, "int8": 0.4}


def require_near(engine: str, precision: str, error: float, accelerated: bool = False) -> None:
    """Rejects an engine whose outputs differ from the model's by more than the precision explains.

    Args:
        engine: The name of the engine.
        precision: Its precision.
        error: The error of its outputs, relative to the norm of the model's outputs.
        accelerated: Whether it runs on a device other than the CPU. In fp32, a GPU may multiply in TF32, whose mantissa
            has 10 bits, like that of fp16.

    Raises:
        DeployError: If the error exceeds the tolerance of the precision, or is NaN.
    """
    bound = TOLERANCE["fp16" if accelerated and precision == "fp32" else precision]
    if not error <= bound:  # a comparison with NaN is false
        raise DeployError(
            f"the outputs of {engine} differ from the model's",
            expected=f"a relative error of at most {bound:.1%} in {precision}",
            found=f"{error:.2%}",
            fix="Use precision fp32." if precision != "fp32" else "Use another engine, and report this as a bug.",
        )


def cores() -> int:
    """Returns the default number of threads: `OMP_NUM_THREADS`, as in PyTorch, or the number of available cores."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # of a list, the first
    if asked.isdecimal() and int(asked):
        return int(asked)
    return posix.cores()


class PerProcess(Generic[T]):
    """A function that each process starts at its first call.

    A fork copies a runtime's memory but not its threads. The copy would wait for them forever when it runs or is
    destroyed. A forked process therefore keeps its copy unused and starts a new one. A process that unpickles the
    function starts a new one too.

    Args:
        start: Creates the function. It must be picklable if this object is to be pickled.
    """

    _started: ClassVar[weakref.WeakSet[PerProcess[Any]]] = weakref.WeakSet()
    _starting: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, start: Callable[[], Callable[[T], list[T]]]) -> None:
        self._start = start
        self._run: Callable[[T], list[T]] | None = None

    def __call__(self, images: T) -> list[T]:
        """Runs the function of this process, and starts it first if needed."""
        run = self._run
        if run is None:
            with PerProcess._starting:
                run = self._run = self._run or self._start()
                PerProcess._started.add(self)
        return run(images)

    def __getstate__(self) -> dict[str, Any]:
        return {"_start": self._start, "_run": None}

    @staticmethod
    def _forget() -> None:
        PerProcess._starting = threading.Lock()  # another thread of the parent may have held it
        for runner in list(PerProcess._started):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(runner._run))  # so that it is never destroyed
            runner._run = None
        PerProcess._started = weakref.WeakSet()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=PerProcess._forget)


def import_onnxruntime() -> Any:
    """Imports ONNX Runtime without its telemetry, whose thread keeps a forked process from ending."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at import
    import onnxruntime

    return onnxruntime


CUDA_PROVIDER = "CUDAExecutionProvider"


def onnxruntime_has_cuda() -> bool:
    """Whether the installed ONNX Runtime was built for CUDA."""
    return CUDA_PROVIDER in import_onnxruntime().get_available_providers()


def openvino_has_gpu() -> bool:
    """Whether OpenVINO finds an Intel GPU."""
    import openvino

    return any(name.startswith("GPU") for name in openvino.Core().available_devices)


def onnxruntime(parts: Parts, shape: Sequence[int], precision: str, threads: int, place: Place = CPU) -> Runner:
    """Starts ONNX Runtime. It has not been tested on a GPU.

    Args:
        parts: An ONNX file as `model`.
        shape: Channels, height and width of the images.
        precision: The precision, which the file determines.
        threads: Number of threads.
        place: The device.

    Returns:
        A function from images (N, C, H, W) to the outputs.

    Raises:
        DeployError: If ONNX Runtime cannot use the GPU.
    """
    runtime = import_onnxruntime()
    if place[0] != "cpu":
        return _onnxruntime_on_gpu(runtime, parts, place[1])

    @functools.cache
    def session(cores: int) -> Any:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = cores
        options.log_severity_level = 3
        return runtime.InferenceSession(parts["model"], options, providers=["CPUExecutionProvider"])

    def run(images: Array) -> list[Array]:
        if len(images) < threads:
            return session(threads).run(None, {INPUT: images})
        # One core per image is faster than all cores on each.
        rows = [{INPUT: images[place : place + 1]} for place in range(len(images))]
        with ThreadPoolExecutor(threads) as pool:
            return _gathered(len(images), pool.map(functools.partial(session(1).run, None), rows))

    return run


def _gathered(count: int, found: Iterable[Sequence[Array]]) -> list[Array]:
    """Copies the outputs of single images (1, ...) as they come into one array (count, ...) per output."""
    # The maps of a segmenter take 9 MB per image. Holding all of them before they are joined would take twice the
    # memory, and new memory is slow.
    whole: list[Array] = []
    for place, outputs in enumerate(found):
        whole = whole or [np.empty((count, *output.shape[1:]), output.dtype) for output in outputs]
        for rows, output in zip(whole, outputs, strict=True):
            rows[place] = output[0]
    return whole


def _onnxruntime_on_gpu(runtime: Any, parts: Parts, number: int) -> Runner:
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    providers = [(CUDA_PROVIDER, {"device_id": number}), "CPUExecutionProvider"]
    session = runtime.InferenceSession(parts["model"], options, providers=providers)
    if session.get_providers()[0] != CUDA_PROVIDER:  # it falls back to the CPU if CUDA's libraries are missing
        raise DeployError(
            "ONNX Runtime cannot use the GPU",
            expected=CUDA_PROVIDER,
            found=", ".join(session.get_providers()),
            where="device",
            fix="Install the CUDA and cuDNN libraries that your onnxruntime-gpu needs.",
        )
    return lambda images: list(session.run(None, {INPUT: images}))


def openvino_compiler(
    parts: Parts, shape: Sequence[int], precision: str, threads: int, place: Place = CPU
) -> Callable[..., Any]:
    """Reads a model for OpenVINO.

    Args:
        parts: As for `openvino`.
        shape: Channels, height and width of the images.
        precision: As for `openvino`.
        threads: Number of threads.
        place: The device.

    Returns:
        A function that compiles the model for one image at a time. It takes further OpenVINO settings as keyword
        arguments.
    """
    import openvino

    core = openvino.Core()
    network = core.read_model(parts["model"], parts.get("weights", b""))
    network.reshape([1, *shape])  # kernels for one known size are faster
    device, settings = "CPU", {"INFERENCE_NUM_THREADS": threads}
    rest = "f32" if precision == "fp32" else "bf16"
    if place[0] != "cpu":
        device, settings, rest = f"GPU.{place[1]}", {}, "f32" if precision == "fp32" else "f16"

    def compiled(**more: Any) -> Any:
        with posix.preserved_signal_stack():
            return core.compile_model(network, device, {**settings, "INFERENCE_PRECISION_HINT": rest, **more})

    return compiled


def openvino(parts: Parts, shape: Sequence[int], precision: str, threads: int, place: Place = CPU) -> Runner:
    """Starts OpenVINO. It has not been tested on a GPU.

    Args:
        parts: An ONNX file as `model`, or an OpenVINO file as `model` with its `weights`.
        shape: Channels, height and width of the images.
        precision: `fp32`, `bf16`, `fp16` or `int8`. Unless it is `fp32`, layers that are not quantized run in bf16 if
            the processor supports it, or in fp16 on a GPU.
        threads: Number of threads.
        place: The device.

    Returns:
        A function from images (N, C, H, W) to the outputs.
    """
    compiled = openvino_compiler(parts, shape, precision, threads, place)

    @functools.cache
    def single() -> Any:
        return compiled(PERFORMANCE_HINT="LATENCY")

    @functools.cache
    def several() -> list[Any]:
        model = compiled(PERFORMANCE_HINT="THROUGHPUT")
        # Twice as many requests as run at the same time, so that no core waits for this thread.
        number = 2 * model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        return [model.create_infer_request() for _ in range(number)]

    def each(images: Array) -> Iterator[list[Array]]:
        """Yields the outputs of each image, which are valid until the next one."""
        # One core per image is faster than all cores on each. Requests take turns, because in an AsyncInferQueue,
        # OpenVINO's threads call Python and can deadlock: they wait for its lock, whose holder waits for them.
        requests = several()
        # Each request takes its next image after its previous outputs were read.
        for place in range(len(images) + len(requests)):
            request = requests[place % len(requests)]
            if 0 <= place - len(requests) < len(images):
                request.wait()
                yield [tensor.data for tensor in request.output_tensors]
            if place < len(images):
                # The images are shared, not copied. The request keeps them alive.
                request.start_async({INPUT: images[place : place + 1]}, share_inputs=True)

    one_caller = threading.Lock()  # a request runs for one caller at a time

    def run(images: Array) -> list[Array]:
        with one_caller:
            if len(images) == 1:
                return [output.copy() for output in single()(images).values()]
            return _gathered(len(images), each(images))

    return run


RUNTIMES: Mapping[str, Callable[..., Runner]] = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}
