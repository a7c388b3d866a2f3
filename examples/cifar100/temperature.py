"""Fits the temperature of the weights of mnv2zoo_100_c20, and writes it to the index and the record in the docs.

    git show 262468a:mnv2zoo/bundled/mnv2zoo_100_c20.cifar100_coarse.safetensors > release-3.safetensors
    python examples/cifar100/temperature.py runs/data release-3.safetensors

`runs/data` is the output of split.py. Later releases were also trained on the validation images, so their scores on
them are too high. Therefore the temperature is fitted on the last release that was not, which used the same recipes.
The test images are only used to measure the effect.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import index_file
import safetensors.torch
import timm
import torch
from torch.utils.data import DataLoader

import mnv2zoo
from mnv2zoo.data import datasets
from mnv2zoo.tasks.classify import temperature

NAME = "mnv2zoo_100_c20.cifar100_coarse"
ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "docs/models" / NAME


def outputs(weights: bytes, data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of the validation images, and their classes with the model's numbers."""
    model = timm.create_model(NAME, pretrained=True)
    model.load_state_dict(safetensors.torch.load(weights))
    found = datasets.find(data)
    assert found.class_names == mnv2zoo.weights.entry(NAME).label_names
    photos = datasets.Photos(found.splits["val"], mnv2zoo.transforms(NAME))
    with torch.inference_mode():
        batches = [(model.eval()(images), targets) for images, targets in DataLoader(photos, 128)]
    logits, targets = zip(*batches, strict=True)
    return torch.cat(logits), torch.cat(targets)


def main(data: Path, file: Path) -> None:
    """Fits the temperature, and measures it."""
    weights = file.read_bytes()
    releases = json.loads((RECORD / "releases.json").read_text(encoding="utf-8"))
    release = [row["sha256"] for row in releases].index(hashlib.sha256(weights).hexdigest()) + 1
    logits, targets = outputs(weights, data / "coarse")
    found = temperature.fit(logits, targets)

    index_file.write(NAME, {**index_file.read()[NAME], "temperature": found})

    command = [sys.executable, "-m", "mnv2zoo", "evaluate", str(data / "coarse"), "--model", NAME, "--json"]
    scores = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    kept = ("images", "top1", "calibration_error_before", "calibration_error")
    facts = {"release": release, "images": len(targets), "temperature": found}
    facts |= {"test": {name: scores[name] for name in kept}}
    (RECORD / "temperature.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
