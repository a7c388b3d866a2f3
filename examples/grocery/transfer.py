"""What the 20-class network gains on a thousand photos from where its training starts.

    python examples/grocery/transfer.py ../shared/data/grocery RUNS/head RUNS/transfer

`RUNS/head` is the run of `head.toml`, whose backbone is Google's as it was. The starts: random initialisation, the
bundled CIFAR-100 weights, and Google's ImageNet weights of the paper's network, by way of
`mnv2zoo.training.start.tutorial_from_paper`. Each trains at two learning rates, of which the validation photos choose
one; only then are the test photos looked at. The figures go to `docs/results/transfer.json`.
"""

import json
import os
import random
import sys
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import mnv2zoo

RESULTS = Path(__file__).resolve().parents[2] / "docs/results/transfer.json"
PHOTOS, SEED = 1000, 0
RATES = (0.02, 0.1)
RECIPE: dict[str, Any] = {
    "epochs": 20,
    "input_size": 96,
    "crop_pct": 1.0,
    "ema_decay": 0.98,
    "keep": "last",
}


def take(grocery: Path, folder: Path) -> None:
    """Unpacks `PHOTOS` training photos, as many of each class as its part of all of them says, and links the rest."""
    with tarfile.open(grocery / "train.tar") as tar:
        classes: dict[str, list[tarfile.TarInfo]] = defaultdict(list)
        for member in sorted(filter(tarfile.TarInfo.isfile, tar), key=lambda member: member.name):
            classes[Path(member.name).parts[1]].append(member)
        total = sum(map(len, classes.values()))
        draw = random.Random(SEED)
        for members in classes.values():
            tar.extractall(folder, draw.sample(members, round(PHOTOS * len(members) / total)), filter="data")
    for split in ("val", "test"):
        link = folder / f"{split}.tar"
        link.unlink(missing_ok=True)
        link.symlink_to((grocery / f"{split}.tar").resolve())


def main(grocery: Path, head: Path, runs: Path) -> None:
    """Trains and measures each start."""
    data = runs / "data"
    take(grocery, data)
    starts = {
        "random initialisation": "random",
        "mnv2zoo_100_c20.cifar100_coarse": "mnv2zoo_100_c20.cifar100_coarse",
        "ImageNet weights of the paper's network": str(head),
    }
    results: dict[str, Any] = {}
    for number, (name, init) in enumerate(starts.items()):
        tried = {
            rate: mnv2zoo.finetune(
                data,
                "mnv2zoo_100_c20",
                runs / f"{number}-{rate}",
                resume=(runs / f"{number}-{rate}").exists(),
                **(RECIPE | {"init": init, "lr": rate, "classifier": "conv"}),
            )
            for rate in RATES
        }
        best = max(RATES, key=lambda rate: tried[rate].scores["val"].top1)
        scores = tried[best].scores
        results[name] = {"lr": best} | {split: round(scores[split].top1, 2) for split in ("val", "test")}
        results[name]["photos"] = len(json.loads((runs / f"{number}-{best}/split.json").read_text())["train"])
    RESULTS.parent.mkdir(exist_ok=True)
    recipe = {key: value for key, value in RECIPE.items() if key != "keep"}
    found = {"cores": os.cpu_count(), "recipe": recipe, "starts": results}
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
