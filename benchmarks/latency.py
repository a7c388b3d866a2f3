"""Measures the latency of every model with an ImageNet accuracy in the index, for one image at a time.

Eager PyTorch and `deploy.optimize(engine="torch")`, which is always installed, take turns for all models in one
process. Weights and images are random, which does not affect the time. The zoo page plots the results.

    python benchmarks/latency.py --rounds 100
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import report
import timm
import torch

from mnv2zoo import deploy
from mnv2zoo.weights import index

THREADS = 2


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="passes of each (100 by default)")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    passes: dict[str, Callable[[], object]] = {}
    for entry in index.read(index.shipped_path()).values():
        if entry.labels != "imagenet-1k" or "top1" not in entry.metrics:
            continue
        model, image = timm.create_model(entry.architecture).eval(), torch.randn(1, *entry.input_size)
        passes[f"{entry.name} eager"] = partial(model, image)
        passes[f"{entry.name} torch"] = partial(deploy.optimize(model, image, "torch", threads=THREADS), image)
    with torch.inference_mode():
        series = report.take_turns(passes, args.rounds, warm_up=5)
    networks: dict[str, dict[str, object]] = {}
    for case, seconds in series.items():
        name, kind = case.split()
        networks.setdefault(name, {})[kind] = report.summary(seconds)
        print(f"{case}: {networks[name][kind]}")
    report.write("latency", {"threads": THREADS, "batch": 1, "networks": networks})


if __name__ == "__main__":
    main()
