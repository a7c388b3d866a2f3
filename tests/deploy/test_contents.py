"""Bundles of detectors and segmenters find in real photos what PyTorch finds, without PyTorch."""

import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

import mnv2zoo
from mnv2zoo import deploy
from mnv2zoo.data import decode, drawing
from mnv2zoo.deploy import agreement
from mnv2zoo.errors import DataError, DeployError
from tests.conftest import SHARED
from tests.deploy.conftest import detector, expected, network, segmenter
from tests.tasks.detect import scenes as detect_scenes
from tests.tasks.segment import scenes as segment_scenes

CELLS = ["red cell", "white cell", "Blutplättchen 血小板"]
STREETS = ["sky", "building", "road", "tree", "car"]
WHOLE = {"input_size": (3, 96, 128), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
ROTATED = 0x0112, 6  # the EXIF tag, and a camera held upright


def photos(archive, folder, count):
    """Photos of a data set, the first of which is rotated by its EXIF tag."""
    if not archive.is_file():
        pytest.skip(f"no photos at {archive}")
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if member.name.endswith(".jpg")][: 20 * count : 20]
        tar.extractall(folder, members, filter="data")
    files = sorted(folder.rglob("*.jpg"))
    exif = Image.Exif()
    exif[ROTATED[0]] = ROTATED[1]
    with Image.open(files[0]) as image:
        image.copy().save(files[0], quality=95, exif=exif)
    return files


@pytest.fixture
def cells(tmp_path):
    return photos(SHARED / "data/bccd/bccd.tar", tmp_path / "cells", 4)


@pytest.fixture
def streets(tmp_path):
    return photos(SHARED / "data/camvid/val.tar", tmp_path / "streets", 4)


def run_bundle(bundle, folder, *words):
    """Runs a bundle's script in a process that cannot import PyTorch or this package, and gives its rows."""
    walls = folder / "walls"
    for name in ("torch", "torchvision", "timm", "mnv2zoo"):
        (walls / name).mkdir(parents=True, exist_ok=True)
        (walls / name / "__init__.py").write_text(f"raise ImportError('{name} is blocked')")
    command = [sys.executable, str(bundle / "predict.py"), *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(walls)}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)


def rows_of(done):
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def as_detections(row):
    found = row["detections"]
    return {
        "boxes": torch.tensor([one["box"] for one in found]).reshape(-1, 4),
        "labels": torch.tensor([one["class"] for one in found]) + 1,
        "scores": torch.tensor([one["score"] for one in found]),
    }


def by_pytorch(whole, photo):
    """The detector's own boxes in a photo, padded to the size of the bundle's images by a second image of that size."""
    if whole.transform.fixed_size:
        size, others = whole.transform.fixed_size, []
    else:
        scale = min(192 / photo.width, 128 / photo.height)
        size, others = (round(photo.width * scale), round(photo.height * scale)), [torch.zeros(3, 128, 192)]
    image = to_tensor(photo.resize(size, Image.Resampling.BILINEAR))
    found = expected(whole, [image, *others])[0]
    kept = found["labels"] > 0
    found = {name: values[kept] for name, values in found.items()}
    return {**found, "boxes": found["boxes"] * torch.tensor([photo.width / size[0], photo.height / size[1]] * 2)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "format"),
    [
        ("ssdlite", "onnx"),
        ("retinanet", "onnx"),
        ("fasterrcnn", "onnx"),
        ("ssdlite", "openvino"),
        ("fasterrcnn", "openvino"),
    ],
)
def test_a_bundle_finds_the_boxes_that_the_detector_finds(kind, format, cells, tmp_path):
    whole = detector(kind)
    # In landscape format, as the images of RetinaNet and Faster R-CNN here.
    files = cells if kind == "ssdlite" else cells[1:]
    bundle = deploy.export(whole, tmp_path / "bundle", format, label_names=CELLS)
    rows = rows_of(
        run_bundle(bundle, tmp_path, *files, "--json", "--threshold", 0, "--save-images", tmp_path / "drawn")
    )
    assert [row["image"] for row in rows] == list(map(str, files))
    wanted = [by_pytorch(whole, decode.read(file)) for file in files]
    assert min(len(one["boxes"]) for one in wanted) > 3
    assert agreement.matched(list(map(as_detections, rows)), wanted) >= 99
    for row, file in zip(rows, files, strict=True):
        assert {one["label"] for one in row["detections"]} <= set(CELLS)
        assert all(one["label"] == CELLS[one["class"]] for one in row["detections"])
        photo = decode.read(file)  # upright
        drawing.draw_boxes(photo, row["detections"]).save(tmp_path / "wanted.jpg", quality=95, subsampling=0)
        assert (tmp_path / "drawn" / file.name).read_bytes() == (tmp_path / "wanted.jpg").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino", "torch-export"])
