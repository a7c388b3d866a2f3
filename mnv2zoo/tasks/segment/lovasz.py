"""The Lovász-Softmax loss in linear time: the errors of pixels are counted in bins instead of sorted."""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 2**14  # errors within 1/16384 of each other count as equal in their order


def lovasz_softmax(logits: Tensor, masks: Tensor, ignore_index: int) -> Tensor:
    """Computes the Lovász extension of 1 - IoU, averaged over the classes that the masks show.

    The value and its gradient equal those of `LovaszLoss("multiclass")` in segmentation_models_pytorch, except that
    the order of nearly equal errors differs: in one bin, the pixels that show another class come first.

    Args:
        logits: Float tensor (N, C, H, W).
        masks: Class numbers (N, H, W), int64.
        ignore_index: The class number of pixels to ignore.

    Returns:
        A scalar; 0 if there are no labeled pixels.

    Source:
        Berman et al., "The Lovász-Softmax loss", CVPR 2018, algorithm 1: https://arxiv.org/abs/1705.08790
    """
    probabilities, numbers = logits.softmax(1).movedim(1, 0).flatten(1), masks.flatten()
    counted = (numbers != ignore_index).nonzero()[:, 0]
    if len(counted) == 0:
        return logits.sum() * 0
    if len(counted) < len(numbers):
        probabilities, numbers = probabilities.index_select(1, counted), numbers[counted]
    each = probabilities.unbind()  # indexing would add a gradient of all classes for each one
    return torch.stack([_class_loss(each[c], numbers == c) for c in numbers.unique().tolist()]).mean()


def _class_loss(probabilities: Tensor, positive: Tensor) -> Tensor:
    """The extension for one class, from its probabilities (P) and the pixels that show it (P)."""
    with torch.no_grad():
        bins = (probabilities - positive.float()).abs_().mul_(BINS - 1).int().add_(positive, alpha=BINS)
        counts = torch.bincount(bins, minlength=2 * BINS).view(2, BINS)
        other, own = _growth(*counts.flip(1)).flip(1)
        slopes = torch.cat((other, -own)).index_select(0, bins)
    # The error of a pixel of the class is 1 minus its probability.
    return (probabilities * slopes).sum() + (counts[1] * own).sum()


def _growth(other: Tensor, own: Tensor) -> Tensor:
    """The growth of 1 - IoU with each pixel, from the largest error to the smallest.

    A pixel of another class that is taken for this one enlarges the union, and a pixel of this class that is missed
    reduces the intersection. Within a bin, the first kind shares its growth evenly.

    Args:
        other: The number of pixels in each bin that show another class (BINS).
        own: The number of pixels in each bin that show this class (BINS).

    Returns:
        The growth for a pixel of either kind in each bin (2, BINS).
    """
    intersection = own.sum() - own.cumsum(0) + own  # before the bin
    union = (own.sum() + other.cumsum(0)).float()  # after the pixels that show another class
    return torch.stack((intersection / (union * (union - other)), 1 / union))
