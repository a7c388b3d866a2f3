"""Loaders of batches, and the worker processes that read images ahead for them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from mnv2zoo.data.sampler import Batches
from mnv2zoo.models import pretrained
from mnv2zoo.system import posix, processes
from mnv2zoo.training import accelerate_settings

# What a server imports once, before workers fork from it.
_PRELOADED = ("mnv2zoo.data.datasets", "mnv2zoo.tasks")


def start_method(device: torch.device) -> str:
    """Chooses how workers start: forked only if neither this training nor an earlier one uses a GPU.

    Args:
        device: The device of the training.

    Returns:
        `fork`, `forkserver` or `spawn`.
    """
    return processes.start_method(may_fork=device.type == "cpu" and not _is_initialized())


def train_loader(
    dataset: Dataset[Any], batches: Batches, collate: Any, workers: int, device: torch.device, pins: bool
) -> DataLoader[Any]:
    """Batches to train on.

    Args:
        dataset: Images or features.
        batches: Which of them belong to each batch.
        collate: Makes a batch of samples; None for PyTorch's own function.
        workers: Processes that read ahead.
        device: The device of the training.
        pins: Whether batches are to come in pinned memory, if the device has any.

    Returns:
        The loader, whose workers stay from epoch to epoch.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        persistent_workers=workers > 0,
        pin_memory=pins and accelerate_settings.pins(device),
        **_processes(workers, device),
    )


def eval_loader(
    dataset: Dataset[Any], batch_size: int, collate: Any, workers: int, device: torch.device, repeated: bool = False
) -> DataLoader[Any]:
    """Batches to evaluate on, in the order of the dataset.

    Args:
        dataset: Images or features.
        batch_size: Samples in a batch.
        collate: Makes a batch of samples; None for PyTorch's own function.
        workers: Processes that read ahead.
        device: The device of the training.
        repeated: Whether they are read once per epoch. Workers that are slow to start then stay.

    Returns:
        The loader.
    """
    own = _processes(workers, device)
    stays = repeated and own.get("multiprocessing_context", "fork") != "fork"
    return DataLoader(dataset, batch_size, collate_fn=collate, persistent_workers=stays, **own)


def _processes(workers: int, device: torch.device) -> dict[str, Any]:
    """The arguments of a loader that are about its workers."""
    if not workers:
        return {"num_workers": 0}
    method = start_method(device)
    if method == "forkserver":
        processes.preload(_PRELOADED)
    begin = partial(_begin, gives_way=device.type == "cpu")
    return {"num_workers": workers, "multiprocessing_context": method, "worker_init_fn": begin}


def _begin(worker: int, gives_way: bool) -> None:
    """Prepares a worker process.

    On the CPU it runs in what the training leaves of the processor: a step's threads wait for each other many times, so
    one that is interrupted keeps all waiting.
    """
    processes.end_with_parent()
    if gives_way:
        posix.give_way()


def _is_initialized() -> bool:
    """Whether this process has used an accelerator."""
    kind = pretrained.accelerator()
    return kind is not None and bool(getattr(torch.get_device_module(kind), "is_initialized", lambda: True)())