def test_a_bundle_labels_the_pixels_as_the_segmenter_does(format, streets, tmp_path):
    whole = segmenter("lraspp")
    bundle = deploy.export(whole, tmp_path / "bundle", format, label_names=STREETS, preprocessing=WHOLE)
    if format == "torch-export":  # it cannot run without PyTorch; the export has compared it
        return
    words = ["--json", "--masks", tmp_path / "masks", "--save-images", tmp_path / "drawn"]
    rows = rows_of(run_bundle(bundle, tmp_path, *streets, *words))
    assert [row["image"] for row in rows] == list(map(str, streets))
    mean, std = (torch.tensor(WHOLE[name])[:, None, None] for name in ("mean", "std"))
    for row, file in zip(rows, streets, strict=True):
        photo = decode.read(file)
        image = (to_tensor(photo.resize((128, 96), Image.Resampling.BILINEAR)) - mean) / std
        logits = expected(whole, image[None])["out"]
        size = (photo.height, photo.width)
        wanted = (
            torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)[0].argmax(0).numpy()
        )
        with Image.open(row["mask"]) as mask:
            assert mask.mode == "P"
            found = np.asarray(mask)
        assert found.shape == size
        assert (found == wanted).mean() >= 0.999
        assert row["pixels"] == {STREETS[n]: int((found == n).sum()) for n in range(5) if (found == n).any()}
        assert (tmp_path / "drawn" / file.name).is_file()


@pytest.mark.slow
def test_a_segmenters_model_takes_batches_of_any_size(tmp_path):
    from mnv2zoo.runtimes.runners import import_onnxruntime

    whole, images = segmenter("deeplabv3"), torch.rand(3, 3, 96, 128)
    bundle = deploy.export(whole, tmp_path / "bundle", "onnx", preprocessing=WHOLE)
    session = import_onnxruntime().InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected(whole, images)["out"], rtol=1e-3, atol=1e-3)
    assert (bundle / "labels.txt").read_text().split() == ["0", "1", "2", "3", "4"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return deploy.export(detector("ssdlite"), tmp_path_factory.mktemp("detector") / "bundle", label_names=CELLS)


@pytest.mark.slow
def test_photos_of_one_name_and_bad_files_end_no_bundle(bundle, tmp_path):
    files = [tmp_path / "a/cell.png", tmp_path / "b/cell.png", tmp_path / "c/note.png"]
    for file in files:
        file.parent.mkdir()
        Image.new("RGB", (50, 40), "pink").save(file)
    files[2].write_text("a note")
    done = run_bundle(bundle, tmp_path, *files, tmp_path / "absent.jpg", "--save-images", "drawn")
    assert done.returncode == 1
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == [
        f"cannot read {files[2]}",
        f"cannot read {tmp_path / 'absent.jpg'}",
    ]
    assert sorted(file.name for file in (tmp_path / "drawn").iterdir()) == ["cell-2.jpg", "cell.jpg"]


@pytest.mark.slow
def test_a_threshold_leaves_out_lower_scores(bundle, tmp_path):
    Image.effect_noise((200, 160), 90).convert("RGB").save(tmp_path / "noise.png")
    (row,) = rows_of(run_bundle(bundle, tmp_path, "noise.png", "--json", "--threshold", 0))
    scores = [one["score"] for one in row["detections"]]
    assert scores == sorted(scores, reverse=True)
    (row,) = rows_of(run_bundle(bundle, tmp_path, "noise.png", "--json", "--threshold", scores[3]))
    assert [one["score"] for one in row["detections"]] == scores[:4]
    (row,) = rows_of(run_bundle(bundle, tmp_path, "noise.png", "--json"))
    assert row["detections"] == []


@pytest.mark.slow
def test_the_card_tells_what_the_model_takes_and_how_many_boxes_are_the_same(bundle):
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert "give `boxes`, `scores`, and `labels`, which are line numbers in `labels.txt` from 1." in card
    assert "Boxes that match PyTorch's, on 12 image files of many kinds: 100.0 % of " in card
    assert json.loads((bundle / "preprocess.json").read_text())["input_size"] == [3, 160, 160]
    assert (bundle / "labels.txt").read_text(encoding="utf-8").splitlines() == CELLS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "arguments", "sound", "wrong"),
    [
        (detector("ssdlite"), {}, "boxes * scale", "boxes * scale * 1.05"),
        (segmenter("lraspp"), {"preprocessing": WHOLE}, "return class_mask", "return 0 * class_mask"),
    ],
)
def test_a_bundle_that_finds_something_else_does_not_appear(model, arguments, sound, wrong, tmp_path, monkeypatch):
    export = sys.modules["mnv2zoo.deploy.export"]  # `deploy.export` is the function
    written = export.script
    monkeypatch.setattr(export, "script", lambda template: written(template).replace(sound, wrong))
    with pytest.raises(DeployError) as error:
        deploy.export(model, tmp_path / "bundle", **arguments)
    assert error.value.problem == "the results of the bundle differ from the model's"
    assert not list(tmp_path.iterdir())


