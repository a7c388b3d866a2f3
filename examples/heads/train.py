"""Trains a detector or a segmenter by a recipe beside this file, and adds a row to `docs/results/heads.json`.

    python examples/heads/train.py bccd-ssdlite --data ../shared/data/bccd --weights model.safetensors --seed 0

Run the same command again to resume. With `--dev` it ends before the test images are looked at, for choosing recipes.
"""

import argparse
import json
import statistics
import tomllib
from pathlib import Path
from typing import Any

from results import PATH, add, machine

import mnv2zoo
from mnv2zoo.data.datasets import Data
from mnv2zoo.tasks import Task, find_task

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Trains, and writes the row."""
    args = arguments()
    described = tomllib.loads((HERE / f"{args.recipe}.toml").read_text(encoding="utf-8"))
    run = args.runs / f"{args.recipe}-{args.seed}"
    result = mnv2zoo.finetune(
        args.data,
        out=run,
        task=without_test(described["task"]),
        resume=True,
        init=str(args.weights),
        seed=args.seed,
        workers=args.workers,
        **({} if args.device is None else {"device": args.device}),
        **described["recipe"] | ({} if args.epochs is None else {"epochs": args.epochs}),
    )
    if args.dev:
        return
    row = {
        "recipe": args.recipe,
        "seed": args.seed,
        "head": described["recipe"]["head"],
        "images": len(json.loads((run / "split.json").read_text(encoding="utf-8"))["train"]),
        "epoch": result.epoch,
        # Of the median epoch, so that a pause or other work on the machine does not count.
        "minutes": round(statistics.median(e["seconds"] for e in result.history) * len(result.history) / 60, 1),
        "parameters": sum(p.numel() for p in result.model.parameters()),
        "val": result.scores["val"].to_json(),
        "test": mnv2zoo.evaluate(args.data, run, split="test").to_json(),
        **machine(next(result.model.parameters()).device),
    }
    add(args.results, f"{args.recipe}-{args.seed}", row)


def without_test(name: str) -> Task:
    """The task on data without test images."""

    class Development(type(find_task(name))):  # type: ignore[misc]
        def find_data(self, *arguments: Any) -> Data:
            data = super().find_data(*arguments)
            data.splits.pop("test", None)
            return data

    Development.name = name  # the run is one of the built-in task
    return Development()


def arguments() -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=sorted(file.stem for file in HERE.glob("*.toml")))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of mnv2zoo_100")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", help="such as cuda; by default the first GPU if there is one")
    parser.add_argument("--runs", type=Path, default=Path("runs/heads"))
    parser.add_argument("--epochs", type=int, help="another number of epochs than the recipe's")
    parser.add_argument("--dev", action="store_true", help="stop before the test, and add no row")
    parser.add_argument("--results", type=Path, default=PATH, help="the file that gets the row")
    return parser.parse_args()


if __name__ == "__main__":
    main()
