"""Trains a detector or a segmenter with a recipe from this folder, and adds a row to `docs/results/heads.json`.

    python examples/heads/train.py bccd-ssdlite --data ../shared/data/bccd --weights model.safetensors --seed 0

Run the same command again to resume. With `--dev`, the script stops before the test images are used, for choosing
recipes. A finished run, even one from another machine, is not trained again: it is evaluated on the test images and
gets its row. With `--with-val`, the model is trained on the training and validation images together, for settings that
are final. Its row has no validation metrics then.
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
MACHINE = "machine.json"  # in a finished run: its parameter count and the training machine


def main() -> None:
    """Trains the model, and writes its row."""
    args = arguments()
    run = args.runs / f"{args.recipe}{'-with-val' if args.with_val else ''}-{args.seed}"
    if not (run / MACHINE).exists():
        train(args, run)
    if not args.dev:
        add(args.results, run.name, row(args, run))


def train(args: argparse.Namespace, run: Path) -> None:
    """Trains or resumes a run without the test images."""
    described = tomllib.loads((HERE / f"{args.recipe}.toml").read_text(encoding="utf-8"))
    given = {"device": args.device, "precision": args.precision, "epochs": args.epochs}
    result = mnv2zoo.finetune(
        args.data,
        out=run,
        task=development(described["task"], args.with_val),
        resume=True,
        init=str(args.weights),
        seed=args.seed,
        workers=args.workers,
        **described["recipe"] | {name: value for name, value in given.items() if value is not None},
    )
    parameters = list(result.model.parameters())
    facts = {"parameters": sum(p.numel() for p in parameters), **machine(parameters[0].device)}
    (run / MACHINE).write_text(json.dumps(facts), encoding="utf-8")


def row(args: argparse.Namespace, run: Path) -> dict[str, Any]:
    """The row of a finished run, with its metrics on the test images."""
    recipe, split, results, facts = (
        json.loads((run / name).read_text(encoding="utf-8"))
        for name in ("recipe.json", "split.json", "results.json", MACHINE)
    )
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "recipe": args.recipe,
        "seed": args.seed,
        "head": recipe["recipe"]["head"],
        "images": len(split["train"]),
        "epoch": results["epoch"],
        # From the median epoch, to exclude pauses and other load on the machine.
        "minutes": round(statistics.median(epoch["seconds"] for epoch in epochs) * len(epochs) / 60, 1),
        **({} if args.with_val else {"val": results["val"]}),
        "test": mnv2zoo.evaluate(args.data, run, split="test").to_json(),
        **facts,
    }


def development(name: str, with_val: bool) -> Task:
    """The task, on data without test images.

    Args:
        name: The task's name.
        with_val: Whether to train on the validation images too. They remain validation images, so the best epoch is
            among the last ones.
    """

    class Development(type(find_task(name))):  # type: ignore[misc]
        def find_data(self, *arguments: Any) -> Data:
            data = super().find_data(*arguments)
            data.splits.pop("test", None)
            if with_val:
                data.splits["train"] += data.splits["val"]
            return data

    Development.name = name  # so that the run belongs to the built-in task
    return Development()


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=sorted(file.stem for file in HERE.glob("*.toml")))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of mnv2zoo_100")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", help="device, such as cuda (default: the first GPU if there is one)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="precision, instead of the recipe's")
    parser.add_argument("--with-val", action="store_true", help="train on the training and validation images")
    parser.add_argument("--runs", type=Path, default=Path("runs/heads"))
    parser.add_argument("--epochs", type=int, help="number of epochs, instead of the recipe's")
    parser.add_argument("--dev", action="store_true", help="stop before the test, without adding a row")
    parser.add_argument("--results", type=Path, default=PATH, help="the file to add the row to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
