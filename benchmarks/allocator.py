"""Measures a training step under the system's memory allocator and under tcmalloc, on the CPU.

glibc gives large blocks back to the system and takes them anew, page by page, for every activation; an
allocator that keeps them saves that. Processes take turns, each with one allocator.

    python benchmarks/allocator.py --rounds 5
"""

from __future__ import annotations

import argparse
import ctypes.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import report

CASES = (("mnv2zoo_100", 224, 32), ("mnv2zoo_100_c20", 64, 128))  # architecture, side in pixels, images a step
FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")


def find_tcmalloc() -> str | None:
    found = (path for folder in FOLDERS for path in sorted(Path(folder).glob("libtcmalloc_minimal.so.?")))
    return next((str(path) for path in found), ctypes.util.find_library("tcmalloc_minimal"))


def measure(name: str, side: int, batch: int) -> None:
    """Runs in a process of its own; prints milliseconds an image, median of five steps after three."""
    import timm
    import torch
    from torch.nn import functional

    import mnv2zoo  # noqa: F401  # registers the models

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=20).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 20
    steps = []
    for _ in range(8):
        start = time.perf_counter()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        steps.append(time.perf_counter() - start)
    print(json.dumps(1000 * statistics.median(steps[3:]) / batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind (5 by default)")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure[0], int(args.measure[1]), int(args.measure[2]))
        return

    library = find_tcmalloc()
    if library is None:
        raise SystemExit("tcmalloc is not installed; on Debian and Ubuntu: apt install libtcmalloc-minimal4")
    results: dict[str, object] = {}
    for name, side, batch in CASES:
        series: dict[str, list[float]] = {"system": [], "tcmalloc": []}
        for _ in range(args.rounds):
            for kind, values in series.items():
                env = {**os.environ, "LD_PRELOAD": library if kind == "tcmalloc" else ""}
                command = [sys.executable, __file__, "--measure", name, str(side), str(batch)]
                values.append(json.loads(subprocess.run(command, env=env, capture_output=True, check=True).stdout))
        medians = {kind: round(statistics.median(values), 2) for kind, values in series.items()}
        ratio = round(medians["system"] / medians["tcmalloc"], 2)
        results[f"{name} at {side} pixels"] = {"ms_an_image": medians, "times_faster": ratio}
        print(f"{name} at {side} pixels, ms an image: {medians}, {ratio} times faster")
    print(f"Written to {report.write('allocator', {'rounds': args.rounds, **results})}")


if __name__ == "__main__":
    main()
