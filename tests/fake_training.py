"""Trains in every way on the CPU and on the fake device, and prints how the weights compare.

`python -m tests.fake_training DATA START FOLDER`
"""

import os
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import mnv2zoo
from tests import fake_device
from tests.photos import QUICK

WAYS = {
    "head": {"train": "head"},
    "head, without the cache": {"train": "head", "cache_features": False, "ema_decay": 0.9},
    "all, channels first": {"channels_last": False, "opt": "adamw", "lr": 1e-3},
    "from a bottleneck on, average": {"train": "Bottleneck_15", "ema_decay": 0.9},
    "mixup": {"mixup": 0.5, "cutmix": 0.5, "loss": "bce", "keep_statistics": True, "init": "pretrained"},
    "teacher": {"teacher": None, "clip_grad": 1.0, "layer_decay": 0.8},
    "growing, bf16": {"input_size": 64, "start_input_size": 32, "precision": "bf16", "epochs": 2},
    "resume": {"epochs": 2, "ema_decay": 0.9, "channels_last": False},
}


def train(data: str, start: str, out: Path, values: dict) -> dict[str, torch.Tensor]:
    values = {name: start if name == "teacher" else value for name, value in values.items()}
    model = start if values.get("init") == "pretrained" else "mnv2zoo_035"
    values = {**QUICK, "epochs": 1, "keep": "last", **values}
    if out.name.startswith("resume"):
        interrupted(data, model, out, values)
    result = mnv2zoo.finetune(data, model, out, resume=out.name.startswith("resume"), **values)
    device = "fake" if out.parent.name == "fake" else "cpu"
    assert {p.device.type for p in result.model.parameters()} == {device}
    assert {"val", "test"} <= result.scores.keys()
    return load_file(out / "model.safetensors")


def interrupted(data: str, model: str, out: Path, values: dict) -> None:
    """Leaves a run as an interruption in its second epoch does."""
    from mnv2zoo.training.trainer import Trainer

    real = Trainer.save

    def stop(self: Trainer) -> None:
        real(self)
        if self.progress.epoch == 1 and self.progress.step == 1:
            raise KeyboardInterrupt

    Trainer.save = stop
    try:
        mnv2zoo.finetune(data, model, out, **values, checkpoint_steps=1)
    except KeyboardInterrupt:
        pass
    finally:
        Trainer.save = real


def main(data: str, start: str, folder: str) -> None:
    fake_device.install()  # before the first training, which starts autograd's threads, one for each device
    on_cpu = {way: train(data, start, Path(folder, "cpu", way), values) for way, values in WAYS.items()}
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ["ACCELERATE_TORCH_DEVICE"] = "fake:0"
    for way, weights in on_cpu.items():
        try:
            found = train(data, start, Path(folder, "fake", way), WAYS[way])
            worst = max((weights[name].double() - tensor.double()).abs().max().item() for name, tensor in found.items())
            print(f"RESULT {way}: {worst:.1e}")
        except Exception as error:
            print(f"RESULT {way}: {type(error).__name__}: {error}".splitlines()[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
