"""Measures `mnv2zoo_100` on every engine against timm and torchvision in eager mode, at 224 pixels.

All take turns in one process; a round is a pass of each. Where they lie beside the repository, weights are Google's and
images are photos, on which int8 is calibrated too; otherwise both are random. Figures are of speed alone.

    python benchmarks/deploy.py --batch 1 32 --rounds 30
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import report
import timm
import torch
import torchvision
from PIL import Image
from report import GOOGLE, SAMPLES
from safetensors.torch import load_file

from mnv2zoo import deploy
from mnv2zoo.deploy.engines import ENGINES
from mnv2zoo.errors import DeployError

# How many times faster than timm in eager mode, at batch 1 and 32.
GOALS = {
    "torch fp32": (1.6, 3.5),
    "inductor fp32": (2.2, 4.0),
    "onnxruntime fp32": (4.5, 8.5),
    "openvino fp32": (5.0, 9.0),
    "openvino bf16": (8.0, 15.0),
    "openvino int8": (10.0, 19.0),
}


def photos(count: int) -> torch.Tensor:
    """Images (count, 3, 224, 224), normalised as Google's weights want them."""
    files = sorted(SAMPLES.glob("*.jpg"))
    if not files:
        return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    transform = timm.data.create_transform((3, 224, 224), mean=[0.5] * 3, std=[0.5] * 3, crop_pct=0.875)
    return torch.stack([transform(Image.open(files[n % len(files)]).convert("RGB")) for n in range(count)])


def networks(images: torch.Tensor, skip: list[str]) -> dict[str, Callable[[torch.Tensor], object]]:
    """What is measured, by name."""
    found: dict[str, Callable[[torch.Tensor], object]] = {}
    theirs = timm.create_model("mobilenetv2_100").eval()
    ours = timm.create_model("mnv2zoo_100").eval()
    if GOOGLE.is_file():
        theirs.load_state_dict(load_file(GOOGLE))
    ours.load_state_dict(theirs.state_dict())
    last = timm.create_model("mobilenetv2_100").eval().to(memory_format=torch.channels_last)
    found["timm"] = theirs
    found["timm, channels last"] = lambda x: last(x.to(memory_format=torch.channels_last))
    found["torchvision"] = torchvision.models.mobilenet_v2().eval()
    calibration = photos(100)
    for engine, about in ENGINES.items():
        for precision in about.precisions:
            name = f"{engine} {precision}"
            if engine in skip or name in skip:
                continue
            started = time.perf_counter()
            seen = calibration if precision == "int8" else None
            try:
                found[name] = deploy.optimize(ours, images, engine, precision, calibration=seen)
            except DeployError as error:  # random weights may make poor int8 ranges; it is left out then
                print(f"{name}: {error}")
                continue
            print(f"{name}: made in {time.perf_counter() - started:.1f} s")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32], help="images at once (1 and 32 by default)")
    parser.add_argument("--rounds", type=int, default=30, help="passes of each at batch 1, a third of it at others")
    parser.add_argument("--skip", nargs="*", default=[], help="engines, or engine and precision in one word")
    args = parser.parse_args()
    results: dict[str, object] = {}
    for batch in args.batch:
        images = photos(batch)
        measured = networks(images, args.skip)
        rounds = args.rounds if batch == 1 else max(5, args.rounds // 3)
        with torch.inference_mode():
            series = report.take_turns(
                {name: partial(network, images) for name, network in measured.items()}, rounds, 2
            )
        medians = {name: statistics.median(values) / batch for name, values in series.items()}
        rows = {
            name: {
                "ms_an_image": round(1000 * median, 2),
                "times_timm": round(medians["timm"] / median, 2),
                "goal": GOALS.get(name, (None, None))[batch > 1],
            }
            for name, median in medians.items()
        }
        results[f"batch {batch}"] = rows
        for name, row in rows.items():
            print(f"batch {batch}: {name}: {row}")
    print(f"Written to {report.write('deploy', {'threads': torch.get_num_threads(), **results})}")


if __name__ == "__main__":
    main()
