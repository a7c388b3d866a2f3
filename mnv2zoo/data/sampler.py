"""Selects the images of each batch, and seeds their augmentation."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler


def seed_augmentation(seed: int) -> None:
    """Seeds the CPU generators of Python, NumPy and PyTorch, which timm's augmentations use."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed checks every kind of device, which takes longer than reading a small image.
    torch.default_generator.manual_seed(seed)


def seed_everything(seed: int) -> None:
    """Seeds the same generators, and those of all devices."""
    seed_augmentation(seed)
    torch.manual_seed(seed)


def derive_seed(*parts: int) -> int:
    """Derives a seed from numbers, such as a run's seed, an epoch and a step."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


class Batches(Sampler[list[Any]]):
    """The batches of an epoch, as pairs of an index and a seed for its augmentation.

    Every image comes once, in a different order each epoch. The last batch is filled with images from another order,
    so that all batches have the same size: a batch norm cannot train on a batch of one. With weights, images are
    drawn with replacement instead. A batch depends only on the run's seed, the epoch and the step, so an interrupted
    run resumes bit for bit.

    Args:
        count: Number of images.
        batch_size: Images per batch, over all processes.
        seed: The run's seed.
        weights: Sampling weight of each image. None uses each image once.

    Attributes:
        epoch: The next epoch, from 0.
        first: The step in it to start with, from 0.
    """

    def __init__(self, count: int, batch_size: int, seed: int, weights: Sequence[float] | None = None) -> None:
        self.count, self.batch_size, self.seed, self.weights = count, batch_size, seed, weights
        self.drop_last = False
        self.epoch, self.first = 0, 0

    @property
    def steps(self) -> int:
        """Number of batches in a full epoch."""
        return math.ceil(self.count / self.batch_size)

    def __len__(self) -> int:
        return self.steps - self.first

    def __iter__(self) -> Iterator[list[Any]]:
        total = self.steps * self.batch_size
        order = self._order(total).tolist()
        seeds = np.random.SeedSequence((self.seed, self.epoch)).generate_state(total, np.uint32).tolist()
        keys = list(zip(order, seeds, strict=True))
        for start in range(self.first * self.batch_size, total, self.batch_size):
            yield keys[start : start + self.batch_size]

    def _order(self, total: int) -> Tensor:
        """Returns the images of the epoch, by index."""
        if self.weights is not None:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch, 0))
            return torch.tensor(self.weights, dtype=torch.float64).multinomial(total, True, generator=generator)
        orders = []
        for part in range(math.ceil(total / self.count)):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch, part))
            orders.append(torch.randperm(self.count, generator=generator))
        return torch.cat(orders)[:total]


def balanced_weights(classes: Sequence[Sequence[int]]) -> list[float]:
    """Computes sampling weights that make all classes equally frequent.

    Args:
        classes: The classes in each image. An image with several classes counts for the rarest of them.

    Returns:
        One weight per image. The weights of each class sum to 1.
    """
    counts = Counter(label for own in classes for label in own)
    rarest = [min(own, key=lambda label: (counts[label], label), default=None) for own in classes]
    sizes = Counter(rarest)
    return [1 / sizes[label] for label in rarest]
