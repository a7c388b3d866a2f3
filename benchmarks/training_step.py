"""Measures a training step on the CPU in PyTorch alone, and with what `finetune` turns on.

`finetune` reuses the memory of the step before. In bf16, it computes strided depthwise convolutions in single
precision. Processes of all kinds take turns.

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
PRECISIONS = ("fp32", "bf16")
PLAIN, OURS = "PyTorch alone", "mnv2zoo"


def measure(precision: str, kind: str, name: str, side: int, batch: int) -> None:
    """Runs in a process of its own; prints milliseconds an image, median of five steps after three."""
    import timm
    import torch
    from accelerate import Accelerator
    from torch.nn import functional

    from mnv2zoo.system import memory
    from mnv2zoo.training.autocast import single_where_faster

    accelerator = Accelerator(cpu=True, mixed_precision="no" if precision == "fp32" else precision)
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=20).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 20
    steps = []
    with contextlib.ExitStack() as stack:
        if kind == OURS:
            stack.enter_context(memory.kept())
            stack.enter_context(single_where_faster(model, accelerator))
        for _ in range(8):
            start = time.perf_counter()
            with accelerator.autocast():
                loss = functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            steps.append(time.perf_counter() - start)
    print(json.dumps(1000 * statistics.median(steps[3:]) / batch))


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind (5 by default)")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        precision, kind, name, side, batch = args.measure
        measure(precision, kind, name, int(side), int(batch))
        return

    results: dict[str, object] = {}
    for name, side, batch in CASES:
        series: dict[tuple[str, str], list[float]] = {(p, kind): [] for p in PRECISIONS for kind in (PLAIN, OURS)}
        for _ in range(args.rounds):
            for (precision, kind), values in series.items():
                values.append(report.in_process(__file__, "--measure", precision, kind, name, str(side), str(batch)))
        for precision in PRECISIONS:
            medians = {kind: round(statistics.median(series[precision, kind]), 2) for kind in (PLAIN, OURS)}
            ratio = round(medians[PLAIN] / medians[OURS], 2)
            case = f"{name} at {side} pixels in {precision}"
            results[case] = {"ms_an_image": medians, "times_faster": ratio}
            print(f"{case}, ms/image: {medians}, {ratio} times faster")
    report.write("training_step", {"rounds": args.rounds, **results})


if __name__ == "__main__":
    main()
