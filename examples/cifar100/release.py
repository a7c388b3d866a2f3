"""Releases the weights that train.sh trained: the weights file, its index entry, and the training record in the docs.

    python examples/cifar100/release.py runs "what is new about them"

If training started from earlier released weights, the runs are added to the record of these weights.
"""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import mnv2zoo

NAME = "mnv2zoo_100_c20.cifar100_coarse"
RUNS = ("fine", "further", "coarse", "superclasses")  # in the order of train.sh
ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "docs/models" / NAME


def keep_record(run: Path, number: int) -> None:
    """Writes the settings of a run, its epochs and its curves, without the paths of its files."""
    used = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    classes = len((run / "labels.txt").read_text(encoding="utf-8").splitlines())
    split = json.loads((run / "split.json").read_text(encoding="utf-8"))
    learnt, shown = ({name.partition("/")[2] for name in split[part]} for part in ("train", "val"))
    held_out = learnt.isdisjoint(shown)  # metrics on `val` are meaningless if this or an earlier run trained on it
    if number > 1:
        before = json.loads((RECORD / f"{number - 1}-recipe.json").read_text(encoding="utf-8"))
        held_out = held_out and before["held_out"]
    facts = {"classes": classes, "held_out": held_out, "recipe": used["recipe"], "versions": used["versions"]}
    (RECORD / f"{number}-recipe.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(run / "metrics.jsonl", RECORD / f"{number}-metrics.jsonl")
    shutil.copyfile(run / "report/val/curves.png", RECORD / f"{number}-curves.png")


def replace_once(text: str, pattern: str, new: str) -> str:
    """Replaces the match of a pattern, which must occur exactly once."""
    text, found = re.subn(pattern, lambda match: new, text)
    assert found == 1, f"{pattern!r} is in the entry {found} times"
    return text


def main(runs: Path, news: str) -> None:
    """Measures the last run on all test images, and releases its weights."""
    last = runs / RUNS[-1]
    scores = mnv2zoo.evaluate(runs / "data/coarse", str(last), split="test")
    metrics = {"top1": round(scores.top1, 2), "top5": round(scores.top5, 2)}
    data = (last / "model.safetensors").read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()

    releases = json.loads((RECORD / "releases.json").read_text(encoding="utf-8"))
    if sha256 in [release["sha256"] for release in releases]:
        sys.exit(f"{last}/model.safetensors has been released already")

    made = [runs / name for name in RUNS if (runs / name).is_dir()]
    if made[0].name == RUNS[0]:  # from scratch: these weights have no earlier runs
        for file in RECORD.glob("[0-9]*-*"):
            file.unlink()
    kept = len(list(RECORD.glob("*-recipe.json")))
    for number, run in enumerate(made, start=kept + 1):
        keep_record(run, number)
    shutil.copyfile(last / "results.json", RECORD / "results.json")
    shutil.copyfile(last / "report/test/confusion.png", RECORD / "confusion.png")
    releases.append({**metrics, "sha256": sha256, "trained": news})
    (RECORD / "releases.json").write_text(json.dumps(releases, indent=2) + "\n", encoding="utf-8")

    (ROOT / f"mnv2zoo/bundled/{NAME}.safetensors").write_bytes(data)
    path = ROOT / "weights_index.json"
    before, begin, entry = path.read_text(encoding="utf-8").partition(f'"{NAME}": {{')  # it is the last entry
    entry = replace_once(entry, r'"sha256": "\w+"', f'"sha256": "{sha256}"')
    entry = replace_once(entry, r'"size": \d+', f'"size": {len(data)}')
    entry = replace_once(entry, r'"metrics": \{[^}]*\}', f'"metrics": {json.dumps(metrics)}')
    entry = replace_once(entry, r"\(release \d+\)", f"(release {len(releases)})")
    entry = re.sub(r'\n *"temperature": [\d.]+,', "", entry)  # it belongs to other weights
    path.write_text(before + begin + entry, encoding="utf-8")
    print(f"{NAME}: {metrics}, sha256 {sha256}. Now: temperature.py, and make generate")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
