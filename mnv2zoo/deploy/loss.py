"""Measures the accuracy cost of a lower precision: compares a bundle with the model in PyTorch on your images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mnv2zoo.data import decode, discover
from mnv2zoo.data.labels import match_classes
from mnv2zoo.deploy import agreement
from mnv2zoo.errors import DeployError

AT_ONCE = agreement.AT_ONCE

Part = tuple[Tensor, Sequence[int]]  # images (n, C, H, W), and their classes, which are empty if unknown


@dataclass(frozen=True)
class Loss:
    """The agreement of a bundle with the model.

    Attributes:
        data: A description of the images.
        images: Number of images.
        agreement: Images with the same top class, or pixels with the same class, in percent.
        accuracy: Top-1 accuracy of the model and of the bundle, in percent; None if the classes of the images are
            unknown.
    """

    data: str
    images: int
    agreement: float
    accuracy: tuple[float, float] | None = None

    def sentence(self, what: str) -> str:
        """Describes it for the card.

        Args:
            what: What the model classifies: `images` or `pixels`.
        """
        said = f"On {self.images} images of {self.data}, {self.agreement:.1f} % of the {what} get the same class"
        if self.accuracy is None:
            return f"{said}; the accuracy was not measured, because the labels of the images are unknown"
        before, after = self.accuracy
        lost = f"a loss of {before - after:.2f} points"
        return f"{said}; top-1 accuracy is {after:.2f} %, compared with {before:.2f} % in PyTorch ({lost})"

    def to_json(self) -> dict[str, Any]:
        """The values for the manifest."""
        accuracy = self.accuracy and {
            "pytorch": round(self.accuracy[0], 4),
            "bundle": round(self.accuracy[1], 4),
            "loss": round(self.accuracy[0] - self.accuracy[1], 4),
        }
        return {
            "data": self.data,
            "images": self.images,
            "agreement": round(self.agreement, 4),
            "accuracy": accuracy,
        }


def measure(model: nn.Module, run: Callable[[Any], Any], parts: Iterable[Part], data: str) -> Loss:
    """Compares a bundle with the model.

    Args:
        model: The model in evaluation mode.
        run: The bundle's model, a function from an array of images to an array of outputs.
        parts: The images.
        data: A description of the images for the card.

    Returns:
        The loss, as `agreement.measure` defines it.
    """

    def bundle(images: Tensor) -> Tensor:
        return torch.from_numpy(run(images.numpy()))

    count, found = 0, []
    for images, classes in parts:
        one = agreement.measure(model, bundle, images, classes)
        before, after = one["accuracy"] or (float("nan"),) * 2
        found.append(len(images) * torch.tensor([one["agreement"], before, after], dtype=torch.float64))
        count += len(images)
    same, before, after = (torch.stack(found).sum(0) / count).tolist()
    return Loss(data, count, same, None if before != before else (before, after))


class Folder:
    """Images to measure on, in a folder whose subfolders may be classes.

    Args:
        folder: The folder.
        label_names: The model's classes, in order; empty for a model that does not classify whole images.
        transform: The model's preprocessing, from an image to a tensor.
        channels: Number of the model's input channels.

    Raises:
        DeployError: If the folder does not exist.
        DataError: If a subfolder is not a class of the model.
        ImageReadError: If there are no images.
    """

    def __init__(
        self, folder: Path, label_names: Sequence[str], transform: Callable[[Any], Tensor], channels: int = 3
    ) -> None:
        if not folder.is_dir():
            raise DeployError(
                f"the folder of images to measure on does not exist: {folder}",
                expected="a folder of images",
                found="a file" if folder.exists() else "nothing",
                where="data",
                fix="Pass a folder with one subfolder per class.",
            )
        self.name, self.transform, self.channels = folder.resolve().name, transform, channels
        self.files = discover.find(str(folder), channels)
        inside = [file.relative_to(folder).parts for file in self.files]
        in_classes = bool(label_names) and all(len(parts) > 1 for parts in inside)
        self.classes = match_classes([parts[0] for parts in inside], label_names) if in_classes else []

    def __iter__(self) -> Iterator[Part]:
        for start in itertools.count(step=AT_ONCE):
            files = self.files[start : start + AT_ONCE]
            if not files:
                return
            images = torch.stack([self.transform(decode.read(file, channels=self.channels)) for file in files])
            yield images, self.classes[start : start + AT_ONCE]
