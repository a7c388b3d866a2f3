"""Whole folders: what becomes of the rows, also when the run is killed, and how images are prepared."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import mnv2zoo
from mnv2zoo.data import decode, discover, preprocessing
from mnv2zoo.errors import DeployError, DeviceError, ImageReadError, OutputError
from mnv2zoo.inference.journal import Journal
from mnv2zoo.models import pretrained
from mnv2zoo.models.names import describe
from tests.conftest import ROOT, SAMPLES, needs_samples, save_photos

BUNDLED = "mnv2zoo_100_c20"  # weights that come with the package


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

    with pytest.warns(UserWarning, match="going on after"):
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
            pytest.warns(UserWarning, match="going on"),
            pytest.raises(OutputError, match=r"(?s)other settings.*delete that file"),
        ):
            list(mnv2zoo.predict(paths, tiny, output=file, **options))
    with pytest.warns(UserWarning, match="going on after 2 images"):
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


def resident():
    """Megabytes of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tiny, tmp_path):
    folder = save_photos(tmp_path / "photos", 10, links=600)
    count, early = 0, 0.0
    for count, _ in enumerate(mnv2zoo.predict(folder, tiny, output=tmp_path / "rows.csv"), 1):
        if count == 2000:
            early = resident()
    assert count == 6000
    # What is waiting is bounded; 4000 images' pixels alone would be 12 MB.
    assert resident() - early < 8


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_agree(tiny, photos, engine):
    pytest.importorskip(engine)
    wanted = list(mnv2zoo.predict(photos, tiny))
    found = list(mnv2zoo.predict(photos, tiny, engine=engine))
    assert [row["image"] for row in found] == [row["image"] for row in wanted]
    for row, other in zip(found, wanted, strict=True):
        assert [p["score"] for p in row["predictions"]] == pytest.approx(
            [p["score"] for p in other["predictions"]], abs=1e-4
        )


def test_what_the_engine_does_not_know_is_one_error(tiny, photos):
    with pytest.raises(DeployError, match="torch knows no int8"):
        list(mnv2zoo.predict(photos, tiny, precision="int8", calibration=photos))
    with pytest.raises(DeviceError, match="for the CPU"):
        list(mnv2zoo.predict(photos, tiny, engine="torch", device="cuda"))


def test_the_preprocessing_is_known_before_the_network_is(tiny):
    for name in (tiny, f"local-dir:{tiny}", BUNDLED, "mnv2zoo_100_c20.cifar100_coarse"):
        found = describe(name).preprocessing
        assert found is not None
        assert found == pretrained.load(name, "cpu").fast


@pytest.mark.parametrize(
    "changed",
    [{"crop_mode": "squash"}, {"input_size": (3, 32, 40)}, {"input_size": (1, 32, 32)}, {"test_crop_pct": 1.0}],
    ids=str,
)
def test_what_only_timm_knows_is_left_to_timm(changed):
    cfg = {"input_size": (3, 32, 32), "crop_pct": 0.875, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [1] * 3}
    assert preprocessing.from_cfg(cfg) == preprocessing.Fast(32, 0.875, "bicubic", (0.5,) * 3, (1,) * 3)
    assert preprocessing.from_cfg(cfg | changed) is None


@needs_samples
@pytest.mark.parametrize("side", [64, 224])
def test_fast_preprocessing_is_nearly_timms(side):
    cfg = {"input_size": (3, side, side), "crop_pct": 0.875, "interpolation": "bicubic"}
    normal = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    fast = preprocessing.from_cfg(cfg | normal)
    timms = timm.data.create_transform(**cfg, **normal)
    for file in sorted(SAMPLES.iterdir())[:8]:
        photo, whole = decode.read(file, at_least=fast.at_least), decode.read(file)
        halved = min(whole.size) >= 2 * fast.at_least
        assert (photo.size == whole.size) != halved
        found = fast.batch([fast.prepare(photo)], torch.device("cpu"))[0]
        levels = (found - timms(whole)).abs() * torch.tensor(normal["std"]).view(3, 1, 1) * 255
        assert levels.mean() < (5 if halved else 0.5)


@pytest.mark.parametrize("size", [(40, 32), (32, 41), (333, 500), (37, 36)])
def test_flat_colours_are_prepared_as_timm_does(size):
    cfg = {"input_size": (3, 32, 32), "crop_pct": 0.875, "interpolation": "bilinear"}
    normal = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    photo = Image.new("RGB", size, (10, 100, 250))
    fast = preprocessing.from_cfg(cfg | normal)
    found = fast.batch([fast.prepare(photo)], torch.device("cpu"))[0]
    assert torch.equal(found, timm.data.create_transform(**cfg, **normal)(photo))


def test_folders_are_searched_as_the_images_are_asked_for(photos):
    (photos / "more").mkdir()
    shutil.copy(photos / "00000.jpg", photos / "more/a.jpg")
    shutil.copy(photos / "00000.jpg", photos / "z.jpg")
    walk = discover.walk([str(photos), str(photos / "more"), f"{photos}/*.jpg"])
    assert next(walk) == photos / "00000.jpg"
    shutil.rmtree(photos / "more")
    *found, error, last = walk
    assert [file.name for file in found] == [f"0000{number}.jpg" for number in range(1, 7)]
    assert "cannot search a folder" in str(error)
    assert last == photos / "z.jpg"
