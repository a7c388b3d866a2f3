"""Training detectors: every head, small sizes, bf16, several processes, and runs that were killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import mnv2zoo
from tests.tasks.detect.scenes import MODEL, QUICK, fill_coco, fill_voc, picture, write_voc
from tests.training.runs import environment, equal, interrupted_after, process, rows, weights

AUGMENTED = {"iou_crop": 0.5, "scale_jitter": (0.7, 1.4), "rotate": 0.5, "vflip": 0.5}


def words(data, run, **values):
    """The words of a command line for a training of seconds."""
    flags = []
    for name, value in {"model": MODEL, **QUICK, **values}.items():
        for one in [value] if not isinstance(value, tuple) else [" ".join(map(str, value))]:
            flags += [f"--{name.replace('_', '-')}", *str(one).split(" ")]
    return ["finetune", str(data), "--out", str(run), *flags]


@pytest.mark.slow
@pytest.mark.parametrize("head", ["ssdlite", "retinanet", "fasterrcnn"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_head_trains_on_images_that_grow_and_is_loaded(tmp_path, head, precision):
    data = fill_coco(tmp_path / "cells", 6, 2)
    # Of a map of 1 x 1, oneDNN's bfloat16 gradient is what memory happens to hold. Larger images have no such map.
    side = {"retinanet": 160, "ssdlite": 656}.get(head, 64) if precision == "bf16" else 64
    result = mnv2zoo.finetune(
        data,
        MODEL,
        tmp_path / "run",
        head=head,
        precision=precision,
        start_input_size=side - 16,
        **{**QUICK, **AUGMENTED, "epochs": 3, "batch_size": 2, "input_size": side},
    )
    losses = [row["train_loss"] for row in result.history]
    assert all(torch.isfinite(torch.tensor(losses)))
    loaded, own = mnv2zoo.detection.load(tmp_path / "run", "cpu"), result.model.state_dict()
    assert all(torch.equal(value, own[name].cpu()) for name, value in loaded.state_dict().items())
    assert loaded.label_names == ("disk", "square")
    assert loaded.built_with.name == head
    if precision == "fp32":
        assert mnv2zoo.evaluate(data, tmp_path / "run").map == pytest.approx(result.scores["val"].map, abs=1e-4)


@pytest.mark.slow
def test_it_learns_to_find_what_it_has_not_seen(tmp_path):
    data = fill_voc(tmp_path / "cells", 48, 12)
    values = {**QUICK, "epochs": 40, "batch_size": 8, "lr": 0.005, "warmup_epochs": 1, "input_size": 96}
    result = mnv2zoo.finetune(data, MODEL, tmp_path / "run", stride=8, anchor_size=16, **values)
    assert result.scores["val"].map50 > 50
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"] / 2


def test_images_without_objects_are_a_lesson_too(tmp_path):
    data = fill_voc(tmp_path / "cells", 4, 2)
    for number in range(4):
        write_voc(data, f"empty{number}", picture(90 + number, objects=0)[0], [])
        with (data / "ImageSets/Main/train.txt").open("a") as file:
            file.write(f"empty{number}\n")
    result = mnv2zoo.finetune(data, MODEL, tmp_path / "run", **{**QUICK, "epochs": 2, "batch_size": 2})
    assert all(torch.isfinite(torch.tensor([row["train_loss"] for row in result.history])))
    assert json.loads((tmp_path / "run/recipe.json").read_text())["images"]["found"] == 10


@pytest.mark.slow
@pytest.mark.parametrize("head", ["ssdlite", "retinanet"])
def test_an_interrupted_run_resumes_bit_for_bit(tmp_path, monkeypatch, head):
    data = fill_voc(tmp_path / "cells")
    values = {**QUICK, **AUGMENTED, "epochs": 3, "checkpoint_steps": 1, "ema_decay": 0.9, "start_input_size": 48}
    mnv2zoo.finetune(data, MODEL, tmp_path / "whole", head=head, **values)
    with interrupted_after(monkeypatch, 1, 1):
        mnv2zoo.finetune(data, MODEL, tmp_path / "stopped", head=head, **values)
    mnv2zoo.finetune(data, out=tmp_path / "stopped", resume=True)
    assert equal(tmp_path / "whole", tmp_path / "stopped")
    kept = ("epoch", "train_loss", "val_map", "lr")
    one, two = ([[row[name] for name in kept] for row in rows(tmp_path / run)] for run in ("whole", "stopped"))
    assert one == two


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    data = fill_voc(tmp_path / "cells")
    values = {"epochs": 4, "checkpoint_steps": 1, "workers": 1, "rotate": 0.5}
    assert process(*words(data, tmp_path / "whole", **values)).returncode == 0
    run, seen = tmp_path / "killed", set()
    command = [sys.executable, "-m", "mnv2zoo", *words(data, run, **values)]
    child = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    checkpoint = run / "checkpoints/last.pt"
    while len(seen) < 5 and child.poll() is None:
        if checkpoint.exists():
            seen.add(checkpoint.stat().st_mtime_ns)
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait(timeout=60) == -signal.SIGKILL
    done = process("finetune", str(data), "--out", str(run), "--resume")
    assert done.returncode == 0, done.stderr
    assert "resuming after epoch" in done.stdout
    assert equal(tmp_path / "whole", run)


@pytest.mark.slow
def test_two_processes_see_every_image_once_and_in_order(tmp_path):
    data = fill_voc(tmp_path / "cells", 8, 5)  # five to validate on, of which the processes get three and two
    values = {"train": "head", "epochs": 1}
    launcher = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    for run, how in (("one", ()), ("two", launcher)):
        done = process(*words(data, tmp_path / run, **values), launcher=how)
        assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / run / "results.json").read_text())["val"] for run in ("one", "two"))
    assert (two["images"], two["objects"]) == (5, one["objects"])
    assert [row["images"] for row in two["per_class"]] == [row["images"] for row in one["per_class"]]
    # The same images as one process measures on the run's own weights.
    again = mnv2zoo.evaluate(data, tmp_path / "two").to_json()
    assert again["map"] == pytest.approx(two["map"], abs=0.02)
    assert again["confusion"] == two["confusion"]


@pytest.mark.slow
def test_the_classes_of_a_detector_go_on_where_they_are_the_same(tmp_path):
    data = fill_voc(tmp_path / "cells", 4, 2)
    values = {**QUICK, "epochs": 1}
    mnv2zoo.finetune(data, MODEL, tmp_path / "first", head="retinanet", fpn_channels=32, **values)
    # A learning rate too small to change anything: what is kept is what training starts from.
    frozen = {**values, "init": "pretrained", "lr": 1e-12, "weight_decay": 0.0, "keep_statistics": True}
    mnv2zoo.finetune(data, str(tmp_path / "first"), tmp_path / "second", **frozen)
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-6, rtol=0, msg=name)
    for file in (data / "Annotations").iterdir():
        file.write_text(file.read_text().replace("square", "triangle"))
    mnv2zoo.finetune(data, str(tmp_path / "first"), tmp_path / "third", **frozen)
    third = weights(tmp_path / "third")
    same = {name for name, tensor in first.items() if torch.allclose(third[name], tensor, atol=1e-6)}
    assert "head.classification_head.conv.0.0.weight" in same
    assert "head.classification_head.cls_logits.weight" not in same
