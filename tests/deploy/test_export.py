"""Bundles classify real photos as PyTorch does, in a process that has nothing but their runtime."""

import hashlib
import importlib.util
import json
import subprocess
import sys
import tarfile
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
from tests.conftest import GOOGLE, SAMPLES, SHARED, needs_google, random_state_dict

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
    images = torch.randn(5, 3, 64, 64)
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
    with pytest.raises(DeployError, match="cannot be exported"):
        deploy.export(mnv2zoo.features.BottleneckTaps(small, ["C1"]), tmp_path / "bundle")
    with pytest.raises(DeployError, match="cannot be exported"):
        deploy.export(timm.create_model(SMALL, num_classes=0).eval(), tmp_path / "bundle")
    with pytest.raises(DeployError, match="1 to 8 channels"):
        deploy.export(timm.create_model(SMALL, in_chans=9).eval(), tmp_path / "bundle")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/precious.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DeployError, match="new or empty"):
        deploy.export(small, tmp_path / "full")
    with pytest.raises(DeployError, match="cannot be written"):
        deploy.export(small, tmp_path / "full/precious.txt/bundle")
    assert [file.name for file in tmp_path.iterdir()] == ["full"]


@pytest.mark.parametrize(("format", "extra"), [("openvino", "deploy"), ("litert", "litert")])
def test_a_missing_runtime_is_told(small, format, extra, tmp_path, monkeypatch):
    absent = replace(TARGETS[format], needs=("mnv2zoo_no_such_package",))
    monkeypatch.setitem(TARGETS, format, absent)
    with pytest.raises(MissingExtraError, match=rf"\[{extra}\]"):
        deploy.export(small, tmp_path / "bundle", format)


