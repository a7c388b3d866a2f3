"""Measures the value of pretrained weights: `mnv2zoo_100_c20` on a thousand Grocery photos, from three initializations.

    python examples/grocery/transfer.py ../shared/data/grocery runs/head runs/transfer

`runs/head` is the run of `head.toml`, which contains the ImageNet weights of the paper's model. Each initialization is
trained with two learning rates and `transfer.toml`, and the better one on the validation photos counts. Run the same
command again to resume. The results are written to `docs/results/transfer.json`.
"""

import json
import os
import random
import sys
import tarfile
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import mnv2zoo

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs/results/transfer.json"
MODEL = "mnv2zoo_100_c20"
PHOTOS = 1000
LEARNING_RATES = (0.01, 0.05)
NORMALIZATION = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # of Google's weights, and for training from scratch


def thousand(source: Path, target: Path) -> None:
    """Creates a folder with a subset of the training photos, evenly spread over the classes, and all other photos."""
    target.mkdir(parents=True, exist_ok=True)
    for split in ("val", "test"):
        link = target / f"{split}.tar"
        link.unlink(missing_ok=True)
        link.symlink_to((source / f"{split}.tar").resolve())
    with tarfile.open(source / "train.tar") as old, tarfile.open(target / "train.tar", "w") as new:
        classes: dict[str, list[tarfile.TarInfo]] = defaultdict(list)
        for member in sorted(filter(tarfile.TarInfo.isfile, old), key=lambda member: member.name):
            classes[str(Path(member.name).parent)].append(member)
        generator = random.Random(0)
        # In rounds of one photo per class: order within a round, random if the last round is incomplete.
        drawn = [
            (turn, generator.random(), member)
            for members in classes.values()
            for turn, member in enumerate(generator.sample(members, len(members)))
        ]
        for _, _, member in sorted(drawn, key=lambda draw: draw[:2])[:PHOTOS]:
            new.addfile(member, old.extractfile(member))


def main(grocery: Path, head: Path, runs: Path) -> None:
    """Trains and measures each initialization."""
    data = runs / "data"
    thousand(grocery, data)
    recipe = tomllib.loads(Path(__file__).with_name("transfer.toml").read_text(encoding="utf-8"))["recipe"]
    starts: dict[str, dict[str, Any]] = {
        "random": {"init": "random", **NORMALIZATION},
        "cifar100_coarse": {"init": "pretrained"},
        "imagenet": {"init": str(head), **NORMALIZATION},
    }
    results = {}
    for start, own in starts.items():
        rows: list[dict[str, Any]] = []
        for lr in LEARNING_RATES:
            out = runs / f"{start}-{lr}"
            done = mnv2zoo.finetune(data, MODEL, out, resume=True, **recipe, **own, lr=lr)
            val, test = (round(done.scores[split].top1, 2) for split in ("val", "test"))
            rows.append({"lr": lr, "val_top1": val, "test_top1": test})
        results[start] = {**max(rows, key=lambda row: row["val_top1"]), "tried": rows}
    facts = {"model": MODEL, "photos": PHOTOS, "side": recipe["input_size"], "epochs": recipe["epochs"]}
    RESULTS.parent.mkdir(exist_ok=True)
    text = json.dumps({**facts, "cores": os.cpu_count(), "starts": results}, indent=2)
    RESULTS.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
