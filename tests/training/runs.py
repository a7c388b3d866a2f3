"""Runs for tests of training: made quickly, interrupted, compared, and started from the command line."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from mnv2zoo.model_dir import files
from mnv2zoo.training import trainer
from tests.conftest import ROOT, random_state_dict
from tests.photos import QUICK

MODEL = "mnv2zoo_035"
LABELS = ("blue", "green", "red")
ONE = {**QUICK, "epochs": 1, "batch_size": 24}  # one epoch of one step


def weights(run):
    return safetensors.torch.load_file(Path(run) / "model.safetensors")


def equal(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    return all(torch.equal(one[key], other[key]) for key in one)


def rows(run):
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def words(data, run, **values):
    """The words of a command line for a training of seconds."""
    options = {"model": MODEL, **QUICK, **values}
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return ["finetune", str(data), "--out", str(run), *flags]


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def process(*command, module="mnv2zoo", launcher=(), timeout=300, **options):
    launch = [sys.executable, "-m", *launcher, *(["-m"] if launcher else []), module, *command]
    return subprocess.run(launch, env=environment(), capture_output=True, text=True, timeout=timeout, **options)


def one_and_two(data, tmp_path, *flags, **values):
    """The run folders of the same training in one process and in two."""
    runs = [tmp_path / "one", tmp_path / "two"]
    for run, launcher in zip(
        runs, ((), ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")), strict=True
    ):
        done = process(*words(data, run, **values), *flags, launcher=launcher)
        assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in rows(runs[1])] == [1, 2, 3]
    return runs


def content(folder):
    """What every file of a folder holds, but for the lock."""
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file() and file.name != ".lock"}


def save_run(folder, seed=0, labels=LABELS, **arguments):
    """A run folder of random weights, to start from."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    model = timm.create_model(MODEL, num_classes=len(labels), **arguments)
    torch.manual_seed(seed)
    model.load_state_dict(random_state_dict(MODEL, seed, num_classes=len(labels)))
    data = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear"}
    for name, data_of_file in files.model_files(model, {**data, "crop_pct": 1.0}, labels).items():
        (folder / name).write_bytes(data_of_file)
    if arguments:
        config = json.loads((folder / "config.json").read_text())
        config["model_args"] = config.get("model_args", {}) | arguments
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@contextlib.contextmanager
def interrupted_after(monkeypatch, epoch, step):
    """Interrupts the training, as Ctrl-C does, after a checkpoint."""
    real = trainer.Trainer.save

    def save(self):
        real(self)
        if (self.progress.epoch, self.progress.step) == (epoch, step):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(trainer.Trainer, "save", save)
        yield
        pytest.fail("nothing was interrupted")


def cli(*command, launcher=(), cwd=None, preexec_fn=None, **variables):
    launch = [sys.executable, "-m", *launcher, *(["-m"] if launcher else []), "mnv2zoo", *command]
    return subprocess.run(
        launch,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        preexec_fn=preexec_fn,
    )
