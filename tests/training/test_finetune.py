"""From photos to a network that works at once, whatever happens on the way."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import safetensors.torch
import timm
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from timm.data import create_transform, resolve_data_config

import mnv2zoo
from mnv2zoo.errors import DataError, RecipeError, RunError, UnknownModelError
from mnv2zoo.models.mobilenetv2 import MobileNetV2
from tests.conftest import BLOCK, GOOGLE, ROOT, needs_google
from tests.photos import QUICK, fill, photo

MODEL = "mnv2zoo_035"


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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a plain folder with a test split of its own, and what it gave."""
    folder = tmp_path_factory.mktemp("trained")
    fill(folder / "photos" / "train", 16)
    fill(folder / "photos" / "test", 4, first=20)
    values = {**QUICK, "epochs": 24, "batch_size": 14, "smoothing": 0.0, "keep": "last"}
    result = mnv2zoo.finetune(folder / "photos", MODEL, folder / "run", **values)
    return folder / "photos", folder / "run", result


def test_a_training_learns(trained):
    _, _, result = trained
    assert [row["epoch"] for row in result.history] == list(range(1, 25))
    losses = [row["train_loss"] for row in result.history]
    assert min(losses) < losses[0] / 2
    # Chance is 33 %. Rounding differs by processor, and so short a training from random numbers with it.
    assert result.scores["test"].top1 > 60
    assert result.class_names == ("blue", "green", "red")


@pytest.mark.slow
def test_a_teacher_is_followed_against_the_labels(trained, tmp_path):
    photos, run, result = trained
    misled = tmp_path / "misled"
    shutil.copytree(run, misled)
    config = json.loads((misled / "config.json").read_text())
    names = config["pretrained_cfg"]["label_names"]
    names.append(names.pop(0))
    (misled / "config.json").write_text(json.dumps(config))
    values = {**QUICK, "init": "pretrained", "epochs": 6, "keep": "last", "teacher": str(misled), "teacher_weight": 1.0}
    student = mnv2zoo.finetune(photos, str(run), tmp_path / "student", **values)
    assert student.scores["test"].top1 < result.scores["test"].top1 / 2
    losses = [row["train_loss"] for row in student.history]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    ("model", "values"),
    [("mnv2zoo_53", {}), (MODEL, {"init": "lost.pth"}), (MODEL, {"init": "random", "teacher": "runs/lost"})],
    ids=str,
)
def test_a_misspelt_name_is_told_of_before_images_are_looked_at(model, values, tmp_path):
    with pytest.raises(UnknownModelError):
        mnv2zoo.finetune(tmp_path / "no photos", model, tmp_path / "run", **values)


