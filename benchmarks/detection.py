"""Measures SSDLite of `mnv2zoo_100` on every engine against torchvision's SSDLite of MobileNetV3 in eager mode.

Both have 91 classes and process one image of 320 pixels. The core is the backbone with its heads. The whole adds
resizing, normalization and post-processing. Weights are random, and the score threshold of 0.5 leaves no boxes, because
the time of non-maximum suppression depends on the image. Each engine runs in its own process and takes turns with
torchvision.

    python benchmarks/detection.py --rounds 50
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable

import report
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from mnv2zoo import deploy, detection
from mnv2zoo.deploy.checks import missing
from mnv2zoo.deploy.detectors import Core
from mnv2zoo.deploy.engines import ENGINES
from mnv2zoo.runtimes.cache import versions

SIDE, CLASSES, SCORE = 320, 91, 0.5
EAGER = "eager"
PARTS = ("core", "whole")
SETTLE = 0.05  # seconds; see benchmarks/deploy.py

Pair = tuple[Callable[[], object], Callable[[], object]]  # the core alone, and the whole


def torchvisions() -> nn.Module:
    torch.manual_seed(0)
    return ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=CLASSES, score_thresh=SCORE
    ).eval()


def ours() -> nn.Module:
    torch.manual_seed(0)
    return detection.ssdlite("mnv2zoo_100", CLASSES, size=(SIDE, SIDE), score_thresh=SCORE).eval()


def in_eager_mode(detector: nn.Module, image: torch.Tensor) -> Pair:
    core = Core(detector)
    return (lambda: core(image)), (lambda: detector([image[0]]))


def on_engine(name: str, image: torch.Tensor) -> Pair:
    engine, precision = name.split()
    calibration = torch.rand(100, 3, SIDE, SIDE) if precision == "int8" else None
    fast = deploy.optimize(ours(), image, engine, precision, calibration=calibration)
    normalized, _ = fast.split.prepare(image)
    return (lambda: fast.core(normalized)), (lambda: fast(image))


def measure(name: str, rounds: int) -> None:
    """Runs in the measured process; prints the four series as JSON."""
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        pairs = {
            "torchvision": in_eager_mode(torchvisions(), image),
            name: in_eager_mode(ours(), image) if name == EAGER else on_engine(name, image),
        }
        calls = {f"{who} {part}": run for who, pair in pairs.items() for part, run in zip(PARTS, pair, strict=True)}
        print(json.dumps(report.take_turns(calls, rounds, warm_up=1, settle=SETTLE)))


def gmacs(detector: nn.Module) -> float:
    """GMACs of the core's convolutions for one image, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        Core(detector)(torch.zeros(1, 3, SIDE, SIDE))
    return round(counter.get_total_flops() / 2e9, 3)


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="turns of each (50 by default)")
    parser.add_argument("--skip", nargs="*", default=[], help="engines, or engine and precision in one word")
    parser.add_argument("--measure", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.rounds)
        return

    results: dict[str, dict[str, object]] = {}
    for name in [
        EAGER,
        *(f"{engine} {precision}" for engine, about in ENGINES.items() for precision in about.precisions),
    ]:
        if {name, name.split()[0]} & set(args.skip):
            continue
        series = report.in_process(__file__, "--measure", name, "--rounds", str(args.rounds))
        results[name] = {"rounds": args.rounds}
        for part in PARTS:
            our, their = series[f"{name} {part}"], series[f"torchvision {part}"]
            results[name][f"{part}_ms"] = round(1000 * statistics.median(our), 2)
            results[name][f"torchvision_{part}_ms"] = round(1000 * statistics.median(their), 2)
            results[name][f"{part}_times_torchvision"] = round(report.ratio(their, our), 2)
        print(f"{name}: {results[name]}", flush=True)
    facts = {
        "threads": torch.get_num_threads(),
        "side": SIDE,
        "classes": CLASSES,
        "gmacs": gmacs(ours()),
        "torchvision_gmacs": gmacs(torchvisions()),
        "versions": versions([package for package in ("onnxruntime", "openvino", "nncf") if not missing([package])]),
    }
    report.write("detection", {**facts, "engines": results})


if __name__ == "__main__":
    main()
