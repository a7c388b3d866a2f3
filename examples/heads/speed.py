"""Measures trained detectors and segmenters on the CPU, and adds to their rows in `docs/results/heads.json`.

    python examples/heads/speed.py bccd-ssdlite-0 --runs runs/heads

Networks with their post-processing, one image of the recipe's size at a time: in plain PyTorch, and on the fastest
engine of the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from results import PATH, add, machine

from mnv2zoo.deploy import optimize
from mnv2zoo.model_dir import records
from mnv2zoo.tasks import find_task

ROUNDS = 15  # of timing, of which the median counts


def main() -> None:
    """Measures each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--runs", type=Path, default=Path("runs/heads"))
    parser.add_argument("--results", type=Path, default=PATH, help="the file that gets the times")
    args = parser.parse_args()
    for name in args.names:
        times = speed(args.runs / name)
        print(f"{name}: {times}")
        add(args.results, name, {"ms": times, "ms_on": machine(None)})


def speed(run: Path) -> dict[str, float]:
    """Milliseconds per image in plain PyTorch and on the fastest engine."""
    network = find_task(records.task_name(str(run))).load_model(str(run), "cpu")
    _, height, width = network.config["input_size"]
    images = torch.rand(1, 3, min(height, width), max(height, width))
    with torch.inference_mode():
        eager = median_ms(lambda: network.model(images))
        fast = optimize(network.model, images)
        return {"eager": eager, fast.engine: median_ms(lambda: fast(images))}


def median_ms(run: Callable[[], Any]) -> float:
    """The median time of some runs, in milliseconds."""
    times = []
    for _ in range(ROUNDS + 2):
        began = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(times[2:]), 2)


if __name__ == "__main__":
    main()
