"""From photos to a network that works at once, whatever happens on the way."""

import json
import shutil

import pytest
import timm
import torch
from timm.data import create_transform, resolve_data_config

import mnv2zoo
from mnv2zoo.errors import DataError, UnknownModelError
from tests.photos import QUICK, photo
from tests.training.runs import (
    MODEL,
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
