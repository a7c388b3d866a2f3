"""Which images make a batch, and what chance decides about each of them."""

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
    """Seeds Python's, NumPy's and PyTorch's generators for the CPU, which timm's augmentations draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed looks at every kind of device, which takes longer than to read a small image.
    torch.default_generator.manual_seed(seed)


def seed_everything(seed: int) -> None:
    """Seeds the same generators, and those of all devices."""
    seed_augmentation(seed)
    torch.manual_seed(seed)


def derive_seed(*parts: int) -> int:
    """Makes a seed from numbers, such as a run's seed, an epoch and a step."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


class Batches(Sampler[list[Any]]):
    """The batches of an epoch, as pairs of an index and a seed for its augmentation.

    Every image comes once, in an order of the epoch's own. The last batch is filled up with images of
    another order, so that all batches are whole: a batch norm cannot train on a batch of one. With weights, images are
    drawn with replacement instead. Nothing but the run's seed, the epoch and the step decides what is in a batch, so
    that an interrupted run resumes as if it had not been interrupted.

    Args:
        count: Images.
        batch_size: Images a batch, over all processes.
        seed: The run's seed.
        weights: How likely each image is to be drawn; None for each once.

    Attributes:
        epoch: The epoch, from 0, whose batches come next.
        first: The step within it, from 0, to begin with.
    """

    def __init__(self, count: int, batch_size: int, seed: int, weights: Sequence[float] | None = None) -> None:
        self.count, self.batch_size, self.seed, self.weights = count, batch_size, seed, weights
        self.drop_last = False
        self.epoch, self.first = 0, 0

    @property
    def steps(self) -> int:
        """Batches of a whole epoch."""
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
        """The images of the epoch, by index."""
        if self.weights is not None:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch, 0))
            return torch.tensor(self.weights, dtype=torch.float64).multinomial(total, True, generator=generator)
        orders = []
        for part in range(math.ceil(total / self.count)):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch, part))
            orders.append(torch.randperm(self.count, generator=generator))
        return torch.cat(orders)[:total]


def balanced_weights(classes: Sequence[Sequence[int]]) -> list[float]:
    """How likely each image is to be drawn for all classes to come equally often.

    Args:
        classes: The classes that each image shows. An image of several counts for the rarest of them.

    Returns:
        A weight per image, which are 1 in sum for each class that images count for.
    """
    counts = Counter(label for own in classes for label in own)
    rarest = [min(own, key=lambda label: (counts[label], label), default=None) for own in classes]
    sizes = Counter(rarest)
    return [1 / sizes[label] for label in rarest]
