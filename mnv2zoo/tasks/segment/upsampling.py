"""Computes the class of each pixel of an image from logits at the model's output size, for evaluation and prediction.

Logits are interpolated bilinearly before the best class is chosen, so that borders do not follow the coarser output
grid. One class is interpolated at a time, so that memory does not grow with the number of classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnv2zoo.data import pixels

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from mnv2zoo.data.masks import Numbers


def class_mask(logits: np.ndarray[Any, np.dtype[np.float32]], size: tuple[int, int]) -> Numbers:
    """Finds the class of each pixel without PyTorch.

    Args:
        logits: Logits (classes, height, width) of an image.
        size: Width and height of the image.

    Returns:
        Class numbers (height, width). Ties go to the first class.
    """
    # For upsampling, Pillow's and PyTorch's filters are equal; for downsampling, both average.
    return pixels.class_mask(logits, size, {"resize": "squash", "input_size": (3, *logits.shape[1:])})


def class_tensor(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Finds the class of each pixel with PyTorch, on the logits' device.

    Args:
        logits: Logits (classes, height, width) of an image.
        size: Width and height of the image.

    Returns:
        Class numbers (height, width), 8 bits.
    """
    import torch
    from torch.nn import functional

    best: Tensor | None = None
    mask = torch.zeros(size[::-1], dtype=torch.uint8, device=logits.device)
    for number, own in enumerate(logits):
        resized = functional.interpolate(own[None, None], size[::-1], mode="bilinear", antialias=True)[0, 0]
        if best is None:
            best = resized
        else:
            mask[resized > best] = number
            best = torch.maximum(best, resized)
    return mask
