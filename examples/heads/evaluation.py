"""Measures a model that is not a run, in the same way as `mnv2zoo.evaluate` measures runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader

from mnv2zoo.data.datasets import Data, Photos
from mnv2zoo.tasks import Scores, Task
from mnv2zoo.tasks.tensors import to_cpu, to_device


def measure(
    task: Task,
    data: Data,
    split: str,
    preprocessing: Mapping[str, Any],
    outputs: Callable[[Any], Any],
    *,
    batch: int = 1,
    workers: int = 0,
    device: str = "cpu",
) -> Scores:
    """The scores of a function from batches of images to outputs, on a split."""
    photos = Photos(data.splits[split], transforms=task.transforms(preprocessing))
    metric = task.metrics(data.class_names)
    with torch.inference_mode():
        for pairs in DataLoader(photos, batch, num_workers=workers, collate_fn=task.collate):
            images, targets = to_device(pairs, torch.device(device))
            metric.update(*to_cpu(task.condense(outputs(images), targets)))
    return metric.compute()