def test_the_run_folder_is_a_model_of_timm(trained):
    _, run, result = trained
    model = timm.create_model(f"local-dir:{run}", pretrained=True).eval()
    assert model.pretrained_cfg["label_names"] == ["blue", "green", "red"]
    transform = create_transform(**resolve_data_config(pretrained_cfg=model.pretrained_cfg, use_test_size=True))
    image = transform(photo("red", 5))
    assert image.shape == (3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(model(image[None]), result.model(image[None]), atol=1e-5)


@pytest.mark.slow
def test_predict_and_evaluate_take_the_run(trained, tmp_path):
    photos, run, result = trained
    photo("green", 30).save(tmp_path / "photo.png")
    done = process("predict", str(tmp_path / "photo.png"), "--model", str(run), "--json")
    assert done.returncode == 0, done.stderr
    model = timm.create_model(f"local-dir:{run}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config(pretrained_cfg=model.pretrained_cfg, use_test_size=True))
    with torch.inference_mode():
        scores = model(transform(photo("green", 30))[None]).softmax(dim=1)[0]
    predicted = {row["label"]: row["score"] for row in json.loads(done.stdout)["predictions"]}
    assert predicted == pytest.approx(dict(zip(result.class_names, scores.tolist(), strict=True)), abs=1e-3)
    done = process("evaluate", str(photos), "--model", str(run), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    written = json.loads((run / "results.json").read_text())["test"]
    assert {key: document[key] for key in ("top1", "top5", "images")} == {
        key: written[key] for key in ("top1", "top5", "images")
    }
    assert [row["label"] for row in document["per_class"]] == ["blue", "green", "red"]
    assert document["top1"] == pytest.approx(result.scores["test"].top1)


def test_the_folder_tells_all_that_was_used(trained):
    photos, run, result = trained
    document = json.loads((run / "recipe.json").read_text())
    assert document["model"] == MODEL
    assert document["data"] == str(photos)
    assert document["recipe"]["lr"] == 0.01
    assert document["recipe"]["crop_pct"] == 0.875
    assert None not in (document["recipe"][key] for key in ("mean", "std", "interpolation", "input_size"))
    split = json.loads((run / "split.json").read_text())
    assert {name: len(names) for name, names in split.items()} == {"train": 42, "val": 6, "test": 12, "images": 60}
    assert set(split["images"]) == {*split["train"], *split["val"], *split["test"]}
    assert rows(run) == result.history
    card = (run / "README.md").read_text()
    assert f"| test | 12 | {result.scores['test'].top1:.2f} |" in card
    assert (run / "labels.txt").read_text() == "blue\ngreen\nred\n"
    assert {"README.md", "curves.png", "confusion.png"} <= {f.name for f in (run / "report" / "test").iterdir()}


def test_tensorboard_has_the_scalars_and_figures(trained):
    _, run, result = trained
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert [step for step, _ in scalars] == list(range(1, 25))
    assert scalars[-1][1] == pytest.approx(result.history[-1]["train_loss"])
    assert "test/confusion" in events.Tags()["images"]


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


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "nice"), reason="needs a system whose processes have priorities")
def test_processes_that_read_ahead_give_way_to_the_one_that_trains(photos, tmp_path):
    command = [sys.executable, "-m", "mnv2zoo", *words(photos, tmp_path / "run", workers=2, epochs=1000)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL) as training:
        try:
            found, deadline = {}, time.monotonic() + 120
            while sorted(found.values()) != [19, 19] and training.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
                children = psutil.Process(training.pid).children()
                found = {child.pid: child.nice() for child in children}
            own = psutil.Process(training.pid).nice()
        finally:
            training.kill()
    assert sorted(found.values()) == [19, 19]
    assert own == psutil.Process().nice()


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {"precision": "bf16"},
        {"opt": "adamw", "layer_decay": 0.8, "clip_grad": 1.0, "lr": 1e-3},
        {"loss": "bce", "cutmix": 1.0},
        {"train": "Bottleneck_12", "sched": "poly", "min_lr": 0.1},
        {"channels_last": False, "keep": "last", "warmup_epochs": 0},
        {"batch_size": 64},
    ],
    ids=lambda values: " ".join(values),
)
def test_the_values_of_a_recipe_work(photos, tmp_path, values):
    result = mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **{**QUICK, **values})
    assert len(result.history) == 2
    model = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True).eval()
    assert model.conv_stem.weight.dtype == torch.float32
    if values.get("keep") == "last":
        assert result.epoch == 2


@pytest.mark.slow
def test_images_grow_by_the_quarter(photos, tmp_path, monkeypatch):
    seen = []
    forward = MobileNetV2.forward

    def watched(self, x):
        if self.training:
            seen.append(x.shape[-1])
        return forward(self, x)

    monkeypatch.setattr(MobileNetV2, "forward", watched)
    values = {**QUICK, "start_input_size": 32, "input_size": 64, "epochs": 5, "batch_size": 32}
    mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **values)
    assert seen == [32, 32, 40, 56, 64]
    seen.clear()
    mnv2zoo.finetune(photos, MODEL, tmp_path / "short", **{**values, "epochs": 2})
    assert seen == [32, 64]


def test_images_cannot_shrink(photos, tmp_path):
    with pytest.raises(RecipeError, match="start_input_size"):
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **{**QUICK, "start_input_size": 32})


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


def test_a_run_of_the_same_classes_keeps_its_classifier(photos, tmp_path):
    mnv2zoo.finetune(photos, MODEL, tmp_path / "first", **QUICK)
    second = mnv2zoo.finetune(
        photos,
        str(tmp_path / "first"),
        tmp_path / "second",
        **{**QUICK, "init": "pretrained", "lr": 1e-9, "keep": "last"},
    )
    assert torch.allclose(second.model.classifier.weight, weights(tmp_path / "first")["classifier.weight"], atol=1e-6)


def test_head_only_sees_each_image_once(photos, tmp_path, monkeypatch):
    from mnv2zoo.data.datasets import Sample

    reads = []
    real = Sample.read
    monkeypatch.setattr(Sample, "read", lambda self: reads.append(self.name) or real(self))
    result = mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **{**QUICK, "train": "head", "epochs": 20})
    assert len(result.history) == 20
    train = json.loads((tmp_path / "run/split.json").read_text())["train"]
    assert sorted(name for name in reads if name in train) == sorted(train)


