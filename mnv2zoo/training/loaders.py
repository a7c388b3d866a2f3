"""Data loaders and their worker processes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from mnv2zoo.data.sampler import Batches
from mnv2zoo.models import pretrained
from mnv2zoo.system import posix, processes
from mnv2zoo.training import accelerate_settings

# Modules that the fork server imports once, before workers fork from it.
_PRELOADED = ("mnv2zoo.data.datasets", "mnv2zoo.tasks")


def start_method(device: torch.device) -> str:
    """Chooses how workers start. They fork only if neither this run nor an earlier one in the process uses a GPU.

    Args:
        device: The training device.

    Returns:
        `fork`, `forkserver` or `spawn`.
    """
    return processes.start_method(may_fork=device.type == "cpu" and not _is_initialized())


def train_loader(
    dataset: Dataset[Any], batches: Batches, collate: Any, workers: int, device: torch.device, pins: bool
) -> DataLoader[Any]:
    """Creates the data loader for training.

    Args:
        dataset: Images or features.
        batches: The batch sampler.
        collate: Combines samples into a batch; None for PyTorch's default.
        workers: Number of worker processes.
        device: The training device.
        pins: Whether to use pinned memory, if the device supports it.

    Returns:
        The loader. Its workers persist over epochs.
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
    """Creates a data loader for evaluation, in the order of the dataset.

    Args:
        dataset: Images or features.
        batch_size: Samples per batch.
        collate: Combines samples into a batch; None for PyTorch's default.
        workers: Number of worker processes.
        device: The training device.
        repeated: Whether the loader is used once per epoch. Workers that are slow to start then persist.

    Returns:
        The loader.
    """
    own = _processes(workers, device)
    stays = repeated and own.get("multiprocessing_context", "fork") != "fork"
    return DataLoader(dataset, batch_size, collate_fn=collate, persistent_workers=stays, **own)


def _processes(workers: int, device: torch.device) -> dict[str, Any]:
    """The worker arguments of a data loader."""
    if not workers:
        return {"num_workers": 0}
    method = start_method(device)
    if method == "forkserver":
        processes.preload(_PRELOADED)
    begin = partial(_begin, gives_way=device.type == "cpu")
    return {"num_workers": workers, "multiprocessing_context": method, "worker_init_fn": begin}


def _begin(worker: int, gives_way: bool) -> None:
    """Initializes a worker process.

    When training on the CPU, workers get a lower priority. The threads of a training step synchronize often, so
    interrupting one of them would delay all.
    """
    processes.end_with_parent()
    if gives_way:
        posix.give_way()


def _is_initialized() -> bool:
    """Whether this process has used an accelerator."""
    kind = pretrained.accelerator()
    return kind is not None and bool(getattr(torch.get_device_module(kind), "is_initialized", lambda: True)())
