"""Releases the weights that train.sh trained: the weights file, its index entry, and the training record in the docs.

    python examples/cifar100/release.py runs "what is new about them"

The name of the weights is that of the package in `runs/superclasses`. If training started from earlier released
weights, the runs are added to the record of these weights.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import index_file

import mnv2zoo

RUNS = ("fine", "further", "coarse", "superclasses")  # in the order of train.sh
ROOT = Path(__file__).resolve().parents[2]
CALIBRATION = ("images", "top1", "calibration_error_before", "calibration_error")


def main(runs: Path, news: str) -> None:
    """Measures the last run on all test images, and releases its weights."""
    last = runs / RUNS[-1]
    ((name, entry),) = json.loads((last / "package/index_entry.json").read_text(encoding="utf-8")).items()
    record = ROOT / "docs/models" / name
    record.mkdir(exist_ok=True)
    data = (last / "model.safetensors").read_bytes()
    if (sha256 := hashlib.sha256(data).hexdigest()) != entry["sha256"]:
        sys.exit(f"{last}/package is not a package of {last}; run train.sh again")
    releases = json.loads(file.read_text()) if (file := record / "releases.json").exists() else []
    if sha256 in [release["sha256"] for release in releases]:
        sys.exit(f"{last}/model.safetensors has been released already")

    scores = mnv2zoo.evaluate(runs / "data/coarse", str(last), split="test").to_json()
    metrics = {key: round(scores[key], 2) for key in ("top1", "top5")}
    held_out = keep_runs(record, [runs / run for run in RUNS if (runs / run).is_dir()])
    shutil.copyfile(last / "results.json", record / "results.json")
    shutil.copyfile(last / "report/test/confusion.png", record / "confusion.png")
    releases.append({**metrics, "sha256": sha256, "trained": news})
    write(record / "releases.json", releases)

    shutil.copyfile(last / "model.safetensors", ROOT / "mnv2zoo/bundled" / entry["bundled"])
    about, semicolon, terms = entry["description"].partition(";")
    entry |= {"metrics": metrics, "description": f"{about} (release {len(releases)}){semicolon}{terms}"}
    temperature = entry.pop("temperature", None)
    if held_out and temperature is not None:
        entry["temperature"] = temperature
        images = json.loads((last / "results.json").read_text(encoding="utf-8"))["val"]["images"]
        facts = {"release": len(releases), "images": images, "temperature": temperature}
        write(record / "temperature.json", {**facts, "test": {key: scores[key] for key in CALIBRATION}})
    index_file.write(name, entry)
    print(f"{name}: {metrics}, sha256 {sha256}. Now: make generate" + ("" if held_out else ", and temperature.py"))


def keep_runs(record: Path, runs: list[Path]) -> bool:
    """Adds runs to a record. Returns whether none of its runs trained on the validation images."""
    if runs[0].name == RUNS[0]:  # from scratch: these weights have no earlier runs
        for file in record.glob("[0-9]*-*"):
            file.unlink()
    held_out = True
    for number, run in enumerate(runs, start=1 + len(list(record.glob("*-recipe.json")))):
        held_out = keep_run(record, run, number)
    return held_out


def keep_run(record: Path, run: Path, number: int) -> bool:
    """Writes the settings of a run, its epochs and its curves, without the paths of its files."""
    used = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    classes = len((run / "labels.txt").read_text(encoding="utf-8").splitlines())
    split = json.loads((run / "split.json").read_text(encoding="utf-8"))
    learnt, shown = ({name.partition("/")[2] for name in split[part]} for part in ("train", "val"))
    held_out = learnt.isdisjoint(shown)  # metrics on `val` are meaningless if this or an earlier run trained on it
    if number > 1:
        before = json.loads((record / f"{number - 1}-recipe.json").read_text(encoding="utf-8"))
        held_out = held_out and before["held_out"]
    facts = {"classes": classes, "held_out": held_out, "recipe": used["recipe"], "versions": used["versions"]}
    write(record / f"{number}-recipe.json", facts)
    shutil.copyfile(run / "metrics.jsonl", record / f"{number}-metrics.jsonl")
    shutil.copyfile(run / "report/val/curves.png", record / f"{number}-curves.png")
    return held_out


def write(path: Path, value: Any) -> None:
    """Writes a JSON file."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
