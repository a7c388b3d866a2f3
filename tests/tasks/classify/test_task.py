"""Classification as a task: its rows, columns, loss and the classes of other data."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import mnv2zoo
from mnv2zoo.data.datasets import find
from mnv2zoo.errors import DataError
from mnv2zoo.models import pretrained
from mnv2zoo.tasks import find_task
from mnv2zoo.tasks.base import Options, Seen
from mnv2zoo.tasks.classify import Classify
from mnv2zoo.tasks.classify.task import METRICS
from tests.photos import QUICK, fill

LABELS = ("ant", "bee", "cat")


def rows(logits, topk=2):
    return Classify().rows(np.array(logits, np.float32), [Seen("x")] * len(logits), LABELS, Options(topk))


def test_rows_have_the_softmax_of_the_highest_logits():
    (row,) = rows([[0.0, np.log(6), np.log(3)]])
    assert row == {
        "predictions": [{"class": 1, "label": "bee", "score": 0.6}, {"class": 2, "label": "cat", "score": 0.3}]
    }


def test_the_temperature_divides_the_logits_and_keeps_their_order():
    logits = np.array([[0.0, np.log(4), np.log(4) + 1e-7]], np.float32)
    (row,) = Classify().rows(logits, [Seen("x")], LABELS, Options(3, temperature=2.0))
    assert [(p["label"], round(p["score"], 4)) for p in row["predictions"]] == [
        ("cat", 0.4),
        ("bee", 0.4),
        ("ant", 0.2),
    ]


def test_of_equal_logits_the_first_class_comes_first_and_large_ones_do_not_overflow():
    (row,) = rows([[1000.0, 1000.0, -1000.0]], topk=9)
    assert [(p["label"], p["score"]) for p in row["predictions"]] == [("ant", 0.5), ("bee", 0.5), ("cat", 0.0)]


def test_a_row_as_text_and_as_cells():
    task = Classify()
    (row,) = rows([[0.0, np.log(6), np.log(3)]])
    row = {"image": "a.jpg", "model": "m", **row}
    assert task.describe(row) == "a.jpg\n  0.6000     1  bee\n  0.3000     2  cat"
    assert task.csv_columns(2) == ["class_1", "label_1", "score_1", "class_2", "label_2", "score_2"]
    assert task.csv_cells(row) == [1, "bee", 0.6, 2, "cat", 0.3]


def test_the_classes_of_other_data_are_numbered_as_the_networks(tmp_path):
    data = find(fill(tmp_path / "photos", 2))
    samples = Classify().align(data.splits["train"], data, ("red", "white", "blue", "green"))
    assert [sample.target for sample in samples] == [2, 2, 3, 3, 0, 0]
    assert [sample.name for sample in samples] == [sample.name for sample in data.splits["train"]]
    with pytest.raises(DataError):
        Classify().align(data.splits["train"], data, ("red", "white", "blue"))


def test_accuracy_accumulates_batches():
    metric = Classify().metrics(LABELS)
    metric.update(torch.eye(3)[:2] * 9, torch.tensor([0, 0]))
    metric.update(torch.eye(3)[2:] * 9, torch.tensor([2]))
    scores = metric.compute()
    assert (scores.images, scores.top1, scores.top5) == (3, pytest.approx(200 / 3), 100.0)
    assert list(scores.metrics()) == list(METRICS)
    assert Classify().measured("top1", scores) == scores.top1
    assert [mistake.index for mistake in metric.worst_mistakes()] == [1]


@pytest.mark.slow
def test_a_run_records_it_and_runs_without_a_record_are_it(tmp_path):
    photos = fill(tmp_path / "photos")
    run = tmp_path / "run"
    mnv2zoo.finetune(photos, "mnv2zoo_035", run, task="classify", **QUICK)
    document = json.loads((run / "recipe.json").read_text())
    assert document.pop("task") == "classify"
    before = mnv2zoo.evaluate(photos, run)
    rows_before = list(mnv2zoo.predict(photos, str(run)))
    (run / "recipe.json").write_text(json.dumps(document))
    assert mnv2zoo.evaluate(photos, run) == before
    assert list(mnv2zoo.predict(photos, str(run))) == rows_before
    assert len(mnv2zoo.finetune(photos, out=run, resume=True, task=find_task("classify")).history) == 2


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A run on colors of which every fourth photo is in the folder of another, so that no network can be sure."""
    folder = tmp_path_factory.mktemp("calibrated")
    photos = fill(folder / "photos", 40)
    names = ("blue", "green", "red")
    for number in range(0, 40, 4):
        files = [photos / name / f"{number:02}.png" for name in names]
        contents = [file.read_bytes() for file in files]
        for file, content in zip(files, [*contents[1:], contents[0]], strict=True):
            file.write_bytes(content)
    values = {**QUICK, "epochs": 12, "val_fraction": 0.5, "smoothing": 0.0, "keep": "last"}
    return photos, folder / "run", mnv2zoo.finetune(photos, "mnv2zoo_035", folder / "run", **values), values


@pytest.mark.slow
def test_a_run_records_the_temperature_that_lowers_the_validation_loss(calibrated):
    photos, run, result, _ = calibrated
    temperature = json.loads((run / "config.json").read_text())["temperature"]
    scores = result.scores["val"]
    assert scores.temperature == temperature
    assert scores.loss <= result.history[-1]["val_loss"] + 1e-6
    assert scores.calibration_error_before == pytest.approx(result.history[-1]["val_calibration_error"], abs=0.1)
    measured = mnv2zoo.evaluate(photos, run)
    for name in ("top1", "calibration_error", "calibration_error_before", "temperature"):
        assert getattr(measured, name) == pytest.approx(getattr(scores, name), abs=0.05)
    recorded = json.loads((run / "results.json").read_text())["val"]
    assert (recorded["temperature"], recorded["calibration_error"]) == (temperature, round(scores.calibration_error, 4))

    model = pretrained.load(str(run), "cpu")
    sample = photos / "red" / "05.png"
    with torch.inference_mode():
        logits = model.model(model.transform(Image.open(sample).convert("RGB"))[None])
    (row,) = mnv2zoo.predict(sample, str(run), exact=True, device="cpu")
    wanted = (logits / temperature).softmax(1)[0].sort(descending=True).values.tolist()
    assert [p["score"] for p in row["predictions"]] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.slow
def test_without_calibration_a_run_has_no_temperature(calibrated, tmp_path):
    photos, run, result, values = calibrated
    plain = mnv2zoo.finetune(photos, "mnv2zoo_035", tmp_path / "plain", **values, calibrate=False)
    assert "temperature" not in json.loads((tmp_path / "plain/config.json").read_text())
    assert plain.scores["val"].temperature is None
    assert plain.scores["val"].loss == pytest.approx(result.history[-1]["val_loss"], abs=1e-5)
    assert (tmp_path / "plain/model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
