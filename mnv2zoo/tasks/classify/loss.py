"""The loss of a classifier, and the mixing of its images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from mnv2zoo.tasks.recipe import Recipe


def make_mixup(recipe: Recipe, num_classes: int) -> Mixup | None:
    """Creates the mixing of a batch's images, mixup or cutmix; None if the recipe has neither."""
    if not recipe.mixes:
        return None
    return Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.smoothing, num_classes=num_classes)


def make_criterion(recipe: Recipe, weights: Sequence[float] | None = None) -> nn.Module:
    """Creates the loss.

    Args:
        recipe: The recipe.
        weights: A weight per class; None for equal ones.

    Returns:
        The loss, from logits (N, C) and classes (N,) or, of mixed images, (N, C) to a scalar.
    """
    smoothing = 0.0 if recipe.mixes else recipe.smoothing  # mixed targets are smooth
    by_class = None if weights is None else torch.tensor(weights)
    if recipe.loss == "ce" and weights is None:
        return SoftTargetCrossEntropy() if recipe.mixes else nn.CrossEntropyLoss(label_smoothing=smoothing)
    if recipe.loss == "bce":
        return BinaryCrossEntropy(smoothing=smoothing, weight=by_class)
    return CrossEntropy(smoothing, by_class, recipe.focal_gamma if recipe.loss == "focal" else 0.0)


class CrossEntropy(nn.Module):
    """Cross-entropy, the mean of the images, with weights of classes and focus on hard images.

    The mean counts each image once, whatever the weights, so that batches can be averaged. The focal loss is that of
    Lin et al. 2017 (https://arxiv.org/abs/1708.02002, equation 4), with the softmax's probability of the true class.

    Args:
        smoothing: Label smoothing.
        weights: A weight per class (C,).
        gamma: Focusing parameter; 0 for none.
    """

    weights: Tensor | None

    def __init__(self, smoothing: float = 0.0, weights: Tensor | None = None, gamma: float = 0.0) -> None:
        super().__init__()
        self.smoothing, self.gamma = smoothing, gamma
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """From logits (N, C) and classes (N,) or probabilities (N, C) to a scalar."""
        weights = None if self.weights is None else self.weights.to(logits.dtype)
        losses = F.cross_entropy(logits, targets, weights, reduction="none", label_smoothing=self.smoothing)
        if self.gamma:
            truth = -F.cross_entropy(logits, targets, reduction="none")  # of mixed images, a mean of logarithms
            losses = losses * (1 - truth.exp()) ** self.gamma
        return losses.mean()
