"""Measures whether training on photos that are read at a reduced size changes accuracy.

`mnv2zoo finetune` trains the layers from `Bottleneck_12` on with the Grocery Store dataset, which must be available
next to the repository, at 96 pixels with crops of at least 90 % of a photo's area. The photos have a short side of 240
pixels, so all of them are read at about half their size, as phone photos are at 224 pixels. Each seed is trained twice:
with the default reader, and with photos that are read at full size.

    python benchmarks/large_photos_accuracy.py --seeds 3
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import report

import mnv2zoo
from mnv2zoo.data import datasets, decode
from mnv2zoo.tasks import augmentation
from mnv2zoo.tasks.classify.task import Classify
from mnv2zoo.tasks.recipe import make

GROCERY = report.SHARED / "data/grocery"
SIDE = 96
RECIPE: Mapping[str, Any] = {
    **{"input_size": SIDE, "pad_type": "same", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    **{"weight_decay": 5e-4, "ema_decay": 0.98, "scale": 0.9, "crop_pct": 1.0, "workers": 2, "train": "Bottleneck_12"},
}


class FullSize(Classify):
    """A classification task that reads training photos at full size."""

    def transforms(self, preprocessing: Mapping[str, Any], recipe: Any = None) -> Any:
        """Removes the reader of training photos."""
        transform: Any = super().transforms(preprocessing, recipe)
        return transform if recipe is None else replace(transform, reader=None)


TASKS = {"full size": FullSize(), "reduced size": None}


def top1(name: str, seed: int, epochs: int, weights: Path) -> float:
    """Trains a model, and returns its accuracy on the test photos in percent."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        options = {**RECIPE, "epochs": epochs, "seed": seed, "init": str(weights), "task": TASKS[name]}
        mnv2zoo.finetune(GROCERY, "mnv2zoo_100", run, **options)
        return float(mnv2zoo.evaluate(GROCERY, str(run), split="test", task=TASKS[name]).top1)


def reduced() -> float:
    """The percentage of training photos that the default reader reduces."""
    preprocessing = {"input_size": (3, SIDE, SIDE), "interpolation": "bilinear", "crop_pct": 1.0}
    reader = augmentation.reader(make(**RECIPE), preprocessing)
    assert reader is not None
    photos = (decode.read(sample.content()) for sample in datasets.find(GROCERY).splits["train"])
    return 100 * statistics.mean(reader.factor(*photo.size) > 1 for photo in photos)


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--weights", type=Path, default=report.GOOGLE, help="ImageNet weights of mnv2zoo_100")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in TASKS}
    for seed in range(args.seeds):
        for name, values in found.items():
            values.append(top1(name, seed, args.epochs, args.weights))
            print(f"{name}, seed {seed}: {values[-1]:.2f} %", flush=True)
    results = {
        "side": SIDE,
        "reduced_percent": round(reduced(), 1),
        "epochs": args.epochs,
        "top1": {name: [round(value, 2) for value in values] for name, values in found.items()},
        "mean": {name: round(statistics.mean(values), 2) for name, values in found.items()},
        "standard_deviation": {name: round(statistics.stdev(values), 2) for name, values in found.items()},
    }
    report.write("large_photos_accuracy", results)


if __name__ == "__main__":
    main()
