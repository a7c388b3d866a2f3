"""Images that tell int8 quantisation which values to expect."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mnv2zoo import cache, network
from mnv2zoo.data import decode, discover
from mnv2zoo.deploy import checks
from mnv2zoo.errors import DeployError
from mnv2zoo.runtimes import CALIBRATED


@dataclass(frozen=True)
class Calibration:
    """Images, and their classes where those are known.

    Attributes:
        read: Reads them and prepares them for the network.
        fingerprint: What tells them from others.
        classes: Class of each image; none where they are not known.
    """

    read: Callable[[], Tensor]
    fingerprint: str
    classes: Sequence[int] = ()

    @functools.cached_property
    def images(self) -> Tensor:
        """The images (n, C, H, W); read when first asked for, which a kept engine never does."""
        return self.read()


def prepare(calibration: Tensor | str | Path, model: nn.Module, example: Tensor) -> Calibration:
    """Finds or checks calibration images.

    Args:
        calibration: Prepared images (n, C, H, W), or a folder of images. Where the folder holds as many
            folders as the model has classes, each is taken to be a class, in order of their names.
        model: The network, whose preprocessing the folder's images get.
        example: Images (N, C, H, W) as the network will see them.

    Returns:
        Up to 300 images, spread over the folder.

    Raises:
        DeployError: If there is no such folder, they are of another shape than the example or not finite,
            or the model does not tell how images are prepared.
        ImageReadError: If there are no images; as they are read, if one cannot be read.
    """
    if isinstance(calibration, Tensor):
        tensor = _checked(calibration, example)[:CALIBRATED]
        return Calibration(lambda: tensor, hashlib.sha256(tensor.contiguous().numpy().data).hexdigest())
    cfg = getattr(model, "pretrained_cfg", None)
    if cfg is None:
        raise DeployError(
            "the model does not tell how images are prepared",
            expected="calibration tensors (n, C, H, W)",
            found="a folder",
            where=calibration,
        )
    folder = Path(calibration)
    if not folder.is_dir():
        raise DeployError("no such folder of calibration images", where=folder)
    files = discover.spread(discover.find(str(folder)), CALIBRATED)
    channels, height, width = example.shape[1:]
    data = network.image_config(cfg, channels)
    transform: Any = network.image_transform({**data, "input_size": (channels, height, width)})
    names = sorted(child.name for child in folder.iterdir() if child.is_dir())
    found = [file.relative_to(folder).parts[0] for file in files]
    known = len(names) == getattr(model, "num_classes", None) and set(found) <= set(names)
    return Calibration(
        lambda: _checked(torch.stack([transform(decode.read(file)) for file in files]), example),
        f"{transform} {cache.versions(('PIL', 'torchvision'))} {discover.fingerprint(folder, files)}",
        [names.index(name) for name in found] if known else (),
    )


def _checked(found: Tensor, example: Tensor) -> Tensor:
    if not checks.are_images(found) or not len(found) or found.shape[1:] != example.shape[1:]:
        raise DeployError(
            "unfit calibration images",
            expected="floating-point (n, {}, {}, {}) on the CPU".format(*example.shape[1:]),
            found=checks.describe(found),
        )
    if not found.isfinite().all():
        raise DeployError("unfit calibration images", expected="finite numbers", found="NaN or infinity")
    return found.float()
