"""Rows on their way to a file: whole at the end, and not lost when the run is killed."""

import csv
import json
import os
import signal
import subprocess
import sys

import pytest
from PIL import Image

import mnv2zoo
from mnv2zoo.errors import ImageReadError, OutputError
from mnv2zoo.inference.journal import Journal
from tests.conftest import ROOT, save_photos


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "photos", 7)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def read(file):
    """The rows of a file as JSON has them."""
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    if file.suffix == ".parquet":
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(file).to_pylist()
        for row in rows:
            for prediction in row["predictions"]:
                prediction["score"] = round(prediction["score"], 6)
        return rows
    rows = []
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            ranks = (len(row) - 2) // 3
            predictions = [
                {
                    "class": int(row[f"class_{rank}"]),
                    "label": row[f"label_{rank}"],
                    "score": float(row[f"score_{rank}"]),
                }
                for rank in range(1, ranks + 1)
            ]
            rows.append({"image": row["image"], "model": row["model"], "predictions": predictions})
    return rows


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_the_file_has_the_rows_that_were_given(tiny, photos, tmp_path, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    (photos / "00003.jpg").write_text("no image")
    file = tmp_path / f"rows.{ending}"
    given = list(mnv2zoo.predict(photos, tiny, topk=2, batch_size=3, output=file))
    assert [type(row) for row in given] == [dict] * 3 + [ImageReadError] + [dict] * 3
    rows = [row for row in given if isinstance(row, dict)]
    assert read(file) == rows
    assert all(len(row["predictions"]) == 2 for row in rows)
    assert names(tmp_path) == ["photos", file.name]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_file_without_rows_is_one(tiny, tmp_path, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / "a.jpg").write_text("no image")
    (error,) = mnv2zoo.predict(tmp_path / "a.jpg", tiny, output=tmp_path / f"rows.{ending}")
    assert isinstance(error, ImageReadError)
    assert read(tmp_path / f"rows.{ending}") == []


def test_a_name_that_is_no_text_is_in_csv_as_the_bytes_that_it_is(tiny, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (40, 40)).save(tmp_path / name)
    (row,) = mnv2zoo.predict([tmp_path / name], tiny, output=tmp_path / "rows.csv")
    assert row["image"] == str(tmp_path / name)
    assert os.fsencode(row["image"]) in (tmp_path / "rows.csv").read_bytes()


@pytest.mark.slow
def test_a_killed_run_goes_on_with_nothing_lost_and_nothing_twice(tiny, tmp_path):
    folder = save_photos(tmp_path / "photos", 20, links=50)
    whole = list(mnv2zoo.predict(folder, tiny, output=tmp_path / "whole.jsonl"))
    file = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "mnv2zoo", "predict", str(folder), "--model", tiny, "--batch-size", "2"]
    run = subprocess.Popen(
        [*command, "--json", "--output", str(file)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert run.stdout.readline()
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL
    assert not file.exists()

    with pytest.warns(UserWarning, match="resuming an unfinished run after"):
        rest = list(mnv2zoo.predict(folder, tiny, batch_size=2, output=file))
    assert 0 < len(rest) < len(whole)
    assert [row["image"] for row in read(file)] == [row["image"] for row in whole]
    assert read(file)[-len(rest) :] == rest
    for row, wanted in zip(read(file), whole, strict=True):
        assert [p["score"] for p in row["predictions"]] == pytest.approx(
            [p["score"] for p in wanted["predictions"]], abs=1e-5
        )
    assert names(tmp_path) == ["photos", "rows.jsonl", "whole.jsonl"]


def test_an_unfinished_run_is_not_mixed_with_another(tiny, photos, tmp_path):
    file = tmp_path / "rows.jsonl"
    stopped = mnv2zoo.predict(photos, tiny, batch_size=2, output=file)
    next(stopped)
    stopped.close()
    for paths, options in ((photos, {"topk": 1}), (photos, {"exact": True}), (photos / "00000.jpg", {})):
        with (
            pytest.warns(UserWarning, match="resuming an unfinished run"),
            pytest.raises(OutputError, match=r"(?s)other settings.*delete this file"),
        ):
            list(mnv2zoo.predict(paths, tiny, output=file, **options))
    with pytest.warns(UserWarning, match="resuming an unfinished run after 2 images"):
        assert len(list(mnv2zoo.predict(photos, tiny, output=file))) == 5
    assert len(read(file)) == 7


def test_two_runs_do_not_write_one_file(tmp_path):
    with Journal(tmp_path / "rows.csv"), pytest.raises(OutputError, match="another process"):
        Journal(tmp_path / "rows.csv")
    assert names(tmp_path) == []


def test_what_is_no_journal_is_told_of(tmp_path):
    (tmp_path / ".rows.csv.partial").write_text("something else, and longer than a database's header" * 10)
    with pytest.raises(OutputError, match="not a database"):
        Journal(tmp_path / "rows.csv")
