"""Measures whether `auto` picks the fastest engine in fp32: for each model, number of threads and batch size.

After `optimize` has picked an engine, the engines that it tried take turns with the same images. An engine that took
more than twice as long as the picked one is not measured again, and keeps the time that `optimize` measured. For one
image, engines are also measured directly after a small operation of PyTorch, as in a service that preprocesses with it.
Goal: the picked engine takes at most 5 % longer than the fastest. Weights are random.

    python benchmarks/engines.py --models mnv2zoo_100 ssdlite

With some of the models or numbers of threads, rows of others that were measured with the same versions stay.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import report
import timm
import torch
from deploy import SETTLE
from torch import Tensor, nn

from mnv2zoo import architecture, detection, segmentation
from mnv2zoo.deploy import optimize
from mnv2zoo.runtimes.cache import versions

GOAL = 1.05
FAR = 2.0  # times the picked engine's time, from which an engine is not measured again
RUNTIMES = ("onnxruntime", "openvino")
HEADS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "ssdlite": (lambda: detection.ssdlite("mnv2zoo_100", 91, size=(320, 320), score_thresh=0.5), (320, 320)),
    "lraspp": (lambda: segmentation.lraspp("mnv2zoo_100", 21), (320, 320)),
}
MODELS = (*(name for name in architecture.CONFIGS if not name.endswith("_c20")), *HEADS)


def build(name: str) -> tuple[nn.Module, tuple[int, int]]:
    """A model with random weights, and the size of its images."""
    torch.manual_seed(0)
    if name in HEADS:
        make, size = HEADS[name]
        return make().eval(), size
    return timm.create_model(name).eval(), (224, 224)


def medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of calls that take turns."""
    series = report.take_turns(calls, rounds, warm_up=1, settle=SETTLE)
    return {name: round(1000 * statistics.median(seconds), 3) for name, seconds in series.items()}


def after_pytorch(run: Callable[[Tensor], object], images: Tensor) -> object:
    """Normalizes images in PyTorch, and runs a model on them."""
    return run(((images - 0.5) / 0.5).clamp(0, 1))


@torch.inference_mode()
def measure(name: str, batches: list[int], rounds: int, cache: str) -> None:
    """Runs in the measured process; prints a row per batch size as JSON."""
    model, size = build(name)
    rows = []
    for batch in batches:
        images = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0))
        picked = optimize(model, images, cache=cache)
        tried = {attempt.engine: attempt.milliseconds for attempt in picked.tried if attempt.milliseconds is not None}
        near = [engine for engine, ms in tried.items() if ms <= FAR * tried[picked.engine]]
        runs = {engine: optimize(model, images, engine, cache=cache) for engine in near}
        turns = rounds if batch == 1 else max(4, rounds // 3)
        row: dict[str, Any] = {"batch": batch, "picked": picked.engine}
        measured = medians({engine: partial(run, images) for engine, run in runs.items()}, turns)
        row["ms"] = {engine: round(ms, 3) for engine, ms in tried.items()} | measured
        row["times_fastest"] = round(measured[picked.engine] / min(measured.values()), 3)
        if batch == 1:
            calls = {engine: partial(after_pytorch, run, images) for engine, run in runs.items()}
            row["ms_after_pytorch"] = medians(calls, turns)
        rows.append(row)
    print(json.dumps(rows))


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, metavar="MODEL")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32], help="batch sizes (default: 1, 8, 32)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default: 1, 2)")
    parser.add_argument("--rounds", type=int, default=12, help="turns of each engine for one image (default: 12)")
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "CACHE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure[0], args.batch, args.rounds, args.measure[1])
        return

    rows = others(args.models, args.threads)
    with tempfile.TemporaryDirectory() as cache:
        for name in args.models:
            for threads in args.threads:
                words = [__file__, "--measure", name, cache, "--rounds", str(args.rounds)]
                env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
                found = report.in_process(*words, "--batch", *map(str, args.batch), env=env)
                rows += [{"model": name, "threads": threads, **row} for row in found]
                for row in rows[-len(found) :]:
                    print(row, flush=True)
                write(rows)


def others(models: list[str], threads: list[int]) -> list[dict[str, Any]]:
    """The rows of earlier runs with the same versions, except for those that are measured now."""
    earlier = report.written("engines")
    if earlier.get("versions") != versions(RUNTIMES):
        return []
    return [row for row in earlier["rows"] if row["model"] not in models or row["threads"] not in threads]


def write(rows: list[dict[str, Any]]) -> None:
    """Writes the rows so far, by model, threads and batch size."""
    rows.sort(key=lambda row: (MODELS.index(row["model"]), row["threads"], row["batch"]))
    worst = max(row["times_fastest"] for row in rows)
    report.write("engines", {"versions": versions(RUNTIMES), "goal": GOAL, "worst": worst, "rows": rows})


if __name__ == "__main__":
    main()
