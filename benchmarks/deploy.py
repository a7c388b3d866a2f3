"""Measures `mnv2zoo_100` on every engine against timm in eager mode, at 224 pixels.

Each engine runs in its own process and takes turns with timm. If Google's weights and the sample photos are available
next to the repository, they are used, also to calibrate int8. Otherwise both are random. Only the speed is measured.

    python benchmarks/deploy.py --batch 1 32 --rounds 30
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial

import report
import timm
import torch
import torchvision
from report import GOOGLE, SAMPLES

from mnv2zoo import deploy
from mnv2zoo.data import decode
from mnv2zoo.deploy.checks import missing
from mnv2zoo.deploy.engines import ENGINES
from mnv2zoo.runtimes.cache import versions

# How many times faster than timm in eager mode, at batch 1 and 32.
GOALS = {
    "torch fp32": (1.6, 3.5),
    "inductor fp32": (2.2, 4.0),
    "onnxruntime fp32": (4.5, 8.5),
    "openvino fp32": (5.0, 9.0),
    "openvino bf16": (8.0, 15.0),
    "openvino int8": (10.0, 19.0),
}
RIVALS = ("timm, channels last", "torchvision")
# Threads of PyTorch and ONNX Runtime spin for a while after each call and would take a core from the next turn.
# Therefore each turn starts with calls that do not count, for longer than the threads spin. This measures both as if
# each ran alone, call after call.
SETTLE = 0.05  # seconds

Network = Callable[[torch.Tensor], object]


def photos(count: int) -> torch.Tensor:
    """Images (count, 3, 224, 224), normalized for Google's weights."""
    files = sorted(SAMPLES.glob("*.jpg"))
    if not files:
        return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    transform = timm.data.create_transform((3, 224, 224), mean=[0.5] * 3, std=[0.5] * 3, crop_pct=0.875)
    return torch.stack([transform(decode.read(files[n % len(files)])) for n in range(count)])


def build(name: str, images: torch.Tensor, cache: str) -> Network:
    """Builds the function that is compared with timm."""
    if name == "torchvision":
        return torchvision.models.mobilenet_v2().eval()
    if name == "timm, channels last":
        last = report.network("mobilenetv2_100").to(memory_format=torch.channels_last)
        return lambda images: last(images.to(memory_format=torch.channels_last))
    engine, precision = name.split()
    calibration = photos(100) if precision == "int8" else None
    return deploy.optimize(report.network(), images, engine, precision, calibration=calibration, cache=cache)


def measure(name: str, batches: list[int], rounds: int, cache: str) -> None:
    """Runs in the measured process; prints the two series of each batch as JSON."""
    found = {}
    with torch.inference_mode():
        for batch in batches:
            images = photos(batch)
            pair = {"timm": report.network("mobilenetv2_100"), name: build(name, images, cache)}
            functions = {who: partial(network, images) for who, network in pair.items()}
            turns = rounds if batch == 1 else max(5, rounds // 3)
            found[batch] = report.take_turns(functions, turns, warm_up=1, settle=SETTLE)
    print(json.dumps(found))


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32], help="images at once (1 and 32 by default)")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each at batch 1, a third of it at others")
    parser.add_argument("--skip", nargs="*", default=[], help="engines, or engine and precision in one word")
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "CACHE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure[0], args.batch, args.rounds, args.measure[1])
        return

    names = [*RIVALS, *(f"{engine} {precision}" for engine, about in ENGINES.items() for precision in about.precisions)]
    results: dict[str, dict[str, object]] = {f"batch {batch}": {} for batch in args.batch}
    with tempfile.TemporaryDirectory() as cache:
        for name in names:
            if {name, name.split()[0]} & set(args.skip):
                continue
            command = [sys.executable, __file__, "--measure", name, cache, "--rounds", str(args.rounds)]
            command += ["--batch", *map(str, args.batch)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:  # random weights can lead to poor int8 ranges; the process has printed the reason
                print(f"{name} is left out")
                continue
            for batch, series in json.loads(done.stdout.splitlines()[-1]).items():
                row = {
                    "ms_an_image": round(1000 * statistics.median(series[name]) / int(batch), 2),
                    "timm_ms_an_image": round(1000 * statistics.median(series["timm"]) / int(batch), 2),
                    "times_timm": round(report.ratio(series["timm"], series[name]), 2),
                    "goal": GOALS.get(name, (None, None))[int(batch) > 1],
                    "rounds": len(series[name]),
                }
                results[f"batch {batch}"][name] = row
                print(f"batch {batch}: {name}: {row}", flush=True)
    runtimes = [package for package in ("onnxruntime", "openvino", "nncf") if not missing([package])]
    weights = "Google's" if GOOGLE.is_file() else "random"
    facts = {"threads": torch.get_num_threads(), "versions": versions(runtimes), "weights": weights}
    report.write("deploy", {**facts, **results})


if __name__ == "__main__":
    main()
