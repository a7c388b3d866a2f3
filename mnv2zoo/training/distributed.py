"""What several processes do together: one acts for all, or each takes a part of a dataset."""

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
    """Does something in the main process alone; all processes get its result, or raise its error."""
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
    """An error as it was raised.

    PyTorch raises an error of a worker process anew, with the text of the whole traceback as its one argument.

    Args:
        error: The error.

    Returns:
        It; of one of a worker, the error that was raised there.
    """
    name = type(error).__name__
    traceback, mark, text = str(error.problem).rpartition(f".{name}: ")
    if not mark or not traceback.startswith(f"Caught {name} in "):
        return error
    problem, *lines = text.strip().splitlines()
    pairs = [re.match(r"\s+(expected|found|where|fix): (.*)", line) for line in lines]
    return type(error)(problem, **{pair[1]: pair[2] for pair in pairs if pair})


def synchronize_norms(model: nn.Module) -> None:
    """Lets batch norms in training mode share the statistics of all processes' batches.

    `timm.layers.convert_sync_batchnorm` puts other modules in their place, which modules that refer to them, such as
    those that stay frozen, would not know of. Here they stay, and so does the state dict.

    Args:
        model: The network, on a GPU. It is changed in place.
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
    """Runs a dataset through a network in evaluation mode.

    Args:
        accelerator: The device and the processes.
        task: The task.
        net: The network.
        loader: Batches, prepared by the accelerator.
        update: Takes the outputs and the targets of each batch, those of all processes, on the CPU and in the order of
            the dataset.
        advance: Takes the number of images that are done.
    """
    net.eval()
    with torch.inference_mode(), accelerator.autocast():
        for inputs, targets in loader:
            batch = task.condense(in_single_precision(net(channels_last(inputs))), targets)
            if task.gather_objects:
                # A list with an item per image, of which the images of the processes come one after the other.
                pairs = accelerator.gather_for_metrics(list(zip(*to_cpu(batch), strict=True)), use_gather_object=True)
                outputs, targets = map(list, zip(*pairs, strict=True))
                images = len(pairs)
            else:
                outputs, targets = accelerator.gather_for_metrics(batch)
                images = find_batch_size(targets) or len(targets)
            update(map_tensors(_own, outputs), map_tensors(_own, targets))
            advance(images)


def _own(tensor: Tensor) -> Tensor:
    """A tensor on the CPU in memory of this process.

    What a worker reads comes in shared memory, and each piece holds a file descriptor for as long as it is kept.
    """
    tensor = tensor.cpu()
    return tensor.clone() if tensor.is_shared() else tensor
