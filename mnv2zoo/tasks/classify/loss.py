"""The loss of a classifier, and the mixing of its images."""

from __future__ import annotations

from timm.data import Mixup
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from mnv2zoo.tasks.recipe import Recipe


def make_mixup(recipe: Recipe, num_classes: int) -> Mixup | None:
    """Creates the mixing of a batch's images, mixup or cutmix; None if the recipe has neither."""
    if not recipe.mixes:
        return None
    return Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.smoothing, num_classes=num_classes)


def make_criterion(recipe: Recipe) -> nn.Module:
    """Creates the loss, from logits (N, C) and classes (N,) or, of mixed images, (N, C) to a scalar."""
    if recipe.loss == "bce":
        return BinaryCrossEntropy(smoothing=0.0 if recipe.mixes else recipe.smoothing)
    return SoftTargetCrossEntropy() if recipe.mixes else nn.CrossEntropyLoss(label_smoothing=recipe.smoothing)
