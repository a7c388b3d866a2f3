"""A detector trains, is evaluated and predicts, from files to files."""

import json

import pytest
import torch
from PIL import Image

import mnv2zoo
from mnv2zoo import deploy
from mnv2zoo.errors import DataError, DeployError, RecipeError
from mnv2zoo.inference import session
from tests.photos import tar
from tests.tasks.detect.scenes import MODEL, QUICK, fill_coco, fill_voc
from tests.training.runs import cli


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Pictures, a run on them, and its result."""
    folder = tmp_path_factory.mktemp("detect")
    data = fill_voc(folder / "cells")
    result = mnv2zoo.finetune(data, MODEL, folder / "run", **QUICK)
    return data, folder / "run", result


def test_the_evaluation_of_a_run_is_that_of_its_last_epoch_kept(trained):
    data, run, result = trained
    scores = mnv2zoo.evaluate(data, run)
    assert scores.measured == "4 val images that the run held out"
    assert scores.map == pytest.approx(result.scores["val"].map, abs=1e-6)
    written = json.loads((run / "results.json").read_text())["val"]
    assert written["map"] == round(result.scores["val"].map, 4)
    assert [row["label"] for row in written["per_class"]] == ["disk", "square"]
    maps = [row["val_map"] for row in result.history]
    assert result.epoch == 1 + maps.index(max(maps))


def test_moved_and_packed_data_are_known_to_be_those_of_the_run(trained, tmp_path):
    data, run, result = trained
    scores = mnv2zoo.evaluate(tar(data, tmp_path / "cells.tar", "somewhere/"), run)
    assert scores.measured == "4 val images that the run held out"
    assert scores.to_json()["map"] == pytest.approx(result.scores["val"].map, abs=1e-4)


@pytest.mark.slow
def test_the_command_line_evaluates_and_predicts(trained, tmp_path):
    data, run, result = trained
    done = cli("evaluate", str(data), "--model", str(run), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["map50"] == pytest.approx(result.scores["val"].map50, abs=1e-3)
    done = cli("evaluate", str(data), "--model", str(run))
    assert done.stdout.splitlines()[-1].startswith("4 images with 8 objects: mAP ")
    file = data / "JPEGImages/000.png"
    done = cli("predict", str(file), "--model", str(run), "--threshold", "1", "--save-images", str(tmp_path / "drawn"))
    assert done.stdout == f"{file}\n  nothing found\n"
    assert (tmp_path / "drawn/000.jpg").is_file()


def test_other_data_with_other_classes_are_a_clear_error(trained, tmp_path):
    _, run, _ = trained
    other = fill_voc(tmp_path / "other", 4, 2, size=(100, 80))
    for file in (other / "Annotations").iterdir():
        file.write_text(file.read_text().replace("square", "squares"))
    with pytest.raises(DataError) as error:
        mnv2zoo.evaluate(other, run)
    assert (error.value.expected, error.value.found) == ("square", "'squares'")


def test_rows_are_the_boxes_that_the_loaded_detector_finds(trained):
    data, run, _ = trained
    file = data / "JPEGImages/009.png"
    (row,) = mnv2zoo.predict(file, str(run), threshold=0.2)
    detector = mnv2zoo.detection.load(run, "cpu")
    image = Image.open(file).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(64, 64, 3).permute(2, 0, 1) / 255
    with torch.inference_mode():
        (found,) = detector([pixels])
    kept = found["scores"] >= 0.2
    assert [one["score"] for one in row["detections"]] == pytest.approx(found["scores"][kept].tolist(), abs=1e-5)
    expected = found["boxes"][kept] * torch.tensor([96 / 64, 72 / 64] * 2)
    torch.testing.assert_close(torch.tensor([one["box"] for one in row["detections"]]), expected, atol=0.02, rtol=0)
    names = [detector.label_names[label - 1] for label in found["labels"][kept]]
    assert [one["label"] for one in row["detections"]] == names


def test_pictures_with_boxes_are_saved_at_full_size(trained, tmp_path):
    data, run, _ = trained
    list(mnv2zoo.predict(data / "JPEGImages", str(run), threshold=0.3, save_images=tmp_path / "drawn"))
    drawn = sorted((tmp_path / "drawn").iterdir())
    assert [file.name for file in drawn] == [f"{number:03}.jpg" for number in range(12)]
    assert Image.open(drawn[0]).size == (96, 72)


@pytest.mark.parametrize("values", [{"engine": "onnxruntime"}, {"precision": "bf16"}], ids=str)
def test_engines_refuse_images_that_differ_in_size(trained, tmp_path, values):
    data, _, _ = trained
    own = {**QUICK, "epochs": 1, "head": "retinanet", "fpn_channels": 16}
    mnv2zoo.finetune(data, MODEL, tmp_path / "run", **own)
    with pytest.raises(DeployError) as error:
        next(mnv2zoo.predict(data / "JPEGImages/000.png", str(tmp_path / "run"), **values))
    assert next(iter(values.values())) in error.value.found


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_find_the_boxes_of_pytorch(trained, engine):
    data, run, _ = trained
    rows = {
        kind: list(mnv2zoo.predict(data / "JPEGImages", str(run), engine=kind, threshold=0.25, batch_size=5))
        for kind in ("torch", engine)
    }
    require_same(rows[engine], rows["torch"])


def require_same(rows, others):
    assert sum(len(row["detections"]) for row in others) > 10
    for one, other in zip(rows, others, strict=True):
        assert [found["label"] for found in one["detections"]] == [found["label"] for found in other["detections"]]
        for mine, its in zip(one["detections"], other["detections"], strict=True):
            assert mine["box"] == pytest.approx(its["box"], abs=0.1)
            assert mine["score"] == pytest.approx(its["score"], abs=1e-3)


@pytest.fixture
def started(monkeypatch):
    """The engines that are started. An export pays from 20 images on."""
    names, honest = [], deploy.optimize
    monkeypatch.setattr(session, "EXPORT_FROM", 20)

    def recorded(model, example, engine, *args, **options):
        names.append(engine)
        return honest(model, example, engine, *args, **options)

    monkeypatch.setattr(session, "FEW", 4)
    monkeypatch.setattr("mnv2zoo.deploy.optimize", recorded)
    return names


@pytest.mark.slow
def test_a_detector_moves_to_a_runtime_once_its_images_pay_for_the_export(trained, started, tmp_path, monkeypatch):
    data, run, _ = trained
    runtime = session.RUNS_FASTEST[0]
    photos = sorted((data / "JPEGImages").iterdir())[:12]
    how = {"threshold": 0.25, "cache": tmp_path / "engines"}
    first, second = (list(mnv2zoo.predict(photos, str(run), **how)) for _ in range(2))
    assert started == ["torch", runtime]
    require_same(second, first)
    monkeypatch.setattr("mnv2zoo.deploy.engines.to_onnx", lambda *args: 1 / 0)
    assert list(mnv2zoo.predict(photos, str(run), **how)) == second
    few = photos[: session.FEW]
    on_torch = list(mnv2zoo.predict(few, str(run), engine="torch", threshold=0.25))
    assert list(mnv2zoo.predict(few, str(run), **how)) == on_torch
    assert started == ["torch", runtime, runtime, "torch", "torch"]


@pytest.mark.slow
def test_a_detector_whose_runtime_fails_stays_on_pytorch_with_a_notice(trained, started, tmp_path, monkeypatch):
    data, run, _ = trained
    photos = sorted((data / "JPEGImages").iterdir())[:12]
    wanted = list(mnv2zoo.predict(photos, str(run), engine="torch"))
    started.clear()
    monkeypatch.setattr(session, "EXPORT_FROM", len(photos))
    monkeypatch.setattr("mnv2zoo.deploy.engines.to_onnx", lambda *args: 1 / 0)
    with pytest.warns(UserWarning, match=f"the engine {session.RUNS_FASTEST[0]} is not used: .*division by zero"):
        assert list(mnv2zoo.predict(photos, str(run), cache=tmp_path / "engines")) == wanted
    assert started == [session.RUNS_FASTEST[0], "torch"]


@pytest.mark.slow
def test_warming_builds_the_engine_of_a_detector(trained, tmp_path, monkeypatch):
    data, run, _ = trained
    monkeypatch.setenv("MNV2ZOO_HOME", str(tmp_path))
    engine = session.RUNS_FASTEST[0]
    assert json.loads(cli("cache", "warm", str(run), "--json").stdout) == {"model": str(run), "engine": engine}
    monkeypatch.setattr("mnv2zoo.deploy.engines.to_onnx", lambda *args: 1 / 0)
    photos = sorted((data / "JPEGImages").iterdir())[:12]
    wanted = list(mnv2zoo.predict(photos, str(run), engine=engine))
    assert list(mnv2zoo.predict(photos, str(run))) == wanted


@pytest.mark.parametrize(
    "values",
    [
        {"head": "yolo"},
        {"head": "lraspp"},
        {"stride": 5},
        {"fpn_channels": 64},
        {"smoothing": 0.2},
        {"region_loss": "dice"},
        {"cache_features": False},
        {"layer_decay": 0.7},
        {"train_dir": "train"},
        {"start_input_size": 64},
        {"input_size": "64x96"},
        {"test_input_size": (64, 96)},
        {"resize": "letterbox"},
        {"in_chans": 1},
        {"train": "Bottleneck_99"},
    ],
    ids=str,
)
def test_bad_values_are_refused_before_anything_is_written(tmp_path, values):
    data = fill_coco(tmp_path / "cells", 4, 2)
    with pytest.raises(RecipeError) as error:
        mnv2zoo.finetune(data, MODEL, tmp_path / "run", **{**QUICK, **values})
    assert error.value.where in values
    assert not (tmp_path / "run").exists()
