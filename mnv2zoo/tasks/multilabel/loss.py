"""The losses for multi-label classification, and mixup: timm's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.data import Mixup
from timm.loss import AsymmetricLossMultiLabel, BinaryCrossEntropy
from torch import nn

from mnv2zoo.tasks.recipe import Recipe


def make_mixup(recipe: Recipe, num_labels: int) -> Mixup | None:
    """Creates mixup or CutMix of images and labels; None if the recipe has neither."""
    if not recipe.mixes:
        return None
    return Mixup(
        recipe.mixup, recipe.cutmix, label_smoothing=recipe.smoothing, num_classes=num_labels, multi_label=True
    )


def make_criterion(recipe: Recipe, weights: Sequence[float] | None = None) -> nn.Module:
    """Creates the loss, summed over the labels and averaged over the images, as in timm's `--bce-sum`.

    The focal loss (Lin et al. 2017, https://arxiv.org/abs/1708.02002) is the asymmetric loss (Ridnik et al. 2021,
    https://arxiv.org/abs/2009.14119) with one focusing parameter for all targets and no shifted probabilities.

    Args:
        recipe: The recipe.
        weights: One weight per label; None for equal weights.

    Returns:
        The loss, from logits and targets (N, labels) to a scalar.
    """
    smoothing = 0.0 if recipe.mixes else recipe.smoothing  # the targets of mixed images are already smoothed
    by_label = None if weights is None else torch.tensor(weights)
    if recipe.loss == "bce":
        return BinaryCrossEntropy(smoothing, weight=by_label, sum_classes=True, smooth_dense=True)
    if recipe.loss == "focal":
        gamma = recipe.focal_gamma
        return AsymmetricLossMultiLabel(gamma, gamma, clip=None, smoothing=smoothing, weight=by_label)
    return AsymmetricLossMultiLabel(smoothing=smoothing, weight=by_label)
