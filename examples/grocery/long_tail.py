"""Trains a classifier of Grocery Store photos on a long tail, and writes the results to `docs/results/long_tail.json`.

    python examples/grocery/long_tail.py ../shared/data/grocery WEIGHTS runs/long_tail

WEIGHTS is Google's model.safetensors. The number of training photos per class decreases in a geometric series from all
photos of the largest class to three. The validation and test photos are unchanged. The classifier is trained with
`head.toml` on cached features, with three seeds per method. Run the same command again to resume.
"""

import json
import statistics
import sys
import tarfile
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import mnv2zoo

LEAST = 3
SEEDS = (0, 1, 2)
METRICS = ("f1_macro", "balanced_accuracy", "top1")
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "class_weights": {"class_weights": "balanced"},
    "sampler": {"sampler": "balanced"},
    "focal": {"loss": "focal"},
}
RESULTS = Path(__file__).resolve().parents[2] / "docs/results/long_tail.json"


def kept(sizes: dict[str, int]) -> dict[str, int]:
    """The number of photos to use per class: a geometric series from all of the largest class to `LEAST`."""
    order = sorted(sizes, key=lambda name: (-sizes[name], name))
    most = sizes[order[0]]
    wanted = (most * (LEAST / most) ** (rank / (len(order) - 1)) for rank in range(len(order)))
    return {name: min(sizes[name], round(number)) for name, number in zip(order, wanted, strict=True)}


def cut(grocery: Path, data: Path) -> dict[str, int]:
    """Creates a folder with a long-tailed train.tar, and returns the number of photos per class."""
    data.mkdir(parents=True, exist_ok=True)
    for name in ("val.tar", "test.tar"):
        (data / name).unlink(missing_ok=True)
        (data / name).symlink_to((grocery / name).resolve())
    photos: dict[str, list[tarfile.TarInfo]] = defaultdict(list)
    with tarfile.open(grocery / "train.tar") as whole, tarfile.open(data / "train.tar", "w") as tail:
        for member in sorted((one for one in whole if one.isfile()), key=lambda one: one.name):
            photos[Path(member.name).parent.name].append(member)
        counts = kept({name: len(own) for name, own in photos.items()})
        for name, own in photos.items():
            step = len(own) / counts[name]
            for number in range(counts[name]):  # evenly spaced, because the photos of a class come in series
                member = own[int(number * step)]
                tail.addfile(member, whole.extractfile(member))
    return counts


def main(grocery: Path, weights: Path, out: Path) -> None:
    """Trains and measures each method."""
    counts = cut(grocery, out / "data")
    recipe = tomllib.loads(Path(__file__).with_name("head.toml").read_text(encoding="utf-8"))["recipe"]
    figures: dict[str, Any] = {
        "photos": sum(counts.values()),
        "classes": len(counts),
        "most": max(counts.values()),
        "least": min(counts.values()),
        "seeds": len(SEEDS),
        "ways": {},
    }
    for way, values in WAYS.items():
        scores = []
        for seed in SEEDS:
            given = {**recipe, "init": str(weights), "monitor": "f1_macro", **values, "seed": seed}
            run = mnv2zoo.finetune(out / "data", out=out / f"{way}-{seed}", resume=True, **given)
            scores.append(run.scores["test"].to_json())
        figures["ways"][way] = {
            name: {"mean": round(statistics.mean(found), 2), "std": round(statistics.stdev(found), 2)}
            for name in METRICS
            for found in [[one[name] for one in scores]]
        }
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
