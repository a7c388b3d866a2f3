"""The preprocessing of whole images for detectors and segmenters, as bundles store it.

| key | value |
| --- | --- |
| `input_size` | 3, height and width of the input |
| `resize` | `squash` resizes to exactly that size; `pad` preserves the aspect ratio and pads |
| `interpolation` | `bilinear`, `bicubic` or another name that Pillow supports |
| `mean`, `std` | per channel, for values from 0 to 1 |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from PIL import Image
from torch import nn

from mnv2zoo.deploy import detectors
from mnv2zoo.errors import DeployError

KEYS = ("input_size", "resize", "interpolation", "mean", "std")
RESIZES = ("squash", "pad")  # padding is at the right or the bottom


def of_detector(detector: nn.Module) -> dict[str, Any]:
    """The preprocessing of a torchvision detector, for a fixed input size.

    Args:
        detector: The detector. SSD squashes images. RetinaNet and Faster R-CNN preserve the aspect ratio. For them, the
            size suits landscape images; portrait images become smaller than in the detector itself.

    Returns:
        The preprocessing.
    """
    module: Any = detector
    transform = module.transform
    if transform.fixed_size is not None:
        width, height = transform.fixed_size
    else:
        step = transform.size_divisible
        height, width = (math.ceil(side / step) * step for side in (transform.min_size[-1], transform.max_size))
    return {
        "input_size": (3, height, width),
        "resize": "squash" if transform.fixed_size is not None else "pad",
        "interpolation": "bilinear",
        "mean": tuple(transform.image_mean),
        "std": tuple(transform.image_std),
    }


def whole_image(model: nn.Module, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Checks and completes a preprocessing.

    Args:
        model: The detector or segmenter.
        given: The preprocessing. `interpolation` defaults to `bilinear` and `resize` to `squash`. For a detector, all
            values default to its own.

    Returns:
        The complete preprocessing.

    Raises:
        DeployError: If a value is missing or invalid.
    """
    own: Mapping[str, Any] = {"resize": "squash", "interpolation": "bilinear"}
    if detectors.is_detector(model):
        own = of_detector(model)
    found = {**own, **(given or {})}
    if lacking := [name for name in KEYS if name not in found]:
        raise DeployError(
            f"the preprocessing of this {type(model).__name__} model lacks {', '.join(lacking)}",
            expected=", ".join(KEYS),
            found=", ".join(found),
            where="preprocessing",
            fix="Pass preprocessing= with the preprocessing that the model was trained with.",
        )
    size, channels = tuple(found["input_size"]), (len(found["mean"]), len(found["std"]))
    valid = (
        len(size) == 3
        and size[0] == 3
        and min(size) > 0
        and channels == (3, 3)
        and min(found["std"]) > 0
        and found["resize"] in RESIZES
        and str(found["interpolation"]).upper() in Image.Resampling.__members__
    )
    if not valid:
        raise DeployError(
            "the preprocessing is not supported",
            expected="input_size (3, height, width), three means and standard deviations, resize squash or pad, and one"
            f" of Pillow's interpolations: {', '.join(name.lower() for name in Image.Resampling.__members__)}",
            found={name: found[name] for name in KEYS},
            where="preprocessing",
            fix="Correct the values.",
        )
    return {
        "input_size": (3, int(size[1]), int(size[2])),
        "resize": found["resize"],
        "interpolation": str(found["interpolation"]),
        "mean": tuple(map(float, found["mean"])),
        "std": tuple(map(float, found["std"])),
    }
