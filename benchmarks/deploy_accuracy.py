"""Measures the accuracy cost of each engine's precisions, for a fine-tuned run on the photos of a test split.

int8 is calibrated on photos of the train split, spread over its classes. Goals: int8 loses at most 1.0 point of top-1,
bf16 at most 0.3.

    python benchmarks/deploy_accuracy.py runs/grocery ../shared/data/grocery
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import report
import torch

from mnv2zoo import deploy
from mnv2zoo.data import datasets
from mnv2zoo.deploy.checks import missing
from mnv2zoo.deploy.engines import ENGINES
from mnv2zoo.models import pretrained
from mnv2zoo.runtimes.runners import CALIBRATED

LOSSES = {"int8": 1.0, "bf16": 0.3}  # at most, in points of top-1
BATCH = 32


def spread(samples: Sequence[datasets.Sample], number: int) -> list[datasets.Sample]:
    """Some of the samples, in order of their classes, as far apart as can be."""
    ordered = sorted(samples, key=lambda sample: (sample.target, sample.name))
    number = min(number, len(ordered))
    return [ordered[place * len(ordered) // number] for place in range(number)]


def read(samples: Sequence[datasets.Sample], prepare: Callable[..., torch.Tensor]) -> torch.Tensor:
    return torch.stack([prepare(sample.read()) for sample in samples])


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("run", help="a run folder, or another name of a network")
    parser.add_argument("data", help="photos, laid out as for `mnv2zoo finetune`")
    parser.add_argument("--split", default="test")
    parser.add_argument(
        "--calibration", type=int, default=CALIBRATED, help=f"photos of the train split, up to {CALIBRATED}"
    )
    parser.add_argument("--limit", type=int, help="only so many photos of the split, spread over its classes")
    args = parser.parse_args()

    found = datasets.find(args.data)
    ours = pretrained.load(args.run, "cpu")
    if tuple(ours.label_names) != found.class_names:
        parser.error(f"{args.run} does not know the classes of {args.data}")
    photos = spread(found.splits[args.split], args.limit or len(found.splits[args.split]))
    calibration = read(spread(found.splits["train"], args.calibration), ours.transform)

    run: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"original": ours.model}
    for engine, about in ENGINES.items():
        for precision in about.precisions:
            if about.slow_to_compile or missing(about.packages(precision)):
                continue
            seen = calibration if precision == "int8" else None
            run[f"{engine} {precision}"] = deploy.optimize(
                ours.model, calibration[:1], engine, precision, calibration=seen
            )
            print(f"{engine} {precision}: made")

    right, same = dict.fromkeys(run, 0), dict.fromkeys(run, 0)
    with torch.inference_mode():
        for start in range(0, len(photos), BATCH):
            part = photos[start : start + BATCH]
            images, truth = read(part, ours.transform), torch.tensor([sample.target for sample in part])
            original = ours.model(images).argmax(1)
            for name, function in run.items():
                classes = function(images).argmax(1)
                right[name] += int((classes == truth).sum())
                same[name] += int((classes == original).sum())
    rows = {
        name: {
            "top1": round(100 * right[name] / len(photos), 2),
            "points_lost": round(100 * (right["original"] - right[name]) / len(photos), 2),
            "agreement": round(100 * same[name] / len(photos), 2),
            "goal": LOSSES.get(name.rpartition(" ")[2]),
        }
        for name in run
    }
    for name, row in rows.items():
        print(f"{name}: {row}")
    facts = {"photos": len(photos), "split": args.split, "calibration": len(calibration), "engines": rows}
    report.write("deploy_accuracy", facts)


if __name__ == "__main__":
    main()
