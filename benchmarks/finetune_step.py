"""Measures the training steps of `mnv2zoo finetune` on the CPU against those of timm's `train.py`, and their memory.

Ours is a whole run of `mnv2zoo.finetune`, whose batches come from memory instead of a data loader. timm's side is the
loop of its `train.py` with `--channels-last`, on the same batches: its optimizer, its loss and its schedule. Both start
from the same weights, in fp32, and train as many parameters. Every measurement is a process of its own, and they take
turns. Memory is the peak of the whole process. Goals: at least as fast as timm by default, 1.15 times with an option,
2 times if training begins at `Bottleneck_12`, and at most as much memory.

    python benchmarks/finetune_step.py --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import report

SIDE, CLASSES = 224, 20
WARM_UP, STEPS = 3, 5  # per process; the first do not count
COMPILE = "mnv2zoo --compile"
OPTIONS: dict[str, dict[str, Any]] = {
    "mnv2zoo": {},
    "mnv2zoo --keep-statistics": {"keep_statistics": True},
    COMPILE: {"compile": True},
}
# For each batch size and first trained layer, the kinds to compare.
CASES: dict[str, tuple[int, str, tuple[str, ...]]] = {
    "all layers, batch 32": (32, "all", ("timm", *OPTIONS)),
    "all layers, batch 8": (8, "all", ("timm", "mnv2zoo")),
    "Bottleneck_12, batch 32": (32, "Bottleneck_12", ("timm", "timm, frozen batch norms", "mnv2zoo")),
}
GOALS = {"mnv2zoo": 1.0, "with an option": 1.15, "Bottleneck_12": 2.0}
# timm's names of all layers before `Bottleneck_12`.
BEFORE = ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4.0")


class Steps:
    """The same random batch for each step. It notes how long each step takes.

    Attributes:
        seconds: The duration of each step, the first `WARM_UP` included.
    """

    def __init__(self, batch: int) -> None:
        import torch

        images = torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        self.batch = images.contiguous(memory_format=torch.channels_last), torch.arange(batch) % CLASSES
        self.seconds: list[float] = []

    def __iter__(self) -> Iterator[Any]:
        for _ in range(WARM_UP + STEPS):
            began = time.perf_counter()
            yield self.batch
            self.seconds.append(time.perf_counter() - began)


def timms(kind: str, train: str, steps: Steps, home: Path) -> dict[str, float]:
    """Runs the steps as `train_one_epoch` of timm's `train.py` does, and returns the facts of this process."""
    import timm
    import torch
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import AverageMeter, freeze

    torch.manual_seed(0)
    weights = {"file": str(home / "weights.safetensors")}
    model: Any = timm.create_model(
        "mobilenetv2_100", pretrained=True, pretrained_cfg_overlay=weights, num_classes=CLASSES
    )
    if train != "all":
        freeze(model, list(BEFORE), include_bn_running_stats=kind != "timm")
    model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, "sgd", lr=0.02, weight_decay=1e-4, momentum=0.9)
    scheduler, _ = create_scheduler_v2(optimizer, num_epochs=1, step_on_epochs=False, updates_per_epoch=WARM_UP + STEPS)
    loss_function, losses = LabelSmoothingCrossEntropy(0.1), AverageMeter()
    model.train()
    for number, (given, labels) in enumerate(steps, 1):
        images = given.contiguous(memory_format=torch.channels_last)
        loss = loss_function(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.update(loss.item(), len(images))
        optimizer.zero_grad()
        scheduler.step_update(number, metric=losses.avg)
    return facts(model, steps)


def ours(kind: str, train: str, steps: Steps, home: Path) -> dict[str, float]:
    """Runs `mnv2zoo.finetune`, whose trainer gets the steps in place of its loader, and returns the same facts."""
    import mnv2zoo
    from mnv2zoo.training import trainer

    found: dict[str, float] = {}

    class InMemory(trainer.Trainer):
        def setup_batches(self) -> None:
            super().setup_batches()
            self.loader = steps

        def train_epoch(self) -> None:
            super().train_epoch()
            found.update(facts(self.model, steps))

    trainer.Trainer = InMemory  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as out:
        mnv2zoo.finetune(
            home / "photos",
            out=Path(out) / "run",
            train=train,
            init=str(home / "weights.safetensors"),
            epochs=1,
            batch_size=len(steps.batch[0]),
            val_fraction=0,
            cache_images="off",
            workers=0,
            **OPTIONS[kind],
        )
    return found


def facts(model: Any, steps: Steps) -> dict[str, float]:
    """The seconds of a step, the peak memory of this process in MB, and the trained parameters."""
    return {
        "seconds": statistics.median(steps.seconds[WARM_UP:]),
        "peak_mb": report.peak(),
        "trained": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }


def prepare(home: Path) -> None:
    """Writes the weights, and photos that the check of `finetune` reads: enough for an epoch, but tiny."""
    import numpy as np
    from PIL import Image
    from safetensors.torch import save_model

    save_model(report.network(), str(home / "weights.safetensors"))
    drawn = np.random.default_rng(0)
    for number in range((WARM_UP + STEPS) * max(batch for batch, *_ in CASES.values())):
        folder = home / f"photos/class {number % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{number}.jpg")


def compiles() -> bool:
    """Whether this machine has what `--compile` needs: a C++ compiler."""
    from mnv2zoo.deploy import health
    from mnv2zoo.system.findings import OK

    return health.engine("inductor").status == OK


def compare(kinds: list[tuple[str, str]], rounds: int, threads: int) -> dict[tuple[str, str], list[dict[str, float]]]:
    """The facts of so many processes of each case and kind, which take turns."""
    rows: dict[tuple[str, str], list[dict[str, float]]] = {pair: [] for pair in kinds}
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch))
        own = {"OMP_NUM_THREADS": str(threads), "MNV2ZOO_HOME": f"{scratch}/home"}
        own["TORCHINDUCTOR_CACHE_DIR"] = f"{scratch}/compiled"
        for number in range(rounds):
            for pair in kinds if number % 2 == 0 else kinds[::-1]:
                row = report.in_process(__file__, "--measure", *pair, scratch, env={**os.environ, **own})
                print(*pair, row, flush=True)
                rows[pair].append(row)
    for case in CASES:
        assert len({row["trained"] for (own_case, _), own in rows.items() if own_case == case for row in own}) <= 1
    return rows


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind (3 by default)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each process (2 by default)")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        case, kind, home = args.measure
        batch, train, _ = CASES[case]
        run = ours if kind in OPTIONS else timms
        print(json.dumps(run(kind, train, Steps(batch), Path(home))))
        return

    pairs = [(case, kind) for case, (*_, kinds) in CASES.items() for kind in kinds if kind != COMPILE or compiles()]
    rows = compare(pairs, args.rounds, args.threads)
    results: dict[str, dict[str, object]] = {case: {} for case in CASES}
    for (case, kind), own in rows.items():
        series = {name: [row[name] for row in own] for name in ("seconds", "peak_mb")}
        timm = [row["seconds"] for row in rows[case, "timm"]]
        results[case][kind] = {
            "images_per_second": round(CASES[case][0] / statistics.median(series["seconds"]), 1),
            "times_timm": round(report.ratio(timm, series["seconds"]), 2),
            "peak_mb": round(statistics.median(series["peak_mb"])),
        }
    settings = {"rounds": args.rounds, "threads": args.threads, "side": SIDE, "goals": GOALS}
    report.write("finetune_step", {**settings, "cases": results})


if __name__ == "__main__":
    main()
