"""Images that tell int8 quantisation which values to expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

from mnv2zoo import images
from mnv2zoo.errors import DeployError

MOST = 300  # as many as NNCF looks at by default


@dataclass(frozen=True)
class Calibration:
    """Images, and their classes where those are known.

    Attributes:
        images: Prepared for the network, (n, C, H, W).
        classes: Class of each image; none where they are not known.
    """

    images: Tensor
    classes: Sequence[int] = ()


def prepare(calibration: Tensor | str | Path, model: nn.Module, example: Tensor) -> Calibration:
    """Reads or checks calibration images.

    Args:
        calibration: Prepared images (n, C, H, W), or a folder of images. Where the folder holds as many
            folders as the model has classes, each is taken to be a class, in order of their names.
        model: The network, whose preprocessing the folder's images get.
        example: Images (N, C, H, W) as the network will see them.

    Returns:
        Up to 300 images, spread over the folder.

    Raises:
        DeployError: If they are of another shape than the example or not finite, or the model does not
            tell how images are prepared.
        ImageReadError: If there are no images, or one cannot be read.
    """
    if isinstance(calibration, Tensor):
        return Calibration(_checked(calibration, example)[:MOST])
    cfg = getattr(model, "pretrained_cfg", None)
    if cfg is None:
        raise DeployError(
            "the model does not tell how images are prepared",
            expected="calibration tensors (n, C, H, W)",
            found="a folder",
            where=calibration,
        )
    folder = Path(calibration)
    files = images.find(str(folder))
    files = files[:: max(1, len(files) // MOST)][:MOST]
    data = resolve_data_config(pretrained_cfg=cfg, use_test_size=True)
    transform: Any = create_transform(**{**data, "input_size": tuple(example.shape[1:])})
    prepared = _checked(torch.stack([transform(images.read(file)) for file in files]), example)
    names = sorted(child.name for child in folder.iterdir() if child.is_dir())
    if len(names) != getattr(model, "num_classes", None):
        return Calibration(prepared)
    return Calibration(prepared, [names.index(file.relative_to(folder).parts[0]) for file in files])


def _checked(found: Tensor, example: Tensor) -> Tensor:
    if found.ndim != 4 or not len(found) or found.shape[1:] != example.shape[1:] or not found.is_floating_point():
        raise DeployError(
            "unfit calibration images",
            expected="floating-point (n, {}, {}, {})".format(*example.shape[1:]),
            found=f"{str(found.dtype).removeprefix('torch.')} {tuple(found.shape)}",
        )
    if not found.isfinite().all():
        raise DeployError("unfit calibration images", expected="finite numbers", found="NaN or infinity")
    return found.float()
