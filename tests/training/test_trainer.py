"""Training, step by step: what the seed decides, what stays, and what an interruption leaves."""

import json
import math
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

import mnv2zoo
from mnv2zoo.errors import RecipeError, RunError
from mnv2zoo.tasks.classify import Classify
from mnv2zoo.training import accelerate_settings
from tests.conftest import ROOT, save_photos
from tests.fake_training import PARTS
from tests.photos import QUICK, fill, photo
from tests.tasks.detect import scenes as detect_scenes
from tests.tasks.segment import scenes as segment_scenes
from tests.training.runs import (
    MODEL,
    environment,
    equal,
    interrupted_after,
    process,
    rows,
    save_run,
    weights,
    words,
)


@pytest.mark.slow
def test_the_seed_decides_every_bit(photos, tmp_path):
    options = {"mixup": 0.2, "ema_decay": 0.9, "drop_rate": 0.1, "drop_path_rate": 0.1, "reprob": 0.3}
    options |= {"auto_augment": "rand-m5"}
    # In processes of their own, since workers are forks, and this process is full of other libraries' threads.
    for name, seed, workers in (("one", 1, 0), ("same", 1, 2), ("other", 2, 0)):
        done = process(*words(photos, tmp_path / name, **{**options, "seed": seed, "workers": workers}))
        assert done.returncode == 0, done.stdout + done.stderr
    assert equal(tmp_path / "one", tmp_path / "same")
    assert not equal(tmp_path / "one", tmp_path / "other")


def test_a_trailing_image_is_no_batch_of_one(tmp_path):
    photos = fill(tmp_path / "photos", 6)
    photo("red", 9).save(photos / "red" / "09.png")  # 17 for training: two batches of eight, and one image
    result = mnv2zoo.finetune(photos, "mnv2zoo_050_c20", tmp_path / "run", **{**QUICK, "val_fraction": 0.1})
    assert len(json.loads((tmp_path / "run/split.json").read_text())["train"]) % 8 == 0 or len(result.history) == 2
    assert len(result.history) == 2


def test_frozen_statistics_stay(photos, tmp_path):
    mnv2zoo.finetune(photos, MODEL, tmp_path / "first", **QUICK)
    mnv2zoo.finetune(
        photos, str(tmp_path / "first"), tmp_path / "second", **{**QUICK, "train": "C2"} | {"init": "pretrained"}
    )
    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert {key for key in before if key not in same} == {
        key for key in before if key.startswith(("conv_head", "bn2", "classifier"))
    }


