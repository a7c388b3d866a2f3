"""How images are prepared for detectors and segmenters, which see whole images: a description that bundles carry.

| key | value |
| --- | --- |
| `input_size` | 3, height and width of the network's images |
| `resize` | `squash` to exactly that size, or `pad` to the largest size of the image's own aspect within it |
| `interpolation` | of the resizing: `bilinear`, `bicubic` or another name that Pillow has |
| `mean`, `std` | of each channel, for values from 0 to 1 |
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
    """How one of torchvision's detectors prepares images, for images of one size.

    Args:
        detector: The detector. SSD squashes images. RetinaNet and Faster R-CNN keep the aspect, and their images of
            landscape format fit the size; those of portrait format get smaller than the detector would make them.

    Returns:
        The description.
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
    """Checks a description, or takes that of a detector.

    Args:
        model: The detector or segmenter.
        given: The description, which may lack `interpolation` (`bilinear`) and `resize` (`squash`). For a detector its
            values override the detector's own.

    Returns:
        The whole description.

    Raises:
        DeployError: If a part is missing or has a value that it cannot have.
    """
    own: Mapping[str, Any] = {"resize": "squash", "interpolation": "bilinear"}
    if detectors.is_detector(model):
        own = of_detector(model)
    found = {**own, **(given or {})}
    if lacking := [name for name in KEYS if name not in found]:
        raise DeployError(
            f"the preprocessing of a {type(model).__name__} lacks {', '.join(lacking)}",
            expected=", ".join(KEYS),
            found=", ".join(found),
            where="preprocessing",
            fix="Pass preprocessing= with how the model was trained to see images.",
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
            "images cannot be prepared in this way",
            expected="input_size (3, height, width), three means and deviations, resize squash or pad, and one of"
            f" Pillow's interpolations: {', '.join(name.lower() for name in Image.Resampling.__members__)}",
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
