"""Which images make a batch, and what chance decides about each of them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
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
    another order, so that all batches are whole: a batch norm cannot train on a batch of one. Nothing
    but the run's seed, the epoch and the step decides what is in a batch, so that an interrupted run goes
    on as if it had not been.

    Args:
        count: Images.
        batch_size: Images a batch, over all processes.
        seed: The run's seed.

    Attributes:
        epoch: The epoch, from 0, whose batches come next.
        first: The step within it, from 0, to begin with.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
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
        orders = []
        for part in range(math.ceil(total / self.count)):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch, part))
            orders.append(torch.randperm(self.count, generator=generator))
        order = torch.cat(orders)[:total].tolist()
        seeds = np.random.SeedSequence((self.seed, self.epoch)).generate_state(total, np.uint32).tolist()
        keys = list(zip(order, seeds, strict=True))
        for start in range(self.first * self.batch_size, total, self.batch_size):
            yield keys[start : start + self.batch_size]
