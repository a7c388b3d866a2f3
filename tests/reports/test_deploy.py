"""Reports about deployment: what users expected of `optimize`, `export` and the bundle, and did not get."""

from __future__ import annotations

import copy
import dataclasses
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.detection import maskrcnn_resnet50_fpn

import mnv2zoo
from mnv2zoo import deploy
from mnv2zoo.data import decode, pixels
from mnv2zoo.data.labels import match_classes
from mnv2zoo.deploy import calibration, generated_images
from mnv2zoo.deploy.checks import missing
from mnv2zoo.deploy.engines import ENGINES
from mnv2zoo.deploy.formats import TARGETS
from mnv2zoo.errors import DataError, DeployError
from tests.conftest import ROOT, random_state_dict

pytestmark = pytest.mark.slow

export = sys.modules["mnv2zoo.deploy.export"]  # `deploy.export` is the function

SMALL = "mnv2zoo_035"


def network(name=SMALL, **kwargs):
    model = timm.create_model(name, **kwargs).eval()
    model.load_state_dict(random_state_dict(name, **kwargs))
    return model


def outputs(model, images):
    with torch.inference_mode():
        return model(images)


@pytest.mark.timeout(180)
def test_an_onnx_export_of_any_image_size_ends_and_agrees_with_same_padding():
    import onnxruntime

    model = network(pad_type="same")
    sizes = {"x": {0: "batch", 2: "height", 3: "width"}}
    program = torch.onnx.export(model, (torch.rand(2, 3, 96, 96),), dynamic_shapes=sizes, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    theirs = timm.create_model("mobilenetv2_035", pad_type="same").eval()
    theirs.load_state_dict(model.state_dict())
    for height, width in ((64, 64), (97, 101), (96, 33), (47, 130)):
        images = torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(height))
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        np.testing.assert_allclose(found, outputs(theirs, images).numpy(), rtol=1e-3, atol=1e-3)
        assert torch.equal(outputs(model, images), outputs(theirs, images))


# Bundles and `mnv2zoo predict` read the same pixels.


def save_odd_images(folder: Path) -> list[Path]:
    """Files of every kind that people have, among them a large photo, and a palette with a transparent color."""
    folder.mkdir()
    files = generated_images.write(folder, 96)
    noise = np.random.default_rng(1).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    large = Image.fromarray(noise).resize((1500, 1000), Image.Resampling.BICUBIC)
    large.save(folder / "large.jpg")
    large.resize((75, 50)).convert("L").save(folder / "transparent-color.png", transparency=7)
    large.resize((75, 50)).quantize(16).save(folder / "transparent-index.gif", transparency=3)
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(folder / "16-bit.tif")
    Image.fromarray(noise[..., 0].astype(np.int32) * 1000 - 100_000).save(folder / "32-bit.tif")
    large.resize((60, 90)).save(folder / "photo.webp", lossless=True)
    return sorted({*files, *folder.iterdir()})


