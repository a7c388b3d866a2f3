"""Selects the labels whose scores reach their thresholds, with numpy only.

`deploy.export` copies this file into a bundle's script, so that a bundle decides as this package does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

DEFAULT_THRESHOLD = 0.5  # of a label without a calibrated threshold


def sigmoid(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Computes the probability of each label in double precision, without overflow.

    Args:
        logits: Logits of any shape.

    Returns:
        Values from 0 to 1, of the same shape.
    """
    return np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64)))


def over_thresholds(
    logits: np.ndarray[Any, Any], labels: Sequence[str], thresholds: Sequence[float]
) -> list[dict[str, Any]]:
    """Returns the labels of an image whose scores reach their thresholds.

    Args:
        logits: The image's logits (labels,).
        labels: Label names.
        thresholds: Minimum score of each label.

    Returns:
        One dict per label: `class`, its number; `label`; and `score`, from 0 to 1. Highest scores come first, and
        equal scores in label order.

    Examples:
        >>> import numpy as np
        >>> from mnv2zoo.data.thresholds import over_thresholds
        >>> over_thresholds(np.array([2.0, 0.0]), ["cat", "dog"], [0.5, 0.6])
        [{'class': 0, 'label': 'cat', 'score': 0.880797}]
    """
    scores = sigmoid(logits)
    return [
        {"class": int(index), "label": labels[index], "score": round(float(scores[index]), 6)}
        for index in np.argsort(-scores, kind="stable")
        if scores[index] >= thresholds[index]
    ]