def test_a_loss_that_is_no_number_is_an_error(photos, tmp_path):
    with pytest.raises(RunError, match=r"(?s)loss is not finite.*--lr"):
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **{**QUICK, "lr": 1e6, "epochs": 5})


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(photos, tmp_path):
    values = {"epochs": 4, "checkpoint_steps": 1, "ema_decay": 0.9, "opt": "adamw", "lr": 1e-3}
    done = process(*words(photos, tmp_path / "whole", **values))
    assert done.returncode == 0, done.stderr
    chance = random.Random(4)
    run, kills = tmp_path / "killed", 0
    for _ in range(6):
        command = [sys.executable, "-m", "mnv2zoo", *words(photos, run, **values), "--resume"]
        child = subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        while not (run / "recipe.json").exists() and child.poll() is None:
            time.sleep(0.01)  # imports take longer than the training
        checkpoint = run / "checkpoints" / "last.pt"
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
        while child.poll() is None and before == (checkpoint.stat().st_mtime_ns if checkpoint.exists() else None):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.15))
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            kills += 1
        child.wait(timeout=300)
        child.stdout.close()
    done = process(*words(photos, run, **values), "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert kills >= 3
    assert equal(tmp_path / "whole", run)
    losses = [[row["train_loss"] for row in rows(folder)] for folder in (tmp_path / "whole", run)]
    assert losses[0] == losses[1]
    assert not [file for file in run.rglob(".*") if file.name != ".lock"] or kills  # what a kill left aside is hidden


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_every_way_of_training_works_on_another_device(tmp_path, part):
    fill(tmp_path / "photos" / "train", 5)
    fill(tmp_path / "photos" / "val", 1, first=20)
    detect_scenes.fill_coco(tmp_path / "boxes", 8, 2)
    segment_scenes.fill(tmp_path / "masks", 8, 2)
    save_run(tmp_path / "start")
    done = process(str(tmp_path), part, module="tests.fake_training", timeout=500, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    found = dict(re.findall(r"^RESULT (.*?): (.*)$", done.stdout, re.MULTILINE))
    assert found.keys() == PARTS[part][1].keys(), done.stdout
    assert not {way: outcome for way, outcome in found.items() if not re.fullmatch(r"([\d.]+e[-+]\d+ ?){3}", outcome)}
    for way, outcome in found.items():
        # Rounding differs with the layout of gradients in memory, and autocast with the operations that it lowers.
        bounds = (0.1, 1, 1e-5) if "bf16" in way else (0.02, 0.05, 1e-5)
        assert all(float(one) <= bound for one, bound in zip(outcome.split(), bounds, strict=True)), (way, outcome)


def test_a_scaled_loss_skips_steps_keeps_the_schedule_and_resumes_bit_for_bit(photos, tmp_path, monkeypatch):
    values = {**QUICK, "epochs": 3, "ema_decay": 0.9, "opt": "adamw", "lr": 1e-3, "clip_grad": 1.0, "device": "cpu"}
    plain = mnv2zoo.finetune(photos, MODEL, tmp_path / "plain", **values)
    real = accelerate_settings.start

    def scaled(recipe, device):
        # What Accelerate does for fp16 on a GPU. The first steps overflow.
        accelerator = real(recipe, device)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
        return accelerator

    monkeypatch.setattr(accelerate_settings, "start", scaled)
    whole = mnv2zoo.finetune(photos, MODEL, tmp_path / "whole", **values)
    with interrupted_after(monkeypatch, 1, 1):
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **values, checkpoint_steps=1)
    again = mnv2zoo.finetune(photos, out=tmp_path / "run", resume=True, device="cpu")
    assert equal(tmp_path / "whole", tmp_path / "run")
    assert [row["train_loss"] for row in again.history] == [row["train_loss"] for row in whole.history]
    assert [row["lr"] for row in whole.history] == [row["lr"] for row in plain.history]
    state = [torch.load(tmp_path / run / "checkpoints/last.pt", weights_only=True) for run in ("whole", "run")]
    assert state[0]["scaler"] == state[1]["scaler"]
    skipped = 127 - math.log2(state[0]["scaler"]["scale"])
    taken = max(one["step"].item() for one in state[0]["optimizer"]["state"].values())
    assert skipped >= 1
    assert skipped + taken == 9


def test_a_checkpoint_of_an_earlier_version_is_resumed(tmp_path):
    photos = fill(tmp_path / "photos")
    run = tmp_path / "run"
    result = mnv2zoo.finetune(photos, "mnv2zoo_035", run, **QUICK)
    file = run / "checkpoints/last.pt"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["best_top1"] = checkpoint.pop("best_metric")
    torch.save(checkpoint, file)
    again = mnv2zoo.finetune(photos, out=run, resume=True)
    assert (again.epoch, again.history) == (result.epoch, result.history)


class Double(Classify):
    """Classification in double precision."""

    def build_model(self, *arguments):
        start = super().build_model(*arguments)
        start.model.double().register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
        return start


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_trains_the_same_network(photos, tmp_path):
    # Two steps, since rounding grows a hundredfold with each, in a random network on so small images.
    values = {**QUICK, "epochs": 1, "batch_size": 12, "ema_decay": 0.9, "device": "cpu", "task": Double}
    mnv2zoo.finetune(photos, MODEL, tmp_path / "plain", **values)
    compiled = mnv2zoo.finetune(photos, MODEL, tmp_path / "compiled", **values, compile=True)
    one, other = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-6, atol=1e-8)
    again = mnv2zoo.finetune(photos, out=tmp_path / "compiled", resume=True, compile=False, device="cpu", task=Double)
    assert again.history == compiled.history


