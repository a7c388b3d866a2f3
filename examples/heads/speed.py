"""Measures trained detectors and segmenters on the CPU, and adds the results to `docs/results/heads.json`.

    python examples/heads/speed.py bccd-ssdlite-0 --data ../shared/data/bccd --runs runs/heads

The latency includes post-processing, for one image of the size for prediction at a time, in plain PyTorch and on the
fastest engine of the machine, which take turns. The accuracy cost of int8 is measured on the validation images, for the
fastest engine calibrated on training images.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from evaluation import measure
from results import PATH, add, machine

from mnv2zoo.data.datasets import Data, Photos
from mnv2zoo.data.layout import Layout
from mnv2zoo.deploy import optimize
from mnv2zoo.model_dir import records
from mnv2zoo.models.pretrained import Network
from mnv2zoo.tasks import Task, find_task

ROUNDS = 15  # timed runs; the median counts
CALIBRATED = 100  # training images to calibrate with


def main() -> None:
    """Measures each run."""
    args = arguments()
    for name in args.names:
        run = args.runs / name
        task = find_task(records.task_name(str(run)))
        network = task.load_model(str(run), "cpu")
        row = {"ms": speed(network), "ms_on": machine(None)}
        if args.data is not None:
            ignored = records.recorded(str(run))["recipe"]["ignore_index"]
            data = task.find_data(args.data, Layout(skip_bad_images=True, ignore_index=ignored))
            row["int8"] = cost_of_int8(task, network, data)
        print(f"{name}: {row}")
        add(args.results, name, row)


def speed(network: Network) -> dict[str, float]:
    """Milliseconds per image in plain PyTorch and on the fastest engine."""
    _, height, width = network.config.get("test_input_size") or network.config["input_size"]
    images = torch.rand(1, 3, min(height, width), max(height, width))
    with torch.inference_mode():
        fast = optimize(network.model, images)
        return medians({"eager": lambda: network.model(images), fast.engine: lambda: fast(images)})


def medians(runs: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """The median time of each function in milliseconds. The functions take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS + 2):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - began))
    return {name: round(statistics.median(own[2:]), 2) for name, own in times.items()}


def cost_of_int8(task: Task, network: Network, data: Data) -> dict[str, Any]:
    """The metric on the validation images in percent before and after int8, and the milliseconds per image after."""
    seen = Photos(data.splits["train"][:CALIBRATED], transforms=task.transforms(network.config))
    images = torch.stack([image for image, _ in seen])
    fast = optimize(network.model, images[:1], "auto", "int8", calibration=images)
    scores = [measure(task, data, "val", network.config, run) for run in (network.model, fast)]
    before, after = (round(task.measured(task.metric, own), 2) for own in scores)
    took = medians({"ms": lambda: fast(images[:1])})
    return {"engine": fast.engine, "metric": task.metric, "before": before, "after": after, **took}


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="run folders")
    parser.add_argument("--data", type=Path, help="the data of the runs, to measure the accuracy cost of int8")
    parser.add_argument("--runs", type=Path, default=Path("runs/heads"))
    parser.add_argument("--results", type=Path, default=PATH, help="the file to add the results to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