@pytest.mark.slow
def test_head_only_is_the_same_with_and_without_the_cache(photos, tmp_path):
    # With augmentation switched off, the cache must not change what is learnt.
    still = {
        "scale": 1.0,
        "hflip": 0.0,
        "color_jitter": 0.0,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "train": "head",
    }
    for name, cached in (("with", True), ("without", False)):
        mnv2zoo.finetune(photos, MODEL, tmp_path / name, **{**QUICK, **still, "cache_features": cached, "keep": "last"})
    one, other = weights(tmp_path / "with"), weights(tmp_path / "without")
    different = [key for key in one if not torch.equal(one[key], other[key])]
    assert set(different) <= {"classifier.weight", "classifier.bias"}
    # Cutting out the whole of an image and cutting its middle round its sides differently.
    assert torch.nn.functional.cosine_similarity(one["classifier.weight"], other["classifier.weight"]).min() > 0.9


def test_a_folder_with_a_run_is_not_overwritten(trained, photos):
    _, run, _ = trained
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file() and file.name != ".lock"}
    with pytest.raises(RunError, match=r"(?s)a run in the folder already.*--resume"):
        mnv2zoo.finetune(photos, MODEL, run, **QUICK)
    with pytest.raises(RunError, match="new or empty"):
        mnv2zoo.finetune(photos, MODEL, photos, **QUICK)
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_bad_photos_stop_it_before_it_begins(photos, tmp_path):
    (photos / "red" / "00.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 of 24 images cannot be read"):
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **QUICK)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    mnv2zoo.finetune(photos, MODEL, tmp_path / "other", **QUICK, skip_bad_images=True)
    assert not any(
        "red/00.png" in name
        for split in json.loads((tmp_path / "other/split.json").read_text()).values()
        for name in split
    )


def test_a_loss_that_is_no_number_is_an_error(photos, tmp_path):
    with pytest.raises(RunError, match=r"(?s)no longer finite.*--lr"):
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **{**QUICK, "lr": 1e6, "epochs": 5})


def test_another_recipe_does_not_go_on(photos, tmp_path):
    mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **QUICK)
    with pytest.raises(RecipeError, match="where: epochs"):
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", resume=True, epochs=9)
    again = mnv2zoo.finetune(photos, MODEL, tmp_path / "run", resume=True)  # nothing is left to do
    assert len(again.history) == 2


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
def test_a_full_disk_is_one_block_and_the_checkpoint_stays(photos, tmp_path):
    run = tmp_path / "run"
    assert process(*words(photos, run)).returncode == 0
    (run / "metrics.jsonl").unlink()
    checkpoint = (run / "checkpoints" / "last.pt").read_bytes()

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = process(*words(photos, run), "--resume", preexec_fn=small_files)
    assert done.returncode == 1
    assert re.fullmatch(BLOCK, done.stderr[done.stderr.index("error: ") :])
    assert "cannot write to the run folder" in done.stderr
    assert "--resume" in done.stderr
    assert (run / "checkpoints" / "last.pt").read_bytes() == checkpoint
    assert process(*words(photos, run), "--resume").returncode == 0


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


@pytest.mark.slow
def test_two_processes_do_what_one_does_where_statistics_are_frozen(photos, tmp_path):
    one, two = map(weights, one_and_two(photos, tmp_path, "--no-cache-features", train="head", epochs=3))
    assert max((one[key].double() - two[key].double()).abs().max() for key in one) < 1e-4


@pytest.mark.slow
@needs_google
def test_two_processes_come_as_far_as_one_where_statistics_are_trained(tmp_path):
    # Each process then has the statistics of its own half of a batch: docs/finetune.md states this tolerance.
    photos = fill(tmp_path / "photos", 24)
    start = {"init": GOOGLE, "pad_type": "same", "model": "mnv2zoo_100", "input_size": 96, "lr": 0.005}
    one, two = one_and_two(photos, tmp_path, **start, batch_size=32, epochs=3)
    for mine, other in zip(rows(one), rows(two), strict=True):
        assert other["train_loss"] == pytest.approx(mine["train_loss"], rel=0.15)
    assert weights(one)["conv_stem.weight"].equal(weights(two)["conv_stem.weight"]) is False  # they do differ