@pytest.mark.parametrize(
    ("images", "batch", "groups", "options"),
    [
        (16, 8, 6, {"opt": "adamw", "lr": 0.001, "ema_decay": 0.9, "clip_grad": 1.0}),
        (6, 6, 4, {"lr": 0.05}),  # three batches, which the group of four has to do with
    ],
)
def test_accumulated_gradients_are_those_of_the_large_batch(tmp_path, images, batch, groups, options):
    fill(tmp_path / "photos" / "train", images)
    fill(tmp_path / "photos" / "val", 1, first=50)
    start = save_run(tmp_path / "start")
    values = {"init": str(start), "keep_statistics": True, "epochs": 2, "workers": 0, "keep": "last", **options}
    data = tmp_path / "photos"
    one = mnv2zoo.finetune(data, MODEL, tmp_path / "one", task=Double, batch_size=3 * images, **values)
    many = mnv2zoo.finetune(data, MODEL, tmp_path / "many", task=Double, batch_size=batch, accumulate=groups, **values)
    found, before = many.model.state_dict(), weights(start)
    for name, tensor in one.model.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-9)
    assert max((found[name] - before[name]).abs().max() for name in before if "conv" in name) > 1e-4
    assert [row["lr"] for row in one.history] == [row["lr"] for row in many.history]


@pytest.mark.slow
def test_accumulation_resumes_bit_for_bit(photos, tmp_path, monkeypatch):
    values = {**QUICK, "batch_size": 4, "accumulate": 2, "checkpoint_steps": 1, "ema_decay": 0.9}
    mnv2zoo.finetune(photos, MODEL, tmp_path / "whole", **values)
    with interrupted_after(monkeypatch, 1, 4):
        mnv2zoo.finetune(photos, MODEL, tmp_path / "cut", **values)
    mnv2zoo.finetune(photos, MODEL, tmp_path / "cut", resume=True, **values)
    assert equal(tmp_path / "whole", tmp_path / "cut")


def test_the_monitored_metric_chooses_the_epoch(photos, tmp_path):
    values = {**QUICK, "epochs": 4}
    by_loss = mnv2zoo.finetune(photos, MODEL, tmp_path / "loss", monitor="loss", **values)
    losses = [row["val_loss"] for row in by_loss.history]
    assert by_loss.epoch == losses.index(min(losses)) + 1
    by_f1 = mnv2zoo.finetune(photos, MODEL, tmp_path / "f1", monitor="f1_macro", **values)
    values = [row["val_f1_macro"] for row in by_f1.history]
    assert by_f1.epoch == values.index(max(values)) + 1


def test_training_stops_when_the_metric_no_longer_improves(photos, tmp_path, capsys):
    # Without a learning rate worth the name, no epoch is better than the first.
    values = {**QUICK, "epochs": 9, "lr": 1e-12, "patience": 2, "monitor": "top1"}
    result = mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **values)
    assert (len(result.history), result.epoch) == (3, 1)
    assert "stopped after epoch 3: top1 has not improved for 2 epochs" in capsys.readouterr().out


def test_a_metric_that_does_not_exist_is_refused_before_anything_is_written(photos, tmp_path):
    with pytest.raises(RecipeError) as caught:
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", monitor="f1_marco")
    assert caught.value.where == "monitor"
    assert "f1_macro" in caught.value.expected
    assert not (tmp_path / "run").exists()


def test_without_validation_the_last_epoch_is_kept(photos, tmp_path):
    result = mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **{**QUICK, "val_fraction": 0})
    assert (result.epoch, list(result.scores), len(result.history)) == (2, [], 2)
    assert "val_loss" not in result.history[0]
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == {"epoch": 2}


PEAK = """
import resource, sys
import mnv2zoo

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

recipe = {"init": "random", "train": "head", "input_size": 32, "batch_size": 2, "workers": 0, "val_fraction": 0}
mnv2zoo.finetune(sys.argv[1], "mnv2zoo_035", sys.argv[2], epochs=1, device="cpu", **recipe)
one = peak()
mnv2zoo.finetune(sys.argv[1], "mnv2zoo_035", sys.argv[3], epochs=3, device="cpu", **recipe)
print(peak() - one)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is reused with glibc alone")
def test_memory_does_not_grow_with_the_number_of_steps(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(1000):
        save_photos(tmp_path / "photos" / f"{number}", 1)
    words = [sys.executable, "-c", PEAK, tmp_path / "photos", tmp_path / "one", tmp_path / "more"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) < 60  # MB; 5 MB of weights, and 1,500 steps
