"""Temperature scaling: fits a softmax temperature so that a classifier's scores match its accuracy.

Logits are divided by the temperature before the softmax, which does not change the ranking of classes (Guo et al. 2017,
"On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599, section 4.2).
"""

from __future__ import annotations

import math

from torch import Tensor

from mnv2zoo.weights.schema import TEMPERATURES

LEAST = 30  # minimum number of images; with fewer, the temperature would be mostly noise
MOST = 2 * 10**7  # maximum number of logits to fit on; evenly spaced images represent a larger set
STEPS = 50  # bisection steps, which leave a factor of 1e-14


def fit(logits: Tensor, targets: Tensor) -> float | None:
    """Fits the temperature with the lowest cross-entropy.

    The cross-entropy is convex in the inverse of the temperature, so bisection finds the zero of its derivative.

    Args:
        logits: The outputs of the model (N, C) on images that it was not trained on.
        targets: Their classes (N,).

    Returns:
        The temperature, rounded to six decimal places. None if there are fewer than `LEAST` images, or the
        cross-entropy has no minimum within `TEMPERATURES`, for example because all predictions are correct.
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
