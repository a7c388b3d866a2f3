"""The common part of the layouts of TensorFlow models.

Three properties of these models are not in their state dicts:

- Padding. They use TensorFlow's padding, so create the model for their weights with
  `pad_type="same"`.
- Epsilon. Their batch norms add 1e-3 to the variance, ours 1e-5. Conversion adds the difference to the running
  variances, so outputs in eval mode are the same.
- Normalization. They were trained on images from -1 to 1: mean 0.5 and standard deviation 0.5 of
  images from 0 to 1.
"""

from __future__ import annotations

from typing import Any

from mnv2zoo.convert.layouts.native import Tensors
from mnv2zoo.errors import ConversionError

EPSILON = 1e-3
NATIVE_EPSILON = 1e-5

PAD_TYPE = "same"
PREPROCESSING: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bilinear"}


def carry_epsilon(tensors: Tensors) -> Tensors:
    """Folds the epsilon difference into the running variances.

    Args:
        tensors: State dict with native names. It is not modified.

    Returns:
        The state dict for batch norms with the native epsilon.
    """
    # Rounds the same way in both directions for any dtype, so a variance of zero comes back as zero.
    return tensors | {
        key: value + value.new_tensor(EPSILON - NATIVE_EPSILON)
        for key, value in tensors.items()
        if key.endswith("running_var")
    }


def take_epsilon_out(tensors: Tensors, library: str) -> Tensors:
    """Removes the epsilon difference from the running variances.

    Args:
        tensors: State dict with native names. It is not modified.
        library: Name of the target library, for the error.

    Returns:
        The state dict for batch norms with the epsilon of `EPSILON`.

    Raises:
        ConversionError: If a running variance would become negative.
    """
    variances = {
        key: value - value.new_tensor(EPSILON - NATIVE_EPSILON)
        for key, value in tensors.items()
        if key.endswith("running_var")
    }
    worst = min(variances, key=lambda key: float(variances[key].min()))
    if variances[worst].min() < 0:
        raise ConversionError(
            f"a running variance is too small for the epsilon of {library}'s batch norms",
            expected=f"a variance of at least {EPSILON - NATIVE_EPSILON:.3g}",
            found=f"{float(tensors[worst].min()):.3g}",
            where=worst,
            fix="Use a layout with the same epsilon, such as timm or torchvision.",
        )
    return tensors | variances
