"""The temperature of a classifier: one number that makes its scores as high as it is right.

Logits are divided by it before the softmax, which changes no order of classes (Guo et al. 2017, "On Calibration of
Modern Neural Networks", https://arxiv.org/abs/1706.04599, section 4.2).
"""

from __future__ import annotations

import math

from torch import Tensor

from mnv2zoo.weights.schema import TEMPERATURES

LEAST = 30  # images; of fewer, the temperature would be that of chance
MOST = 2 * 10**7  # logits to fit by; of more, evenly spaced images are enough
STEPS = 50  # halvings, which leave a factor of 1e-14


def fit(logits: Tensor, targets: Tensor) -> float | None:
    """Finds the temperature of the lowest cross-entropy.

    The cross-entropy is convex in the inverse of the temperature, so the zero of its derivative is found by bisection.

    Args:
        logits: The network's output, N x C, of images that it was not trained on.
        targets: Their classes (N,).

    Returns:
        The temperature, with six digits behind the point; None where there are fewer than `LEAST` images, or the
        cross-entropy has no lowest value within `TEMPERATURES`, as where every image is right.
    """
    if len(targets) < LEAST:
        return None
    step = math.ceil(logits.numel() / MOST)
    logits, targets = logits[::step].double(), targets[::step]
    truth = logits.gather(1, targets[:, None])[:, 0]

    def slope(inverse: float) -> float:
        """The derivative of the cross-entropy with respect to the inverse of the temperature."""
        return ((logits * inverse).softmax(1).mul(logits).sum(1) - truth).mean().item()

    low, high = (1 / bound for bound in reversed(TEMPERATURES))
    if not slope(low) < 0 < slope(high):
        return None
    for _ in range(STEPS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return round(1 / math.sqrt(low * high), 6)
