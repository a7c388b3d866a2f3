"""What the layouts of networks that come from TensorFlow have in common.

Three things of these networks are not in their state dicts:

- Padding. They pad as TensorFlow does, so a network that takes their weights has to be created with
  `pad_type="same"`.
- Epsilon. Their batch norms add 1e-3 to the variance, ours 1e-5. The running variances carry the
  difference, so that the outputs are the same in eval mode.
- Normalisation. They were trained on images from -1 to 1: mean 0.5 and standard deviation 0.5 of
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
    """Carries the difference of the epsilons into the running variances.

    Args:
        tensors: State dict with native names; it is not changed.

    Returns:
        The state dict for batch norms with the native epsilon.
    """
    # The same rounding both ways in any dtype: a variance of zero comes back as zero.
    return tensors | {
        key: value + value.new_tensor(EPSILON - NATIVE_EPSILON)
        for key, value in tensors.items()
        if key.endswith("running_var")
    }


def take_epsilon_out(tensors: Tensors, library: str) -> Tensors:
    """Takes the difference of the epsilons out of the running variances.

    Args:
        tensors: State dict with native names; it is not changed.
        library: Whose batch norms they are for.

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
            expected=f"at least {EPSILON - NATIVE_EPSILON:.3g}",
            found=f"{float(tensors[worst].min()):.3g}",
            where=worst,
            fix="Keep this network in a layout with the same epsilon, timm or torchvision.",
        )
    return tensors | variances