def run_bundle(bundle: Path, tmp_path: Path, *words: object, blocked=("torch", "timm", "torchvision", "mnv2zoo")):
    """Runs a bundle's script where importing those packages fails."""
    walls = tmp_path / "walls"
    walls.mkdir(exist_ok=True)
    for name in blocked:
        (walls / f"{name}.py").write_text(f"raise AssertionError('{name} was imported')", encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, str(bundle / "predict.py"), *map(str, words)]
    return subprocess.run(command, env=env | {"PYTHONPATH": str(walls)}, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run with trained weights, whose preprocessing is its own in every value, and whose classes have names."""
    model = timm.create_model("mnv2zoo_100_c20", pretrained=True).eval()
    cfg = {"input_size": (3, 64, 64), "crop_pct": 0.8, "interpolation": "bilinear"}
    model.pretrained_cfg |= cfg | {"mean": (0.1, 0.5, 0.7), "std": (0.3, 0.2, 0.4)}
    names = ["ant", "bee", "Bär 熊", *map(str, range(17))]
    folder = tmp_path_factory.mktemp("run")
    timm.models.save_for_hf(model, folder, model_config={"label_names": names}, safe_serialization=True)
    return str(folder)


FORMATS = [
    pytest.param(name, marks=pytest.mark.skipif(bool(missing(target.needs)), reason=f"needs {target.needs}"))
    for name, target in TARGETS.items()
    if name != "web"  # a page has no predict.py; tests/deploy/test_web.py compares its scores
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", FORMATS)
def test_a_bundle_scores_odd_image_files_as_predict_does(run_folder, format, tmp_path):
    files = save_odd_images(tmp_path / "images")
    bundle = deploy.export(run_folder, tmp_path / "bundle", format)
    needs_torch = format in ("torch-export", "executorch")
    blocked = ("timm", "torchvision", "mnv2zoo") if needs_torch else ("torch", "timm", "torchvision", "mnv2zoo")
    done = run_bundle(bundle, tmp_path, *files, "--topk", 20, "--json", blocked=blocked)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    wanted = list(mnv2zoo.predict(files, run_folder, topk=20, exact=True))
    assert [row["image"] for row in rows] == [str(file) for file in files]
    for row, other in zip(rows, wanted, strict=True):
        scores = {p["label"]: p["score"] for p in other["predictions"]}
        assert len(scores) == 20
        assert {p["label"]: p["score"] for p in row["predictions"]} == pytest.approx(scores, abs=1e-4), row["image"]


def test_predict_itself_reads_what_is_in_the_file(run_folder, tmp_path):
    """The other tests compare with it, so its scores are compared here with those of plain files of the same look."""
    gray = np.tile(np.linspace(0, 255, 80).astype(np.uint8), (64, 1))
    half = Image.fromarray(np.where(np.arange(80) < 40, 255, 0).astype(np.uint8)[None].repeat(64, 0))
    on_white = np.where(np.asarray(half) == 255, gray, 255)
    for name, image in {
        "deep": Image.fromarray(gray.astype(np.uint16) * 257),
        "plain": Image.fromarray(gray),
        "cut-out": Image.merge("LA", [Image.fromarray(gray), half]),
        "on-white": Image.fromarray(on_white),
    }.items():
        image.save(tmp_path / f"{name}.png")
    Image.fromarray(gray.astype(np.float32) / 255).save(tmp_path / "float.tif")
    rows = {Path(row["image"]).stem: row for row in mnv2zoo.predict(tmp_path, run_folder, topk=20, exact=True)}
    scores = {name: {p["class"]: p["score"] for p in row["predictions"]} for name, row in rows.items()}
    assert scores["deep"] == pytest.approx(scores["plain"], abs=1e-5)
    assert scores["float"] == pytest.approx(scores["plain"], abs=1e-5)
    assert scores["cut-out"] == pytest.approx(scores["on-white"], abs=1e-5)
    assert max(abs(scores["plain"][k] - scores["on-white"][k]) for k in range(20)) > 0.01


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize("crop_pct", [0.8, 0.875, 1.0, 1.3])
def test_a_bundle_prepares_images_bit_for_bit_as_timm(interpolation, crop_pct):
    config = {"input_size": (3, 63, 63), "crop_pct": crop_pct, "interpolation": interpolation}
    config |= {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    transform = create_transform(**config)
    random = np.random.default_rng(0)
    for height, width in ((90, 121), (121, 90), (63, 63), (20, 31), (200, 64)):
        photo = Image.fromarray(random.integers(0, 256, (height, width, 3)).astype(np.uint8))
        assert np.array_equal(pixels.network_input(photo, config), transform(photo).numpy())


def test_one_bad_photo_does_not_end_a_bundle(run_folder, tmp_path):
    files = save_odd_images(tmp_path / "images")[:2]
    bundle = deploy.export(run_folder, tmp_path / "bundle")
    (tmp_path / "note.jpg").write_text("a note")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "images/rgb.jpg").read_bytes()[:900])
    bad = [tmp_path / name for name in ("note.jpg", "empty.jpg", "cut.jpg", "absent.jpg", "images")]
    done = run_bundle(bundle, tmp_path, files[0], *bad, files[1], "--json")
    assert done.returncode == 1
    assert [json.loads(line)["image"] for line in done.stdout.splitlines()] == list(map(str, files))
    lines = done.stderr.splitlines()
    assert len(lines) == len(bad)
    for line, file in zip(lines, bad, strict=True):
        assert line.startswith(f"error: cannot read {file}: ")


def test_a_bundle_refuses_a_number_of_classes_below_one(run_folder, tmp_path):
    bundle = deploy.export(run_folder, tmp_path / "bundle")
    for topk in ("0", "-1", "x"):
        assert run_bundle(bundle, tmp_path, "photo.jpg", "--topk", topk).returncode == 2


def test_names_that_a_terminal_cannot_show_end_no_bundle(run_folder, tmp_path):
    bundle = deploy.export(run_folder, tmp_path / "bundle")
    photo = tmp_path / os.fsdecode(b"caf\xe9 \xff.png")
    Image.new("RGB", (70, 70), "red").save(photo)
    done = run_bundle(bundle, tmp_path, photo, "--topk", 20)
    assert done.returncode == 0, done.stderr
    assert "caf" in done.stdout


def test_an_export_whose_script_would_read_other_pixels_fails(run_folder, tmp_path, monkeypatch):
    sound = export.script("classify.py")
    monkeypatch.setattr(export, "script", lambda template: sound.replace('image.mode.startswith("I")', "False"))
    with pytest.raises(DeployError) as error:
        deploy.export(run_folder, tmp_path / "bundle")
    assert "16-bit" in error.value.problem
    assert not (tmp_path / "bundle").exists()


def test_a_class_name_with_a_line_end_is_refused_before_labels_shift(tmp_path):
    model = network("mnv2zoo_050_c20", num_classes=2)
    model.pretrained_cfg |= {"label_names": ["ant\nbee", "cat"]}
    with pytest.raises(DataError) as error:
        deploy.export(model, tmp_path / "bundle")
    assert error.value.found == repr("ant\nbee")


def test_export_leaves_no_bytecode_in_the_bundle(run_folder, tmp_path):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "mnv2zoo", "export", run_folder, "--out", str(tmp_path / "bundle")]
    subprocess.run(command, env=env, cwd=ROOT, check=True, capture_output=True, timeout=300)
    wanted = {"README.md", "labels.txt", "manifest.json", "model.onnx", "predict.py", "preprocess.json"}
    assert {file.name for file in (tmp_path / "bundle").rglob("*")} == wanted


def test_transforms_take_images_of_any_mode_as_predict_does(tmp_path):
    preprocess = mnv2zoo.transforms("mnv2zoo_100_c20")
    for file in save_odd_images(tmp_path / "images"):
        with Image.open(file) as image:
            assert torch.equal(preprocess(image), preprocess(decode.read(file))), file.name


# Accuracy on calibration images counts the network's classes.


def folder_of_classes(folder: Path, names: list[str], count: int = 12) -> list[Path]:
    random = np.random.default_rng(0)
    files = []
    for number in range(count):
        file = folder / names[number % len(names)] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(file)
        files.append(file)
    return files


def classifier(label_names, num_classes=2):
    model = network("mnv2zoo_050_c20", num_classes=num_classes)
    model.pretrained_cfg |= {"label_names": label_names, "input_size": (3, 64, 64)}
    return model


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_int8_accuracy_counts_the_networks_classes_not_the_folders_order(engine, tmp_path):
    names = ["zebra", "ant"]
    model = classifier(names)
    files = folder_of_classes(tmp_path, ["zebra", "zebra", "zebra", "ant"])
    transform = create_transform(**resolve_data_config(pretrained_cfg=model.pretrained_cfg))
    images = {file: transform(Image.open(file)) for file in files}
    # By hand: a photo is right if the name of its best class is its folder's.
    best = {file: names[outputs(model, image[None])[0].argmax()] for file, image in images.items()}
    right = sum(best[file] == file.parent.name for file in files)
    assert right != 6  # or the order would not matter
    fast = deploy.optimize(model, torch.zeros(1, 3, 64, 64), engine, "int8", calibration=tmp_path)
    after = sum(names[fast(image[None])[0].argmax()] == file.parent.name for file, image in images.items())
    assert fast.accuracy == pytest.approx((100 * right / 12, 100 * after / 12))


def test_accuracy_is_unknown_where_folders_or_names_do_not_tell_classes(tmp_path):
    example = torch.zeros(1, 3, 64, 64)
    folder_of_classes(tmp_path / "photos", ["zebra", "ant"])
    known = classifier(["zebra", "ant"])
    # Files come in order of their names: ant, which is class 1, first.
    assert calibration.prepare(tmp_path / "photos", known, example).classes == [1] * 6 + [0] * 6
    assert not calibration.prepare(tmp_path / "photos", classifier(["zebra", "bee"]), example).classes
    assert not calibration.prepare(tmp_path / "photos", classifier(None), example).classes
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2)).eval()
    plain.pretrained_cfg, plain.num_classes = known.pretrained_cfg | {"label_names": None}, 2
    assert not calibration.prepare(tmp_path / "photos", plain, example).classes
    three = classifier(["bee", "zebra", "ant"], 3)  # a folder for some of the classes
    assert calibration.prepare(tmp_path / "photos", three, example).classes == [2] * 6 + [1] * 6
    Image.new("RGB", (64, 64)).save(tmp_path / "photos/loose.png")
    assert not calibration.prepare(tmp_path / "photos", known, example).classes


def test_a_name_that_two_classes_share_is_not_taken_for_one_of_them():
    names = mnv2zoo.weights.entry("mnv2zoo_100").label_names
    assert match_classes(["n02012849", "n03126707"], names) == [134, 517]  # the bird and the machine
    with pytest.raises(DataError) as error:
        match_classes(["crane"], names)
    assert error.value.expected == "n02012849 or n03126707"


# What `calibration` takes.


def batches(count=3, size=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(size, 3, 64, 64, generator=generator) for _ in range(count)]


@pytest.mark.parametrize(
    "made",
    [
        torch.cat,
        lambda rows: torch.cat(rows).numpy(),
        list,
        tuple,
        lambda rows: (row for row in rows),
        lambda rows: [row.numpy() for row in rows],
        lambda rows: [[row] for row in rows],
        lambda rows: DataLoader(TensorDataset(torch.cat(rows)), batch_size=5),
        lambda rows: DataLoader(TensorDataset(torch.cat(rows), torch.arange(12) % 2), batch_size=5),
        lambda rows: TensorDataset(torch.cat(rows), torch.arange(12) % 2),
        lambda rows: [(row, {"boxes": 1}) for row in rows],
        lambda rows: [row.double() for row in rows],
    ],
)
def test_calibration_takes_tensors_iterables_loaders_and_arrays(made):
    found = calibration.prepare(made(batches()), network(), torch.zeros(1, 3, 64, 64))
    assert torch.equal(found.images, torch.cat(batches()))


def test_labels_of_a_loader_give_the_accuracy():
    model, images = classifier(["a", "b"]), torch.cat(batches())
    labels = outputs(model, images).argmax(1)
    labels[:3] = 1 - labels[:3]  # 9 of 12 right
    loader = DataLoader(TensorDataset(images, labels), batch_size=5)
    fast = deploy.optimize(model, images[:1], "onnxruntime", "int8", calibration=loader)
    assert fast.accuracy[0] == pytest.approx(75)
    assert fast.accuracy[1] == pytest.approx(100 * (fast(images).argmax(1) == labels).float().mean().item())
    assert deploy.optimize(model, images[:1], "onnxruntime", "int8", calibration=[images]).accuracy is None


def test_calibration_stops_reading_at_300_images():
    def forever():
        while True:
            yield torch.rand(50, 3, 8, 8)

    assert len(calibration.prepare(forever(), network(), torch.zeros(1, 3, 8, 8)).images) == 300


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (7, "int"),
        ({"a": 1}, "dict"),
        (b"photos", "bytes"),
        ([], "no batch"),
        (iter(()), "no batch"),
        (["photos/1.jpg"], "str"),
        ([{"pixel_values": torch.rand(2, 3, 64, 64)}], "dict"),
        ([torch.rand(2, 3, 64, 64), torch.rand(2, 3, 32, 32)], "float32 (2, 3, 32, 32)"),
        ([(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64))], "2 tensors in one batch"),
        ((torch.rand(2, 3, 64, 64), torch.tensor([0, 1])), "int64 (2,)"),
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "uint8 (2, 3, 64, 64)"),
        (np.zeros((2, 3, 64, 64), np.uint8), "uint8 (2, 3, 64, 64)"),
        ([(torch.rand(2, 3, 64, 64), torch.tensor([0, 5]))], 5),
    ],
)
def test_calibration_that_is_none_of_these_is_named(given, found):
    model = network("mnv2zoo_050_c20", num_classes=2)
    with pytest.raises(DeployError) as error:
        calibration.prepare(given, model, torch.zeros(1, 3, 64, 64))
    assert error.value.found == found
    assert error.value.fix


# Engines share nothing.

QUICK = [
    (name, precision)
    for name, engine in ENGINES.items()
    if not engine.slow_to_compile
    for precision in engine.precisions
]


@pytest.fixture(scope="module")
def shared():
    return network("mnv2zoo_050_c20", num_classes=5)


def snapshot(model):
    tensors = {k: (v.clone(), v.dtype, v.stride()) for k, v in model.state_dict().items()}
    modules = [(name, type(m), m.training, len(m._forward_hooks)) for name, m in model.named_modules()]
    return tensors, modules


def unchanged(model, before):
    tensors, modules = snapshot(model)
    assert modules == before[1]
    for key, (value, dtype, stride) in before[0].items():
        assert torch.equal(tensors[key][0], value)
        assert tensors[key][1:] == (dtype, stride)


TOLERANCES = {"fp32": 1e-3, "bf16": 0.1, "int8": 0.4}


@pytest.mark.parametrize("order", [1, -1])
def test_every_engine_in_every_precision_one_after_the_other(shared, order):
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    wanted, before = outputs(shared, images), snapshot(shared)
    for engine, precision in [*QUICK[::order], *QUICK[:2]]:
        seen = images if precision == "int8" else None
        fast = deploy.optimize(shared, images, engine, precision, calibration=seen)
        assert (fast(images) - wanted).norm() <= TOLERANCES[precision] * wanted.norm(), (engine, precision)
        unchanged(shared, before)


@pytest.mark.parametrize("precisions", [("bf16", "fp32", "bf16", "int8"), ("int8", "bf16", "fp32", "fp32")])
def test_auto_at_every_precision_on_one_model(shared, precisions):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = snapshot(shared)
    for precision in precisions:
        fast = deploy.optimize(shared, images, precision=precision, calibration=images if precision == "int8" else None)
        ran = {attempt.engine for attempt in fast.tried if attempt.milliseconds is not None}
        assert ran == {engine for engine, known in QUICK if known == precision}, fast.tried
        unchanged(shared, before)


@pytest.mark.parametrize("failure", [KeyError("no kernel"), ImportError("libgomp"), MemoryError(), AssertionError()])
@pytest.mark.parametrize("where", ["prepare", "start"])
def test_auto_survives_an_engine_that_fails_in_any_way(shared, failure, where, monkeypatch):
    def fail(*args):
        raise failure

    monkeypatch.setitem(ENGINES, "openvino", dataclasses.replace(ENGINES["openvino"], **{where: fail}))
    fast = deploy.optimize(shared, torch.rand(1, 3, 32, 32))
    tried = {attempt.engine: attempt for attempt in fast.tried}
    assert fast.engine in ("torch", "onnxruntime")
    assert tried["openvino"].verdict.startswith(type(failure).__name__)
    assert tried["openvino"].milliseconds is None


def test_an_interrupt_ends_auto(shared, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setitem(ENGINES, "torch", dataclasses.replace(ENGINES["torch"], start=fail))
    with pytest.raises(KeyboardInterrupt):
        deploy.optimize(shared, torch.rand(1, 3, 32, 32))


# Other processes.


def compare(fast, images, wanted):
    np.testing.assert_allclose(fast(images).numpy(), wanted.numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_an_optimized_network_can_be_pickled_and_copied(engine, shared, tmp_path):
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    fast = deploy.optimize(shared, images, engine)
    wanted = fast(images)
    again = pickle.loads(pickle.dumps(fast))
    assert (again.engine, again.precision, again.max_abs_error) == (engine, "fp32", fast.max_abs_error)
    for other in (again, copy.deepcopy(fast), copy.copy(fast)):
        compare(other, images, wanted)
    spawned = multiprocessing.get_context("spawn").Process(target=compare, args=(fast, images, wanted))
    spawned.start()
    spawned.join(120)
    assert spawned.exitcode == 0


def test_taps_can_be_pickled_too(shared):
    images = torch.rand(2, 3, 32, 32)
    fast = deploy.optimize(mnv2zoo.features.BottleneckTaps(shared, ["C1", "Bottleneck_3"]), images, "onnxruntime")
    again = pickle.loads(pickle.dumps(fast))(images)
    assert list(again) == ["C1", "Bottleneck_3"]
    assert torch.equal(again["C1"], fast(images)["C1"])


WORKERS = """
import timm, torch, mnv2zoo
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.detection import maskrcnn_resnet50_fpn

images = torch.rand(8, 3, 128, 128, generator=torch.Generator().manual_seed(0))
model = timm.create_model("mnv2zoo_035", num_classes=5).eval()
fast = mnv2zoo.deploy.optimize(model, images[:1], "torch", threads=2)
wanted = fast(images)
loader = DataLoader(
    TensorDataset(images), 2, num_workers=2, multiprocessing_context="fork", timeout=60,
    collate_fn=lambda rows: fast(torch.stack([row for (row,) in rows])),
)
torch.testing.assert_close(torch.cat(list(loader)), wanted, rtol=1e-3, atol=1e-3)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_workers_of_a_data_loader_may_call_an_optimized_network():
    # In a process of its own: a data loader leaves a handler of SIGCHLD behind.
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", WORKERS]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_bundles_model_in_a_forked_process_is_an_error_and_not_a_hang(run_folder, tmp_path):
    bundle = deploy.export(run_folder, tmp_path / "bundle")
    code = f"""if True:
        import os, pickle, sys
        sys.path.insert(0, {str(bundle)!r})
        import numpy as np, predict
        model, images = predict.load(), np.zeros((2, 3, 64, 64), np.float32)
        wanted = model(images)
        assert np.array_equal(pickle.loads(pickle.dumps(model))(images), wanted)
        if not os.fork():
            try:
                model(images)
            except RuntimeError as error:
                assert "load()" in str(error)
                assert np.array_equal(predict.load()(images), wanted)
                os._exit(0)
            os._exit(1)
        sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
    """
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_a_detector_of_masks_is_refused_with_what_can_be_optimized():
    detector = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64
    ).eval()
    with pytest.raises(DeployError) as error:
        deploy.optimize(detector, torch.rand(1, 3, 64, 64), "torch")
    assert "MaskRCNN" in error.value.problem
    assert "a segmenter or a detector" in error.value.expected
    assert "backbone" in error.value.fix


def test_a_segmenter_is_optimized():
    segmenter = mnv2zoo.segmentation.lraspp(SMALL, 3, pretrained_backbone=False).eval()
    images = torch.rand(2, 3, 64, 64)
    found = deploy.optimize(segmenter, images, "onnxruntime")(images)
    torch.testing.assert_close(found["out"], outputs(segmenter, images)["out"], rtol=1e-3, atol=1e-3)
