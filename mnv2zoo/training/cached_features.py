"""Caches the features of the frozen backbone, to train the head alone."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from mnv2zoo.tasks import Task
from mnv2zoo.tasks.recipe import Recipe
from mnv2zoo.tasks.tensors import map_tensors, to_device
from mnv2zoo.training.distributed import run_network
from mnv2zoo.training.loaders import eval_loader
from mnv2zoo.training.progress import Log


def cache_features(
    accelerator: Accelerator, task: Task, backbone: nn.Module, photos: Dataset[Any], recipe: Recipe, log: Log
) -> Features:
    """Computes the features of every image once, without augmentation.

    Args:
        accelerator: The device and the processes.
        task: The task.
        backbone: The part of the model before the head.
        photos: The images and their targets.
        recipe: The recipe.
        log: The log.

    Returns:
        The features and the targets, on the device.
    """
    loader = accelerator.prepare(
        eval_loader(photos, recipe.batch_size, task.collate, recipe.workers, accelerator.device)
    )
    batches: list[tuple[Tensor, Any]] = []
    with log.stage("computing features", len(photos)) as stage:  # type: ignore[arg-type]
        run_network(accelerator, task, backbone, loader, lambda *batch: batches.append(batch), stage.advance)
    return Features(batches, accelerator.device)


class Features(Dataset[tuple[Tensor, Any]]):
    """A dataset of cached features. It accepts the keys of `Batches`, and ignores their seeds.

    Args:
        batches: Features (N, ...) and targets, in which every tensor has N rows.
        device: The device to store them on.
    """

    def __init__(self, batches: list[tuple[Tensor, Any]], device: torch.device | str = "cpu") -> None:
        rows = [row for features, own in batches for row in _rows(own, len(features))]
        self.features = torch.cat([features for features, _ in batches]).to(device)
        self.targets = to_device(default_collate(rows), torch.device(device))

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, Any]:
        """The features of an image and its targets."""
        return map_tensors(operator.itemgetter(0), self.__getitems__([key]))

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> tuple[Tensor, Any]:
        """The features and targets of a whole batch; PyTorch's loaders call this method if it exists."""
        indices = [key[0] if isinstance(key, tuple) else key for key in keys]
        index = torch.tensor(indices, device=self.features.device)
        return self.features[index], map_tensors(operator.itemgetter(index), self.targets)

    def take(self, indices: Sequence[int]) -> Features:
        """A dataset with a subset of the images."""
        index = torch.tensor(indices, device=self.features.device)
        taken = copy.copy(self)
        taken.features, taken.targets = self.features[index], map_tensors(operator.itemgetter(index), self.targets)
        return taken

    @staticmethod
    def collate(batch: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        """Returns a batch as `__getitems__` created it."""
        return batch


def _rows(targets: Any, count: int) -> list[Any]:
    """The targets of each image of a batch."""
    return [map_tensors(operator.itemgetter(number), targets) for number in range(count)]
