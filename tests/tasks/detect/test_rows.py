"""Rows of detections: in pixels of the image, from a score on, the surest first, in every format."""

import csv
import json

import numpy as np
import pytest

from mnv2zoo.errors import OutputError, TaskError
from mnv2zoo.inference.journal import Journal
from mnv2zoo.tasks import find_task
from mnv2zoo.tasks.base import Options, Seen
from mnv2zoo.tasks.detect import Detect

LABELS = ("disk", "square")
SEEN = Seen("photo.jpg", size=(200, 100), input_size=(50, 50))
OUTPUT = {
    "boxes": np.array([[5, 10, 20, 30], [0, 0, 10, 10], [40, 40, 60, 60], [1, 1, 2, 2]], np.float32),
    "labels": np.array([2, 1, 1, 0]),
    "scores": np.array([0.6, 0.25, 0.75, 0.9], np.float32),
}


def row(**options):
    (found,) = Detect().rows([OUTPUT], [SEEN], LABELS, Options(**options))
    return {"image": "photo.jpg", "model": "run", **found}


def test_boxes_are_in_pixels_of_the_image_and_the_surest_comes_first():
    assert row()["detections"] == [
        {"class": 0, "label": "disk", "score": 0.75, "box": [160.0, 80.0, 200.0, 100.0]},  # cut off at the image's edge
        {"class": 1, "label": "square", "score": pytest.approx(0.6, abs=1e-6), "box": [20.0, 20.0, 80.0, 60.0]},
    ]


@pytest.mark.parametrize(("threshold", "count"), [(0.0, 3), (0.25, 3), (0.3, 2), (0.75, 1), (0.8, 0)])
def test_the_threshold_is_a_score_that_still_counts(threshold, count):
    assert len(row(threshold=threshold)["detections"]) == count


def test_an_image_whose_size_is_not_known_is_a_clear_error():
    with pytest.raises(TaskError) as error:
        Detect().rows([OUTPUT], [Seen("photo.jpg")], LABELS, Options())
    assert error.value.where == "photo.jpg"


def test_people_read_a_line_per_box():
    assert Detect().describe(row()) == "photo.jpg\n  0.7500  disk  160 80 200 100\n  0.6000  square  20 20 80 60"
    assert Detect().describe(row(threshold=0.99)) == "photo.jpg\n  nothing found"


@pytest.mark.parametrize("ending", ["csv", "parquet", "coco.json", "jsonl"])
def test_every_format_holds_the_boxes(tmp_path, ending):
    output, found = tmp_path / f"rows.{ending}", row()
    empty = {"image": "empty.jpg", "model": "run", "detections": []}
    with Journal(output) as journal:
        journal.begin({"topk": 2}, find_task("detect"))
        journal.add([empty, found])
        journal.finish()
    if ending == "csv":
        with output.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        assert [json.loads(one["detections"]) for one in rows] == [[], found["detections"]]
    elif ending == "parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(output).to_pylist()
        assert [one["box"] for one in table[1]["detections"]] == [one["box"] for one in found["detections"]]
        assert table[0]["detections"] == []
    elif ending == "jsonl":
        assert [json.loads(line) for line in output.read_text().splitlines()] == [empty, found]
    else:
        assert json.loads(output.read_text()) == [
            {
                **{"image_id": 2, "file_name": "photo.jpg", "category_id": 1, "category_name": "disk"},
                **{"bbox": [160.0, 80.0, 40.0, 20.0], "score": 0.75},
            },
            {
                **{"image_id": 2, "file_name": "photo.jpg", "category_id": 2, "category_name": "square"},
                **{"bbox": [20.0, 20.0, 60.0, 40.0], "score": found["detections"][1]["score"]},
            },
        ]


def test_coco_results_of_a_classifier_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(OutputError) as error, Journal(tmp_path / "rows.coco.json") as journal:
        journal.begin({"topk": 2}, find_task("classify"))
    assert error.value.found == "rows.coco.json"
    assert not list(tmp_path.iterdir())
