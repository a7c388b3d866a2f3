"""Bundles classify real photos as PyTorch does, in a process that has nothing but their runtime."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_data_config

import mnv2zoo
from mnv2zoo import cli, deploy
from mnv2zoo.deploy.checks import missing
from mnv2zoo.deploy.formats import TARGETS
from mnv2zoo.errors import DeployError, MissingExtraError
from tests.conftest import GOOGLE, SAMPLES, needs_google, random_state_dict

MODELS = {
    "onnx": ["model.onnx"],
    "openvino": ["model.xml", "model.bin"],
    "torch-export": ["model.pt2"],
    "executorch": ["model.pte"],
    "litert": ["model.tflite"],
}
# Large, so a development environment may be without them.
SEPARATE = ("executorch", "litert")
FORMATS = [
    pytest.param(
        format,
        marks=pytest.mark.skipif(
            format in SEPARATE and bool(missing(TARGETS[format].needs)), reason=f"needs the extra {format}"
        ),
    )
    for format in MODELS
]
IMPORTS = {"torch-export": ["torch"], "executorch": ["torch"]}
SMALL = "mnv2zoo_050_c20"
# Runs a script as `python script ...` does, and tells what it imported.
RUN = """
import json, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code
print(json.dumps(sorted({"torch", "timm", "mnv2zoo", "torchvision"} & set(sys.modules))))
"""


@pytest.fixture
def small():
    model = timm.create_model(SMALL, num_classes=3).eval()
    model.load_state_dict(random_state_dict(SMALL, num_classes=3))
    return model


def script_of(bundle):
    spec = importlib.util.spec_from_file_location("bundle", bundle / "predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def google():
    """The real weights with the preprocessing that they were trained with."""
    model = timm.create_model("mnv2zoo_100", pad_type="same").eval()
    model.load_state_dict(load_file(GOOGLE))
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    return model


@pytest.mark.slow
@needs_google
@pytest.mark.parametrize("format", FORMATS)
def test_real_photos_get_the_same_classes_elsewhere(google, format, tmp_path):
    bundle = deploy.export(google, tmp_path / "bundle", format)
    photos = sorted(SAMPLES.glob("*.jpg"))[:: 25 if format == "torch-export" else 5]
    command = [sys.executable, "-c", RUN, str(bundle / "predict.py"), *map(str, photos), "--topk", "3", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    *rows, imported = map(json.loads, done.stdout.splitlines())
    assert imported == IMPORTS.get(format, [])

    transform = create_transform(**resolve_data_config(pretrained_cfg=google.pretrained_cfg))
    with torch.inference_mode():
        batch = torch.stack([transform(Image.open(photo).convert("RGB")) for photo in photos])
        scores, classes = google(batch).softmax(1).topk(3)
    labels = mnv2zoo.weights.entry("mnv2zoo_100").label_names
    assert [row["image"] for row in rows] == list(map(str, photos))
    for row, best, values in zip(rows, classes.tolist(), scores.tolist(), strict=True):
        assert row["predictions"][0]["class"] == best[0]
        assert row["predictions"][0]["score"] == pytest.approx(values[0], abs=1e-3)
        assert all(found["label"] == labels[found["class"]] for found in row["predictions"])


@pytest.mark.slow
@needs_google
def test_the_script_prepares_photos_as_timm_does(google, tmp_path):
    bundle = deploy.export(google, tmp_path / "bundle")
    config = json.loads((bundle / "preprocess.json").read_text(encoding="utf-8"))
    transform = create_transform(**resolve_data_config(pretrained_cfg=google.pretrained_cfg))
    for photo in sorted(SAMPLES.glob("*.jpg"))[:30]:
        image = Image.open(photo)
        found = torch.from_numpy(script_of(bundle).preprocess(image, config))
        torch.testing.assert_close(found, transform(image.convert("RGB")), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_what_a_bundle_holds(small, format, tmp_path):
    bundle = deploy.export(small, tmp_path / "new" / "bundle", format, name="three things")
    files = {file.name for file in bundle.iterdir()}
    assert files == {*MODELS[format], "preprocess.json", "labels.txt", "predict.py", "manifest.json", "README.md"}
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["bundle"]
    assert (bundle / "labels.txt").read_text(encoding="utf-8").split() == ["0", "1", "2"]
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# three things\n")
    for file in MODELS[format]:
        assert hashlib.sha256((bundle / file).read_bytes()).hexdigest() in card
    # Any batch size.
    run = script_of(bundle).load()
    images = torch.randn(5, 3, 224, 224)
    with torch.inference_mode():
        wanted = small(images)
    torch.testing.assert_close(torch.from_numpy(run(images.numpy())), wanted, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.from_numpy(run(images[:1].numpy())), wanted[:1], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_run_folder_by_its_name(small, tmp_path, capsys):
    from timm.models import save_for_hf

    run = tmp_path / "run"
    cfg = {**small.pretrained_cfg, "license": "CC0-1.0", "input_size": (3, 64, 64)}
    save_for_hf(small, run, model_config={"pretrained_cfg": cfg, "label_names": ["ant", "bee", "cat"]})
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", str(run), "--out", str(tmp_path / "bundle"), "--format", "onnx"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "bundle")
    assert (tmp_path / "bundle/labels.txt").read_text(encoding="utf-8").split() == ["ant", "bee", "cat"]
    assert "CC0-1.0" in (tmp_path / "bundle/README.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "bundle/preprocess.json").read_text(encoding="utf-8"))["input_size"] == [3, 64, 64]


def test_bad_input_is_told(small, tmp_path):
    with pytest.raises(DeployError, match="onnx"):
        deploy.export(small, tmp_path / "bundle", "onx")
    with pytest.raises(DeployError, match=r"model\.eval\(\)"):
        deploy.export(timm.create_model(SMALL).train(), tmp_path / "bundle")
    with pytest.raises(DeployError, match="no classifier"):
        deploy.export(mnv2zoo.features.BottleneckTaps(small, ["C1"]), tmp_path / "bundle")
    with pytest.raises(DeployError, match="no classifier"):
        deploy.export(timm.create_model(SMALL, num_classes=0).eval(), tmp_path / "bundle")
    with pytest.raises(DeployError, match="RGB"):
        deploy.export(timm.create_model(SMALL, in_chans=1).eval(), tmp_path / "bundle")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/precious.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DeployError, match="new or empty"):
        deploy.export(small, tmp_path / "full")
    with pytest.raises(DeployError, match="cannot write"):
        deploy.export(small, tmp_path / "full/precious.txt/bundle")
    assert [file.name for file in tmp_path.iterdir()] == ["full"]


@pytest.mark.parametrize(("format", "extra"), [("openvino", "deploy"), ("litert", "litert")])
def test_a_missing_runtime_is_told(small, format, extra, tmp_path, monkeypatch):
    absent = replace(TARGETS[format], needs=("mnv2zoo_no_such_package",))
    monkeypatch.setitem(TARGETS, format, absent)
    with pytest.raises(MissingExtraError, match=rf"mnv2zoo\[{extra}\]"):
        deploy.export(small, tmp_path / "bundle", format)
