"""Training the classifier alone, on features that are computed once."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from mnv2zoo.models.mobilenetv2 import MobileNetV2
from mnv2zoo.tasks.recipe import Recipe
from mnv2zoo.training.distributed import predict, test_loader
from mnv2zoo.training.progress import Log


class Head(nn.Module):
    """A network's classifier as a network of its own, which sees pooled features.

    Args:
        model: The network; the classifier is shared with it.
    """

    def __init__(self, model: MobileNetV2) -> None:
        super().__init__()
        self.classifier = model.classifier
        self.classifier_bn = model.classifier_bn if model.normed else nn.Identity()
        self.drop_rate = model.drop_rate

    def forward(self, x: Tensor) -> Tensor:
        """Maps pooled features (N, C) or (N, C, 1, 1) to logits (N, classes)."""
        x = F.dropout(x, self.drop_rate, self.training)
        return self.classifier_bn(self.classifier(x)).flatten(1)


def cache_features(
    accelerator: Accelerator, model: MobileNetV2, photos: Dataset[Any], recipe: Recipe, log: Log
) -> Dataset[Any]:
    """Runs images through all of the network but its classifier, once and without augmentation."""
    loader = accelerator.prepare(test_loader(photos, recipe, recipe.workers))
    pooled = nn.Sequential(ForwardFeatures(model), model.global_pool)
    with log.stage("computing features", len(photos)) as stage:  # type: ignore[arg-type]
        features, labels = predict(accelerator, pooled, loader, stage.advance)
    return Features(features, labels)


class ForwardFeatures(nn.Module):
    """A network's `forward_features` as a module."""

    def __init__(self, model: MobileNetV2) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, 3, H, W) to features (N, C, h, w)."""
        return self.model.forward_features(x)


class Features(Dataset[tuple[Tensor, int]]):
    """Cached features; takes the keys of `Batches`, whose seeds have nothing to decide here."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, int]:
        index = key[0] if isinstance(key, tuple) else key
        return self.features[index], int(self.labels[index])
