"""What several processes do together: one acts for all, or each takes a part of a dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mnv2zoo import system
from mnv2zoo.training.recipe import Recipe

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


def give_way(worker: int) -> None:
    """Lets a process that reads images ahead run in what the training leaves of the processor.

    A step's threads wait for each other many times; one that is interrupted keeps all waiting.
    """
    system.give_way()


def test_loader(dataset: Dataset[Any], recipe: Recipe, workers: int) -> DataLoader[Any]:
    """Batches in the order of the dataset."""
    return DataLoader(dataset, recipe.batch_size, num_workers=workers)


def predict(
    accelerator: Accelerator, net: nn.Module, loader: Any, advance: Callable[[int], None] = lambda images: None
) -> tuple[Tensor, Tensor]:
    """Runs a dataset through a network in evaluation mode.

    Returns:
        The network's outputs (N, ...) and the targets (N,), on the CPU, in the order of the dataset.
    """
    net.eval()
    outputs, targets = [], []
    with torch.inference_mode(), accelerator.autocast():
        for images, labels in loader:
            if images.ndim == 4:
                images = images.contiguous(memory_format=torch.channels_last)
            output, label = accelerator.gather_for_metrics((net(images).float(), labels))
            outputs.append(output.cpu())
            targets.append(label.cpu())
            advance(len(label))
    return torch.cat(outputs), torch.cat(targets)
