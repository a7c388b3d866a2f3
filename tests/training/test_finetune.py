"""From photos to a network that works at once, whatever happens on the way."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

import mnv2zoo
from mnv2zoo.errors import DataError, UnknownModelError
from tests.photos import QUICK, photo
from tests.training.runs import (
    MODEL,
    equal,
    interrupted_after,
    process,
    weights,
)


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
    names = config["label_names"]
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


def test_a_run_of_the_same_classes_keeps_its_classifier(photos, tmp_path):
    mnv2zoo.finetune(photos, MODEL, tmp_path / "first", **QUICK)
    second = mnv2zoo.finetune(
        photos,
        str(tmp_path / "first"),
        tmp_path / "second",
        **{**QUICK, "init": "pretrained", "lr": 1e-9, "keep": "last"},
    )
    assert torch.allclose(second.model.classifier.weight, weights(tmp_path / "first")["classifier.weight"], atol=1e-6)


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


def fill_with_arrays(folder, channels, dtype=np.uint16):
    """Arrays of three classes, each bright in a channel of its own."""
    random, white = np.random.default_rng(0), 65535 if dtype == np.uint16 else 1
    for label, name in enumerate(("blue", "green", "red")):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            values = random.uniform(0, 0.5, (36, 50, channels))
            values[..., label % channels] += 0.4
            np.save(folder / name / f"{number}.npy", (white * values).astype(dtype))
    return folder


FITTED = [
    ({}, (3, 32, 32), "center", 0.75),
    ({"resize": "squash", "input_size": "32x64"}, (3, 32, 64), "squash", 1.0),
    ({"resize": "letterbox", "input_size": "64x40", "test_input_size": "96x48"}, (3, 96, 48), "border", 1.0),
    ({"input_size": (48, 32), "in_chans": 1}, (1, 48, 32), "center", 0.75),
    ({"resize": "letterbox", "in_chans": 5, "input_size": "32x64"}, (5, 32, 64), "border", 1.0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("values", "input_size", "crop_mode", "crop_pct"), FITTED, ids=str)
def test_every_way_of_fitting_goes_from_training_to_a_bundle(values, input_size, crop_mode, crop_pct, tmp_path):
    channels = input_size[0]
    images, run, bundle = tmp_path / "images", tmp_path / "run", tmp_path / "bundle"
    if channels == 5:
        fill_with_arrays(images, 5)
    else:
        for color, size in zip(("blue", "green", "red"), ((70, 40), (40, 90), (50, 50)), strict=True):
            (images / color).mkdir(parents=True)
            for number in range(6):
                photo(color, number, size).save(images / color / f"{number}.png")
    mnv2zoo.finetune(images, MODEL, run, **{**QUICK, **values})
    cfg = json.loads((run / "config.json").read_text())["pretrained_cfg"]
    assert (cfg["crop_mode"], cfg["crop_pct"]) == (crop_mode, crop_pct)
    assert tuple(cfg.get("test_input_size") or cfg["input_size"]) == input_size

    scores = mnv2zoo.evaluate(images, model=str(run), split="all")
    assert scores.images == 18
    files = sorted(images.rglob("*.*"))
    rows = list(mnv2zoo.predict(images, str(run)))
    assert [row["image"] for row in rows] == [str(file) for file in files]
    wanted = torch.tensor([by_class(row) for row in rows])
    right = sum(row["predictions"][0]["label"] == file.parent.name for row, file in zip(rows, files, strict=True))
    assert scores.top1 == pytest.approx(100 * right / 18)

    # The preprocessing of photos that timm reads from config.json.
    if channels == 3:
        model = timm.create_model(f"local-dir:{run}", pretrained=True).eval()
        transform = create_transform(**resolve_data_config(pretrained_cfg=model.pretrained_cfg, use_test_size=True))
        with torch.inference_mode():
            found = model(torch.stack([transform(Image.open(file)) for file in files])).softmax(1)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-2 if crop_mode == "center" else 1e-5)
    exact = list(mnv2zoo.predict(images, str(run), exact=True))
    mnv2zoo.deploy.export(str(run), bundle)
    assert json.loads((bundle / "preprocess.json").read_text())["input_size"] == list(input_size)
    done = subprocess.run(
        [sys.executable, "predict.py", *map(str, files), "--json"], cwd=bundle, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for line, row in zip(done.stdout.splitlines(), exact, strict=True):
        assert by_class(json.loads(line)) == pytest.approx(by_class(row), abs=1e-4)
    cached = list(mnv2zoo.predict(images, str(run), engine="onnxruntime", cache=tmp_path / "engines"))
    for one, row in zip(cached, rows, strict=True):
        assert by_class(one) == pytest.approx(by_class(row), abs=1e-4)


def by_class(row):
    """The scores of a row, in the order of the classes."""
    return [prediction["score"] for prediction in sorted(row["predictions"], key=lambda one: one["class"])]


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {"input_size": "48x96", "start_input_size": 32, "epochs": 4, "resize": "letterbox", "augment_on": "device"},
        {"input_size": "64x40", "start_input_size": 32, "epochs": 4, "resize": "squash", "mixup": 0.2},
    ],
    ids=str,
)
def test_a_run_of_another_shape_resumes_bit_for_bit(values, photos, tmp_path, monkeypatch):
    values = {**QUICK, **values}
    mnv2zoo.finetune(photos, MODEL, tmp_path / "whole", **values)
    with interrupted_after(monkeypatch, 2, 0):
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **values)
    mnv2zoo.finetune(photos, MODEL, tmp_path / "run", resume=True, input_size=values["input_size"])
    assert equal(tmp_path / "whole", tmp_path / "run")
    assert (tmp_path / "whole/config.json").read_bytes() == (tmp_path / "run/config.json").read_bytes()


@pytest.mark.slow
def test_channels_train_with_every_part_of_the_recipe_that_takes_them(tmp_path):
    arrays = fill_with_arrays(tmp_path / "arrays", 4, np.float32)
    teacher = tmp_path / "teacher"
    mnv2zoo.finetune(arrays, MODEL, teacher, **QUICK, in_chans=4, resize="squash")
    more = {"mixup": 0.2, "reprob": 0.5, "vflip": 0.5, "teacher": str(teacher), "input_size": "32x48"}
    result = mnv2zoo.finetune(arrays, str(teacher), tmp_path / "student", **{**QUICK, **more, "init": "pretrained"})
    cfg = json.loads((tmp_path / "student/config.json").read_text())["pretrained_cfg"]
    assert (cfg["input_size"], cfg["crop_mode"]) == ([4, 32, 48], "squash")  # as the weights that it started from
    assert result.model.conv_stem.weight.shape[1] == 4
    page = (tmp_path / "student/report/val/README.md").read_text()
    assert "val images" in page
    head = mnv2zoo.finetune(arrays, str(teacher), tmp_path / "head", **{**QUICK, "init": "pretrained", "train": "head"})
    assert head.scores["val"].images == 3


def test_arrays_with_other_channels_stop_it_before_anything_is_written(tmp_path):
    arrays = fill_with_arrays(tmp_path / "arrays", 4)
    with pytest.raises(DataError) as error:
        mnv2zoo.finetune(arrays, MODEL, tmp_path / "run", **QUICK, in_chans=5)
    assert "4 channels in an array of shape (36, 50, 4), but the model takes 5 channels" in error.value.found
    assert not (tmp_path / "run").exists()
