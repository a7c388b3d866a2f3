"""Cross-validates a classifier on the Grocery Store photos, and writes the results to `docs/results/folds.json`.

    python examples/grocery/folds.py ../shared/data/grocery WEIGHTS runs/folds

WEIGHTS is Google's model.safetensors. The training and validation photos are divided into folds twice: photo by photo,
and in series of ten consecutive photos, according to their numbers. The test photos are left out. The classifier is
trained with `head.toml`, on features that are computed once for all folds. Run the same command again to resume.
"""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import mnv2zoo

FOLDS = 5
METRICS = ("top1", "f1_macro", "balanced_accuracy")
WAYS: dict[str, str | None] = {"photos": None, "series": r"([^/]+_\d\d)\d\.jpg"}
RESULTS = Path(__file__).resolve().parents[2] / "docs/results/folds.json"


def link(grocery: Path, data: Path) -> Path:
    """Creates a folder with the training and validation photos."""
    data.mkdir(parents=True, exist_ok=True)
    for name in ("train.tar", "val.tar"):
        (data / name).unlink(missing_ok=True)
        (data / name).symlink_to((grocery / name).resolve())
    return data


def main(grocery: Path, weights: Path, out: Path) -> None:
    """Trains and measures all folds, divided in both ways."""
    data = link(grocery, out / "data")
    recipe = tomllib.loads(Path(__file__).with_name("head.toml").read_text(encoding="utf-8"))["recipe"]
    figures: dict[str, Any] = {"folds": FOLDS}
    for way, group_by in WAYS.items():
        values = {**recipe, "init": str(weights), "group_by": group_by}
        result = mnv2zoo.finetune(data, out=out / way, resume=True, folds=FOLDS, **values)
        split = json.loads((result.runs[0] / "split.json").read_text(encoding="utf-8"))
        mean, std = result.mean["val"], result.std["val"]
        figures[way] = {"photos": sum(map(len, split["folds"]))}
        figures[way] |= {name: {"mean": round(mean[name], 2), "std": round(std[name], 2)} for name in METRICS}
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
