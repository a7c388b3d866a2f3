"""Evaluation of a network on a folder of images."""

import json
import os
import subprocess
import sys
import unicodedata

import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform, resolve_data_config

import mnv2zoo
from mnv2zoo.errors import DataError
from tests.conftest import ROOT
from tests.photos import COLORS, QUICK, fill

MODEL = "mnv2zoo_035"


def command(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "mnv2zoo", *map(str, words)]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)


def test_all_and_split_cannot_be_combined(tmp_path):
    done = command("evaluate", tmp_path, "--model", "run", "--all", "--split", "val")
    assert done.returncode == 2
    assert "--split" in done.stderr


@pytest.mark.slow
def test_a_run_with_a_class_called_train_is_evaluated_as_it_was_trained(tmp_path):
    photos = fill(tmp_path / "photos", 6)
    (photos / "red").rename(photos / "train")
    with pytest.raises(DataError, match="may be a split or a class"):
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **QUICK)
    done = command(
        *("finetune", photos, "--model", MODEL, "--out", tmp_path / "run", "--layout", "classes"),
        *("--init", "random", "--input-size", 32, "--epochs", 1, "--batch-size", 8, "--workers", 0),
    )
    assert done.returncode == 0, done.stderr
    done = command("evaluate", photos, "--model", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "evaluated on 3 val images that the run held out" in done.stdout
    assert (tmp_path / "run/labels.txt").read_text() == "blue\ngreen\ntrain\n"


@pytest.mark.slow
def test_labels_of_an_older_run_in_another_unicode_form_are_its_classes_still(tmp_path):
    photos = fill(tmp_path / "photos", 6)
    (photos / "red").rename(photos / unicodedata.normalize("NFD", "café"))
    first = mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **QUICK)
    assert first.class_names == ("blue", unicodedata.normalize("NFC", "café"), "green")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["label_names"] = [unicodedata.normalize("NFD", label) for label in config["label_names"]]
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    assert mnv2zoo.evaluate(photos, tmp_path / "run").top1 == pytest.approx(first.scores["val"].top1)
    values = {**QUICK, "init": "pretrained", "lr": 1e-9, "keep": "last"}
    second = mnv2zoo.finetune(photos, str(tmp_path / "run"), tmp_path / "second", **values)
    assert torch.allclose(second.model.classifier.weight, first.model.classifier.weight, atol=1e-6)


def test_scores_are_those_of_timms_transform_and_pytorchs_loss(tiny, tmp_path):
    colors = dict(zip("abc", COLORS, strict=True))
    for name, color in colors.items():
        fill(tmp_path, 3, [color])
        (tmp_path / color).rename(tmp_path / name)
    model = timm.create_model(f"local-dir:{tiny}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config(pretrained_cfg=model.pretrained_cfg, use_test_size=True))
    files = sorted(tmp_path.glob("*/*.png"))
    with torch.inference_mode():
        logits = model(torch.stack([transform(Image.open(file)) for file in files]))
    targets = torch.arange(3).repeat_interleave(3)
    scores = mnv2zoo.evaluate(tmp_path, tiny, batch_size=4)
    assert (scores.images, scores.measured[:13]) == (9, "all 9 images,")
    assert scores.top1 == pytest.approx(100 * (logits.argmax(1) == targets).double().mean().item())
    assert scores.loss == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-4)
