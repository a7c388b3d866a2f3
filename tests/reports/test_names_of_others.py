"""Every command takes models under timm's and transformers' names, and from their folders."""

import hashlib
import json

import pytest
import timm
import torch

import mnv2zoo
from tests.cli.conftest import run  # noqa: F401  # a fixture
from tests.conftest import as_bytes, random_state_dict, raw_entry
from tests.convert.networks import theirs

CLASSES = ["ant", "bee", "cat"]


@pytest.fixture
def pinned(hub, overlay):
    """Weights in one of timm's repositories, which an index pins."""
    data = as_bytes(random_state_dict("mnv2zoo_035", num_classes=3))
    commit = hub.add("timm/mobilenetv2_035.test", "model.safetensors", data)
    fields = {"num_classes": 3, "label_names": CLASSES, "labels": None, "input_size": [3, 32, 32]}
    known = {"revision": commit, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    there = as_bytes(theirs("transformers", "mnv2zoo_035", num_classes=3).float().state_dict())
    commit = hub.add("google/small", "model.safetensors", there)
    same = {"revision": commit, "sha256": hashlib.sha256(there).hexdigest(), "size": len(there)}
    overlay(
        {
            "mnv2zoo_035.test": raw_entry(repo_id="timm/mobilenetv2_035.test", **known, **fields),
            "mnv2zoo_035.google": raw_entry(repo_id="google/small", layout="transformers", **same, **fields),
        }
    )


@pytest.fixture
def saved(tmp_path, pinned):
    """Names and folders of others, by kind."""
    model = timm.create_model("mobilenetv2_035", num_classes=3)
    model.load_state_dict(random_state_dict("mobilenetv2_035", num_classes=3))
    model.pretrained_cfg = model.pretrained_cfg | {"input_size": (3, 32, 32)}
    timm.models.save_for_hf(model, tmp_path / "timm", model_config={"label_names": CLASSES}, safe_serialization=True)
    found = {
        "timm's name": "mobilenetv2_035.test",
        "timm's repository": "hf-hub:timm/mobilenetv2_035.test",
        "timm's folder": f"local-dir:{tmp_path / 'timm'}",
    }
    transformers = pytest.importorskip("transformers")
    other = theirs("transformers", "mnv2zoo_035", num_classes=3).float()
    other.config.id2label = dict(enumerate(CLASSES))
    other.save_pretrained(tmp_path / "transformers")
    size = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    transformers.MobileNetV2ImageProcessor(**size).save_pretrained(tmp_path / "transformers")
    found["transformers' weights in an index"] = "mobilenetv2_035.google"
    return found | {"transformers' folder": str(tmp_path / "transformers")}


KINDS = [
    "timm's name",
    "timm's repository",
    "timm's folder",
    "transformers' folder",
    "transformers' weights in an index",
]


@pytest.fixture
def pictures(photos):
    """Photos in folders of the classes' names."""
    for folder, name in zip(sorted(photos.iterdir()), CLASSES, strict=True):
        folder.rename(photos / name)
    return photos


@pytest.mark.parametrize("kind", KINDS)
def test_predict_and_evaluate_take_it(run, saved, pictures, kind):  # noqa: F811
    photo = next(pictures.rglob("*.png"))
    done = run("predict", photo, "--model", saved[kind], "--device", "cpu", "--json")
    assert (done.status, done.err) == (0, "")
    row = json.loads(done.out)
    (same,) = mnv2zoo.predict([photo], saved[kind], device="cpu")
    assert row["predictions"] == same["predictions"]
    assert {prediction["label"] for prediction in row["predictions"]} == set(CLASSES)
    figures = json.loads(run("evaluate", pictures, "--model", saved[kind], "--device", "cpu", "--json").out)
    assert figures["images"] == 24
    assert figures["top1"] == mnv2zoo.evaluate(pictures, model=saved[kind], device="cpu").to_json()["top1"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_finetune_and_export_take_it(run, saved, pictures, tmp_path, kind):  # noqa: F811
    options = ("--epochs", 1, "--workers", 0, "--device", "cpu", "--train", "head")
    done = run("finetune", pictures, "--model", saved[kind], "--out", tmp_path / "run", *options)
    assert done.status == 0, done.err
    config = json.loads((tmp_path / "run/config.json").read_text())
    padding = config.get("model_args", {}).get("pad_type", "symmetric")
    assert padding == ("same" if kind.startswith("transformers") else "symmetric")
    begun, ended = (mnv2zoo.models.names.describe(place).build() for place in (saved[kind], str(tmp_path / "run")))
    assert torch.equal(begun.conv_stem.weight, ended.conv_stem.weight)
    done = run("export", saved[kind], "--out", tmp_path / "bundle", "--format", "onnx")
    assert done.status == 0, done.err
    assert (tmp_path / "bundle").is_dir()
