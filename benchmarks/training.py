"""Measures training steps of `mnv2zoo_100` against timm's `mobilenetv2_100`, and the savings of gradient checkpointing.

Both train with the same plain PyTorch loop, channels last, 32 images of 224 pixels per step and the same weights, and
their losses must be equal. Time: they take turns in one process. Memory: the growth of a process's peak memory in its
first steps.

    python benchmarks/training.py --rounds 15
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

import report

BATCH, SIDE = 32, 224
KINDS = ("mnv2zoo", "timm", "mnv2zoo, checkpointed", "timm, checkpointed")


def step(kind: str, seed: int = 0) -> Callable[[], float]:
    """A training step of a network; it returns the loss."""
    import timm
    import torch
    from torch.nn import functional

    import mnv2zoo  # noqa: F401  # registers the names

    library, _, checkpointed = kind.partition(", ")
    torch.manual_seed(seed)
    weights = timm.create_model("mobilenetv2_100").state_dict()
    network: Any = timm.create_model({"mnv2zoo": "mnv2zoo_100", "timm": "mobilenetv2_100"}[library])
    network.load_state_dict(weights)
    network.train().to(memory_format=torch.channels_last)
    network.set_grad_checkpointing(bool(checkpointed))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    drawn = torch.randn(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    images = drawn.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH)

    def run() -> float:
        loss = functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return run


def memory(kind: str) -> None:
    """Prints the MB by which the peak of this process grows in its first steps, the optimizer's memory included."""
    run = step(kind)
    print(report.peak_growth(lambda: [run() for _ in range(3)]))


def peaks(processes: int) -> dict[str, float]:
    """MB of each kind, the median over processes that take turns: one differs from the next by a tenth."""
    grown: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(processes):
        for kind, values in grown.items():
            values.append(report.in_process(__file__, "--memory", kind))
    return {kind: statistics.median(values) for kind, values in grown.items()}


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="steps of each kind (15 by default)")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        memory(args.memory)
        return

    import torch

    steps = {kind: step(kind) for kind in KINDS}
    losses = {kind: [run() for _ in range(2)] for kind, run in steps.items()}
    for kind, values in losses.items():
        torch.testing.assert_close(values, losses["mnv2zoo"], rtol=1e-4, atol=1e-4, msg=kind)
    series = report.take_turns(steps, args.rounds, warm_up=1)
    grown = peaks(processes=5)
    results: dict[str, object] = {}
    for kind in KINDS:
        rival = kind.replace("mnv2zoo", "timm")
        results[kind] = {
            **report.summary(series[kind]),
            "images_per_second": round(BATCH / statistics.median(series[kind]), 1),
            "ratio_to_timm": round(report.ratio(series[kind], series[rival]), 3),
            "peak_mb": round(grown[kind]),
        }
        print(f"{kind}: {json.dumps(results[kind])}")
    settings = {"threads": torch.get_num_threads(), "batch": BATCH, "side": SIDE}
    report.write("training", {**settings, "steps": results})


if __name__ == "__main__":
    main()
