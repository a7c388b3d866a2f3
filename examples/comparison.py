"""One head on three backbones: ours and timm's with the same pretrained weights, and ours without any.

What `detection.py` and `segmentation.py` share: their arguments, training that goes on where it was interrupted, the
figures and the picture.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import timm
import torch
from matplotlib import pyplot
from matplotlib.patches import Patch
from rich.progress import track
from safetensors.torch import load_file
from scenes import CLASSES, Scene, Scenes
from torch import Tensor, nn

import mnv2zoo
from mnv2zoo.system import memory
from mnv2zoo.system.files import whole_file

BACKBONES = {
    "mnv2zoo": "mnv2zoo_100, pretrained",
    "timm": "timm's mobilenetv2_100, same weights",
    "random": "mnv2zoo_100, random initialisation",
}
COLOURS = [tuple(round(255 * part) for part in colour) for colour in matplotlib.colormaps["tab10"].colors]
DOCS = Path(__file__).resolve().parents[1] / "docs"
SETTINGS = ("weights", "mean", "std", "scenes", "side", "epochs", "batch_size", "lr", "seed")  # what a training is
QUIET = not sys.stdout.isatty()  # no progress bar in a pipe, where every epoch prints a line
SHOWN = 6  # test scenes in the picture


@dataclass(frozen=True)
class Weights:
    """What the pretrained backbones start from, and the normalisation that it was trained with."""

    state: dict[str, Tensor]
    mean: list[float]
    std: list[float]


@dataclass(frozen=True)
class Task:
    """What a head does.

    Attributes:
        name: Of its files in the documentation.
        build: From a key of `BACKBONES`, the weights and the scenes' side to a model.
        loss: From a model and scenes to what is minimised.
        measure: From a model in evaluation mode and batches of scenes to figures in percent.
        draw: From a scene and, if any, a model to an image of bytes (3, side, side) that shows the truth or
            what the model finds.
    """

    name: str
    build: Callable[[str, Weights, int], nn.Module]
    loss: Callable[[nn.Module, Sequence[Scene]], Tensor]
    measure: Callable[[nn.Module, Sequence[Sequence[Scene]]], dict[str, Any]]
    draw: Callable[[Scene, nn.Module | None], Tensor]


def main(task: Task, description: str) -> None:
    """Trains, measures and draws."""
    args = _arguments(description)
    weights = _weights(args)
    settings = {name: getattr(args, name) for name in SETTINGS}
    args.out.mkdir(parents=True, exist_ok=True)
    training = _compose(args, "train", args.scenes, args.seed)
    test = _batches(_compose(args, args.test_on, args.test_scenes, args.seed + 1), args.batch_size)

    models, results = {}, {}
    for backbone in args.backbones:
        title = BACKBONES[backbone]
        print(title)
        torch.manual_seed(args.seed)  # the three heads begin alike
        models[backbone] = task.build(backbone, weights, args.side).to(args.device)
        seconds = _train(task, models[backbone], training, args, settings, args.out / f"{backbone}.pt")
        models[backbone].eval()
        with torch.inference_mode():
            figures = task.measure(models[backbone], test)
        results[backbone] = {"backbone": title, **figures, "minutes": round(seconds / 60, 1)}
        print("  " + json.dumps(results[backbone]))

    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "device": str(args.device)}
    # The record names the weights' file wherever it lies; a checkpoint knows its weights by the whole path.
    recorded = settings | {"weights": Path(args.weights).name, "test_on": args.test_on, "test_scenes": args.test_scenes}
    record = json.dumps({"settings": recorded, "machine": machine, "results": results}, indent=2) + "\n"
    figures_file, picture = args.out / "results.json", args.out / "predictions.jpg"
    if args.docs:
        figures_file, picture = DOCS / f"results/{task.name}.json", DOCS / f"images/{task.name}.jpg"
    figures_file.write_text(record, encoding="utf-8")
    _draw(task, models, [scene for batch in test for scene in batch][:SHOWN], picture)
    print(f"{figures_file}\n{picture}")


def _arguments(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("grocery", type=Path, help="folder with the dataset's train.tar, val.tar and test.tar")
    add("--out", type=Path, required=True, help="folder for checkpoints, figures and picture; a rerun goes on from it")
    add("--weights", default="mnv2zoo_100.ra_in1k", help="name in the index, or a file of any known layout")
    add("--mean", type=float, help="of every channel in the training of a file; an index's entry has its own")
    add("--std", type=float, help="as --mean")
    add("--scenes", type=int, default=800, help="to train on")
    add("--test-on", choices=("val", "test"), default="test", help="split whose photos the test scenes are made from")
    add("--test-scenes", type=int, default=300)
    add("--side", type=int, default=160, help="pixels a side")
    add("--epochs", type=int, default=6)
    add("--batch-size", type=int, default=16)
    add("--lr", type=float, default=1e-3, help="highest learning rate")
    add("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES), help="the ones to compare")
    add("--seed", type=int, default=0)
    add("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    add("--docs", action="store_true", help="write figures and picture into the documentation")
    args = parser.parse_args()
    is_file = Path(args.weights).is_file()
    if not is_file and args.weights not in mnv2zoo.weights.entries():
        parser.error(f"--weights: neither a file nor one of {', '.join(mnv2zoo.weights.entries())}: {args.weights}")
    if is_file == (args.mean is None or args.std is None):
        parser.error("--mean and --std are wanted with a file of weights, and only with one")
    return args


def _weights(args: argparse.Namespace) -> Weights:
    if args.mean is None:
        entry = mnv2zoo.weights.entry(args.weights)
        return Weights(mnv2zoo.weights.load(args.weights), list(entry.mean), list(entry.std))
    state = mnv2zoo.convert.to_native(load_file(args.weights), "mnv2zoo_100")
    return Weights(state, [args.mean] * 3, [args.std] * 3)


def _compose(args: argparse.Namespace, split: str, count: int, seed: int) -> list[Scene]:
    scenes = Scenes(args.grocery, split, count, args.side, seed)
    return [
        scenes[number] for number in track(range(count), f"composing {split} scenes", transient=True, disable=QUIET)
    ]


def _batches(scenes: Sequence[Scene], size: int) -> list[list[Scene]]:
    return [list(scenes[start : start + size]) for start in range(0, len(scenes), size)]


def _train(
    task: Task, model: nn.Module, scenes: list[Scene], args: argparse.Namespace, settings: Any, checkpoint: Path
) -> float:
    """Trains, from the checkpoint on if there is one; gives the seconds that training took in all."""
    steps = len(scenes) // args.batch_size  # what is left over waits for another epoch's order
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, args.lr, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.epochs * steps)
    done, seconds = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=args.device)
        if saved["settings"] != settings:
            raise SystemExit(f"{checkpoint} was trained with other settings: {saved['settings']}. Give another --out")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        done, seconds = saved["epochs"], saved["seconds"]
    model.train()
    with memory.kept():
        for epoch in range(done, args.epochs):
            started, losses = time.perf_counter(), []
            order = torch.randperm(len(scenes), generator=torch.Generator().manual_seed(1000 * args.seed + epoch))
            batches = _batches([scenes[number] for number in order], args.batch_size)[:steps]
            for batch in track(batches, f"epoch {epoch + 1}/{args.epochs}", transient=True, disable=QUIET):
                loss = task.loss(model, batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                losses.append(loss.item())
            if not math.isfinite(sum(losses)):
                raise SystemExit(f"the loss of epoch {epoch + 1} is not finite; try a lower --lr")
            seconds += time.perf_counter() - started
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epoch + 1}
            state |= {"scheduler": scheduler.state_dict(), "seconds": seconds, "settings": settings}
            with whole_file(checkpoint) as file:
                torch.save(state, file)
            print(f"  epoch {epoch + 1}/{args.epochs}  loss {sum(losses) / steps:.3f}  {seconds:.0f} s", flush=True)
    return seconds


def _draw(task: Task, models: dict[str, nn.Module], scenes: Sequence[Scene], path: Path) -> None:
    """A row for the truth and one for each model, a column a scene."""
    rows = {"truth": None} | {BACKBONES[name]: model for name, model in models.items()}
    figure, axes = pyplot.subplots(
        len(rows), len(scenes), figsize=(2 * len(scenes), 2 * len(rows) + 0.6), squeeze=False
    )
    for line, (title, model) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(title.replace(", ", ",\n"))
        for axis, scene in zip(line, scenes, strict=True):
            with torch.inference_mode():
                axis.imshow(task.draw(scene, model).permute(1, 2, 0))
            axis.set(xticks=[], yticks=[])
    patches = [Patch(color=[part / 255 for part in colour]) for colour in COLOURS]
    figure.legend(patches, CLASSES, loc="lower center", ncols=len(CLASSES) // 2, frameon=False)
    figure.tight_layout(rect=(0, 0.6 / figure.get_figheight(), 1, 1), pad=0.3)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 85})
    pyplot.close(figure)


def timm_network(weights: Weights, **arguments: Any) -> nn.Module:
    """Builds timm's own `mobilenetv2_100` with the weights, as far as it has a place for them."""
    model = timm.create_model("mobilenetv2_100", **arguments)
    missing, _ = model.load_state_dict(weights.state, strict=False)
    if missing:
        raise ValueError(f"weights lack {', '.join(missing)}")
    return model
