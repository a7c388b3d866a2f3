"""Measures an epoch of training a detector and a segmenter against torchvision's reference loops.

The reference loops (references/detection/engine.py and references/segmentation/train.py) get the same model, images,
augmentation and optimizer. For each batch they do what torchvision's do: zero the gradients, compute the loss, check
it, backpropagate, and step the optimizer and the schedule. `finetune` runs with the defaults of its task, including EMA
if the task has it. Processes take turns, and the second epoch is measured.

    python benchmarks/head_training.py --rounds 3
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import report
import torch
from report import SHARED
from torch.utils.data import DataLoader

import mnv2zoo
from mnv2zoo import detection, segmentation
from mnv2zoo.data.datasets import Photos
from mnv2zoo.data.layout import Layout
from mnv2zoo.system import memory
from mnv2zoo.tasks import find_task
from mnv2zoo.tasks.recipe import Recipe

BATCH, EPOCHS = 8, 2
# The data, the head and the sides of its images.
CASES: dict[str, dict[str, Any]] = {
    "detect": {"data": SHARED / "data/bccd", "head": "ssdlite", "size": (320, 320), "ignore_index": 255},
    "segment": {"data": SHARED / "data/camvid", "head": "lraspp", "size": (240, 320), "ignore_index": 11},
}


def ours(case: str, values: dict[str, Any]) -> float:
    """Seconds of an epoch of `finetune`."""
    layout = {"skip_bad_images": True} | ({"ignore_index": values["ignore_index"]} if case == "segment" else {})
    with tempfile.TemporaryDirectory() as folder:
        result = mnv2zoo.finetune(
            values["data"],
            out=Path(folder) / "run",
            task=case,
            head=values["head"],
            init="random",
            input_size=min(values["size"]),
            epochs=EPOCHS,
            workers=1,
            device="cpu",
            keep="last",
            **layout,
        )
    return float(result.history[-1]["seconds"])


def reference(case: str, values: dict[str, Any]) -> float:
    """Seconds of an epoch of torchvision's loop."""
    task = find_task(case)
    data = task.find_data(values["data"], Layout(skip_bad_images=True, ignore_index=values["ignore_index"]))
    preprocessing = {
        "input_size": (3, *values["size"]),
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "interpolation": "bilinear",
        "crop_mode": "squash",
    }
    recipe = dataclasses.replace(Recipe(), **task.defaults)
    photos = Photos(data.splits["train"], transforms=task.transforms(preprocessing, recipe))
    loader = DataLoader(
        photos,
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=1,
        collate_fn=task.collate,
        persistent_workers=True,
    )
    classes = len(data.class_names)
    if case == "detect":
        model: Any = detection.ssdlite("mnv2zoo_100", classes + 1, size=values["size"]).train()
        model.transform._skip_resize = True
    else:
        model = segmentation.lraspp("mnv2zoo_100", classes).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
    with memory.kept():
        for _ in range(EPOCHS):
            began = time.perf_counter()
            for images, targets in loader:
                if case == "detect":
                    loss = sum(model(images, targets).values())
                else:
                    loss = torch.nn.functional.cross_entropy(model(images)["out"], targets.long(), ignore_index=255)
                assert math.isfinite(loss.item())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
            seconds = time.perf_counter() - began
    return seconds


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind (3 by default)")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        case, kind = args.measure
        print(json.dumps((ours if kind == "mnv2zoo" else reference)(case, CASES[case])))
        return
    results: dict[str, Any] = {}
    for case, values in CASES.items():
        series: dict[str, list[float]] = {"mnv2zoo": [], "reference": []}
        for _ in range(args.rounds):
            for kind, seconds in series.items():
                seconds.append(report.in_process(__file__, "--measure", case, kind))
        results[case] = {
            "head": values["head"],
            "size": values["size"],
            "seconds_an_epoch": {kind: round(statistics.median(seconds), 1) for kind, seconds in series.items()},
            "times_reference": round(report.ratio(series["mnv2zoo"], series["reference"]), 2),
        }
        print(f"{case}: {results[case]}", flush=True)
    report.write("head_training", {"rounds": args.rounds, "batch": BATCH, "cases": results})


if __name__ == "__main__":
    main()
