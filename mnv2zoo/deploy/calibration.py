"""Calibration images for int8 quantization, which determine the ranges of the activations."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from mnv2zoo.data import decode, discover, pixels, transforms
from mnv2zoo.data.labels import match_classes
from mnv2zoo.deploy import checks
from mnv2zoo.deploy.detectors import is_detector
from mnv2zoo.deploy.preprocessing import whole_image
from mnv2zoo.errors import DataError, DeployError
from mnv2zoo.models import pretrained
from mnv2zoo.runtimes import cache
from mnv2zoo.runtimes.runners import CALIBRATED

# The types that `optimize` accepts: preprocessed images, batches of them, batches with labels, or a folder of images.
Images = Tensor | Iterable[Any] | Dataset[Any] | str | os.PathLike[str]


@dataclass(frozen=True)
class Calibration:
    """Calibration images, and their classes if known.

    Attributes:
        read: Reads and preprocesses the images.
        fingerprint: A hash of the images, for the cache key.
        classes: The class of each image; empty if unknown.
    """

    read: Callable[[], Tensor]
    fingerprint: str
    classes: Sequence[int] = ()

    @functools.cached_property
    def images(self) -> Tensor:
        """The images (n, C, H, W). They are read on first use, because a cached engine does not need them."""
        return self.read()


def prepare(
    calibration: Images, model: nn.Module, example: Tensor, preprocessing: Mapping[str, Any] | None = None
) -> Calibration:
    """Finds or checks calibration images.

    Args:
        calibration: Preprocessed images (n, C, H, W), or an iterable of such batches or of pairs of a batch and its
            labels, such as a `DataLoader`. Also a `Dataset` or a folder of images. Its subfolders are classes if all
            their names are classes of the model.
        model: The model, whose preprocessing is applied to the images in a folder.
        example: Preprocessed images (N, C, H, W).
        preprocessing: The preprocessing of a folder's images for a segmenter or detector. By default, a detector's own.

    Returns:
        Up to 300 images: evenly spaced ones of a tensor, a dataset or a folder, or the first ones of an iterable.

    Raises:
        DeployError: If the type is not supported, the folder does not exist, the shape of the images differs from the
            example's, they are not finite, a label is not a class of the model, or the model has no preprocessing
            config.
        ImageReadError: If there are no images, or, when they are read, an image cannot be read.
    """
    if isinstance(calibration, str | os.PathLike):
        return _of_folder(Path(calibration), model, example, preprocessing)
    if isinstance(calibration, Tensor | np.ndarray):
        images = _checked(calibration, example)
        count = min(len(images), CALIBRATED)
        images = images[[number * len(images) // count for number in range(count)]]
        return Calibration(lambda: images, _hash(images))
    if isinstance(calibration, Dataset) and isinstance(
        calibration, Sized
    ):  # with a length, it need not raise IndexError at its end
        samples, count = calibration, min(len(calibration), CALIBRATED)
        calibration = (samples[number * len(samples) // count] for number in range(count))
    if not isinstance(calibration, Iterable) or isinstance(calibration, bytes | dict):
        raise _unfit(checks.describe(calibration), example)
    return _of_batches(calibration, getattr(model, "num_classes", None), example)


def _of_folder(folder: Path, model: nn.Module, example: Tensor, preprocessing: Mapping[str, Any] | None) -> Calibration:
    transform, channels = _transform(folder, model, example, preprocessing), example.shape[1]
    if not folder.is_dir():
        raise DeployError(
            f"the folder of calibration images does not exist: {folder}",
            expected="a folder of images",
            found="a file" if folder.exists() else "nothing",
            where="calibration",
            fix="Pass an existing folder.",
        )
    files = discover.spread(discover.find(str(folder), channels), CALIBRATED)
    return Calibration(
        lambda: _checked(torch.stack([transform(decode.read(file, channels=channels)) for file in files]), example),
        f"{transform} {cache.versions(('PIL', 'torchvision'))} {discover.fingerprint(folder, files)}",
        _classes([file.relative_to(folder) for file in files], pretrained.label_names(model)),
    )


def _transform(folder: Path, model: nn.Module, example: Tensor, preprocessing: Mapping[str, Any] | None) -> Any:
    """The preprocessing to the example's shape. Its `str` describes it, for the cache key."""
    channels, height, width = example.shape[1:]
    size = {"input_size": (channels, height, width)}
    if preprocessing is not None or is_detector(model):
        return _WholeImages(whole_image(model, {**(preprocessing or {}), **size}), is_detector(model))
    cfg = getattr(model, "pretrained_cfg", None)
    if cfg is None:
        raise DeployError(
            "the model has no preprocessing config, so it cannot take a calibration folder",
            expected="calibration tensors (n, C, H, W)",
            found="a folder",
            where=folder,
            fix="Pass preprocessing=, or preprocess the images and pass them as a tensor.",
        )
    return transforms.image_transform({**transforms.image_config(cfg, channels), **size})


