"""The scores of each image that `evaluate --output` writes."""

import csv
import json

import pytest

import mnv2zoo
from mnv2zoo.errors import TaskError
from mnv2zoo.evaluation import predictions
from tests.photos import QUICK, fill
from tests.tasks.toy import MeanColor
from tests.tasks.toy import fill as fill_toy

ROWS = [
    {"image": "a.png", "truth": "ant", "predicted": "bee", "correct": False, "scores": [0.25, 0.75]},
    {"image": "b\udcff.png", "truth": "bee", "predicted": "bee", "correct": True, "scores": [0.5, 0.5]},
]
NAMES = {"scores": ["ant", "bee"]}


def test_json_lines(tmp_path):
    predictions.write(tmp_path / "rows.jsonl", ROWS, NAMES)
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == ROWS


def test_csv_has_a_column_per_class(tmp_path):
    predictions.write(tmp_path / "rows.csv", ROWS, NAMES)
    with (tmp_path / "rows.csv").open(newline="", errors="surrogateescape") as file:
        assert list(csv.reader(file)) == [
            ["image", "truth", "predicted", "correct", "ant", "bee"],
            ["a.png", "ant", "bee", "False", "0.25", "0.75"],
            ["b\udcff.png", "bee", "bee", "True", "0.5", "0.5"],
        ]


def test_parquet_has_the_scores_as_a_list_and_the_names_as_metadata(tmp_path, monkeypatch):
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(predictions, "ROWS", 1)
    predictions.write(tmp_path / "rows.parquet", ROWS, NAMES)
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table.to_pylist() == [ROWS[0], ROWS[1] | {"image": "b\\xff.png"}]
    assert json.loads(table.schema.metadata[b"scores"]) == ["ant", "bee"]
    assert pq.ParquetFile(tmp_path / "rows.parquet").num_row_groups == 2


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(OSError, match="no such folder"):
        mnv2zoo.evaluate(tmp_path / "none", "mnv2zoo_035", output=tmp_path / "gone" / "rows.csv")
    with pytest.raises(OSError, match="is a folder"):
        mnv2zoo.evaluate(tmp_path / "none", "mnv2zoo_035", output=tmp_path)


def test_a_task_without_scores_is_refused(tmp_path):
    data = fill_toy(tmp_path / "data")
    with pytest.raises(TaskError) as caught:
        mnv2zoo.evaluate(data, "mnv2zoo_035", task=MeanColor, output=tmp_path / "rows.csv")
    assert caught.value.where == "output"


@pytest.mark.slow
def test_scores_of_a_run_agree_with_its_figures_and_with_predict(tmp_path):
    photos = fill(tmp_path / "photos", 6)
    mnv2zoo.finetune(photos, "mnv2zoo_035", tmp_path / "run", **QUICK)
    file = tmp_path / "rows.jsonl"
    scores = mnv2zoo.evaluate(photos, tmp_path / "run", split="all", output=file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == scores.images == 18
    assert sum(row["correct"] for row in rows) / 18 == pytest.approx(scores.top1 / 100)
    assert all(row["truth"] == row["image"].split("/")[-2] for row in rows)
    predicted = {row["image"]: row for row in mnv2zoo.predict(photos, str(tmp_path / "run"), topk=3, exact=True)}
    for row in rows:
        (other,) = [own for name, own in predicted.items() if name.endswith(row["image"].removeprefix("train/"))]
        by_label = {one["label"]: one["score"] for one in other["predictions"]}
        assert row["scores"] == pytest.approx([by_label[name] for name in sorted(by_label)], abs=1e-4)
        assert row["predicted"] == other["predictions"][0]["label"]
