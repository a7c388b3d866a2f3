"""Runs a model in PyTorch on an accelerator, with CUDA graphs.

A small model is about a hundred kernels. A GPU runs each of them in a few microseconds, but Python needs longer to
launch it. A CUDA graph records the kernels once and launches them together.

A graph reads and writes fixed addresses, so each batch size needs its own graph, input and outputs.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

Compute = Callable[[Tensor], Sequence[Tensor]]

GRAPHS = 8  # number of batch sizes with a graph; each uses memory for its outputs
WARM_UPS = 3  # runs before recording a graph, in which libraries choose algorithms and allocate workspaces

_recording = threading.Lock()  # PyTorch records one graph at a time


class Recorder(Protocol):
    """Records computations on a device."""

    def record(self, compute: Compute, images: Tensor) -> tuple[Sequence[Tensor], Callable[[], object]]:
        """Records a computation.

        Args:
            compute: The computation.
            images: Its input. The recording reads from its address.

        Returns:
            The outputs, and a function that recomputes them in place from the current content of `images`.
        """

    def wait(self) -> None:
        """Makes the device finish earlier calls first, whatever stream they use."""


class CudaGraphs:
    """Records CUDA graphs, which share their memory and so run one after another.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._side: Any = torch.cuda.Stream(device)
        self._last: Any = None

    def record(self, compute: Compute, images: Tensor) -> tuple[Sequence[Tensor], Callable[[], object]]:
        """Records a computation; see `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), fastest_convolutions():
            compute(images)  # compiles the computation if needed, which takes about a minute
            with _recording:
                return self._recorded(graph, compute, images), graph.replay

    def _recorded(self, graph: Any, compute: Compute, images: Tensor) -> Sequence[Tensor]:
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            for _ in range(WARM_UPS):
                compute(images)
        # Allow other threads to allocate memory during the capture, which the default mode forbids.
        with torch.cuda.graph(graph, self._pool, self._side, capture_error_mode="thread_local"):
            outputs = compute(images)
        torch.cuda.current_stream().wait_stream(self._side)
        return outputs

    def wait(self) -> None:
        """Makes this thread's stream wait for the stream of the previous call; see `Recorder`."""
        stream = torch.cuda.current_stream(self._device)
        if self._last is not None and self._last != stream:
            stream.wait_stream(self._last)
        self._last = stream


@contextlib.contextmanager
def fastest_convolutions() -> Iterator[None]:
    """Lets cuDNN benchmark its algorithms for each new shape, and use the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class Recorded:
    """A model recorded for one batch size.

    Args:
        network: The model.
        images: Images of that batch size on the device. Each call overwrites them.
        recorder: Records the model.
    """

    def __init__(self, network: Compute, images: Tensor, recorder: Recorder) -> None:
        self._images, self._recorder = images, recorder
        self._outputs, self._replay = recorder.record(network, images)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Runs images (N, C, H, W). The outputs are copies, so later calls do not overwrite them."""
        self._recorder.wait()
        self._images.copy_(x)
        self._replay()
        return [output.clone() for output in self._outputs]


class BySize:
    """Runs batches of any size, one at a time. The first few batch sizes each get their own function.

    Args:
        make: Creates the function for a batch size.
        otherwise: Runs batches of other sizes.
        most: Maximum number of batch sizes with their own function.
    """

    def __init__(self, make: Callable[[int], Compute], otherwise: Compute, most: int) -> None:
        self._make, self._otherwise, self._most = make, otherwise, most
        self._own: dict[int, Compute] = {}
        self._one_caller = threading.Lock()

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Runs images (N, C, H, W)."""
        with self._one_caller:
            if len(x) not in self._own and len(self._own) < self._most:
                self._own[len(x)] = self._make(len(x))
            return list(self._own.get(len(x), self._otherwise)(x))


def runner(
    network: Compute,
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    recorder: Recorder | None = None,
    most: int = GRAPHS,
) -> Callable[[Tensor], list[Tensor]]:
    """Creates a thread-safe function that runs a model on a device.

    Args:
        network: The model on the device.
        shape: Channels, height and width of its inputs.
        dtype: The data type of its inputs.
        device: The device.
        recorder: Records graphs; None for a device without graphs.
        most: Maximum number of batch sizes with a graph. Others run without one.

    Returns:
        A function from images (N, C, H, W) of any floating-point type, on the device or the CPU, to outputs in single
        precision on the device.
    """

    def compute(images: Tensor) -> list[Tensor]:
        return [output.float() for output in network(images)]

    def without_graph(x: Tensor) -> list[Tensor]:
        return compute(x.to(dtype=dtype, memory_format=torch.channels_last))

    def with_graph(size: int) -> Compute:
        assert recorder is not None  # without one, no size gets a graph
        images = torch.zeros((size, *shape), dtype=dtype, device=device)
        return Recorded(compute, images.contiguous(memory_format=torch.channels_last), recorder)

    by_size = BySize(with_graph, without_graph, most if recorder else 0)

    def run(x: Tensor) -> list[Tensor]:
        # Tensors from inference mode cannot be overwritten outside of it, and a later call may come from outside.
        with torch.inference_mode(False), torch.no_grad():
            return by_size(x.to(device))

    return run


def recorder_for(device: torch.device) -> Recorder | None:
    """The recorder of a device's graphs; None for a device without graphs."""
    return CudaGraphs(device) if device.type == "cuda" else None


def in_parts(run: Compute, size: int, x: Tensor) -> list[Tensor]:
    """Runs images in batches of a fixed size. The last batch is padded with zeros.

    Args:
        run: Runs a batch of that size.
        size: The batch size.
        x: Images (N, C, H, W).

    Returns:
        The outputs for the N images.
    """
    if len(x) == size:
        return list(run(x))
    whole = functional.pad(x, (0, 0, 0, 0, 0, 0, 0, -len(x) % size))
    return [torch.cat(outputs)[: len(x)] for outputs in zip(*map(run, whole.split(size)), strict=True)]