def test_a_bundle_divides_by_the_temperature_and_rejects_what_is_not_sure(small, tmp_path, capsys):
    timm.models.save_for_hf(
        small, tmp_path / "run", model_config={"label_names": ["a", "b", "c"]}, safe_serialization=True
    )
    config = json.loads((tmp_path / "run/config.json").read_text())
    (tmp_path / "run/config.json").write_text(json.dumps(config | {"temperature": 0.5}))
    photo = tmp_path / "photo.png"
    Image.effect_noise((70, 60), 50).convert("RGB").save(photo)
    bundle = deploy.export(str(tmp_path / "run"), tmp_path / "bundle")
    assert json.loads((bundle / "preprocess.json").read_text())["temperature"] == 0.5
    (wanted,) = mnv2zoo.predict(photo, str(tmp_path / "run"), exact=True, device="cpu")
    top = wanted["predictions"][0]["score"]
    for limit, rejected in ((top - 0.01, False), (top + 0.01, True)):
        command = [sys.executable, bundle / "predict.py", photo, "--json", "--reject-below", str(limit)]
        row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
        assert [p["label"] for p in row["predictions"]] == [p["label"] for p in wanted["predictions"]]
        assert [p["score"] for p in row["predictions"]] == pytest.approx(
            [p["score"] for p in wanted["predictions"]], abs=1e-4
        )
        assert row.get("rejected", False) == rejected
    done = subprocess.run([*command[:-1], "1.5"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, "--reject-below" in done.stderr) == (2, True)


CIFAR = {split: SHARED / f"data/cifar100/{split}.tar" for split in ("train", "test")}
CLASSES = ("fish", "flowers", "trees", "people")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Folders of real pictures in classes of the bundled weights, to calibrate and to measure on."""
    folder = tmp_path_factory.mktemp("pictures")
    for tar in CIFAR.values():
        if not tar.is_file():
            pytest.skip(f"no pictures at {tar}")
        with tarfile.open(tar) as archive:
            names = [name for name in archive.getnames() if name.count("/") == 2 and name.split("/")[1] in CLASSES]
            archive.extractall(folder, map(archive.getmember, names[:: len(names) // 60]), filter="data")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "precision", "near", "bytes_per_weight"),
    [
        ("onnx", "fp16", 0.01, 2),
        ("onnx", "int8", 0.15, 1),
        ("openvino", "fp16", 0.01, 2),
        ("openvino", "bf16", 0.05, 2),
        ("openvino", "int8", 0.15, 1),
    ],
)
def test_a_lower_precision_and_its_loss_are_those_of_the_pictures(
    pictures, format, precision, near, bytes_per_weight, tmp_path
):
    options = {"precision": precision, "data": pictures / "test"}
    if precision == "int8":
        options["calibration"] = pictures / "train"
    bundle = deploy.export("mnv2zoo_100_c20", tmp_path / "bundle", format, **options)
    photos = sorted((pictures / "test").rglob("*.png"))
    command = [sys.executable, "-c", RUN, str(bundle / "predict.py"), *map(str, photos), "--topk", "20", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    *rows, imported = map(json.loads, done.stdout.splitlines())
    assert imported == []

    model = timm.create_model("mnv2zoo_100_c20", pretrained=True).eval()
    transform = create_transform(**resolve_data_config(pretrained_cfg=model.pretrained_cfg))
    with torch.inference_mode():
        logits = model(torch.stack([transform(Image.open(photo).convert("RGB")) for photo in photos]))
        wanted = (logits / mnv2zoo.weights.entry("mnv2zoo_100_c20").temperature).softmax(1)
    found = torch.tensor([[one["score"] for one in sorted(row["predictions"], key=by_class)] for row in rows])
    assert ((found - wanted).norm() / wanted.norm()).item() < near

    # The loss on the card and in the manifest is the one that predict.py's rows give.
    names = mnv2zoo.weights.entry("mnv2zoo_100_c20").label_names
    truth = torch.tensor([names.index(photo.parent.name) for photo in photos])
    before, after = (100 * (one.argmax(1) == truth).double().mean().item() for one in (wanted, found))
    measured = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["measured"]
    same = 100 * (found.argmax(1) == wanted.argmax(1)).double().mean().item()
    assert (measured["images"], measured["data"]) == (len(photos), "`test`")
    assert measured["agreement"] == pytest.approx(same, abs=1e-3)
    assert measured["accuracy"] == pytest.approx({"pytorch": before, "bundle": after, "loss": before - after}, abs=1e-3)
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert f"top-1 accuracy is {after:.2f} %, compared with {before:.2f} % in PyTorch" in card
    weights = sum(parameter.numel() for parameter in model.parameters())
    file = bundle / ("model.bin" if format == "openvino" else "model.onnx")
    assert file.stat().st_size < 1.3 * weights * bytes_per_weight


def by_class(prediction):
    return prediction["class"]


@pytest.mark.slow
def test_int8_is_measured_on_the_images_that_it_was_calibrated_on(pictures, tmp_path):
    bundle = deploy.export(
        "mnv2zoo_100_c20", tmp_path / "bundle", precision="int8", calibration=pictures / "train", opset=17
    )
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    measured = manifest["measured"]
    assert (manifest["opset"], manifest["ir_version"]) == (17, 8)
    assert measured["data"] == "the calibration set in `train`"
    assert measured["images"] == len(list((pictures / "train").rglob("*.jpg")))
    assert measured["accuracy"]["loss"] == pytest.approx(
        measured["accuracy"]["pytorch"] - measured["accuracy"]["bundle"], abs=1e-3
    )
    assert measured["accuracy"]["pytorch"] > 60


@pytest.mark.parametrize(
    ("format", "options", "fields"),
    [
        ("onnx", {"precision": "bf16"}, {"where": "precision", "fix": "Formats that support bf16: openvino."}),
        ("torch-export", {"precision": "fp16"}, {"fix": "Formats that support fp16: onnx, openvino, litert, web."}),
        ("executorch", {"precision": "int8"}, {"fix": "Formats that support int8: onnx, openvino, litert, web."}),
        ("onnx", {"precision": "int4"}, {"expected": "fp32, fp16, bf16, int8", "found": "'int4'"}),
        ("onnx", {"precision": "int8"}, {"where": "calibration", "found": "precision int8 without calibration images"}),
        ("onnx", {"calibration": "."}, {"where": "calibration", "found": "precision fp32 with calibration images"}),
        ("openvino", {"opset": 17}, {"where": "opset", "expected": "an opset only for onnx or web"}),
        ("onnx", {"precision": "int8", "calibration": "/absent"}, {"where": "calibration", "found": "nothing"}),
        ("onnx", {"precision": "fp16", "data": "/absent"}, {"where": "data", "found": "nothing"}),
    ],
)
def test_a_variant_that_cannot_be_made_is_refused_before_anything_is_written(small, format, options, fields, tmp_path):
    with pytest.raises(DeployError) as error:
        deploy.export(small, tmp_path / "bundle", format, **options)
    assert {name: getattr(error.value, name) for name in fields} == fields
    assert not list(tmp_path.iterdir())


def test_a_precision_that_computes_something_else_does_not_appear(small, tmp_path, monkeypatch):
    from mnv2zoo.deploy import formats

    class Wrong(formats.InHalf):
        def forward(self, x):
            return 2 * super().forward(x)

    monkeypatch.setattr(formats, "InHalf", Wrong)
    with pytest.raises(DeployError) as error:
        deploy.export(small, tmp_path / "bundle", precision="fp16")
    assert error.value.problem == "the outputs of the bundle differ from the model's"
    assert not list(tmp_path.iterdir())
