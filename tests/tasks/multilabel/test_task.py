"""Multi-label classification as a task: training, thresholds, predictions, packages and bundles."""

import csv
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
import timm
import torch

import mnv2zoo
from mnv2zoo.data.layout import Layout
from mnv2zoo.errors import DataError, RecipeError
from mnv2zoo.models import names
from mnv2zoo.tasks import find_task
from mnv2zoo.tasks.base import Options, Seen
from mnv2zoo.tasks.multilabel import Multilabel
from tests.tasks.multilabel.scenes import MODEL, NAMES, QUICK, fill, fill_coco, fill_folders, save, write_csv
from tests.training.runs import content, equal, interrupted_after

LIMITS = [0.2, 0.9, 0.5]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Data with three splits, a run on it, and what it gave."""
    folder = tmp_path_factory.mktemp("multilabel")
    data = fill(folder / "data")
    save(data / "test", range(24, 32))
    rows = [(f"test/{n:03}.png", "|".join(name for k, name in enumerate(NAMES) if n >> k & 1)) for n in range(24, 32)]
    write_csv(data / "test.csv", [("image", "labels"), *rows])
    return data, folder / "run", mnv2zoo.finetune(data, MODEL, folder / "run", **{**QUICK, "epochs": 4})


def edited(run, tmp_path, **values):
    """A copy of a run with other values in its `config.json`."""
    copy = tmp_path / "edited"
    copy.mkdir()
    for name in ("config.json", "model.safetensors", "recipe.json", "labels.txt"):
        (copy / name).write_bytes((run / name).read_bytes())
    document = json.loads((copy / "config.json").read_text()) | values
    (copy / "config.json").write_text(json.dumps(document))
    return copy


def rows(logits, thresholds=None, **options):
    task = Multilabel()
    task._thresholds = thresholds
    return task.rows(np.array(logits, np.float32), [Seen("x")] * len(logits), NAMES, Options(**options))


def test_rows_have_every_label_over_its_threshold_whatever_topk_says():
    logits = [[2.0, 2.0, 2.0], [-1.0, -1.0, -1.0]]
    assert [[p["label"] for p in row["predictions"]] for row in rows(logits, LIMITS, topk=1)] == [
        ["blue", "red"],  # the score is 0.880797
        ["blue"],  # 0.268941
    ]
    assert [len(row["predictions"]) for row in rows(logits)] == [3, 0]
    assert [len(row["predictions"]) for row in rows(logits, LIMITS, threshold=0.25)] == [3, 3]


def test_a_row_as_text_and_as_cells():
    task, (row,) = Multilabel(), rows([[0.0, np.log(3), -1.0]])
    row = {"image": "a.jpg", "model": "m", **row}
    assert task.describe(row) == "a.jpg\n  0.7500     1  green\n  0.5000     0  blue"
    assert task.csv_columns(5) == ["labels", "predictions"]
    assert task.csv_cells(row)[0] == "green|blue"
    assert json.loads(task.csv_cells(row)[1]) == row["predictions"]
    assert task.describe({"image": "b.jpg", "predictions": []}) == "b.jpg\n  no label"


@pytest.mark.parametrize(
    ("recipe", "where"),
    [
        ({"loss": "ce"}, "loss"),
        ({"teacher": "mnv2zoo_100"}, "teacher"),
        ({"head": "ssdlite"}, "head"),
        ({"monitor": "top1"}, "monitor"),
        ({"label_separator": ""}, "label_separator"),
        ({"mixup": 0.2, "train": "head"}, "mixup"),
    ],
)
def test_fields_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, recipe, where):
    with pytest.raises(RecipeError) as error:
        mnv2zoo.finetune(fill(tmp_path / "data"), MODEL, tmp_path / "run", **{**QUICK, **recipe})
    assert error.value.where == where
    assert error.value.fix
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("task", "recipe"),
    [
        ("classify", {"loss": "asymmetric"}),
        ("classify", {"label_separator": "|"}),
        ("detect", {"label_separator": "|"}),
        ("segment", {"label_separator": "|"}),
    ],
)
def test_other_tasks_refuse_what_is_for_several_labels(task, recipe):
    task = find_task(task)
    with pytest.raises(RecipeError) as error:
        task.check(mnv2zoo.training.Recipe(**{**task.defaults, **recipe}))
    assert error.value.where == next(iter(recipe))


def test_bad_data_is_refused_before_anything_is_written(tmp_path):
    data = fill(tmp_path / "data")
    write_csv(data / "val.csv", [("image", "labels"), ("val/016.png", "")])
    with pytest.raises(DataError) as error:
        mnv2zoo.finetune(data, MODEL, tmp_path / "run", **QUICK)
    assert error.value.problem == "none of the validation images has a label"
    assert not (tmp_path / "run").exists()


def test_the_data_is_described_in_a_line(tmp_path):
    data = fill(tmp_path / "data")
    found = Multilabel().find_data(data, Layout())
    assert Multilabel().found(found) == (
        "CSV, labels separated by '|': 3 labels; images: 16 train, 8 val; 12 blue, 12 green, 12 red; 3 without a label"
    )
    rows = [(f"train/{n:03}.png", "|".join(f"label {k}" for k in range(n))) for n in range(16)]
    write_csv(data / "train.csv", [("image", "labels"), *rows])
    many = Multilabel().find_data(data / "train.csv", Layout())
    assert Multilabel().found(many).endswith("15 labels; images: 16 train; 1 to 15 per label; 1 without a label")


@pytest.mark.slow
def test_the_task_is_found_from_a_csv_file_and_recorded(trained):
    _, run, result = trained
    document, config = (json.loads((run / name).read_text()) for name in ("recipe.json", "config.json"))
    assert (document["task"], document["recipe"]["loss"], document["classes"]) == ("multilabel", "bce", list(NAMES))
    assert (config["task"], config["pretrained_cfg"]["label_names"]) == ("multilabel", list(NAMES))
    best = max(result.history, key=lambda row: row["val_map"])
    assert result.epoch == best["epoch"]
    assert result.scores["val"].map == best["val_map"]


@pytest.mark.slow
def test_thresholds_are_chosen_on_val_and_used_for_test_evaluate_and_predict(trained, tmp_path):
    data, run, result = trained
    limits = json.loads((run / "config.json").read_text())["thresholds"]
    assert list(result.scores["val"].thresholds) == list(result.scores["test"].thresholds) == limits
    assert limits != [0.5] * 3
    assert names.describe(str(run)).thresholds == tuple(limits)
    for split in ("val", "test"):
        measured = mnv2zoo.evaluate(data, run, split=split)
        assert measured.to_json()["per_label"] == result.scores[split].to_json()["per_label"]
        assert measured.map == pytest.approx(result.scores[split].map)
    copy = edited(run, tmp_path, thresholds=[0.0, 1.0, 0.5])
    found = [row["predictions"] for row in mnv2zoo.predict(data / "test", str(copy), topk=1)]
    assert all("blue" in [p["label"] for p in own] and "green" not in [p["label"] for p in own] for own in found)
    assert mnv2zoo.evaluate(data, copy, split="all").thresholds == (0.0, 1.0, 0.5)


@pytest.mark.slow
def test_without_thresholds_in_the_model_each_is_one_half(trained, tmp_path):
    data, run, _ = trained
    assert mnv2zoo.evaluate(data, edited(run, tmp_path, thresholds=None), split="all").thresholds == (0.5, 0.5, 0.5)


@pytest.mark.slow
def test_predictions_are_those_of_timm_and_of_every_file(trained, tmp_path):
    data, run, _ = trained
    model = timm.create_model(f"local-dir:{run}", pretrained=True).eval()
    found = list(mnv2zoo.predict(data / "test", str(run), threshold=0.0, exact=True))
    transform = mnv2zoo.models.pretrained.load(str(run), "cpu").transform
    images = [sample.read() for sample in _samples(data)]
    with torch.inference_mode():
        wanted = model(torch.stack([transform(image) for image in images])).sigmoid()
    for row, scores in zip(found, wanted, strict=True):
        own = {p["class"]: p["score"] for p in row["predictions"]}
        assert [own[k] for k in range(3)] == pytest.approx(scores.tolist(), abs=1e-5)

    for suffix in ("csv", "jsonl", "parquet"):
        kept = list(mnv2zoo.predict(data / "test", str(run), output=tmp_path / f"rows.{suffix}"))
    with (tmp_path / "rows.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["labels"] for row in table] == ["|".join(p["label"] for p in row["predictions"]) for row in kept]
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == kept
    columns = pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [[p["label"] for p in row["predictions"]] for row in columns] == [
        [p["label"] for p in row["predictions"]] for row in kept
    ]


def _samples(data):
    return Multilabel().find_data(data, Layout()).splits["test"]


@pytest.mark.slow
def test_the_scores_of_each_image_are_kept(trained, tmp_path):
    data, run, result = trained
    mnv2zoo.evaluate(data, run, split="test", output=tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["image", "truth", "predicted", "correct", *NAMES]
    limits = result.scores["test"].thresholds
    for row in table:
        over = [name for name, limit in zip(NAMES, limits, strict=True) if float(row[name]) >= limit]
        assert row["predicted"] == "|".join(over)
        number = int(row["image"][-7:-4])
        assert row["truth"] == "|".join(name for k, name in enumerate(NAMES) if number >> k & 1)


@pytest.mark.slow
@pytest.mark.parametrize("values", [{}, {"train": "head"}, {"loss": "asymmetric", "mixup": 0.4, "ema_decay": 0.9}])
def test_a_resumed_run_ends_as_if_it_had_not_been_interrupted(tmp_path, monkeypatch, values):
    data = fill(tmp_path / "data")
    mnv2zoo.finetune(data, MODEL, tmp_path / "whole", **QUICK, **values)
    with interrupted_after(monkeypatch, 1, 0):
        mnv2zoo.finetune(data, MODEL, tmp_path / "run", **QUICK, **values)
    mnv2zoo.finetune(data, out=tmp_path / "run", resume=True)
    assert equal(tmp_path / "run", tmp_path / "whole")
    for name in ("config.json", "results.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_other_labels_do_not_resume_a_run(tmp_path, monkeypatch):
    data = fill(tmp_path / "data")
    with interrupted_after(monkeypatch, 1, 0):
        mnv2zoo.finetune(data, MODEL, tmp_path / "run", **QUICK)
    before = content(tmp_path / "run")
    text = (data / "train.csv").read_text()
    (data / "train.csv").write_text(text.replace("train/003.png,blue|green", "train/003.png,red"))
    with pytest.raises(mnv2zoo.errors.RunError):
        mnv2zoo.finetune(data, out=tmp_path / "run", resume=True)
    assert content(tmp_path / "run") == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {"class_weights": "balanced", "sampler": "balanced", "loss": "focal", "smoothing": 0.1},
        {"cutmix": 1.0, "val_fraction": 0.0, "augment_on": "device"},
    ],
)
@pytest.mark.parametrize("form", [fill_coco, fill_folders])
def test_other_forms_and_options_train(tmp_path, form, values):
    result = mnv2zoo.finetune(form(tmp_path / "data"), MODEL, tmp_path / "run", task="multilabel", **QUICK, **values)
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert sorted(config["pretrained_cfg"]["label_names"]) == list(NAMES)
    if values.get("val_fraction") == 0.0:
        assert (result.scores, config["thresholds"]) == ({}, [0.5] * 3)
    else:
        assert list(result.scores["val"].thresholds) == config["thresholds"]
        assert json.loads((tmp_path / "run/recipe.json").read_text())["class_weights"] == pytest.approx([1, 1, 1], 0.5)


@pytest.mark.slow
def test_a_network_learns_the_colors_it_sees(tmp_path):
    values = {**QUICK, "epochs": 40, "lr": 0.02, "color_jitter": 0.0, "scale": 0.9, "ema_decay": 0.9}
    result = mnv2zoo.finetune(fill(tmp_path / "data", 64, 16), MODEL, tmp_path / "run", **values)
    assert result.scores["val"].map > 90


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino", "torch-export"])
def test_a_bundle_gives_the_labels_of_predict(trained, tmp_path, format):
    data, run, _ = trained
    bundle = mnv2zoo.deploy.export(str(run), tmp_path / "bundle", format)
    photos = sorted((data / "test").iterdir())
    command = [sys.executable, str(bundle / "predict.py"), *map(str, photos), "--json"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for line, row in zip(lines, mnv2zoo.predict(data / "test", str(run), exact=True), strict=True):
        found = json.loads(line)
        assert found["image"] == row["image"]
        assert [p["label"] for p in found["predictions"]] == [p["label"] for p in row["predictions"]]
        assert [p["score"] for p in found["predictions"]] == pytest.approx(
            [p["score"] for p in row["predictions"]], abs=1e-3
        )
    limits = json.loads((bundle / "thresholds.json").read_text())
    assert limits == dict(zip(NAMES, json.loads((run / "config.json").read_text())["thresholds"], strict=True))
    (bundle / "thresholds.json").write_text(json.dumps({**limits, "green": 0.0}))
    line = subprocess.run([*command[:3], "--json"], capture_output=True, text=True, check=True).stdout
    assert "green" in [p["label"] for p in json.loads(line)["predictions"]]
    assert "thresholds.json" in (bundle / "README.md").read_text()


@pytest.mark.slow
def test_engines_give_the_same_labels_with_and_without_a_cache(trained, tmp_path):
    data, run, _ = trained
    wanted = [row["predictions"] for row in mnv2zoo.predict(data / "test", str(run))]
    for _ in range(2):
        found = mnv2zoo.predict(data / "test", str(run), engine="onnxruntime", cache=tmp_path / "cache")
        for row, own in zip(found, wanted, strict=True):
            assert [p["label"] for p in row["predictions"]] == [p["label"] for p in own]


@pytest.mark.slow
def test_a_package_keeps_the_task_and_its_thresholds(trained, tmp_path):
    from mnv2zoo.model_dir import packaging

    data, run, _ = trained
    package = packaging.pack(run, f"{MODEL}.scenes", "CC0-1.0", tmp_path / "package")
    assert package.index_entry() == {}  # an index has no field for a task
    found = [row["predictions"] for row in mnv2zoo.predict(data / "test", str(package.directory))]
    assert found == [row["predictions"] for row in mnv2zoo.predict(data / "test", str(run))]
    card = (package.directory / "README.md").read_text()
    assert "pipeline_tag: image-classification" in card
    assert "type: map" in card


@pytest.mark.slow
def test_a_killed_prediction_does_not_resume_with_other_thresholds(trained, tmp_path):
    data, run, _ = trained
    copy = edited(run, tmp_path, thresholds=LIMITS)
    begun = mnv2zoo.predict(data / "test", str(copy), output=tmp_path / "rows.jsonl", batch_size=2)
    next(begun)
    begun.close()
    document = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(document | {"thresholds": [0.1, 0.1, 0.1]}))
    with pytest.raises(mnv2zoo.errors.OutputError):
        list(mnv2zoo.predict(data / "test", str(copy), output=tmp_path / "rows.jsonl"))
