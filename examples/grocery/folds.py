"""Cross-validates a classifier of the Grocery Store photos, and writes the figures to `docs/results/folds.json`.

    python examples/grocery/folds.py ../shared/data/grocery WEIGHTS runs/folds

WEIGHTS is Google's model.safetensors. The classifier is trained on features that are computed once, by `head.toml`. An
interrupted cross-validation resumes.
"""

import json
import sys
import tomllib
from pathlib import Path

import torch

import mnv2zoo

FOLDS = 5
METRICS = ("top1", "f1_macro", "balanced_accuracy", "calibration_error")
RESULTS = Path(__file__).resolve().parents[2] / "docs/results/folds.json"


def main(grocery: Path, weights: Path, out: Path) -> None:
    """Trains and measures each fold."""
    recipe = tomllib.loads(Path(__file__).with_name("head.toml").read_text(encoding="utf-8"))["recipe"]
    result = mnv2zoo.finetune(grocery, out=out, resume=True, folds=FOLDS, init=str(weights), **recipe)
    split = json.loads((result.runs[0] / "split.json").read_text(encoding="utf-8"))
    facts = {
        "folds": FOLDS,
        "threads": torch.get_num_threads(),
        "photos": {"val": sum(map(len, split["folds"])), "test": len(split["test"])},
    }
    figures = {
        split: {name: {"mean": round(mean[name], 2), "std": round(result.std[split][name], 2)} for name in METRICS}
        for split, mean in result.mean.items()
    }
    RESULTS.write_text(json.dumps(facts | figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts | figures, indent=2))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
