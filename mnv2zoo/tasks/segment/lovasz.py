"""The Lovász-Softmax loss, about three times as fast on a CPU as with a sort of floating-point numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def lovasz_softmax(logits: Tensor, masks: Tensor, ignore_index: int) -> Tensor:
    """Computes the Lovász extension of 1 - IoU, averaged over the classes that the masks show.

    The value and its gradient equal `LovaszLoss("multiclass")` in segmentation_models_pytorch.

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
    return torch.stack([_class_loss(probabilities[c], numbers == c) for c in numbers.unique().tolist()]).mean()


def _class_loss(probabilities: Tensor, positive: Tensor) -> Tensor:
    """The extension for one class, from its probabilities (P) and the pixels that show it (P)."""
    errors = (positive.float() - probabilities).abs()
    order = _descending(errors.detach())
    found = positive[order].cumsum(0)  # integers: exact, and deterministic on GPUs
    missing = found[-1] - found
    union = found[-1] + torch.arange(1, len(found) + 1, device=found.device) - found
    jaccard = 1 - missing / union
    gradient = torch.empty_like(jaccard)
    gradient[order] = torch.diff(jaccard, prepend=jaccard.new_zeros(1))
    return (errors * gradient).sum()


def _descending(values: Tensor) -> Tensor:
    """The indices that sort nonnegative float32 numbers from the largest to the smallest.

    Their bits, read as integers, have the same order, and PyTorch's CPU sort takes five times as long for floats,
    and for any numbers in descending order.
    """
    return values.view(torch.int32).neg().sort().indices
