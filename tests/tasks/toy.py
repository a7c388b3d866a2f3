"""A second task, to prove that tasks need nothing of classification: regression of an image's mean red and green.

The images lie in one folder. Its file `targets.csv` has a row `name,red,green` per image, with values from 0 to 1.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mnv2zoo.data.datasets import Data, Sample
from mnv2zoo.errors import DataError
from mnv2zoo.tasks import Metric, Scores, Task
from mnv2zoo.tasks.base import Options

TARGETS = "targets.csv"


@dataclass(frozen=True)
class Errors(Scores):
    """Errors of the two numbers.

    Attributes:
        loss: Mean squared error.
        mae: Mean absolute error.
    """

    loss: float
    mae: float


class MeanError(Metric):
    """Accumulates the differences between outputs and targets."""

    def __init__(self) -> None:
        self.differences: list[Any] = []

    def update(self, outputs: Any, targets: Any) -> None:
        self.differences.append((outputs - targets).double())

    def compute(self) -> Errors:
        import torch

        differences = torch.cat(self.differences)
        return Errors(len(differences), differences.square().mean().item(), differences.abs().mean().item())


class MeanColor(Task):
    """The mean red and green of an image."""

    metric = "mae"
    lower_is_better = ("loss", "mae")

    def find_data(self, place: str | Path, layout: Any) -> Data:
        file = Path(place) / TARGETS
        if not file.is_file():
            raise DataError("there are no targets", expected=TARGETS, found="none", where=place)
        with file.open(newline="") as rows:
            samples = [Sample(n, (float(red), float(green)), file.with_name(n)) for n, red, green in csv.reader(rows)]
        return Data((), {"train": tuple(samples)})

    @staticmethod
    def collate(batch: list[Any]) -> Any:
        import torch

        images, targets = zip(*batch, strict=True)
        return torch.stack(images), torch.tensor(targets)

    def num_outputs(self, data: Data) -> int:
        return 2

    def training_step(self, model: Any, inputs: Any, targets: Any) -> Any:
        return (model(inputs) - targets).square().mean()

    def metrics(self, label_names: Any) -> MeanError:
        return MeanError()

    def rows(self, outputs: Any, images: Any, label_names: Any, options: Options) -> list[dict[str, Any]]:
        return [{"red": round(red, 4), "green": round(green, 4)} for red, green in outputs.tolist()]


class Masks(MeanColor):
    """The same with a file per image, as a task that predicts masks writes them."""

    writes_files = True

    def rows(self, outputs: Any, images: Any, label_names: Any, options: Options) -> list[dict[str, Any]]:
        rows = super().rows(outputs, images, label_names, options)
        for seen, row in zip(images, rows, strict=True):
            if (file := options.file_for(seen.name, ".txt")) is not None:
                row["file"] = str(file)
                Path(row["file"]).write_text(f"{row['red']} {row['green']}")
        return rows


def mean_color(image: Image.Image) -> tuple[float, float]:
    """The targets of an image."""
    red, green, _ = np.asarray(image.convert("RGB")).mean((0, 1)) / 255
    return round(float(red), 6), round(float(green), 6)


def fill(folder: Path, count: int = 24) -> Path:
    """Puts images of one noisy color each into a folder, with their targets."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    rows = []
    for number in range(count):
        color = random.integers(30, 226, 3) + random.integers(-20, 20, (36, 40, 3))
        image = Image.fromarray(color.astype(np.uint8))
        image.save(folder / f"{number:03}.png")
        rows.append([f"{number:03}.png", *mean_color(image)])
    with (folder / TARGETS).open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder
