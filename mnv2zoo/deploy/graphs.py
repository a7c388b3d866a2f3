"""How PyTorch runs a network on an accelerator.

A small network is about a hundred kernels. A GPU computes each of them in a few microseconds, but Python needs longer
to launch it. A CUDA graph records the kernels once and launches all of them together.

A graph reads and writes fixed addresses, so each batch size has a graph of its own, with its own input and outputs.
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

GRAPHS = 8  # batch sizes that get a graph; each holds memory for its outputs
WARM_UPS = 3  # runs before a graph is recorded, in which libraries choose algorithms and allocate workspaces

_recording = threading.Lock()  # PyTorch records one graph at a time


class Recorder(Protocol):
    """Records computations on a device."""

    def record(self, compute: Compute, images: Tensor) -> tuple[Sequence[Tensor], Callable[[], object]]:
        """Records a computation.

        Args:
            compute: The computation.
            images: Its input, whose address the recording keeps.

        Returns:
            The outputs, and a function that computes them again, in place, from what the images hold then.
        """

    def wait(self) -> None:
        """Makes the device finish the calls before this one first, whichever stream they were on."""


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
            compute(images)  # which compiles it, for a minute, where it is to be compiled
            with _recording:
                return self._recorded(graph, compute, images), graph.replay

    def _recorded(self, graph: Any, compute: Compute, images: Tensor) -> Sequence[Tensor]:
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            for _ in range(WARM_UPS):
                compute(images)
        # Other threads may allocate memory meanwhile, which the default mode would forbid them.
        with torch.cuda.graph(graph, self._pool, self._side, capture_error_mode="thread_local"):
            outputs = compute(images)
        torch.cuda.current_stream().wait_stream(self._side)
        return outputs

    def wait(self) -> None:
        """Makes this thread's stream wait for the stream of the call before; see `Recorder`."""
        stream = torch.cuda.current_stream(self._device)
        if self._last is not None and self._last != stream:
            stream.wait_stream(self._last)
        self._last = stream


@contextlib.contextmanager
def fastest_convolutions() -> Iterator[None]:
    """Lets cuDNN time its algorithms for each new shape, and take the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class Recorded:
    """A network for batches of one size, recorded once.

    Args:
        network: The network.
        images: Images of that size, on the device. Each call overwrites them.
        recorder: Records the network.
    """

    def __init__(self, network: Compute, images: Tensor, recorder: Recorder) -> None:
        self._images, self._recorder = images, recorder
        self._outputs, self._replay = recorder.record(network, images)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Runs images (N, C, H, W). The outputs belong to the caller: no later call overwrites them."""
        self._recorder.wait()
        self._images.copy_(x)
        self._replay()
        return [output.clone() for output in self._outputs]


class BySize:
    """Runs batches of any size, one after another; the first few sizes each by a function of their own.

    Args:
        make: From a batch size to the function for it.
        otherwise: Runs batches of further sizes.
        most: How many sizes get a function of their own.
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
    """Makes a function that runs a network on a device, and that several threads may call at once.

    Args:
        network: The network, on the device.
        shape: Channels, height and width of its images.
        dtype: The type of its images.
        device: The device.
        recorder: Records graphs; None for a device without graphs.
        most: How many batch sizes get a graph. Others run without one.

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
        # What is made in inference mode cannot be overwritten outside of it, and a later call may come from outside.
        with torch.inference_mode(False), torch.no_grad():
            return by_size(x.to(device))

    return run


def recorder_for(device: torch.device) -> Recorder | None:
    """The recorder of a device's graphs; None for a device without graphs."""
    return CudaGraphs(device) if device.type == "cuda" else None


def in_parts(run: Compute, size: int, x: Tensor) -> list[Tensor]:
    """Runs images in batches of one size, the last of which is filled up with zeros.

    Args:
        run: Runs a batch of that size.
        size: The size.
        x: Images (N, C, H, W).

    Returns:
        The outputs for the N images.
    """
    if len(x) == size:
        return list(run(x))
    whole = functional.pad(x, (0, 0, 0, 0, 0, 0, 0, -len(x) % size))
    return [torch.cat(outputs)[: len(x)] for outputs in zip(*map(run, whole.split(size)), strict=True)]
