"""Trains, evaluates and predicts in every way on the CPU and on the fake device, and prints how far these are apart.

`python -m tests.fake_training FOLDER PART [WAY...]`, with `photos`, `boxes`, `masks` and `start` in the folder, for one
of `PARTS`. A line per way gives the relative difference of the first epoch's loss, and the largest difference of the
parameters and of what evaluation and prediction give for the same weights.
"""

import contextlib
import json
import sys
import traceback
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

import mnv2zoo
from tests import fake_device
from tests.photos import QUICK
from tests.tasks.detect import scenes as boxes
from tests.tasks.segment import scenes as masks

CLASSIFY = {
    "head": {"train": "head"},
    "head, without the cache": {"train": "head", "cache_features": False, "ema_decay": 0.9},
    "all, channels first": {"channels_last": False, "opt": "adamw", "lr": 1e-3},
    "from a bottleneck on, average": {"train": "Bottleneck_15", "ema_decay": 0.9},
    "mixup": {"mixup": 0.5, "cutmix": 0.5, "loss": "bce", "keep_statistics": True, "init": "pretrained"},
    "weights of classes": {"loss": "focal", "class_weights": "balanced", "sampler": "balanced"},
    "augmented on the device": {"augment_on": "device", "vflip": 0.5, "reprob": 0.5, "channels_last": False},
    "teacher": {"teacher": "START", "clip_grad": 1.0, "layer_decay": 0.8},
    "growing, bf16": {"input_size": 64, "start_input_size": 32, "precision": "bf16", "epochs": 2},
    "resume": {"epochs": 2, "ema_decay": 0.9, "channels_last": False, "opt": "adamw", "lr": 1e-3},
}
DETECT = {
    "ssdlite": {"head": "ssdlite", "ema_decay": 0.9, "start_input_size": 48, "epochs": 2},
    "retinanet": {"head": "retinanet", "clip_grad": 1.0},
    "fasterrcnn": {"head": "fasterrcnn", "backbone_lr": 0.5},
    # Not `ssdlite`: of a map of 1 x 1, oneDNN's bfloat16 gradient is what memory happens to hold.
    "fasterrcnn, bf16": {"head": "fasterrcnn", "precision": "bf16", "input_size": 160},
    "resume": {"head": "ssdlite", "epochs": 2, "ema_decay": 0.9},
}
SEGMENT = {
    "lraspp": {"head": "lraspp", "ema_decay": 0.9, "input_size": 64, "start_input_size": 32, "epochs": 2},
    "deeplabv3": {"head": "deeplabv3", "class_weights": "balanced", "output_stride": 16},
    "smp:Unet": {"head": "smp:Unet", "region_loss": "dice"},
    "lovasz": {"head": "lraspp", "region_loss": "lovasz", "smoothing": 0.1},
    "resume": {"head": "lraspp", "epochs": 2, "ema_decay": 0.9},
}
COLORS = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
PARTS = {
    "classify": ("photos", CLASSIFY, QUICK),
    "detect": ("boxes", DETECT, boxes.QUICK),
    "segment": ("masks", SEGMENT, masks.QUICK),
}


def train(part: str, folder: Path, way: str, device: str) -> Path:
    """Trains, and returns the run folder."""
    data, ways, quick = PARTS[part]
    values = {**quick, "epochs": 1, "keep": "last", "task": part, **COLORS, **ways[way]}
    start = str(folder / "start")
    # Steps so small that rounding, which depends on the layout of gradients in memory, stays rounding.
    values = values if "opt" in ways[way] else {**values, "opt": "sgd", "lr": 1e-3}
    values = {name: start if value == "START" else value for name, value in values.items()}
    model = start if values["init"] == "pretrained" else "mnv2zoo_035"
    out = folder / device / f"{part}, {way}"
    if way == "resume":  # from the other device
        interrupted(folder / data, model, out, values, "cpu" if device == "fake" else "fake")
    fake_device.LOWERED.clear()
    result = mnv2zoo.finetune(folder / data, model, out, device=device, resume=way == "resume", **values)
    assert {p.device.type for p in result.model.parameters()} == {device}
    assert "val" in result.scores
    assert ({kind for _, kind in fake_device.LOWERED} == {torch.bfloat16}) == ("bf16" in way and device == "fake")
    return out


def interrupted(data: Path, model: str, out: Path, values: dict, device: str) -> None:
    """Leaves a run as an interruption in its second epoch does."""
    from mnv2zoo.training.trainer import Trainer

    real = Trainer.save

    def stop(self: Trainer) -> None:
        real(self)
        if self.progress.epoch == 1 and self.progress.step == 1:
            raise KeyboardInterrupt

    Trainer.save = stop
    with contextlib.suppress(KeyboardInterrupt):
        mnv2zoo.finetune(data, model, out, device=device, **values, checkpoint_steps=1)
    Trainer.save = real


def apart(found: Path, expected: Path) -> float:
    """The largest difference of parameters of two runs."""
    one, other = (load_file(run / "model.safetensors") for run in (found, expected))
    return max((one[name] - other[name]).abs().max().item() for name in one if "running" not in name)


def loss(run: Path) -> float:
    """The mean training loss of the first epoch."""
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["train_loss"]


def numbers(value: object) -> list[float]:
    """The numbers in a structure, in order."""
    if isinstance(value, dict):
        return [number for own in value.values() for number in numbers(own)]
    if isinstance(value, list | tuple):
        return [number for own in value for number in numbers(own)]
    return [float(value)] if isinstance(value, int | float) else []


def inference(part: str, folder: Path, run: Path) -> float:
    """How far scores and rows on the devices are apart, of the same weights."""
    data = folder / PARTS[part][0]
    found = {}
    for device in ("cpu", "fake"):
        scores = mnv2zoo.evaluate(data, run, device=device).to_json()
        images = sorted(data.rglob("*.png"))[:3]
        options = {"threshold": 0.0} if part == "detect" else {}
        found[device] = numbers(
            [scores, *mnv2zoo.predict([str(i) for i in images], str(run), device=device, **options)]
        )
    assert len(found["cpu"]) == len(found["fake"]) > 5
    return max(abs(one - other) for one, other in zip(found["cpu"], found["fake"], strict=True))


def main(folder: str, part: str) -> None:
    fake_device.install()  # before the first training, which starts autograd's threads, one for each device
    for way in sys.argv[3:] or PARTS[part][1]:
        try:
            expected, found = (train(part, Path(folder), way, device) for device in ("cpu", "fake"))
            of_loss = abs(loss(found) / loss(expected) - 1)
            of_rows = inference(part, Path(folder), expected)
            print(f"RESULT {way}: {of_loss:.1e} {apart(found, expected):.1e} {of_rows:.1e}")
        except Exception as error:
            traceback.print_exc()
            print(f"RESULT {way}: {type(error).__name__}: {error}".splitlines()[0][:300])


if __name__ == "__main__":
    main(*sys.argv[1:3])