def problem(*arguments, **named):
    with pytest.raises((DeployError, DataError)) as error:
        deploy.export(*arguments, **named)
    return error.value


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    out = tmp_path / "bundle"
    assert problem(detector("ssdlite"), out, "litert").expected == "onnx, openvino"
    assert problem(segmenter("lraspp"), out, "executorch", preprocessing=WHOLE).found == "executorch"
    assert problem(segmenter("lraspp"), out).problem == "this LRASPP model cannot be exported"
    assert problem(detector("ssdlite"), out, label_names=["a", "b"]).expected.startswith("3 names")
    assert problem(detector("fasterrcnn"), out, label_names=["a"]).expected.startswith("3 names")
    assert problem(segmenter("lraspp"), out, label_names=["a"], preprocessing=WHOLE).expected.startswith("5 names")
    assert problem(detector("ssdlite"), out, preprocessing={"input_size": (3, 96, 96)}).where == "preprocessing"
    assert problem(detector("retinanet"), out, preprocessing={"resize": "squash"}).where == "preprocessing"
    assert problem(detector("retinanet"), out, preprocessing={"input_size": (3, 100, 128)}).found == "100 x 128"
    assert (
        problem(network(), out, preprocessing=WHOLE).problem
        == "the outputs of this MobileNetV2 model are not those of a segmenter"
    )
    assert (
        problem(torch.nn.Identity().eval(), out, preprocessing=WHOLE | {"input_size": (1, 9, 9)}).where
        == "preprocessing"
    )
    assert problem(torch.nn.Linear(5, 5).eval(), out, preprocessing=WHOLE).found.startswith("RuntimeError: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_run_of_a_detector_is_exported_by_its_name(tmp_path):
    data = detect_scenes.fill_voc(tmp_path / "data")
    mnv2zoo.finetune(data, detect_scenes.MODEL, tmp_path / "run", **{**detect_scenes.QUICK, "epochs": 12})
    bundle = deploy.export(str(tmp_path / "run"), tmp_path / "bundle")
    photo = str(data / "JPEGImages/000.png")
    (row,) = rows_of(run_bundle(bundle, tmp_path, photo, "--threshold", "0.2", "--json"))
    (expected,) = mnv2zoo.predict(photo, str(tmp_path / "run"), threshold=0.2)
    assert row["detections"]
    assert [one["label"] for one in row["detections"]] == [one["label"] for one in expected["detections"]]
    for one, other in zip(row["detections"], expected["detections"], strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)
        assert one["box"] == pytest.approx(other["box"], abs=0.1)


@pytest.mark.slow
def test_the_run_of_a_segmenter_is_exported_by_its_name(tmp_path):
    data = segment_scenes.fill(tmp_path / "data")
    values = {**segment_scenes.QUICK, "input_size": 64, "epochs": 4}
    mnv2zoo.finetune(data, "mnv2zoo_035", tmp_path / "run", task="segment", **values)
    bundle = deploy.export(str(tmp_path / "run"), tmp_path / "bundle")
    photo = str(data / "train/images/00.png")
    (row,) = rows_of(run_bundle(bundle, tmp_path, photo, "--json"))
    (expected,) = mnv2zoo.predict(photo, str(tmp_path / "run"))
    assert sum(row["pixels"].values()) == 48 * 36
    assert row["pixels"] == {name: pytest.approx(count, abs=2) for name, count in expected["pixels"].items()}


@pytest.mark.slow
def test_a_segmenter_in_int8_keeps_the_class_of_most_pixels(streets, tmp_path):
    whole, out = segmenter("lraspp"), tmp_path / "bundle"
    options = {"preprocessing": WHOLE, "precision": "int8", "calibration": streets[0].parent}
    bundle = deploy.export(whole, out, "openvino", label_names=STREETS, **options)
    measured = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["measured"]
    assert (measured["images"], measured["accuracy"]) == (len(streets), None)
    assert measured["agreement"] > 80
    rows = rows_of(run_bundle(bundle, tmp_path, *streets, "--json"))
    assert len(rows) == len(streets)


def test_a_detector_has_fp32_alone(tmp_path):
    error = problem(detector("ssdlite"), tmp_path / "bundle", "openvino", precision="fp16")
    assert (error.where, error.expected, error.found) == ("precision", "fp32", "fp16")
    assert not list(tmp_path.iterdir())
