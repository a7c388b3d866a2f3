"""Writes the metrics of runs on composed scenes to `docs/results/multilabel.json`.

    python examples/multilabel/results.py bce=RUN asymmetric=RUN

The metrics of other runs are preserved.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "docs/results/multilabel.json"
METRICS = ("images", "map", "f1_micro", "f1_macro")


def measured(run: Path) -> dict[str, Any]:
    """The metrics of a run by split, and its training settings."""
    results, record = (json.loads((run / name).read_text(encoding="utf-8")) for name in ("results.json", "recipe.json"))
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    row = {split: {name: round(results[split][name], 2) for name in METRICS} for split in ("val", "test")}
    images = len(json.loads((run / "split.json").read_text(encoding="utf-8"))["train"])
    recipe = record["recipe"]
    facts = {"train": recipe["train"], "loss": recipe["loss"], "epochs": len(epochs), "labels": len(record["classes"])}
    return {**facts, "images": images, "seconds": round(sum(epoch["seconds"] for epoch in epochs), 1), **row}


def main(*runs: str, results: Path = RESULTS) -> None:
    """Adds the metrics of runs, each as `name=folder`."""
    rows = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    rows |= {name: measured(Path(folder)) for name, _, folder in (run.partition("=") for run in runs)}
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