@dataclass(frozen=True)
class _WholeImages:
    """Preprocesses whole images. A detector normalizes by itself, so its images are from 0 to 1 with mean padding."""

    config: Mapping[str, Any]
    from_0_to_1: bool

    def __call__(self, image: Image.Image) -> Tensor:
        normalized = torch.from_numpy(pixels.normalized_whole(image, self.config))
        if not self.from_0_to_1:
            return normalized
        mean, std = (torch.tensor(self.config[name])[:, None, None] for name in ("mean", "std"))
        return normalized * std + mean


def _classes(files: Sequence[Path], label_names: Sequence[str]) -> Sequence[int]:
    """The class of each file by its folder name; empty if a folder is not a class of the model."""
    if not label_names or any(len(file.parts) == 1 for file in files):
        return ()
    try:
        return match_classes([file.parts[0] for file in files], label_names)
    except DataError:
        return ()


def _of_batches(batches: Iterable[Any], num_classes: int | None, example: Tensor) -> Calibration:
    images: list[Tensor] = []
    labels: list[int] | None = []
    for number, batch in enumerate(batches):
        found, targets = _batch(batch, number, example)
        images.append(found)
        labels = labels + targets if labels is not None and targets is not None else None
        if sum(map(len, images)) >= CALIBRATED:
            break
    if not images:
        raise _unfit("no batch", example)
    whole, classes = torch.cat(images)[:CALIBRATED], (labels or [])[:CALIBRATED]
    wrong = [label for label in classes if label < 0 or (num_classes and label >= num_classes)]
    if wrong:
        raise DeployError(
            f"the calibration label {wrong[0]} is not a class of the model",
            expected=f"0 to {num_classes - 1}" if num_classes else "0 or more",
            found=wrong[0],
            where="calibration",
            fix="Pass labels in the model's class order, or batches of images alone.",
        )
    return Calibration(lambda: whole, _hash(whole), classes)


def _batch(batch: Any, number: int, example: Tensor) -> tuple[Tensor, list[int] | None]:
    """The images of a batch, and their labels if there is one per image."""
    where = f"calibration, batch {number}"
    images, rest = (batch[0], list(batch[1:])) if isinstance(batch, list | tuple) and batch else (batch, [])
    if isinstance(images, list | tuple) and images and all(map(checks.is_image, images)):  # a detector's images
        images = torch.stack(tuple(images)) if len({image.shape for image in images}) == 1 else images[0]
    if isinstance(images, Tensor | np.ndarray) and images.ndim == 3:  # a dataset returns one image at a time
        images, rest = images[None], [np.asarray(target)[None] for target in rest if np.ndim(target) == 0]
    for other in rest:
        if isinstance(other, Tensor | np.ndarray) and other.ndim > 3:  # masks (N, H, W) have three dimensions
            raise _unfit(f"{len(rest) + 1} tensors in one batch", example, where)
    checked = _checked(images, example, where)
    targets = np.asarray(rest[0]) if rest and not isinstance(rest[0], dict) else np.empty(0)
    if targets.shape == (len(checked),) and np.issubdtype(targets.dtype, np.integer):
        return checked, [int(target) for target in targets]
    return checked, None


def _hash(images: Tensor) -> str:
    return hashlib.sha256(images.contiguous().numpy().data).hexdigest()


def _checked(found: Any, example: Tensor, where: str = "calibration") -> Tensor:
    if isinstance(found, np.ndarray):
        found = torch.as_tensor(np.ascontiguousarray(found))
    if not checks.are_images(found) or not len(found) or found.shape[1:] != example.shape[1:]:
        raise _unfit(checks.describe(found), example, where)
    if not found.isfinite().all():
        raise DeployError(
            "the calibration images contain NaN or infinity",
            expected="finite numbers",
            found="NaN or infinity",
            where=where,
            fix="Check the preprocessing.",
        )
    return found.detach().float()


def _unfit(found: str, example: Tensor, where: str = "calibration") -> DeployError:
    shape = "(n, {}, {}, {})".format(*example.shape[1:])
    return DeployError(
        f"{found} cannot be used as calibration images",
        expected=f"floating-point images {shape} on the CPU, an iterable of such batches, a DataLoader or a folder",
        found=found,
        where=where,
        fix="Preprocess the images like the example, and pass them in one of these forms.",
    )
