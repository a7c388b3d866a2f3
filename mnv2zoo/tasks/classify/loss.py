"""The loss of a classifier, and mixup."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from mnv2zoo.tasks.recipe import Recipe


def make_mixup(recipe: Recipe, num_classes: int) -> Mixup | None:
    """Creates mixup or CutMix; None if the recipe has neither."""
    if not recipe.mixes:
        return None
    return Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.smoothing, num_classes=num_classes)


def make_criterion(recipe: Recipe, weights: Sequence[float] | None = None) -> nn.Module:
    """Creates the loss.

    Args:
        recipe: The recipe.
        weights: One weight per class; None for equal weights.

    Returns:
        A function from logits (N, C) and classes (N,), or soft targets (N, C) of mixed images, to a scalar.
    """
    smoothing = 0.0 if recipe.mixes else recipe.smoothing  # the targets of mixed images are already smoothed
    by_class = None if weights is None else torch.tensor(weights)
    if recipe.loss == "ce" and weights is None:
        return SoftTargetCrossEntropy() if recipe.mixes else nn.CrossEntropyLoss(label_smoothing=smoothing)
    if recipe.loss == "bce":
        return BinaryCrossEntropy(smoothing=smoothing, weight=by_class)
    return CrossEntropy(smoothing, by_class, recipe.focal_gamma if recipe.loss == "focal" else 0.0)


class CrossEntropy(nn.Module):
    """Cross-entropy with class weights and focal loss, averaged over the images.

    The average divides by the number of images and not by the sum of the weights, so that batches can be averaged. The
    focal loss follows Lin et al. 2017 (https://arxiv.org/abs/1708.02002, equation 4), with the softmax probability of
    the true class.

    Args:
        smoothing: Label smoothing.
        weights: One weight per class (C,).
        gamma: Focusing parameter; 0 turns off the focal loss.
    """

    weights: Tensor | None

    def __init__(self, smoothing: float = 0.0, weights: Tensor | None = None, gamma: float = 0.0) -> None:
        super().__init__()
        self.smoothing, self.gamma = smoothing, gamma
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Computes the loss of logits (N, C) and classes (N,) or probabilities (N, C)."""
        weights = None if self.weights is None else self.weights.to(logits.dtype)
        losses = F.cross_entropy(logits, targets, weights, reduction="none", label_smoothing=self.smoothing)
        if self.gamma:
            truth = -F.cross_entropy(logits, targets, reduction="none")  # for mixed images, a mean of log probabilities
            losses = losses * (1 - truth.exp()) ** self.gamma
        return losses.mean()
