"""Cross-validates a classifier of the Grocery Store photos, and writes the figures to `docs/results/folds.json`.

    python examples/grocery/folds.py ../shared/data/grocery WEIGHTS runs/folds

WEIGHTS is Google's model.safetensors. The folds are of the training and validation photos; the test photos are left
out. The classifier is trained by `head.toml`, on features that are computed once for all folds. An interrupted
cross-validation resumes.
"""

import json
import sys
import time
import tomllib
from pathlib import Path

import torch

import mnv2zoo

FOLDS = 5
METRICS = ("top1", "f1_macro", "balanced_accuracy", "calibration_error")
RESULTS = Path(__file__).resolve().parents[2] / "docs/results/folds.json"


def main(grocery: Path, weights: Path, out: Path) -> None:
    """Trains and measures each fold."""
    data = out.with_name(f"{out.name}-data")
    data.mkdir(parents=True, exist_ok=True)
    for name in ("train.tar", "val.tar"):
        (data / name).unlink(missing_ok=True)
        (data / name).symlink_to((grocery / name).resolve())
    began = time.monotonic()
    recipe = tomllib.loads(Path(__file__).with_name("head.toml").read_text(encoding="utf-8"))["recipe"]
    result = mnv2zoo.finetune(data, out=out, resume=True, folds=FOLDS, init=str(weights), **recipe)
    split = json.loads((result.runs[0] / "split.json").read_text(encoding="utf-8"))
    facts = {
        "folds": FOLDS,
        "photos": sum(map(len, split["folds"])),
        "threads": torch.get_num_threads(),
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    mean, std = result.mean["val"], result.std["val"]
    figures = {name: {"mean": round(mean[name], 2), "std": round(std[name], 2)} for name in METRICS}
    RESULTS.write_text(json.dumps(facts | figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts | figures, indent=2))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
