"""Measures runs on the Grocery Store photos, and writes the results to `docs/results/grocery.json`.

    python examples/grocery/results.py ../shared/data/grocery head=RUN partial=RUN full=RUN all=RUN

The predicted coarse class is that of the predicted fine class, according to `classes.csv`. The results of other runs
are preserved.
"""

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import mnv2zoo
from mnv2zoo.tasks.classify.metrics import Scores

TRAIN = 2640  # photos in the dataset's own training split
RESULTS = Path(__file__).resolve().parents[2] / "docs/results/grocery.json"


def coarse_top1(scores: Scores, coarse: dict[str, str]) -> float:
    """The percentage of images with the correct coarse class; `coarse` maps folder names to coarse classes."""
    names = [coarse[label] for label in scores.label_names]
    right = sum(
        count
        for truth, row in zip(names, scores.confusion, strict=True)
        for predicted, count in zip(names, row, strict=True)
        if truth == predicted
    )
    return 100 * right / scores.images


def measure(run: Path, data: Path, coarse: dict[str, str]) -> dict[str, Any]:
    """The metrics of a run on the test photos, and on the validation photos if it was not trained on them."""
    photos = len(json.loads((run / "split.json").read_text(encoding="utf-8"))["train"])
    row: dict[str, Any] = {"photos": photos}
    for split in ("val", "test") if photos == TRAIN else ("test",):
        scores = mnv2zoo.evaluate(data, str(run), split=split)
        row[split] = {"images": scores.images, "top1": round(scores.top1, 2), "top5": round(scores.top5, 2)}
        row[split] |= {"coarse": round(coarse_top1(scores, coarse), 2)}
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))["recipe"]
    return {
        **row,
        "train": recipe["train"],
        "epochs": len(epochs),
        "minutes": round(sum(epoch["seconds"] for epoch in epochs) / 60, 1),
        "seconds_an_epoch": round(sorted(epoch["seconds"] for epoch in epochs)[len(epochs) // 2], 1),
    }


def main(data: Path, *runs: str) -> None:
    """Measures runs, each as `name=folder`."""
    with (data / "classes.csv").open(encoding="utf-8", newline="") as file:
        coarse = {f"{int(row['fine_id']):02}_{row['fine_name']}": row["coarse_name"] for row in csv.DictReader(file)}
    pairs = (run.partition("=") for run in runs)
    results = {name: measure(Path(folder), data, coarse) for name, _, folder in pairs}
    earlier = json.loads(RESULTS.read_text(encoding="utf-8"))["runs"] if RESULTS.exists() else {}
    RESULTS.parent.mkdir(exist_ok=True)
    facts = {"cores": os.cpu_count(), "runs": earlier | results}
    RESULTS.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
