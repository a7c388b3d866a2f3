"""Helpers for training with several processes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, find_batch_size
from timm.layers import BatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn

from mnv2zoo.errors import ZooError
from mnv2zoo.tasks import Task
from mnv2zoo.tasks.tensors import channels_last, in_single_precision, map_tensors, to_cpu

T = TypeVar("T")


def on_main(accelerator: Accelerator, action: Callable[[], T]) -> T:
    """Runs a function in the main process only. All processes return its result or raise its error."""
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = action()
        except Exception as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def of_worker(error: ZooError) -> ZooError:
    """Recovers the original error of a worker process.

    PyTorch re-raises an error of a worker process with the text of the whole traceback as its only argument.

    Args:
        error: The error.

    Returns:
        The error as the worker raised it. Other errors are returned unchanged.
    """
    name = type(error).__name__
    traceback, mark, text = str(error.problem).rpartition(f".{name}: ")
    if not mark or not traceback.startswith(f"Caught {name} in "):
        return error
    problem, *lines = text.strip().splitlines()
    pairs = [re.match(r"\s+(expected|found|where|fix): (.*)", line) for line in lines]
    return type(error)(problem, **{pair[1]: pair[2] for pair in pairs if pair})


def synchronize_norms(model: nn.Module) -> None:
    """Synchronizes the batch statistics of batch norms over all processes.

    `timm.layers.convert_sync_batchnorm` creates new modules, so existing references to the old ones, such as the list
    of frozen modules, would be outdated. This function keeps the modules and the state dict.

    Args:
        model: The model on a GPU. It is changed in place.
    """
    for module in model.modules():
        kind = _SYNCHRONIZED.get(type(module))
        if kind is not None:
            module.__class__ = kind
            module.process_group = None  # type: ignore[assignment]  # all processes


_SYNCHRONIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: nn.SyncBatchNorm,
    nn.BatchNorm2d: nn.SyncBatchNorm,
    BatchNormAct2d: SyncBatchNormAct,
}


def run_network(
    accelerator: Accelerator,
    task: Task,
    net: nn.Module,
    loader: Any,
    update: Callable[[Any, Any], Any],
    advance: Callable[[int], None] = lambda images: None,
) -> None:
    """Runs a model in evaluation mode on a dataset.

    Args:
        accelerator: The device and the processes.
        task: The task.
        net: The model.
        loader: A data loader, prepared by the accelerator.
        update: Called with the outputs and targets of each batch from all processes, on the CPU and in the order of
            the dataset.
        advance: Called with the number of images of each batch.
    """
    net.eval()
    with torch.inference_mode(), accelerator.autocast():
        for inputs, targets in loader:
            batch = task.condense(in_single_precision(net(channels_last(inputs))), targets)
            if task.gather_objects:
                # A list with one item per image, first the images of the first process, then those of the next.
                pairs = accelerator.gather_for_metrics(list(zip(*to_cpu(batch), strict=True)), use_gather_object=True)
                outputs, targets = map(list, zip(*pairs, strict=True))
                images = len(pairs)
            else:
                outputs, targets = accelerator.gather_for_metrics(batch)
                images = find_batch_size(targets) or len(targets)
            update(map_tensors(_own, outputs), map_tensors(_own, targets))
            advance(images)


def _own(tensor: Tensor) -> Tensor:
    """Copies a tensor to CPU memory of this process.

    Workers send tensors in shared memory, and each of them would keep a file descriptor open.
    """
    tensor = tensor.cpu()
    return tensor.clone() if tensor.is_shared() else tensor
