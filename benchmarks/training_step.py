"""Measures a training step on the CPU with and without the memory reuse that `finetune` turns on.

Processes of both kinds take turns.

    python benchmarks/training_step.py --rounds 5
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time

import report

CASES = (("mnv2zoo_100", 224, 32), ("mnv2zoo_100_c20", 64, 128))  # architecture, side in pixels, images per step


def measure(kind: str, name: str, side: int, batch: int) -> None:
    """Runs in a process of its own; prints milliseconds an image, median of five steps after three."""
    import timm
    import torch
    from torch.nn import functional

    from mnv2zoo.system import memory

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=20).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 20
    steps = []
    with memory.kept() if kind == "kept" else contextlib.nullcontext():
        for _ in range(8):
            start = time.perf_counter()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            steps.append(time.perf_counter() - start)
    print(json.dumps(1000 * statistics.median(steps[3:]) / batch))


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind (5 by default)")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        kind, name, side, batch = args.measure
        measure(kind, name, int(side), int(batch))
        return

    results: dict[str, object] = {}
    for name, side, batch in CASES:
        series: dict[str, list[float]] = {"plain": [], "kept": []}
        for _ in range(args.rounds):
            for kind, values in series.items():
                values.append(report.in_process(__file__, "--measure", kind, name, str(side), str(batch)))
        medians = {kind: round(statistics.median(values), 2) for kind, values in series.items()}
        ratio = round(medians["plain"] / medians["kept"], 2)
        results[f"{name} at {side} pixels"] = {"ms_an_image": medians, "times_faster": ratio}
        print(f"{name} at {side} pixels, ms/image: {medians}, {ratio} times faster with memory kept")
    report.write("training_step", {"rounds": args.rounds, **results})


if __name__ == "__main__":
    main()
